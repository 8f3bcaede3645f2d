//! What a backbone offers it must run: the law, and a backbone that breaks it.

mod contracts;

use std::path::Path;
use std::sync::Arc;

use contracts::aligned;
use twinspan_sdk::Result;
use twinspan_sdk::backbone::{Backbone, Encoders, Weights};
use twinspan_sdk::key_map::KeyMap;
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::Projection;
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
