//! Folding on real backbones at small size: linear layers, convolutions, tables of words and fused
//! projections, by adapters that are linked and by closures, alone and in unions. In f32, the
//! merged weights give what the model gives to 1e-5 of the largest, through every layout.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use twinspan as _;
use twinspan::sdk::Result;
use twinspan::sdk::adapter::{Adapter, ProjectionSlot, Slot, Want};
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::hooks::{Affine, Channels, Hooks, Reparametrise};
use twinspan::sdk::parameter::{Init, Params};
use twinspan::sdk::pass::Pass;
use twinspan::sdk::recipe::{BatchNormChoice, Recipe, TrainOptions, WeightsChoice};
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, Configured};
use twinspan::sdk::site::{Branch, Projection, Sites};
use twinspan::sdk::task::{Batch, Task};
use twinspan::sdk::testkit::{Look, Scripted, ToyTask};
use twinspan::sdk::topology::{Shape, Topology};
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::weights;

const WITHIN: f64 = 1e-5;

const BACKBONES: [(&str, &str, &[&str]); 4] = [
    (
        "clip",
        r#"
        [model]
        embed_dim = 24
        vision = { kind = "vit", layers = 2, width = 16, heads = 2, patch = 8, image_size = 32 }
        text = { layers = 2, width = 32, heads = 2, context = 16, vocabulary = 514 }
        "#,
        &[
            "twinspan",
            "openai",
            "open_clip with custom text",
            "transformers",
        ],
    ),
    // Transformers' has a norm in front of the blocks, and no bias behind the text.
    (
        "clip",
        r#"
        [model]
        embed_dim = 24
        activation = "gelu"
        vision = { kind = "vit", layers = 2, width = 24, head_width = 12, patch = 8, image_size = 32, pooling = "mean", no_norm_in = true, norm_pooled = true }
        text = { layers = 2, width = 16, heads = 2, context = 16, vocabulary = 520, last = { padding = 0, end = 513 }, no_causal_mask = true, joint_bias = true }
        "#,
        &["twinspan", "openai", "open_clip with custom text"],
    ),
    (
        "clip",
        r#"
        [model]
        embed_dim = 24
        vision = { kind = "resnet", layers = [1, 1, 1, 1], width = 4, head_width = 32, image_size = 64 }
        text = { layers = 2, width = 16, heads = 2, context = 16, vocabulary = 514, end = 513 }
        "#,
        &["twinspan", "openai", "open_clip with custom text"],
    ),
    (
        "siglip",
        r#"
        [model]
        vision = { layers = 2, width = 16, heads = 2, patch = 8, image_size = 35 }
        text = { layers = 2, width = 32, heads = 2, context = 16, vocabulary = 259 }
        "#,
        &["twinspan", "transformers", "open_clip"],
    ),
];

fn backbone(name: &str, options: &str) -> Configured<dyn Backbone> {
    registry::configured::<BackboneEntry>(name, options.parse().unwrap()).unwrap()
}

fn linked(name: &str, options: &str) -> Configured<dyn Adapter> {
    registry::configured::<AdapterEntry>(name, options.parse().unwrap()).unwrap()
}

fn everywhere() -> Want {
    Want::Projections {
        sites: Sites::default(),
        default: Projection::ALL,
    }
}

/// x ⊙ scale + shift, or without a shift, begun away from the identity.
fn affine(params: &mut Params, width: usize, channels: Channels, shift: bool) -> Result<Affine> {
    let scale = params.trained("scale", &[width], Init::Constant(0.9))?;
    let shift = match shift {
        true => Some(params.trained("shift", &[width], Init::Zeros)?),
        false => None,
    };
    Ok(Affine {
        scale: Some(scale),
        shift,
        channels,
    })
}

/// Affine inputs, wherever they fold.
fn inputs() -> Configured<dyn Adapter> {
    Scripted::new("inputs", vec![everywhere()], |slots, params, hooks| {
        let slots = slots.iter().filter_map(Slot::projection);
        for slot in slots.filter(|s| s.shape != Shape::Embedding) {
            let mut here = params.within(&slot.name);
            let shift = slot.shape == Shape::Linear && !is_bare(slot.projection);
            let hook = affine(&mut here, slot.input, slot.channels(), shift)?;
            hooks.input(slot, hook);
        }
        Ok(())
    })
    .configured()
}

