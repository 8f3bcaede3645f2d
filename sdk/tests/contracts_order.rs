//! The order of the towers: what follows from reads, what is pruned, what is refused, and when
//! items become pairs.

mod contracts;

use candle_core::{DType, Device, Tensor};
use contracts::{Adapters, REORDERED, Seen, distance, features, model, refused};
use twinspan_sdk::Step;
use twinspan_sdk::adapter::{Slot, Want};
use twinspan_sdk::hooks::BranchView;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::site::{At, Branch, EmbedStep, Moment, Projection, Role, Sites, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::{By, Look, Scripted, ToyTask, batch, recipe};

use Step::{Bridge, Expand, Features, Pooled};
use Tower::{Text, Vision};

fn block(tower: Tower, i: usize) -> Step {
    Step::Block(tower, i)
}

fn steps(task: ToyTask, adapters: Adapters) -> Vec<Step> {
    model(task, adapters).steps().collect()
}

/// Adds the mean of what it reads to a stream, at the named moments.
fn reader(
    name: &'static str,
    tower: Tower,
    moments: Vec<Moment>,
    read: fn(usize) -> Tap,
) -> Scripted {
    let depth = |slot: &Slot| match slot.place() {
        Some((_, At::Block(i))) => i,
        _ => 0,
    };
    Scripted::new(
        name,
        vec![Want::Streams { tower, moments }],
        move |slots, _, hooks| {
            for slot in slots {
                let key = hooks.tap(slot, read(depth(slot)))?;
                let Some(stream) = slot.stream() else {
                    continue;
                };
                hooks.stream(
                    stream,
                    By(move |stream: Stream, pass: &mut Pass| {
                        let seen = pass.read(key)?;
                        let (b, d) = (seen.batch()?, seen.data.dims()[seen.data.rank() - 1]);
                        // A number added to every channel would vanish in the next norm.
                        let spread = Init::Normal(0.5).tensor(
                            0,
                            "spread",
                            &[8, d],
                            DType::F64,
                            &Device::Cpu,
                        )?;
                        let mean = seen.data.reshape((b, (), d))?.mean_keepdim(1)?;
                        let mean = ops::linear(&mean, &spread, None)?;
                        Ok(stream.with(ops::add(&stream.data, &mean)?))
                    }),
                );
            }
            Ok(())
        },
    )
    .reading(move |slot| vec![read(depth(slot))])
}

/// DETRIS: vision blocks read the words as the whole text tower leaves them.
fn dense() -> Scripted {
    let moments = vec![Moment::After(1), Moment::After(2)];
    reader("dense", Vision, moments, |_| Tap::text(At::Final))
}

/// CoCoOp: the words read the picture.
fn conditioned() -> Scripted {
    let moments = vec![Moment::Embed(EmbedStep::Tokens)];
    reader("conditioned", Text, moments, |_| Tap::vision(At::Pooled))
}

/// ETRIS: both streams meet at two stages.
fn bridge() -> Scripted {
    Scripted::new(
        "bridge",
        vec![Want::Stages { stages: vec![1, 2] }],
        |slots, _, hooks| {
            for slot in slots.iter().filter_map(Slot::stage) {
                hooks.bridge(
                    slot,
                    By(|v: Stream, t: Stream, _: &mut Pass| {
                        let word = t.content()?.mean_keepdim(1)?;
                        let patch = v.content()?.mean_keepdim(1)?;
                        Ok((
                            v.with(ops::add(&v.data, &word)?),
                            t.with(ops::add(&t.data, &patch)?),
                        ))
                    }),
                );
            }
            Ok(())
        },
    )
}

#[test]
fn a_bridge_runs_both_towers_in_lock_step() {
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextPooled]);
    let wanted = [
        Step::Embed(Vision),
        block(Vision, 0),
        Step::Embed(Text),
        block(Text, 0),
        Expand(Vision),
        Expand(Text),
        Bridge(0),
        block(Vision, 1),
        block(Text, 1),
        Bridge(1),
        block(Vision, 2),
        Features(Vision),
        block(Text, 2),
        Pooled(Text),
    ];
    assert_eq!(steps(task, vec![bridge().configured()]), wanted);
}

