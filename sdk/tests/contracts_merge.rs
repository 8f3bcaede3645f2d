//! Merging: the bare toy over merged weights gives what the toy gives with its adapters; what
//! does not fold is refused by name.

mod contracts;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use contracts::pieces::{Dense, Lengths, affine, branches, projections, random, training};
use contracts::{Adapters, REORDERED, aligned, distance, features, model, values};
use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::backbone::{Backbone, Encoders, Weights};
use twinspan_sdk::base::Base;
use twinspan_sdk::hooks::{BranchView, Channels, Update};
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::preparation::Preparation;
use twinspan_sdk::recipe::{BatchNormChoice, Recipe};
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Branch, EmbedStep, Moment, Projection, Sites, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::{self, By, Look, Scripted, Toy, ToyTask};
use twinspan_sdk::tokenizer::Tokenizer;
use twinspan_sdk::topology::{Shape, Topology};
use twinspan_sdk::tuned::{Compute, Tuned};
use twinspan_sdk::{Error, Result, weights};

/// Norms between the blocks enlarge what another order of sums leaves.
const BEHIND_BLOCKS: f64 = 100.0 * REORDERED;

/// One projection of every kind: a convolution, a table, and linear layers with a bias.
const KINDS: &[Projection] = &[
    Projection::Patch,
    Projection::Token,
    Projection::Query,
    Projection::Key,
    Projection::Value,
    Projection::Up,
    Projection::Down,
];

fn compute() -> Compute {
    Compute {
        dtype: DType::F64,
        device: Device::Cpu,
    }
}

fn bare(recipe: &Recipe) -> Recipe {
    Recipe {
        adapters: Vec::new(),
        ..recipe.clone()
    }
}

/// Asserts that the bare backbone over the merged weights gives what the model gives, and that
/// this is not what the backbone gave before.
#[track_caller]
fn merges(tuned: &Tuned) {
    let batch = aligned(3);
    let recipe = testkit::recipe(ToyTask::default(), Vec::new()).unwrap();
    let merged = tuned.merge().unwrap().model(&recipe, compute()).unwrap();
    let before = features(&model(ToyTask::default(), Vec::new()), &batch);
    let wanted = features(tuned, &batch);
    let found = features(&merged, &batch);
    let mut moved = 0.0f64;
    for ((found, wanted), before) in found.iter().zip(&wanted).zip(&before) {
        assert!(distance(found, wanted) < BEHIND_BLOCKS);
        moved = moved.max(distance(wanted, before));
    }
    assert!(moved > 1e-2, "the adapters changed nothing");
}

/// Hangs a hook into every projection of every kind.
fn at_projections(
    name: &'static str,
    hang: fn(&twinspan_sdk::adapter::ProjectionSlot, &mut twinspan_sdk::hooks::Hooks),
) -> Scripted {
    let wants = vec![projections(KINDS, &[], &[])];
    Scripted::new(name, wants, move |slots, _, hooks| {
        let slots = slots.iter().filter_map(Slot::projection);
        slots.for_each(|slot| hang(slot, hooks));
        Ok(())
    })
}

fn inputs() -> Scripted {
    at_projections("inputs", |slot, hooks| {
        if slot.shape != Shape::Embedding {
            let name = format!("{}.in", slot.name);
            // A shift before a convolution does not fold.
            let shifts = slot.shape == Shape::Linear;
            hooks.input(slot, affine(slot.channels(), slot.input, &name, shifts));
        }
    })
}

fn updates() -> Scripted {
    at_projections("updates", |slot, hooks| {
        hooks.update(slot, Dense::of(slot, "one"));
        hooks.update(slot, Dense::of(slot, "two"));
    })
}

fn rows() -> Scripted {
    at_projections("rows", |slot, hooks| hooks.reparametrise(slot, Lengths))
}

fn outputs() -> Scripted {
    at_projections("outputs", |slot, hooks| {
        let name = format!("{}.out", slot.name);
        // The convolution has no bias to take a shift.
        let shifts = slot.projection != Projection::Patch;
        hooks.output(slot, affine(slot.channels(), slot.output, &name, shifts));
    })
}

fn norms() -> Scripted {
    let want = Want::Branches {
        sites: Sites::default(),
        default: Branch::ALL,
    };
    Scripted::new("norms", vec![want], |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::branch) {
            let name = format!("{}.{}.{}", slot.tower, slot.block, slot.branch);
            hooks.norm(slot, affine(Channels::Last, slot.width, &name, true));
        }
        Ok(())
    })
}