/// Joint projections have no bias in some of the backbones.
fn is_bare(projection: Projection) -> bool {
    projection == Projection::Joint
}

/// Affine outputs, shifted where the layer has a bias or is a table.
fn outputs(topology: &Topology) -> Configured<dyn Adapter> {
    let biases = topology
        .parameters()
        .filter_map(|p| p.name.strip_suffix(".bias"));
    let biases: BTreeSet<String> = biases.map(String::from).collect();
    let hang = move |slots: &[Slot], params: &mut Params, hooks: &mut Hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let shift = biases.contains(&slot.name) || slot.shape == Shape::Embedding;
            let mut here = params.within(&slot.name);
            let hook = affine(&mut here, slot.output, slot.channels(), shift)?;
            hooks.output(slot, hook);
        }
        Ok(())
    };
    Scripted::new("outputs", vec![everywhere()], hang).configured()
}

/// Rows whose length saturates.
struct Saturated;

impl Reparametrise for Saturated {
    fn rows(&self, updated: &Tensor, _pass: &Pass) -> Result<Tensor> {
        let length = updated.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?;
        Ok((&length + 0.1)?.recip()?)
    }
}

fn rows() -> Configured<dyn Adapter> {
    let hang = |slot: &ProjectionSlot, hooks: &mut Hooks| hooks.reparametrise(slot, Saturated);
    Scripted::new("rows", vec![everywhere()], move |slots, _, hooks| {
        let slots = slots.iter().filter_map(Slot::projection);
        slots.for_each(|slot| hang(slot, hooks));
        Ok(())
    })
    .configured()
}

/// Affine norms of every branch; a shift of a map's does not reach the padding.
fn norms() -> Configured<dyn Adapter> {
    let want = Want::Branches {
        sites: Sites::default(),
        default: Branch::ALL,
    };
    Scripted::new("norms", vec![want], |slots, params, hooks| {
        for slot in slots.iter().filter_map(Slot::branch) {
            let name = format!("{}.{}.{}", slot.tower, slot.block, slot.branch);
            let (channels, shift) = match slot.branch {
                Branch::Convolution => (Channels::Map, false),
                _ => (Channels::Last, true),
            };
            let hook = affine(&mut params.within(name), slot.before.width, channels, shift)?;
            hooks.norm(slot, hook);
        }
        Ok(())
    })
    .configured()
}

fn recipe(backbone: &Configured<dyn Backbone>, adapters: Vec<Configured<dyn Adapter>>) -> Recipe {
    Recipe {
        backbone: backbone.clone(),
        weights: WeightsChoice {
            batch_norm: BatchNormChoice::Train,
            ..WeightsChoice::default()
        },
        adapters,
        task: Configured::<dyn Task>::of(ToyTask::of(&Look::ALL)).unwrap(),
        train: TrainOptions::default(),
    }
}

/// The model, its parameters away from their start and its statistics not the base's.
fn stirred(recipe: &Recipe, batch: &Batch) -> Tuned {
    let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 1).unwrap();
    let mut tuned = Tuned::new(recipe, base, Compute::default()).unwrap();
    tuned.prepare(None, None).unwrap();
    let away = |scale, name: &str, dims: &[usize]| {
        let init = Init::Normal(scale);
        init.tensor(2, name, dims, DType::F32, &Device::Cpu)
            .unwrap()
    };
    for (name, trained) in &tuned.overlay.trained {
        let moved = trained.var.as_detached_tensor() + away(0.02, name, trained.var.dims());
        trained.var.set(&moved.unwrap()).unwrap();
    }
    let mut pass = Pass::train(1);
    tuned.forward(batch, &mut pass).unwrap();
    pass.commit().unwrap();
    tuned
}