#[test]
fn text_runs_first_where_vision_reads_its_end() {
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextPooled]);
    let wanted = [
        Step::Embed(Vision),
        block(Vision, 0),
        Step::Embed(Text),
        block(Text, 0),
        block(Text, 1),
        block(Text, 2),
        Features(Text),
        Expand(Vision),
        block(Vision, 1),
        block(Vision, 2),
        Features(Vision),
        Pooled(Text),
    ];
    assert_eq!(steps(task, vec![dense().configured()]), wanted);
}

#[test]
fn vision_runs_first_where_words_read_the_picture() {
    let task = ToyTask::of(&[Look::TextPooled]);
    let wanted = [
        Step::Embed(Vision),
        block(Vision, 0),
        block(Vision, 1),
        block(Vision, 2),
        Pooled(Vision),
        Expand(Text),
        Step::Embed(Text),
        block(Text, 0),
        block(Text, 1),
        block(Text, 2),
        Pooled(Text),
    ];
    assert_eq!(steps(task, vec![conditioned().configured()]), wanted);
}

#[test]
fn both_towers_can_read_each_others_last_block() {
    let moments = || vec![Moment::Before(1), Moment::Before(2)];
    let adapters = vec![
        reader("seeing", Text, moments(), |i| Tap::vision(At::Block(i - 1))).configured(),
        reader("hearing", Vision, moments(), |i| {
            Tap::text(At::Block(i - 1))
        })
        .configured(),
    ];
    let wanted = [
        Step::Embed(Vision),
        block(Vision, 0),
        Step::Embed(Text),
        block(Text, 0),
        Expand(Vision),
        block(Vision, 1),
        Expand(Text),
        block(Text, 1),
        block(Vision, 2),
        Features(Vision),
        block(Text, 2),
        Features(Text),
    ];
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextFinal]);
    assert_eq!(steps(task, adapters), wanted);
}

#[test]
fn a_cycle_names_its_adapters() {
    let both = || vec![bridge().configured(), dense().configured()];
    assert_eq!(
        refused(ToyTask::default(), both),
        "`bridge` and `dense` cannot be combined: each waits for what the other changes \
         (vision.blocks.1 → text.blocks.2 → text.final → vision.blocks.1)"
    );
    let other = || vec![conditioned().configured(), dense().configured()];
    let message = refused(ToyTask::default(), other);
    assert!(
        message.contains("`conditioned`") && message.contains("`dense`"),
        "{message}"
    );
    assert!(message.contains("cannot be combined"), "{message}");
}

#[test]
fn a_reader_of_its_own_place_is_told_so() {
    let narcissus = || {
        let moments = vec![Moment::After(1)];
        vec![reader("narcissus", Vision, moments, |i| Tap::vision(At::Block(i))).configured()]
    };
    assert_eq!(
        refused(ToyTask::default(), narcissus),
        "`narcissus` reads what waits for itself (vision.blocks.1 → vision.blocks.1)"
    );
}

#[test]
fn only_what_the_task_reads_is_run() {
    let early = ToyTask::of(&[Look::VisionEarly]);
    assert_eq!(
        steps(early, Vec::new()),
        [Step::Embed(Vision), block(Vision, 0)]
    );
    let text = steps(ToyTask::of(&[Look::TextFinal]), Vec::new());
    assert!(!text.contains(&Step::Embed(Vision)) && !text.contains(&Pooled(Text)));
}

#[test]
fn acting_where_nobody_looks_is_an_error() {
    let late = || {
        let want = Want::Streams {
            tower: Vision,
            moments: vec![Moment::After(2)],
        };
        let adapter = Scripted::new("late", vec![want], |slots, _, hooks| {
            let hook = By(|s: Stream, _: &mut Pass| Ok(s));
            hooks.stream(slots[0].stream().unwrap(), hook);
            Ok(())
        });
        vec![adapter.configured()]
    };
    let early = ToyTask::of(&[Look::VisionEarly, Look::TextFinal]);
    assert_eq!(
        refused(early, late),
        "`late` acts at vision.blocks.2, which task `toy` never reads: no gradient would reach \
         it; restrict its sites"
    );
}