/// Every existing parameter, those that no base holds among them.
fn existing() -> Scripted {
    training("existing", &[], Sites::default())
}

/// Moves what trains away from its start.
fn stir(tuned: &Tuned) {
    for (name, trained) in &tuned.overlay.trained {
        let away = (random(name, trained.var.dims()) * 0.2).unwrap();
        let moved = (trained.var.as_detached_tensor() + away).unwrap();
        trained.var.set(&moved).unwrap();
    }
}

fn stirred(adapters: Adapters) -> Tuned {
    let tuned = model(ToyTask::default(), adapters);
    stir(&tuned);
    tuned
}

#[test]
fn what_folds_folds_alone_and_in_every_union() {
    let all: [fn() -> Scripted; 6] = [inputs, updates, rows, outputs, norms, existing];
    for chosen in 1..1u32 << all.len() {
        let union = all.iter().enumerate();
        let union = union.filter(|(i, _)| chosen & 1 << i != 0);
        let union: Adapters = union.map(|(_, adapter)| adapter().configured()).collect();
        merges(&stirred(union));
    }
}

#[test]
fn a_model_says_what_each_adapter_became_part_of() {
    let adapters = [updates(), norms(), existing()].map(Scripted::configured);
    let tuned = stirred(adapters.into());
    let merged = tuned.merge().unwrap();
    let folded = |label: &str| {
        let mut found = merged.folded.iter().filter(|(l, _)| l == label);
        let (_, names) = found.next().unwrap();
        assert!(found.next().is_none());
        names
    };
    // 3 blocks of 5 in each tower, patch and token.
    assert_eq!(folded("updates").len(), 32);
    // The four that read a norm, in 3 blocks of each tower.
    assert_eq!(folded("norms").len(), 24);
    assert!(folded("norms").contains(&"text.blocks.1.up.weight".to_string()));
    assert!(folded("existing").contains(&"vision.positions".to_string()));
    assert_eq!(merged.weights.len(), tuned.base.len());
    assert_eq!(merged.fresh.len(), 12, "the layer scales");
    assert!(merged.biases.is_empty() && merged.statistics.is_empty());
}

#[test]
fn the_part_that_counts_is_folded() {
    let adapters = || [inputs(), updates(), rows(), outputs(), norms(), existing()];
    let mut tuned = stirred(adapters().map(Scripted::configured).into());
    for (label, scale) in [
        ("inputs", 0.5),
        ("updates", 2.0),
        ("rows", 0.25),
        ("outputs", -0.5),
        ("norms", 0.75),
        ("existing", 0.5),
    ] {
        tuned.scale(label, scale).unwrap();
        merges(&tuned);
    }
    for label in ["updates", "existing"] {
        tuned.disable(label).unwrap();
        merges(&tuned);
        let merged = tuned.merge().unwrap();
        assert!(merged.folded.iter().all(|(l, _)| l != label));
    }
}

#[test]
fn running_statistics_that_train_are_merged() {
    let mut recipe = testkit::recipe(ToyTask::default(), Vec::new()).unwrap();
    recipe.weights.batch_norm = BatchNormChoice::Train;
    let tuned = testkit::tuned(&recipe).unwrap();
    let mut pass = Pass::train(1);
    tuned.forward(&aligned(3), &mut pass).unwrap();
    pass.commit().unwrap();
    merges(&tuned);
    let merged = tuned.merge().unwrap();
    let names = ["vision.batch.running_mean", "vision.batch.running_var"];
    assert_eq!(merged.statistics, names);
}

#[test]
fn merged_values_do_not_move_with_the_model() {
    let tuned = stirred(vec![existing().configured()]);
    let merged = tuned.merge().unwrap();
    let before = values(&merged.weights["vision.positions"]);
    stir(&tuned);
    assert_eq!(values(&merged.weights["vision.positions"]), before);
}