fn batch(backbone: &Configured<dyn Backbone>) -> Batch {
    let plugin = backbone.plugin.as_ref();
    let (side, words) = (plugin.preparation().size, 12);
    let shape = [2, 3, side, side];
    let tokenizer = plugin.tokenizer(None).unwrap();
    let sentences = ["a red disc", "it"];
    let ids = sentences
        .iter()
        .flat_map(|s| tokenizer.encode(s, words).ids);
    let ids: Vec<u32> = ids.collect();
    let normal = Init::Normal(1.0);
    Batch {
        images: normal
            .tensor(1, "pictures", &shape, DType::F32, &Device::Cpu)
            .unwrap(),
        tokens: Tensor::from_vec(ids, (2, words), &Device::Cpu).unwrap(),
        pairs: vec![(0, 0), (0, 1), (1, 0), (1, 1)],
        target: None,
        examples: vec![0, 1, 2, 3],
    }
}

fn features(tuned: &Tuned, batch: &Batch) -> Vec<Vec<f32>> {
    let streams = tuned.forward(batch, &mut Pass::predict()).unwrap();
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    streams.iter().map(|s| values(&s.data)).collect()
}

/// The largest difference of a feature, of its largest value.
fn distance(found: &[Vec<f32>], wanted: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0f64, |most, x| most.max(f64::from(x.abs())))
    };
    let of_one = |(found, wanted): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().all(|x| x.is_finite()));
        let off = largest(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
        off / largest(&mut wanted.iter().copied())
    };
    found.iter().zip(wanted).map(of_one).fold(0.0, f64::max)
}

#[test]
fn every_union_folds_on_every_backbone() {
    for (name, options, _) in BACKBONES {
        let backbone = backbone(name, options);
        let topology = backbone.plugin.topology().unwrap();
        let all = || -> Vec<Configured<dyn Adapter>> {
            let names = Projection::ALL.iter().map(|p| format!("\"{p}\""));
            let offered: BTreeSet<String> = topology
                .projections()
                .map(|p| format!("\"{}\"", p.projection))
                .collect();
            let names: Vec<String> = names.filter(|n| offered.contains(n)).collect();
            let sites = format!(
                "rank = 2\nsites = {{ projections = [{}] }}",
                names.join(", ")
            );
            vec![
                linked("lora", &sites),
                linked("unfreeze", "roles = [\"all\"]"),
                inputs(),
                outputs(&topology),
                rows(),
                norms(),
            ]
        };
        let batch = batch(&backbone);
        let bare = stirred(&recipe(&backbone, Vec::new()), &batch);
        let before = features(&bare, &batch);
        for chosen in 1..1u32 << all().len() {
            // Alone, in pairs, and all of them.
            if chosen.count_ones() > 2 && chosen.count_ones() < 6 {
                continue;
            }
            let union = all().into_iter().enumerate();
            let union = union.filter(|(i, _)| chosen & 1 << i != 0).map(|(_, a)| a);
            let recipe = recipe(&backbone, union.collect());
            let tuned = stirred(&recipe, &batch);
            let wanted = features(&tuned, &batch);
            let bare = Recipe {
                adapters: Vec::new(),
                ..recipe.clone()
            };
            let merged = tuned.merge().unwrap();
            let merged = merged.model(&bare, Compute::default()).unwrap();
            let off = distance(&features(&merged, &batch), &wanted);
            let labels: Vec<&str> = tuned.labels().collect();
            assert!(off < WITHIN, "{labels:?} on {name}: {off:.1e}");
            let moved = distance(&wanted, &before);
            assert!(moved > 1e-3, "{labels:?} on {name} change {moved:.1e}");
        }
    }
}