#[test]
fn undeclared_reads_are_refused() {
    let sly = || {
        let want = Want::Streams {
            tower: Vision,
            moments: vec![Moment::After(2)],
        };
        let adapter = Scripted::new("sly", vec![want], |slots, _, hooks| {
            hooks.tap(&slots[0], Tap::text(At::Final)).map(|_| ())
        });
        vec![adapter.configured()]
    };
    assert_eq!(
        refused(ToyTask::default(), sly),
        "`sly` looks at text.final without saying so in `reads`"
    );
    let curious = || {
        let want = Want::Streams {
            tower: Vision,
            moments: vec![Moment::After(2)],
        };
        let adapter = Scripted::new("curious", vec![want], |_, _, hooks| {
            let read = hooks.stream_at(Tap::text(At::Block(0)))?;
            assert_eq!((read.width, read.grid), (8, None));
            hooks.stream_at(Tap::text(At::Final)).map(|_| ())
        });
        let adapter = adapter.reading(|_| vec![Tap::text(At::Block(0))]);
        vec![adapter.configured()]
    };
    assert_eq!(
        refused(ToyTask::default(), curious),
        "`curious` looks at text.final without saying so in `reads`"
    );
    let deep = || {
        let moments = vec![Moment::After(2)];
        vec![reader("deep", Vision, moments, |_| Tap::text(At::Block(9))).configured()]
    };
    assert_eq!(
        refused(ToyTask::default(), deep),
        "`deep` reads text.blocks.9, which the backbone does not have: its text tower has blocks 0 to 2"
    );
}

fn everything(roles: &[Role]) -> Scripted {
    let want = Want::Parameters {
        roles: roles.to_vec(),
        sites: Sites::default(),
    };
    let install = |slots: &[Slot], params: &mut Params, _: &mut twinspan_sdk::hooks::Hooks| {
        slots
            .iter()
            .filter_map(Slot::parameter)
            .try_for_each(|s| params.existing(s))
    };
    Scripted::new("everything", vec![want], install)
}

#[test]
fn what_the_loss_cannot_reach_is_listed_and_left_out() {
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextFinal]);
    let plan = plan(&recipe(task.clone(), vec![everything(&[]).configured()]).unwrap()).unwrap();
    assert_eq!(plan.left_out, ["text.joint.weight", "logit_scale"]);
    let tuned = model(task.clone(), vec![everything(&[]).configured()]);
    assert!(!tuned.overlay.trained.contains_key("logit_scale"));
    // A plan counts what the model has.
    assert_eq!(plan.adapter_parameters, tuned.overlay.count("everything"));
    assert_eq!(plan.head_parameters, tuned.overlay.count("head"));
    let loss = tuned
        .loss(
            &batch(2, 2, &[(0, 0), (1, 1)], 1).unwrap(),
            &mut Pass::train(0),
        )
        .unwrap();
    let gradients = loss.backward().unwrap();
    for (name, trained) in &tuned.overlay.trained {
        assert!(gradients.get(&trained.var).is_some(), "{name}");
    }
    // The reason to train it is gone altogether.
    assert_eq!(
        refused(task, || vec![everything(&[Role::Scale]).configured()]),
        "`everything` acts at logit_scale, which task `toy` never reads: no gradient would reach \
         it; restrict its sites"
    );
    let logits = ToyTask::of(&[Look::Logits]).by_item();
    let tuned = model(logits, vec![everything(&[Role::Scale]).configured()]);
    assert!(tuned.overlay.trained.contains_key("logit_scale"));
}

/// Doubles the outputs of projections: of `named`, or else of all that there are.
fn double(towers: &[Tower], named: &[Projection]) -> Scripted {
    let want = Want::Projections {
        sites: Sites {
            towers: towers.to_vec(),
            projections: named.to_vec(),
            ..Sites::default()
        },
        default: Projection::ALL,
    };
    Scripted::new("double", vec![want], |slots, _, hooks| {
        for slot in slots.iter().filter_map(Slot::projection) {
            let twice = By(|x: &Tensor, _: &mut Pass| Ok((x * 2.0)?));
            hooks.output(slot, twice);
        }
        Ok(())
    })
}

