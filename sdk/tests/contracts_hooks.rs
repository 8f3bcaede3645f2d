//! Every shape of hook, hung into the toy and run through `Tuned::forward`.

mod contracts;

use candle_core::{DType, Device, Tensor};
use contracts::pieces::{Dense, Lengths, affine, branches, projections, random, training};
use contracts::{REORDERED, Seen, aligned, distance, features, model, refused, values};
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::hooks::{BranchHook, BranchView, Channels, Reparametrise, Scale};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Parameter};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, EmbedStep, Moment, Projection, Role, Sites, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::testkit::{By, Look, Scripted, ToyTask, batch};
use twinspan_sdk::{Error, Result};

#[test]
fn a_projection_runs_its_hooks_in_their_fixed_order() {
    let seen = Seen::new();
    let (normed, activated) = (seen.clone(), seen.clone());
    let probe = Scripted::new(
        "probe",
        vec![
            projections(&[Projection::Up, Projection::Down], &[Tower::Text], &[1]),
            branches(Tower::Text, 1, Branch::Mlp),
        ],
        move |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::branch) {
                let normed = normed.clone();
                hooks.norm(
                    slot,
                    By(move |x: &Tensor, _: &mut Pass| {
                        normed.see(x.clone());
                        Ok(x.clone())
                    }),
                );
            }
            for slot in slots.iter().filter_map(Slot::projection) {
                if slot.projection == Projection::Down {
                    let activated = activated.clone();
                    hooks.input(
                        slot,
                        By(move |x: &Tensor, _: &mut Pass| {
                            activated.see(x.clone());
                            Ok(x.clone())
                        }),
                    );
                    continue;
                }
                // Hung in the reverse of the order in which they must run.
                let around = random("around", &[slot.output, slot.input]);
                hooks.bypass(
                    slot,
                    By(move |x: &Tensor, _: &mut Pass| Ok(ops::linear(x, &around, None)?)),
                );
                hooks.output(slot, By(|y: &Tensor, _: &mut Pass| Ok(((y * 3.0)? + 2.0)?)));
                hooks.output(slot, By(|y: &Tensor, _: &mut Pass| Ok(y.sqr()?)));
                hooks.reparametrise(slot, Lengths);
                hooks.update(slot, Dense::of(slot, "one"));
                hooks.update(slot, Dense::of(slot, "two"));
                hooks.input(slot, By(|x: &Tensor, _: &mut Pass| Ok(((x * 2.0)? + 1.0)?)));
                hooks.input(slot, By(|x: &Tensor, _: &mut Pass| Ok(x.sqr()?)));
            }
            Ok(())
        },
    );
    let model = model(ToyTask::default(), vec![probe.configured()]);
    features(&model, &aligned(2));
    let [x, got] = seen.take().try_into().unwrap();

    let base = |name: &str| {
        let frozen = model.base.get(&format!("text.blocks.1.up.{name}")).unwrap();
        frozen.tensor(DType::F64, &Device::Cpu).unwrap()
    };
    let delta = |name: &str| random(&format!("text.blocks.1.up.{name}"), &[16, 8]);
    let read = ((&x * 2.0).unwrap() + 1.0).unwrap().sqr().unwrap();
    let weight = ((base("weight") + delta("one")).unwrap() + delta("two")).unwrap();
    let rows = Lengths.rows(&weight, &Pass::predict()).unwrap();
    let y = ops::linear(&read, &weight, None).unwrap();
    let y = y
        .broadcast_mul(&rows)
        .unwrap()
        .broadcast_add(&base("bias"))
        .unwrap();
    let y = ((y * 3.0).unwrap() + 2.0).unwrap().sqr().unwrap();
    let around = ops::linear(&x, &random("around", &[16, 8]), None).unwrap();
    let wanted = ops::quick_gelu(&(y + around).unwrap()).unwrap();
    assert!(distance(&got, &wanted) < REORDERED);
}