#[test]
fn what_nothing_changed_keeps_its_bits_and_its_type() {
    let recipe = testkit::recipe(ToyTask::default(), vec![updates().configured()]).unwrap();
    let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 0).unwrap();
    let halves = base.names().map(|name| {
        let half = base.get(name).unwrap().tensor(DType::F16, &Device::Cpu);
        (name.to_string(), half.unwrap())
    });
    let base = Base::from_tensors(halves.collect());
    let tuned = Tuned::new(&recipe, base, compute()).unwrap();
    let merged = tuned.merge().unwrap();
    let (changed, kept) = ("text.blocks.0.up.weight", "text.blocks.0.up.bias");
    assert_eq!(merged.weights[changed].dtype(), DType::F64);
    let stored = merged.stored(None).unwrap();
    for (name, tensor) in &stored {
        assert_eq!(tensor.dtype(), DType::F16, "{name}");
    }
    let frozen = tuned.base.get(kept).unwrap();
    let own = frozen.tensor(DType::F16, &Device::Cpu).unwrap();
    assert_eq!(values(&stored[kept]), values(&own));
    let singles = merged.stored(Some(DType::F32)).unwrap();
    assert!(singles.values().all(|t| t.dtype() == DType::F32));
    let off = distance(&singles[changed], &stored[changed]);
    assert!(off > 1e-6 && off < 1e-2, "{off}");
}

#[test]
fn a_value_too_large_for_half_precision_is_refused() {
    let tuned = stirred(vec![existing().configured()]);
    let class = &tuned.overlay.trained["vision.class"].var;
    let large = Tensor::full(-7e4, class.dims(), &Device::Cpu).unwrap();
    class.set(&large).unwrap();
    let merged = tuned.merge().unwrap();
    let error = merged.stored(Some(DType::F16)).unwrap_err();
    assert!(error.is_wrong_use());
    assert_eq!(
        error.to_string(),
        "`vision.class` holds a value of 70000, and f16 ends at 65504: write the weights in f32 or bf16"
    );
    merged.stored(Some(DType::BF16)).unwrap();
}

#[test]
fn a_bias_without_a_place_is_refused_by_name() {
    let shift = |name: &'static str, at: &'static [Projection]| {
        let wants = vec![projections(at, &[], &[])];
        Scripted::new(name, wants, |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::projection) {
                let moved = affine(slot.channels(), slot.output, &slot.name, true);
                hooks.output(slot, moved);
            }
            Ok(())
        })
        .configured()
    };
    let patch = shift("patch", &[Projection::Patch, Projection::Query]);
    let joint = shift("joint", &[Projection::Joint]);
    let merged = model(
        ToyTask::default(),
        vec![updates().configured(), patch, joint],
    );
    let merged = merged.merge().unwrap();
    let names: Vec<&str> = merged.biases.keys().map(String::as_str).collect();
    assert_eq!(names, ["text.joint", "vision.joint", "vision.patch"]);
    assert_eq!(merged.biases["vision.patch"].adapters, ["patch"]);
    assert_eq!(merged.biases["vision.patch"].value.dims(), [8]);
    insta::assert_snapshot!(merged.stored(None).unwrap_err(), @"
    2 adapters do not fold into the weights; merge without them, or use them beside the weights, as they were trained:
      `joint`: its shift would become a bias, and the layer has none (text.joint)
      `patch`: its shift would become a bias, and the layer has none (vision.patch)
    ");
}