/// An adapter on every projection of a backbone where it takes them all, else where it likes; and
/// whether it takes them all. None where it does not fit.
fn widest(
    name: &str,
    backbone: &Configured<dyn Backbone>,
) -> Option<(Configured<dyn Adapter>, bool)> {
    let topology = backbone.plugin.topology().unwrap();
    let all = topology.projections().map(|p| p.projection);
    let all: BTreeSet<Projection> = all.collect();
    let sites = Sites {
        projections: all.into_iter().collect(),
        ..Sites::default()
    };
    let mut options = toml::Table::new();
    options.insert("sites".into(), toml::Value::try_from(sites).unwrap());
    let planned = |adapter: &Configured<dyn Adapter>| {
        twinspan::sdk::plan::plan(&recipe(backbone, vec![adapter.clone()])).is_ok()
    };
    let widest = registry::configured::<AdapterEntry>(name, options).ok();
    match widest.filter(planned) {
        Some(widest) => Some((widest, true)),
        None => Some((linked(name, ""), false)).filter(|(adapter, _)| planned(adapter)),
    }
}

#[test]
fn every_linked_method_that_says_it_folds_does_alone_and_in_pairs() {
    let names = registry::names::<AdapterEntry>().unwrap().into_iter();
    let folds = |name: &&str| linked(name, "").plugin.capabilities().mergeable;
    let names: Vec<&str> = names.filter(folds).collect();
    let (mut everywhere, mut nowhere) = (BTreeSet::new(), Vec::new());
    for (name, options, _) in BACKBONES {
        let backbone = backbone(name, options);
        let batch = batch(&backbone);
        let takes = |adapter: &&&str| widest(adapter, &backbone).is_some_and(|(_, all)| all);
        everywhere.extend(names.iter().filter(takes).copied());
        let (names, misfits): (Vec<&str>, Vec<&str>) = names
            .iter()
            .partition(|adapter| widest(adapter, &backbone).is_some());
        nowhere.extend(misfits);
        let before = features(&stirred(&recipe(&backbone, Vec::new()), &batch), &batch);
        let mut sets: Vec<Vec<&str>> = names.iter().map(|n| vec![*n]).collect();
        for (i, first) in names.iter().enumerate() {
            sets.extend(names[i + 1..].iter().map(|second| vec![*first, *second]));
        }
        for set in sets {
            let adapters = set
                .iter()
                .filter_map(|name| Some(widest(name, &backbone)?.0));
            let adapters = adapters.collect();
            let recipe = recipe(&backbone, adapters);
            let tuned = stirred(&recipe, &batch);
            let bare = Recipe {
                adapters: Vec::new(),
                ..recipe.clone()
            };
            let merged = tuned
                .merge()
                .unwrap_or_else(|e| panic!("{set:?} on {name}: {e}"));
            let merged = merged.model(&bare, Compute::default()).unwrap();
            let wanted = features(&tuned, &batch);
            let off = distance(&features(&merged, &batch), &wanted);
            assert!(off < WITHIN, "{set:?} on {name}: {off:.1e}");
            let moved = distance(&wanted, &before);
            assert!(moved > 2.0 * WITHIN, "{set:?} on {name} change {moved:.1e}");
        }
    }
    // These fold on convolutions and tables too; the others take linear layers or norms alone.
    let everywhere: Vec<&str> = everywhere.into_iter().collect();
    assert_eq!(everywhere, ["adalora", "dora", "ia3", "lora"]);
    // The small ResNet's pool has widths of which none is a multiple of the other.
    assert_eq!(nowhere, ["fact"]);
}