#[test]
fn two_reparametrisations_of_one_weight_are_refused() {
    let one = |name| {
        let wants = vec![projections(&[Projection::Value], &[Tower::Text], &[2])];
        let adapter = Scripted::new(name, wants, |slots, _, hooks| {
            slots
                .iter()
                .filter_map(Slot::projection)
                .for_each(|s| hooks.reparametrise(s, Lengths));
            Ok(())
        });
        adapter.configured()
    };
    assert_eq!(
        refused(ToyTask::default(), || vec![one("first"), one("second")]),
        "`second` reparametrises text.blocks.2.value, which another adapter reparametrises already"
    );
}

#[test]
fn a_norms_hook_reaches_all_that_read_the_norm() {
    const READERS: &[Projection] = &[Projection::Query, Projection::Key, Projection::Value];
    let norm = Scripted::new(
        "norm",
        vec![branches(Tower::Vision, 0, Branch::Attention)],
        |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::branch) {
                hooks.norm(slot, affine(Channels::Last, slot.width, "gain", true));
            }
            Ok(())
        },
    );
    let wants = vec![projections(READERS, &[Tower::Vision], &[0])];
    let inputs = Scripted::new("inputs", wants, |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            hooks.input(slot, affine(Channels::Last, slot.input, "gain", true));
        }
        Ok(())
    });
    let batch = aligned(2);
    let early = ToyTask::of(&[Look::VisionEarly]);
    let by_norm = features(&model(early.clone(), vec![norm.configured()]), &batch);
    let by_input = features(&model(early.clone(), vec![inputs.configured()]), &batch);
    let bare = features(&model(early, Vec::new()), &batch);
    assert!(distance(&by_norm[0], &by_input[0]) < REORDERED);
    assert!(distance(&by_norm[0], &bare[0]) > 1e-2);
}

/// Adds `amount` to a branch's output on one side of the layer scale.
struct Lift(Scale, f64);

impl BranchHook for Lift {
    fn scale(&self) -> Scale {
        self.0
    }

    fn forward(&self, _view: BranchView, output: &Tensor, _pass: &mut Pass) -> Result<Tensor> {
        Ok((output + self.1)?)
    }
}

fn on_branch<H: BranchHook + 'static>(
    branch: Branch,
    hook: impl Fn() -> H + Send + Sync + 'static,
) -> Scripted {
    Scripted::new(
        "branch",
        vec![branches(Tower::Vision, 0, branch)],
        move |slots, _, hooks| {
            slots
                .iter()
                .filter_map(Slot::branch)
                .for_each(|s| hooks.branch(s, hook()));
            Ok(())
        },
    )
}

#[test]
fn branch_hooks_act_before_or_after_the_layer_scale() {
    let batch = aligned(2);
    let early = ToyTask::of(&[Look::VisionEarly]);
    let bare = features(&model(early.clone(), Vec::new()), &batch);
    // The toy's layer scale is one half.
    for (scale, moved) in [(Scale::Before, 0.5), (Scale::After, 1.0)] {
        let adapter = on_branch(Branch::Mlp, move || Lift(scale, 1.0));
        let got = features(&model(early.clone(), vec![adapter.configured()]), &batch);
        assert!(distance(&got[0], &(&bare[0] + moved).unwrap()) < REORDERED);
    }
}