/// Every shape of hook that is no part of a weight, each in an adapter of its own.
fn beside() -> Vec<Scripted> {
    let pictures = Sites {
        towers: vec![Tower::Vision],
        blocks: vec![1],
        ..Sites::default()
    };
    let branch = Want::Branches {
        sites: pictures.clone(),
        default: &[Branch::Mlp],
    };
    let stream = Want::Streams {
        tower: Tower::Text,
        moments: vec![Moment::Embed(EmbedStep::Norm), Moment::After(0)],
    };
    let keys = Want::KeyValues { sites: pictures };
    let pooled = Want::Pooled {
        towers: vec![Tower::Text],
    };
    vec![
        Scripted::new("branch", vec![branch], |slots, _, hooks| {
            let hook = |_: BranchView, y: &Tensor, _: &mut Pass| Ok(y.clone());
            for slot in slots.iter().filter_map(Slot::branch) {
                hooks.branch(slot, By(hook));
            }
            Ok(())
        }),
        Scripted::new("stream", vec![stream], |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::stream) {
                hooks.stream(slot, By(|s: Stream, _: &mut Pass| Ok(s)));
            }
            Ok(())
        }),
        Scripted::new("keys", vec![keys], |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::key_value) {
                hooks.key_value(slot, By(|k: Tensor, v: Tensor, _: &mut Pass| Ok((k, v))));
            }
            Ok(())
        }),
        Scripted::new(
            "bridge",
            vec![Want::Stages { stages: vec![2] }],
            |slots, _, hooks| {
                for slot in slots.iter().filter_map(Slot::stage) {
                    hooks.bridge(slot, By(|v: Stream, t: Stream, _: &mut Pass| Ok((v, t))));
                }
                Ok(())
            },
        ),
        Scripted::new("pooled", vec![pooled], |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::pooled) {
                hooks.pooled(slot, By(|x: &Tensor, _: &mut Pass| Ok(x.clone())));
            }
            Ok(())
        }),
        Scripted::new("logits", vec![Want::Logits], |_, _, hooks| {
            let same = |l: &Tensor, _: &Tensor, _: &Tensor, _: &mut Pass| Ok(l.clone());
            hooks.logits(By(same));
            Ok(())
        }),
        at_projections("around", |slot, hooks| {
            hooks.bypass(slot, By(|x: &Tensor, _: &mut Pass| Ok(x.clone())));
        }),
        at_projections("bent", |slot, hooks| {
            hooks.output(slot, By(|x: &Tensor, _: &mut Pass| Ok(x.clone())));
        }),
        at_projections("ids", |slot, hooks| {
            let width = slot.input;
            hooks.input(slot, affine(slot.channels(), width, "ids", false));
        }),
        at_projections("padded", |slot, hooks| {
            if slot.projection == Projection::Patch {
                hooks.input(slot, affine(slot.channels(), slot.input, "pixels", true));
            }
        }),
    ]
}

fn everywhere() -> ToyTask {
    ToyTask::of(&[Look::VisionFinal, Look::TextPooled, Look::Logits])
}

#[test]
fn each_adapter_that_does_not_fold_says_which_and_why() {
    let mut said = Vec::new();
    for adapter in beside() {
        let label = {
            let tuned = model(
                everywhere(),
                vec![updates().configured(), adapter.configured()],
            );
            let error = tuned.merge().unwrap_err();
            assert!(error.is_wrong_use());
            said.push(error.to_string());
            tuned.labels().last().unwrap().to_string()
        };
        assert!(said.last().unwrap().contains(&format!("`{label}`")));
    }
    let end = "; merge without it, or use it beside the weights, as it was trained";
    let ended: Vec<&str> = said.iter().map(|s| s.strip_suffix(end).unwrap()).collect();
    insta::assert_snapshot!(ended.join("\n"), @"
    `branch` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (vision.blocks.1)
    `stream` does not fold into the weights: it changes the stream between the layers (the text stream)
    `keys` does not fold into the weights: it puts keys and values into an attention (vision.blocks.1)
    `bridge` does not fold into the weights: it moves the streams of both towers by each other (vision.blocks.1)
    `pooled` does not fold into the weights: it changes the pooled vector (text.pooled)
    `logits` does not fold into the weights: it changes similarities (logits)
    `around` does not fold into the weights: a path around a projection is not part of its weight (vision.patch)
    `bent` does not fold into the weights: this change of an output is not linear (vision.patch)
    `ids` does not fold into the weights: ids have no channels to scale or shift (text.token)
    `padded` does not fold into the weights: a shift before a convolution does not reach its padding (vision.patch)
    ");
}

#[test]
fn all_that_do_not_fold_are_named_at_once_and_none_that_stands_by() {
    let adapters = beside().into_iter().map(Scripted::configured).collect();
    let mut tuned = model(everywhere(), adapters);
    let said = tuned.merge().unwrap_err().to_string();
    let labels: Vec<String> = tuned.labels().map(String::from).collect();
    for label in &labels[..7] {
        assert_eq!(said.matches(&format!("`{label}`")).count(), 1, "{said}");
    }
    for label in &labels {
        tuned.disable(label).unwrap();
    }
    assert!(tuned.merge().unwrap().folded.is_empty());
}

/// An update that depends on the other tower.
struct Crossing(twinspan_sdk::pass::TapKey);

impl Update for Crossing {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        pass.read(self.0)?;
        Ok(x.zeros_like()?)
    }

    fn delta(&self, pass: &Pass) -> Result<Tensor> {
        let read = pass.read(self.0)?;
        Ok(read.data.zeros_like()?)
    }
}

