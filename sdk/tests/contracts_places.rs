//! What a backbone offers it must run: the law, and a backbone that breaks it.

mod contracts;

use std::path::Path;
use std::sync::Arc;

use contracts::aligned;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::backbone::{Backbone, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{Edge, Projection, Role, Sites, Tower};
use twinspan_sdk::slots;
use twinspan_sdk::testkit::{Toy, silent_places};
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::Topology;
use twinspan_sdk::tuned::Compute;

/// The toy, boasting of a projection that it does not run and of a width that it does not have.
struct Boastful(Toy);

impl Backbone for Boastful {
    fn topology(&self) -> Result<Topology> {
        let mut topology = self.0.topology()?;
        let mut more = topology.vision.projections[1].clone();
        more.projection = Projection::Shortcut;
        more.name = "vision.blocks.0.shortcut".into();
        topology.vision.projections.push(more);
        topology.text.blocks[1].branches[1].width = 9;
        Ok(topology)
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        self.0.load(weights)
    }

    fn layouts(&self) -> Result<Vec<KeyMap>> {
        self.0.layouts()
    }

    fn preparation(&self) -> Preparation {
        self.0.preparation()
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        self.0.tokenizer(path)
    }
}

fn silent(plugin: impl Backbone + 'static) -> Vec<String> {
    let backbone = Configured::<dyn Backbone> {
        name: "toy",
        plugin: std::sync::Arc::new(plugin),
        options: Default::default(),
    };
    silent_places(backbone, &aligned(2), Compute::default()).unwrap()
}

#[test]
fn the_toy_runs_every_hook_it_offers() {
    assert!(silent(Toy::default()).is_empty());
}

#[test]
fn a_place_that_is_not_as_it_was_offered_is_found() {
    let wanted = [
        "vision.blocks.0.shortcut",
        "vision.blocks.0.shortcut.input",
        "text.blocks.1.mlp",
    ];
    assert_eq!(silent(Boastful(Toy::default())), wanted);
}

fn found(want: Want) -> Vec<String> {
    let topology = Toy::default().topology().unwrap();
    let slots = slots::find(&topology, "probe", &want).unwrap();
    slots.iter().map(Slot::to_string).collect()
}

#[test]
fn the_last_blocks_bring_what_follows_them() {
    let sites = |last, blocks: &[usize]| Sites {
        towers: vec![Tower::Text],
        last,
        blocks: blocks.to_vec(),
        ..Sites::default()
    };
    let projections = |sites| Want::Projections {
        sites,
        default: &[Projection::Token, Projection::Value, Projection::Joint],
    };
    let all = ["text.token", "text.blocks.0.value", "text.blocks.1.value"];
    let last = ["text.blocks.2.value", "text.joint"];
    assert_eq!(
        found(projections(sites(0, &[]))),
        [&all[..], &last].concat()
    );
    assert_eq!(found(projections(sites(1, &[]))), last);
    assert_eq!(found(projections(sites(9, &[])))[0], all[1]);
    assert_eq!(found(projections(sites(2, &[0, 1]))), [all[2]]);
    let roles = Want::Parameters {
        roles: vec![Role::Position, Role::NormBias],
        sites: sites(1, &[]),
    };
    let norms = [
        "text.blocks.2.norm1.bias",
        "text.blocks.2.norm2.bias",
        "text.norm.bias",
    ];
    assert_eq!(found(roles), norms);
}

#[test]
fn a_stream_is_wished_for_on_one_side_of_blocks() {
    let between = |edge, blocks: &[usize]| Want::Between {
        sites: Sites {
            blocks: blocks.to_vec(),
            ..Sites::default()
        },
        default: 0..usize::MAX,
        edge,
    };
    let of = |tower: &str, side: &str, blocks: &[usize]| -> Vec<String> {
        let name = |b: &usize| format!("{tower} {side} block {b}");
        blocks.iter().map(name).collect()
    };
    let all = found(between(Edge::After, &[]));
    assert_eq!(all.len(), 6);
    let wanted = [
        of("vision", "before", &[1, 2]),
        of("text", "before", &[1, 2]),
    ];
    assert_eq!(found(between(Edge::Before, &[1, 2])), wanted.concat());
    let topology = Toy::default().topology().unwrap();
    let none = slots::find(&topology, "probe", &between(Edge::After, &[3]));
    assert_eq!(
        none.unwrap_err().to_string(),
        "`probe` matches no site: it asks for block 3; the backbone offers blocks 0 to 2 of vision, blocks 0 to 2 of text"
    );
}