#[test]
fn branch_hooks_see_the_input_normed_and_not() {
    for branch in [Branch::Attention, Branch::Mlp] {
        let seen = Seen::new();
        let notes = seen.clone();
        let adapter = on_branch(branch, move || {
            let notes = notes.clone();
            By(move |view: BranchView, y: &Tensor, _: &mut Pass| {
                notes.see([
                    view.input.clone(),
                    view.normed.clone(),
                    view.stream.data.clone(),
                ]);
                // In parallel, on the grid of the normed input: Convpass's shape.
                let map = view.stream.with(view.normed.clone()).grid()?;
                let added = view
                    .stream
                    .with(view.input.zeros_like()?)
                    .add_on_grid(&map)?;
                Ok(ops::add(y, &added.data)?)
            })
        });
        let early = ToyTask::of(&[Look::VisionEarly]);
        let model = model(early, vec![adapter.configured()]);
        features(&model, &aligned(2));
        let [[input, normed, stream]] = seen.take().try_into().unwrap();
        let one = |init: Init| init.tensor(0, "", &[8], DType::F64, &Device::Cpu).unwrap();
        let wanted = ops::layer_norm(&input, &one(Init::Ones), &one(Init::Zeros), 1e-5).unwrap();
        assert!(distance(&normed, &wanted) < REORDERED);
        assert_eq!(distance(&input, &stream), 0.0);
    }
}

fn every_moment() -> Vec<Moment> {
    let mut all: Vec<Moment> = [EmbedStep::Tokens, EmbedStep::Positions, EmbedStep::Norm]
        .map(Moment::Embed)
        .to_vec();
    all.extend((0..3).flat_map(|i| [Moment::Before(i), Moment::After(i)]));
    all
}

#[test]
fn stream_hooks_run_at_every_moment() {
    for tower in Tower::BOTH {
        let seen = Seen::new();
        let notes = seen.clone();
        // Wished for in reverse: the towers' order counts, not the wish's.
        let moments: Vec<Moment> = every_moment().into_iter().rev().collect();
        let adapter = Scripted::new(
            "watch",
            vec![Want::Streams { tower, moments }],
            move |slots, _, hooks| {
                for slot in slots.iter().filter_map(Slot::stream) {
                    let (notes, moment) = (notes.clone(), slot.moment);
                    hooks.stream(
                        slot,
                        By(move |stream: Stream, _: &mut Pass| {
                            notes.see(moment);
                            Ok(stream)
                        }),
                    );
                }
                Ok(())
            },
        );
        let model = model(ToyTask::default(), vec![adapter.configured()]);
        features(&model, &aligned(2));
        assert_eq!(seen.take(), every_moment());
    }
}

fn prompts(rows: usize, name: &str) -> Tensor {
    random(name, &[1, rows, 8])
}

#[test]
fn prompts_before_positions_take_part_in_them() {
    // CoOp: two context vectors after the start token; equal vectors at unequal positions.
    let moments = vec![Moment::Embed(EmbedStep::Tokens), Moment::Before(0)];
    let want = Want::Streams {
        tower: Tower::Text,
        moments,
    };
    let seen = Seen::new();
    let notes = seen.clone();
    let adapter = Scripted::new("context", vec![want], move |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::stream) {
            let notes = notes.clone();
            hooks.stream(
                slot,
                By(move |stream: Stream, _: &mut Pass| {
                    if matches!(slot_moment(&stream), Placed::Yes) {
                        notes.see(stream.data.clone());
                        return Ok(stream);
                    }
                    let same = Tensor::cat(&[prompts(1, "same"), prompts(1, "same")], 1)?;
                    Ok(stream.insert(1, &same, "context")?)
                }),
            );
        }
        Ok(())
    });
    let task = ToyTask::of(&[Look::TextFinal, Look::TextPooled]);
    let prompted = model(task.clone(), vec![adapter.configured()]);
    let got = features(&prompted, &aligned(2));
    let [embedded] = seen.take().try_into().unwrap();
    let positions = prompted.base.get("text.positions").unwrap();
    let positions = positions.tensor(DType::F64, &Device::Cpu).unwrap();
    for place in [1, 2] {
        let token = embedded
            .narrow(1, place, 1)
            .unwrap()
            .narrow(0, 0, 1)
            .unwrap();
        let wanted = (prompts(1, "same").squeeze(0).unwrap()
            + positions.narrow(0, place, 1).unwrap())
        .unwrap();
        assert!(distance(&token.squeeze(0).unwrap(), &wanted) < REORDERED);
    }
    assert_eq!(got[0].dims(), &[2, 8, 8]);
    let bare = features(&model(task, Vec::new()), &aligned(2));
    // The end token is still found, and it sees the context.
    assert!(distance(&got[1], &bare[1]) > 1e-3);
}