#[test]
fn what_depends_on_the_other_tower_is_no_weight() {
    let tap = Tap::text(At::Block(0));
    let wants = vec![projections(&[Projection::Query], &[Tower::Vision], &[1])];
    let adapter = Scripted::new("crossing", wants, move |slots, _, hooks| {
        for slot in slots {
            let key = hooks.tap(slot, tap)?;
            if let Some(slot) = slot.projection() {
                hooks.update(slot, Crossing(key));
            }
        }
        Ok(())
    });
    let adapter = adapter.reading(move |_| vec![tap]).configured();
    let error = model(ToyTask::default(), vec![adapter])
        .merge()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`crossing` does not fold into the weights: it depends on what it reads (vision.blocks.1.query); merge without it, or use it beside the weights, as it was trained"
    );
}

/// The toy, whose MLP's norm is said to be read by other things than its up projection alone.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Gated {
    named: bool,
}

impl Plugin for Gated {
    const NAME: &'static str = "gated";
    const ABOUT: &'static str = "something else reads a norm";
    const OPTIONS: &'static [Opt] = &[];
}

impl Backbone for Gated {
    fn topology(&self) -> Result<Topology> {
        let mut topology = Toy::default().topology()?;
        let branches = topology
            .text
            .blocks
            .iter_mut()
            .flat_map(|b| &mut b.branches);
        for branch in branches.filter(|b| b.branch == Branch::Mlp) {
            match self.named {
                true => branch.consumers.push(Projection::Shortcut),
                false => branch.consumers.clear(),
            }
        }
        Ok(topology)
    }

    fn load(&self, weights: &Weights) -> Result<Encoders> {
        Toy::default().load(weights)
    }

    fn preparation(&self) -> Preparation {
        Toy::default().preparation()
    }

    fn tokenizer(&self, path: Option<&Path>) -> Result<Arc<dyn Tokenizer>> {
        Toy::default().tokenizer(path)
    }
}

#[test]
fn a_norm_that_something_else_reads_takes_no_fold() {
    let merged = |named: bool, tower: Tower| {
        let wants = vec![branches(tower, 1, Branch::Mlp)];
        let adapter = Scripted::new("gain", wants, |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::branch) {
                hooks.norm(slot, affine(Channels::Last, slot.width, "gain", true));
            }
            Ok(())
        });
        let mut recipe = testkit::recipe(ToyTask::default(), vec![adapter.configured()]).unwrap();
        recipe.backbone = Configured::<dyn Backbone>::of(Gated { named }).unwrap();
        testkit::tuned(&recipe).unwrap().merge()
    };
    insta::assert_snapshot!(merged(false, Tower::Text).unwrap_err(), @"`gain` does not fold into the weights: it acts on the norm of the mlp branch, which more than projections read (text.blocks.1); merge without it, or use it beside the weights, as it was trained");
    insta::assert_snapshot!(merged(true, Tower::Text).unwrap_err(), @"`gain` does not fold into the weights: it acts on the norm of the mlp branch, and shortcut, which reads it, is no projection there (text.blocks.1); merge without it, or use it beside the weights, as it was trained");
    merged(false, Tower::Vision).unwrap();
}

#[test]
fn merged_weights_make_the_model_of_any_recipe_of_the_backbone() {
    let tuned = stirred(vec![updates().configured(), existing().configured()]);
    let merged = tuned.merge().unwrap();
    let recipe = testkit::recipe(everywhere(), vec![norms().configured()]).unwrap();
    let over = merged.model(&recipe, compute()).unwrap();
    let again = over.merge().unwrap();
    let bare = again.model(&bare(&recipe), compute()).unwrap();
    let batch = aligned(2);
    for (found, wanted) in features(&bare, &batch).iter().zip(features(&over, &batch)) {
        assert!(distance(found, &wanted) < BEHIND_BLOCKS);
    }
    let wrong = Init::Zeros
        .tensor(0, "", &[3], DType::F32, &Device::Cpu)
        .unwrap();
    let mut weights = merged.weights.clone();
    weights.insert("text.norm.weight".into(), wrong);
    let error = merged
        .model_over(&weights, &recipe, compute())
        .err()
        .unwrap();
    assert!(matches!(error, Error::Shape { .. }));
}