#[test]
fn projections_at_an_end_that_no_one_reads_are_left_out_unless_named() {
    let task = || ToyTask::of(&[Look::VisionFinal, Look::TextFinal]);
    let left_out = |towers: &[Tower], named: &[Projection]| {
        let recipe = recipe(task(), vec![double(towers, named).configured()]).unwrap();
        plan(&recipe).unwrap().left_out
    };
    assert_eq!(left_out(&[], &[]), ["text.joint"]);
    assert_eq!(left_out(&[Text], &[]), ["text.joint"]);
    assert!(left_out(&[Vision], &[Projection::Joint]).is_empty());
    // Named, it is asked for, and no other of its tower stands for it.
    for (towers, named) in [
        (vec![], vec![Projection::Joint]),
        (vec![Text], vec![Projection::Joint, Projection::Query]),
    ] {
        assert_eq!(
            refused(task(), || vec![double(&towers, &named).configured()]),
            "`double` acts at text.pooled, which task `toy` never reads: no gradient would reach \
             it; restrict its sites"
        );
    }
}

#[test]
fn an_adapter_of_which_nothing_is_left_is_an_error() {
    let want = Want::Projections {
        sites: Sites {
            towers: vec![Text],
            ..Sites::default()
        },
        default: &[Projection::Joint],
    };
    let joint = || Scripted::new("joint", vec![want.clone()], |_, _, _| Ok(()));
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextFinal]);
    assert_eq!(
        refused(task, || vec![joint().configured()]),
        "`joint` acts at text.joint, which task `toy` never reads: no gradient would reach it; \
         restrict its sites"
    );
}

/// A batch in which no two items are shared: pair `i` is picture `i` and sentence `i`.
fn by_hand(batch: &Batch) -> Batch {
    let rows = |side: fn(&(u32, u32)) -> u32| batch.pairs.iter().map(side).collect::<Vec<u32>>();
    let mut apart = batch.clone();
    apart.images = ops::select(&batch.images, &rows(|p| p.0)).unwrap();
    apart.tokens = ops::select(&batch.tokens, &rows(|p| p.1)).unwrap();
    apart.pairs = (0..batch.pairs.len() as u32).map(|i| (i, i)).collect();
    apart
}

/// Tower, block and batch.
type Watched = Seen<(Tower, usize, usize)>;

/// The batch seen before each block of both towers.
fn watch(seen: &Watched) -> Adapters {
    let one = |tower: Tower| {
        let notes = seen.clone();
        let moments = (0..3).map(Moment::Before).collect();
        Scripted::new(
            "watch",
            vec![Want::Streams { tower, moments }],
            move |slots, _, hooks| {
                for slot in slots.iter().filter_map(Slot::stream) {
                    let (notes, moment) = (notes.clone(), slot.moment);
                    hooks.stream(
                        slot,
                        By(move |stream: Stream, _: &mut Pass| {
                            if let Moment::Before(i) = moment {
                                notes.see((tower, i, stream.batch()?));
                            }
                            Ok(stream)
                        }),
                    );
                }
                Ok(())
            },
        )
    };
    vec![one(Vision).configured(), one(Text).configured()]
}

fn batches(seen: &Watched, tower: Tower) -> Vec<(usize, usize)> {
    let mut all: Vec<_> = seen.take();
    all.retain(|(t, ..)| *t == tower);
    all.into_iter().map(|(_, i, n)| (i, n)).collect()
}

#[test]
fn eight_sentences_on_one_picture_share_its_prefix() {
    let pairs: Vec<(u32, u32)> = (0..8).map(|s| (0, s)).collect();
    let shared = batch(1, 8, &pairs, 2).unwrap();
    let apart = by_hand(&shared);
    let kinds: [fn() -> Scripted; 2] = [bridge, dense];
    for adapter in kinds {
        let seen = Seen::new();
        let mut adapters = vec![adapter().configured()];
        adapters.extend(watch(&seen));
        let tuned = model(ToyTask::default(), adapters);
        let together = features(&tuned, &shared);
        let ran: Vec<usize> = batches(&seen, Vision).into_iter().map(|(_, n)| n).collect();
        assert_eq!(ran, [1, 8, 8]);
        for (got, wanted) in together.iter().zip(features(&tuned, &apart)) {
            assert!(distance(got, &wanted) < REORDERED);
        }
        let logits = tuned.logits(&shared, &mut Pass::predict()).unwrap();
        assert_eq!(logits.dims(), &[8]);
    }
    // Without a look across, the picture runs once to its end.
    let seen = Seen::new();
    let tuned = model(ToyTask::default(), watch(&seen));
    let together = features(&tuned, &shared);
    assert_eq!(batches(&seen, Vision), [(0, 1), (1, 1), (2, 1)]);
    for (got, wanted) in together.iter().zip(features(&tuned, &apart)) {
        assert!(distance(got, &wanted) < REORDERED);
    }
}