enum Placed {
    Yes,
    No,
}

fn slot_moment(stream: &Stream) -> Placed {
    match stream.span(|k| matches!(k, SpanKind::Prompt(_))) {
        Some(_) => Placed::Yes,
        None => Placed::No,
    }
}

#[test]
fn deep_prompts_are_replaced_before_every_block_and_dropped_behind() {
    let moments: Vec<Moment> = (0..3)
        .map(Moment::Before)
        .chain([Moment::After(2)])
        .collect();
    let want = Want::Streams {
        tower: Tower::Vision,
        moments,
    };
    let seen = Seen::new();
    let notes = seen.clone();
    let adapter = Scripted::new("deep", vec![want], move |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::stream) {
            let (notes, moment) = (notes.clone(), slot.moment);
            hooks.stream(
                slot,
                By(move |stream: Stream, _: &mut Pass| {
                    let span = stream.span(|k| *k == SpanKind::Prompt("deep".into()));
                    notes.see((stream.data.dim(1)?, span));
                    let bare = stream.without("deep")?;
                    match moment {
                        Moment::Before(i) => {
                            Ok(bare.insert(1, &prompts(5, &format!("{i}")), "deep")?)
                        }
                        _ => Ok(bare),
                    }
                }),
            );
        }
        Ok(())
    });
    let task = ToyTask::of(&[Look::VisionFinal, Look::VisionPooled, Look::VisionLate]);
    let got = features(
        &model(task.clone(), vec![adapter.configured()]),
        &aligned(2),
    );
    let inside = Some((1, 5));
    assert_eq!(
        seen.take(),
        [(17, None), (22, inside), (22, inside), (22, inside)]
    );
    let bare = features(&model(task, Vec::new()), &aligned(2));
    for (got, bare) in got.iter().zip(&bare) {
        assert!(distance(got, bare) > 1e-3);
    }
}

fn on_memory(tower: Tower, change: fn(Tensor, Tensor) -> Result<(Tensor, Tensor)>) -> Scripted {
    let sites = Sites {
        towers: vec![tower],
        ..Sites::default()
    };
    Scripted::new(
        "prefix",
        vec![Want::KeyValues { sites }],
        move |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::key_value) {
                assert_eq!((slot.width, slot.heads), (8, 2));
                hooks.key_value(
                    slot,
                    By(move |k: Tensor, v: Tensor, _: &mut Pass| change(k, v)),
                );
            }
            Ok(())
        },
    )
}

#[test]
fn keys_and_values_grow_in_front() {
    let batch = aligned(3);
    let task = ToyTask::of(&[Look::VisionPooled, Look::TextPooled]);
    let bare = features(&model(task.clone(), Vec::new()), &batch);
    let run = |tower, change| {
        let adapter = on_memory(tower, change).configured();
        features(&model(task.clone(), vec![adapter]), &batch)
    };
    // Every key twice halves every probability and changes nothing where all keys are seen.
    let twice = run(Tower::Vision, |k, v| {
        Ok((ops::concat(&k, &k, 1)?, ops::concat(&v, &v, 1)?))
    });
    assert!(distance(&twice[0], &bare[0]) < REORDERED);
    let front = |k: Tensor, v: Tensor| {
        let prefix = prompts(2, "prefix")
            .broadcast_as((k.dim(0)?, 2, 8))?
            .contiguous()?;
        Ok((ops::concat(&prefix, &k, 1)?, ops::concat(&prefix, &v, 1)?))
    };
    for (tower, at) in [(Tower::Vision, 0), (Tower::Text, 1)] {
        let prefixed = run(tower, front);
        assert!(distance(&prefixed[at], &bare[at]) > 1e-3);
        assert_eq!(distance(&prefixed[1 - at], &bare[1 - at]), 0.0);
    }
    // Behind a causal and a padding mask too: what pads a sentence stays unseen.
    let mut padded = batch.clone();
    let ids = Tensor::new(&[[14u32, 3, 15, 0, 0, 0]], &Device::Cpu).unwrap();
    padded.tokens = ids.repeat((3, 1)).unwrap();
    let short = {
        let mut short = padded.clone();
        short.tokens = padded.tokens.narrow(1, 0, 3).unwrap();
        short
    };
    let adapter = || vec![on_memory(Tower::Text, front).configured()];
    let long = features(&model(task.clone(), adapter()), &padded);
    let short = features(&model(task.clone(), adapter()), &short);
    assert!(distance(&long[1], &short[1]) < REORDERED);
}