#[test]
fn every_linked_method_that_does_not_fold_says_why() {
    let names = registry::names::<AdapterEntry>().unwrap().into_iter();
    let stays = |name: &&str| !linked(name, "").plugin.capabilities().mergeable;
    let mut reasons = Vec::new();
    for name in names.filter(stays) {
        // The last backbone that has a place for it.
        let said = BACKBONES.iter().rev().find_map(|(family, options, _)| {
            let backbone = backbone(family, options);
            let options = match name {
                "tip-adapter" => "keys = 2\nclasses = 2",
                "coop" => "tokens = 2",
                "conv-adapter" => "reduction = 2",
                _ => "",
            };
            let recipe = recipe(&backbone, vec![linked(name, options)]);
            twinspan::sdk::plan::plan(&recipe).ok()?;
            let base = weights::random(&recipe.backbone.plugin.topology().unwrap(), 1).unwrap();
            let tuned = Tuned::new(&recipe, base, Compute::default()).unwrap();
            Some(tuned.merge().err().map(|e| e.to_string()))
        });
        let said = said.unwrap_or_else(|| panic!("no backbone here has a place for {name}"));
        let said = said.unwrap_or_else(|| panic!("{name} folds, and does not say so"));
        assert!(said.contains(&format!("`{name}`")), "{said}");
        let first = said.lines().take(2).collect::<Vec<_>>().join(" ");
        reasons.push(format!("{name}: {first}"));
    }
    insta::assert_snapshot!(reasons.join("\n"), @"
    adapter: `adapter` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    bridger: `bridger` does not fold into the weights: it moves the streams of both towers by each other (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    clip-adapter: `clip-adapter` does not fold into the weights: it changes the pooled vector (vision.pooled); merge without it, or use it beside the weights, as it was trained
    cocoop: `cocoop` does not fold into the weights: it changes the stream between the layers (the text stream); merge without it, or use it beside the weights, as it was trained
    compacter: `compacter` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    conv-adapter: `conv-adapter` does not fold into the weights: a path around a projection is not part of its weight (vision.stem.conv2); merge without it, or use it beside the weights, as it was trained
    convpass: `convpass` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    coop: `coop` does not fold into the weights: it changes the stream between the layers (the text stream); merge without it, or use it beside the weights, as it was trained
    dense-aligner: `dense-aligner` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    lst: `lst` does not fold into the weights: it changes the stream between the layers (the vision stream); merge without it, or use it beside the weights, as it was trained
    maple: `maple` does not fold into the weights: it changes the stream between the layers (the vision stream); merge without it, or use it beside the weights, as it was trained
    prefix: `prefix` does not fold into the weights: it puts keys and values into an attention (vision.blocks.0); merge without it, or use it beside the weights, as it was trained
    text-adapter: `text-adapter` does not fold into the weights: it changes what a branch gives, which is more than one weight's product (text.blocks.0); merge without it, or use it beside the weights, as it was trained
    tip-adapter: `tip-adapter` does not fold into the weights: it changes similarities (logits); merge without it, or use it beside the weights, as it was trained
    vpt: `vpt` does not fold into the weights: it changes the stream between the layers (the vision stream); merge without it, or use it beside the weights, as it was trained
    ");
}

#[test]
fn every_layout_gives_the_same_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("merged.safetensors");
    for (name, options, layouts) in BACKBONES {
        let backbone = backbone(name, options);
        let topology = backbone.plugin.topology().unwrap();
        let plugin = backbone.plugin.as_ref();
        let batch = batch(&backbone);
        let adapters = vec![
            linked("lora", "rank = 2"),
            linked("unfreeze", "roles = [\"all\"]"),
            outputs(&topology),
            norms(),
        ];
        let recipe = recipe(&backbone, adapters);
        let tuned = stirred(&recipe, &batch);
        let wanted = features(&tuned, &batch);
        let bare = Recipe {
            adapters: Vec::new(),
            ..recipe.clone()
        };
        let merged = tuned.merge().unwrap();
        for layout in layouts {
            let layout = weights::layout_named(plugin, layout).unwrap();
            let stored = merged.stored(None).unwrap();
            let bytes = weights::write(&file, plugin, &layout, stored).unwrap();
            assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes as u64);
            let base = weights::open_file(plugin, &file).unwrap();
            let read = weights::layout_of(plugin, &base).unwrap();
            assert_eq!(read.name, layout.name);
            let again = Tuned::new(&bare, base, Compute::default()).unwrap();
            let off = distance(&features(&again, &batch), &wanted);
            assert!(off < WITHIN, "{name} in {}: {off:.1e}", layout.name);
        }
        let all = weights::layouts(plugin).unwrap();
        for other in all.iter().filter(|l| !layouts.contains(&l.name)) {
            let stored = merged.stored(None).unwrap();
            let error = weights::write(&file, plugin, other, stored).unwrap_err();
            assert!(error.is_wrong_use(), "{error}");
            let said = "the layout `transformers` is of models with `vision_model.pre_layrnorm.weight`, which this one does not have";
            assert_eq!(error.to_string(), said);
        }
    }
}