#[test]
fn words_that_read_the_picture_are_pairs_from_the_start() {
    let pairs = [(0, 0), (1, 0), (1, 1)];
    let shared = batch(2, 2, &pairs, 2).unwrap();
    let seen = Seen::new();
    let mut adapters = vec![conditioned().configured()];
    adapters.extend(watch(&seen));
    let tuned = model(ToyTask::default(), adapters);
    let together = features(&tuned, &shared);
    let ran = seen.take();
    assert!(
        ran.iter()
            .all(|(t, _, n)| *n == if *t == Vision { 2 } else { 3 })
    );
    for (got, wanted) in together.iter().zip(features(&tuned, &by_hand(&shared))) {
        assert!(distance(got, &wanted) < REORDERED);
    }
}

#[test]
fn a_reader_of_its_own_tower_gets_pairs_once_there_are_pairs() {
    // Block 2 reads block 0 of the same tower; in between the tower becomes pairs.
    let back = || {
        reader("back", Vision, vec![Moment::Before(2)], |_| {
            Tap::vision(At::Block(0))
        })
    };
    let tuned = model(
        ToyTask::default(),
        vec![dense().configured(), back().configured()],
    );
    // As many pairs as pictures, in another order: a mistake would keep the shape.
    let shared = batch(2, 2, &[(1, 0), (0, 1)], 2).unwrap();
    let together = features(&tuned, &shared);
    for (got, wanted) in together.iter().zip(features(&tuned, &by_hand(&shared))) {
        assert!(distance(got, &wanted) < REORDERED);
    }
}

#[test]
fn similarities_of_pairs_come_in_their_places() {
    let mut pairs: Vec<(u32, u32)> = (0..2).flat_map(|i| (0..3).map(move |s| (i, s))).collect();
    pairs.reverse();
    let all = batch(2, 3, &pairs, 2).unwrap();
    let task = ToyTask::of(&[Look::Logits]).by_item();
    let bare = features(&model(task.clone(), Vec::new()), &all).remove(0);
    assert_eq!(bare.dims(), &[2, 3]);
    let kinds: [fn() -> Scripted; 3] = [bridge, dense, conditioned];
    for adapter in kinds {
        let tuned = model(task.clone(), vec![adapter().configured()]);
        let got = features(&tuned, &all).remove(0);
        assert!(distance(&got, &bare) > 1e-3);
        for (picture, sentence) in &pairs {
            let mut one = all.clone();
            one.images = ops::select(&all.images, &[*picture]).unwrap();
            one.tokens = ops::select(&all.tokens, &[*sentence]).unwrap();
            one.pairs = vec![(0, 0)];
            let alone = features(&tuned, &one).remove(0);
            let here =
                |t: &Tensor, i: u32, j: u32| t.to_vec2::<f64>().unwrap()[i as usize][j as usize];
            assert!((here(&got, *picture, *sentence) - here(&alone, 0, 0)).abs() < REORDERED);
        }
        let mut some = all.clone();
        some.pairs.remove(0);
        let error = tuned.forward(&some, &mut Pass::predict()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "where a tower reads the other, similarities need every pair of the batch: \
             picture 1 with sentence 2 is missing"
        );
    }
}