#[test]
fn a_bridge_changes_both_streams_and_carries() {
    let seen = Seen::new();
    let notes = seen.clone();
    let want = Want::Stages { stages: vec![1, 3] };
    let adapter = Scripted::new("bridge", vec![want], move |slots, _, hooks| {
        let last = hooks.carry::<usize>();
        for slot in slots.iter().filter_map(Slot::stage) {
            let (notes, stage) = (notes.clone(), slot.stage);
            assert_eq!(slot.middle, Some((4, 4)));
            hooks.bridge(
                slot,
                By(move |v: Stream, t: Stream, pass: &mut Pass| {
                    notes.see((stage, pass.take(last)));
                    pass.carry(last, stage);
                    let words = t.content()?.mean_keepdim(1)?;
                    let patches = v.content()?.mean_keepdim(1)?;
                    Ok((
                        v.with(ops::add(&v.data, &words)?),
                        t.with(ops::add(&t.data, &patches)?),
                    ))
                }),
            );
        }
        Ok(())
    });
    let task = ToyTask::default();
    let bridged = model(task.clone(), vec![adapter.configured()]);
    let mut pass = Pass::predict();
    // A second pass in the same state starts without what the first carried.
    for _ in 0..2 {
        bridged.forward(&aligned(2), &mut pass).unwrap();
        assert_eq!(seen.take(), [(1, None), (3, Some(1))]);
    }
    let bare = features(&model(task, Vec::new()), &aligned(2));
    for (got, bare) in features(&bridged, &aligned(2)).iter().zip(&bare) {
        assert!(distance(got, bare) > 1e-3);
    }
}

#[test]
fn pooled_vectors_and_logits_have_hooks() {
    let twice = || {
        let want = Want::Pooled {
            towers: vec![Tower::Text],
        };
        Scripted::new("twice", vec![want], |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::pooled) {
                assert_eq!(slot.width, 6);
                hooks.pooled(slot, By(|x: &Tensor, _: &mut Pass| Ok((x * -2.0)?)));
            }
            Ok(())
        })
        .configured()
    };
    let seen = Seen::new();
    let notes = seen.clone();
    let logits = Scripted::new("cache", vec![Want::Logits], move |slots, _, hooks| {
        let logits = slots.iter().filter_map(Slot::logits);
        assert!(logits.map(|slot| slot.width).eq([6]));
        let notes = notes.clone();
        hooks.logits(By(
            move |l: &Tensor, v: &Tensor, t: &Tensor, _: &mut Pass| {
                notes.see([v.clone(), t.clone()]);
                Ok((l + 1.0)?)
            },
        ));
        Ok(())
    });
    let pairs: Vec<(u32, u32)> = (0..2).flat_map(|i| (0..3).map(move |s| (i, s))).collect();
    let batch = batch(2, 3, &pairs, 5).unwrap();
    let pooled = ToyTask::of(&[Look::VisionPooled, Look::TextPooled]).by_item();
    let bare = features(&model(pooled.clone(), Vec::new()), &batch);
    let changed = features(&model(pooled, vec![twice()]), &batch);
    assert_eq!(distance(&changed[1], &(&bare[1] * -2.0).unwrap()), 0.0);
    assert_eq!(distance(&changed[0], &bare[0]), 0.0);

    let task = ToyTask::of(&[Look::Logits]).by_item();
    let got = features(&model(task, vec![twice(), logits.configured()]), &batch);
    let [[v, t]] = seen.take().try_into().unwrap();
    for (unit, pooled) in [(&v, &changed[0]), (&t, &changed[1])] {
        let length = pooled
            .sqr()
            .unwrap()
            .sum_keepdim(1)
            .unwrap()
            .sqrt()
            .unwrap();
        assert!(distance(unit, &pooled.broadcast_div(&length).unwrap()) < REORDERED);
    }
    // The toy's logit scale starts at 1/0.07, stored in f32.
    let wanted = ((v.matmul(&t.t().unwrap()).unwrap() / 0.07).unwrap() + 1.0).unwrap();
    assert!(distance(&got[0], &wanted) < 1e-5);
}