#[test]
fn items_that_depend_on_pairs_are_refused() {
    let task = ToyTask::of(&[Look::TextPooled]).by_item();
    assert_eq!(
        refused(task.clone(), || vec![conditioned().configured()]),
        "task `toy` reads text.pooled by item, but with `conditioned` it depends on the pair of \
         picture and sentence"
    );
    // What it reads before the towers meet is still of the item.
    let early = ToyTask::of(&[Look::TextPooled, Look::VisionEarly]).by_item();
    let moments = vec![Moment::Before(2)];
    let late = reader("late", Vision, moments, |_| Tap::text(At::Pooled));
    let task = ToyTask {
        looks: [early.looks.clone(), vec![]].concat(),
        ..early
    };
    let message = refused(task, || {
        vec![
            reader("late", Vision, vec![Moment::Before(2)], |_| {
                Tap::text(At::Pooled)
            })
            .configured(),
        ]
    });
    assert!(
        message.starts_with("`late` acts at vision.blocks.2"),
        "{message}"
    );
    let both = ToyTask::of(&[Look::Logits, Look::VisionEarly, Look::TextPooled]).by_item();
    assert!(
        features(
            &model(both, vec![late.configured()]),
            &batch(1, 1, &[(0, 0)], 1).unwrap()
        )
        .len()
            == 3
    );
}

#[test]
fn a_batch_with_a_pair_outside_is_refused() {
    let tuned = model(ToyTask::default(), Vec::new());
    let outside = batch(1, 2, &[(1, 0)], 1).unwrap();
    let error = tuned.forward(&outside, &mut Pass::predict()).unwrap_err();
    assert!(error.to_string().contains("the pair (1, 0)"), "{error}");
}

#[test]
fn hooks_of_every_shape_read_what_the_head_would() {
    // A branch reads final words (DenseAligner), a bypass reads a block of the other tower
    // (CoLA), and one in the joint projection delays pooling too.
    let taps = |slot: &Slot| match slot {
        Slot::Branch(_) => vec![Tap::text(At::Final)],
        Slot::Projection(s) if s.at == At::Final => vec![Tap::text(At::Pooled)],
        Slot::Projection(_) => vec![Tap::text(At::Block(0))],
        _ => vec![],
    };
    let sites = |blocks: &[usize]| Sites {
        towers: vec![Vision],
        blocks: blocks.to_vec(),
        ..Sites::default()
    };
    let wants = vec![
        Want::Branches {
            sites: sites(&[1]),
            default: &[Branch::Mlp],
        },
        Want::Projections {
            sites: sites(&[2]),
            default: &[Projection::Value],
        },
        Want::Projections {
            sites: sites(&[]),
            default: &[Projection::Joint],
        },
    ];
    let seen = Seen::new();
    let notes = seen.clone();
    let adapter = Scripted::new("curious", wants, move |slots, _, hooks| {
        for slot in slots {
            let (notes, tap) = (notes.clone(), taps(slot)[0]);
            let key = hooks.tap(slot, tap)?;
            match slot {
                Slot::Branch(at) => hooks.branch(
                    at,
                    By(move |_: BranchView, y: &Tensor, pass: &mut Pass| {
                        notes.see((tap, pass.read(key)?.data.clone()));
                        Ok(y.clone())
                    }),
                ),
                Slot::Projection(at) => {
                    let output = at.output;
                    hooks.bypass(
                        at,
                        By(move |x: &Tensor, pass: &mut Pass| {
                            notes.see((tap, pass.read(key)?.data.clone()));
                            let mut dims = x.dims().to_vec();
                            dims.pop();
                            dims.push(output);
                            Ok(Tensor::zeros(dims, x.dtype(), x.device())?)
                        }),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    })
    .reading(taps);
    let task = ToyTask::of(&[Look::VisionPooled, Look::TextFinal, Look::TextPooled]);
    let tuned = model(task.clone(), vec![adapter.configured()]);
    let pairs = [(0, 1), (1, 0), (0, 0)];
    let batch = batch(2, 2, &pairs, 2).unwrap();
    let got = features(&tuned, &batch);
    let bare = features(&model(task, Vec::new()), &batch);
    for (got, bare) in got.iter().zip(&bare) {
        assert!(distance(got, bare) < REORDERED);
    }
    let seen = seen.take();
    assert_eq!(seen.len(), 3);
    for (tap, data) in seen {
        match tap.at {
            At::Final => assert_eq!(distance(&data, &bare[1]), 0.0),
            At::Pooled => assert_eq!(distance(&data, &bare[2]), 0.0),
            _ => assert_eq!(data.dims(), &[3, 6, 8]),
        }
    }
}