#[test]
fn existing_parameters_train_by_role() {
    let text = Sites {
        towers: vec![Tower::Text],
        blocks: vec![0, 2],
        ..Sites::default()
    };
    let task = ToyTask::default();
    let tuned = model(
        task.clone(),
        vec![training("biases", &[Role::NormBias], text).configured()],
    );
    let names: Vec<&String> = tuned
        .overlay
        .trained
        .iter()
        .filter(|(_, t)| t.owner == "biases")
        .map(|(n, _)| n)
        .collect();
    assert_eq!(
        names,
        [
            "text.blocks.0.norm1.bias",
            "text.blocks.0.norm2.bias",
            "text.blocks.2.norm1.bias",
            "text.blocks.2.norm2.bias",
        ]
    );
    let bare = features(&model(task, Vec::new()), &aligned(2));
    let start = features(&tuned, &aligned(2));
    assert_eq!(distance(&start[5], &bare[5]), 0.0);
    let var = &tuned.overlay.trained["text.blocks.2.norm2.bias"].var;
    var.set(&(var.as_tensor() + 1.0).unwrap()).unwrap();
    assert!(distance(&features(&tuned, &aligned(2))[5], &bare[5]) > 1e-3);
}

#[test]
fn parameters_that_are_not_in_the_base_train_from_their_own_start() {
    let first = Sites {
        towers: vec![Tower::Vision],
        blocks: vec![0],
        ..Sites::default()
    };
    let adapter = training("weights", &[Role::Weight], first);
    let tuned = model(ToyTask::default(), vec![adapter.configured()]);
    let name = "vision.blocks.0.scale1";
    assert_eq!(
        values(tuned.overlay.trained[name].var.as_tensor()),
        [0.5; 8]
    );
    assert!(!tuned.overlay.constants.contains_key(name));
    assert!(
        tuned
            .overlay
            .constants
            .contains_key("vision.blocks.1.scale1")
    );
}

#[test]
fn a_parameter_has_one_owner() {
    let adapters = || {
        vec![
            training("biases", &[Role::Bias], Sites::default()).configured(),
            training("everything", &[], Sites::default()).configured(),
        ]
    };
    assert_eq!(
        refused(ToyTask::default(), adapters),
        "`everything` wants to train `vision.blocks.0.query.bias`, which `biases` trains already"
    );
}

#[test]
fn a_frozen_parameter_is_not_written() {
    let frozen = Parameter::constant(&prompts(1, "x"));
    let error = frozen.set(&prompts(1, "y")).unwrap_err();
    assert!(matches!(
        error,
        Error::Plugin {
            wrong_use: true,
            ..
        }
    ));
}
