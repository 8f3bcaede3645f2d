//! The ladder against its equation by plain arithmetic, on tokens and on maps; what of a tower is
//! in the graph; and what it leaves alone.

mod beside;
mod toy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use beside::*;
use candle_core::{D, Tensor};
use twinspan_adapters::lora::Lora;
use twinspan_adapters::lst::Lst;
use twinspan_adapters::vpt::Vpt;
use twinspan_sdk::Result;
use twinspan_sdk::adapter::{Adapter, Want};
use twinspan_sdk::ops::{self, Conv};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Edge, Sites, Tap, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{By, Scripted, ToyTask, recipe, tuned};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::tuned::Tuned;

fn half() -> Lst {
    Lst {
        reduction: 2,
        ..Lst::default()
    }
}

#[test]
fn laws_hold() {
    keeps_laws(Lst::default(), &[Law::Merge]);
    keeps_laws(half(), &[Law::Merge]);
    let middle = Sites {
        blocks: vec![1],
        ..Sites::default()
    };
    let one = Lst {
        sites: middle,
        ..half()
    };
    keeps_laws(one, &[Law::Merge]);
}

/// Parameters of the side, and its equation by plain arithmetic.
struct Side<'a> {
    values: &'a BTreeMap<String, Tensor>,
    temperature: f64,
}

impl Side<'_> {
    fn value(&self, name: &str) -> &Tensor {
        &self.values[&format!("lst.{name}")]
    }

    /// x Wᵀ + b on `[B, N, in]`.
    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let weight = self.value(&format!("{name}.weight")).t().unwrap();
        let product = x.broadcast_matmul(&weight).unwrap();
        product
            .broadcast_add(self.value(&format!("{name}.bias")))
            .unwrap()
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let centred = x
            .broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap())
            .unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let unit = centred.broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap());
        let scaled = unit
            .unwrap()
            .broadcast_mul(self.value(&format!("{name}.weight")));
        scaled
            .unwrap()
            .broadcast_add(self.value(&format!("{name}.bias")))
            .unwrap()
    }

    /// One head; hidden keys get no weight.
    fn attention(&self, x: &Tensor, name: &str, padding: Option<&Tensor>) -> Tensor {
        let of = |part: &str| self.linear(x, &format!("{name}.{part}"));
        let (q, k, v) = (of("query"), of("key"), of("value"));
        let scores = q.matmul(&k.t().unwrap()).unwrap();
        let mut weights = (scores / (x.dim(2).unwrap() as f64).sqrt())
            .unwrap()
            .exp()
            .unwrap();
        if let Some(padding) = padding {
            let shown = (padding.to_dtype(x.dtype()).unwrap().neg().unwrap() + 1.0).unwrap();
            weights = weights.broadcast_mul(&shown.unsqueeze(1).unwrap()).unwrap();
        }
        let sum = weights.sum_keepdim(2).unwrap();
        let seen = weights.broadcast_div(&sum).unwrap().matmul(&v).unwrap();
        self.linear(&seen, &format!("{name}.output"))
    }

    fn mixed(&self, side: &Tensor, tower: &Tensor, place: &str) -> Tensor {
        let gate = self
            .value(&format!("{place}.gate"))
            .to_vec1::<f64>()
            .unwrap()[0];
        let gate = 1.0 / (1.0 + (-gate / self.temperature).exp());
        ((side * gate).unwrap() + (tower * (1.0 - gate)).unwrap()).unwrap()
    }

    fn transformer(&self, x: &Tensor, place: &str, padding: Option<&Tensor>) -> Tensor {
        let normed = self.norm(x, &format!("{place}.attention.norm"));
        let seen = self.attention(&normed, &format!("{place}.attention"), padding);
        let x = (x + seen).unwrap();
        let normed = self.norm(&x, &format!("{place}.mlp.norm"));
        let inside = self.linear(&normed, &format!("{place}.mlp.up"));
        let gate = ((&inside * -1.702).unwrap().exp().unwrap() + 1.0).unwrap();
        let inside = (inside / gate).unwrap();
        (x + self.linear(&inside, &format!("{place}.mlp.down"))).unwrap()
    }
}

#[test]
fn tokens_follow_the_equation() {
    let lst = Lst {
        temperature: 0.7,
        ..half()
    };
    let with = model(vec![of(lst)]);
    let values = trained(&with);
    let side = Side {
        values: &values,
        temperature: 0.7,
    };
    let bare = model(vec![]);
    let batch = pairs();
    for tower in Tower::BOTH {
        let at = |model: &Tuned, at| stream(model, Tap { tower, at }, &batch);
        let start = at(&bare, At::Embed);
        let padding = start.word_padding().unwrap();
        let mut s = side.linear(&start.data, &format!("{tower}.embed.down"));
        let mut last = start.data;
        for block in 0..3 {
            let place = format!("{tower}.blocks.{block}");
            last = at(&bare, At::Block(block)).data;
            let down = side.linear(&last, &format!("{place}.down"));
            let mixed = side.mixed(&s, &down, &place);
            s = side.transformer(&mixed, &place, padding.as_ref());
        }
        let added = side.linear(&s, &format!("{tower}.blocks.2.up"));
        let expected = (last + added).unwrap();
        let found = at(&with, At::Block(2)).data;
        assert!(difference(&found, &expected) < 1e-12, "{tower}");
        // Before the last rung the towers are as they were.
        let middle = at(&with, At::Block(1)).data;
        assert_eq!(difference(&middle, &at(&bare, At::Block(1)).data), 0.0);
    }
}

#[test]
fn maps_are_averaged_and_projected_where_they_change() {
    // The embedding has the first block's stream: one step stays, one halves grid and widens.
    let maps = toy::topology(&[toy::map_stream(4, (6, 5)), toy::map_stream(6, (3, 3))], 5);
    let even = toy::topology(&[toy::map_stream(4, (6, 4)), toy::map_stream(6, (3, 2))], 5);
    let lst = || {
        toy::adapter(Lst {
            sites: Sites {
                towers: vec![Tower::Vision],
                ..Sites::default()
            },
            ..half()
        })
    };
    let error = on(&maps, lst(), taps()).err().unwrap().to_string();
    assert_eq!(
        error,
        "lst: the side comes from a grid of (6, 5), whose squares make none of (3, 3) after block 1"
    );

    let with = on(&even, lst(), taps()).unwrap();
    toy::shake(&with, |_| true);
    let values = trained(&with);
    let side = Side {
        values: &values,
        temperature: 0.1,
    };
    let batch = toy::batch((6, 4));
    let bare = on(&even, vec![], taps()).unwrap();
    let bare = toy::features(&bare, &batch, &mut Pass::predict());
    let [embedded, first, second] = &bare[..] else {
        panic!("three taps")
    };
    let conv = |x: &Tensor, name: &str, padding| {
        let kernel = side.value(&format!("{name}.weight")).clone();
        let kernel = match kernel.rank() {
            2 => kernel.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
            _ => kernel,
        };
        let bias = side.value(&format!("{name}.bias"));
        let conv = Conv { stride: 1, padding };
        ops::conv2d(x, &kernel, Some(bias), conv).unwrap()
    };
    let block = |x: &Tensor, place: &str| {
        let inside = conv(x, &format!("{place}.conv1"), 1).relu().unwrap();
        (x + conv(&inside, &format!("{place}.conv2"), 1)).unwrap()
    };
    let s = conv(embedded, "vision.embed.down", 0);
    let down = conv(first, "vision.blocks.0.down", 0);
    let s = block(&side.mixed(&s, &down, "vision.blocks.0"), "vision.blocks.0");
    let (b, c, h, w) = s.dims4().unwrap();
    let squares = s.reshape((b, c, h / 2, 2, w / 2, 2)).unwrap();
    let averaged = squares.mean(5).unwrap().mean(3).unwrap();
    let s = conv(&averaged, "vision.blocks.1.project", 0);
    let down = conv(second, "vision.blocks.1.down", 0);
    let s = block(&side.mixed(&s, &down, "vision.blocks.1"), "vision.blocks.1");
    let expected = (second + conv(&s, "vision.blocks.1.up", 0)).unwrap();
    let found = toy::features(&with, &batch, &mut Pass::predict());
    assert!(difference(&found[2], &expected) < 1e-12);

    // Of the end alone: a sum with streams that nobody trains says nothing of the side.
    let end = on(&even, lst(), taps().split_off(2)).unwrap();
    toy::shake(&end, |_| true);
    toy::check_gradients(&end, &batch, || Pass::train(1));
}

fn on(
    topology: &Topology,
    adapters: Vec<Configured<dyn Adapter>>,
    reads: Vec<Tap>,
) -> Result<Tuned> {
    let recipe = toy::recipe(toy::Toy::new(topology.clone()), adapters, reads);
    toy::tuned(&recipe, toy::base(topology))
}

fn taps() -> Vec<Tap> {
    let blocks = [At::Embed, At::Block(0), At::Block(1)];
    blocks.map(Tap::vision).to_vec()
}

/// An adapter that counts the streams between blocks that are tracked, and all of them.
fn counting(counts: &Arc<Mutex<[usize; 2]>>) -> Configured<dyn Adapter> {
    let counts = counts.clone();
    let between = |edge| Want::Between {
        sites: Sites::default(),
        default: 0..usize::MAX,
        edge,
    };
    let wants = vec![between(Edge::Before), between(Edge::After)];
    let watch = Scripted::new("watch", wants, move |slots, _, hooks| {
        for slot in slots.iter().filter_map(|s| s.stream()) {
            let counts = counts.clone();
            let hook = move |stream: Stream, _: &mut Pass| {
                let mut counts = counts.lock().unwrap();
                counts[0] += usize::from(stream.data.track_op());
                counts[1] += 1;
                Ok(stream)
            };
            hooks.stream(slot, By(hook));
        }
        Ok(())
    });
    watch.configured()
}

/// Of the streams before and after all blocks, those that a training pass records.
fn recorded(adapter: Configured<dyn Adapter>) -> [usize; 2] {
    let counts = Arc::new(Mutex::new([0, 0]));
    let adapters = vec![counting(&counts), adapter];
    let model = tuned(&recipe(ToyTask::default(), adapters).unwrap()).unwrap();
    let loss = model.loss(&pairs(), &mut Pass::train(1)).unwrap();
    let gradients = loss.backward().unwrap();
    assert_eq!(gradients.get_ids().count(), model.overlay.trained.len());
    *counts.lock().unwrap()
}

#[test]
fn no_operation_of_a_block_is_in_the_graph() {
    // Before and after three blocks of two towers, ahead of the last rung.
    assert_eq!(recorded(of(Lst::default())), [0, 12]);
    // A stream is recorded from the first block that has something to train.
    assert_eq!(recorded(of(Lora::default())), [10, 12]);
}

#[test]
fn prompts_of_others_neither_take_part_nor_change() {
    let late = Sites {
        blocks: vec![2],
        ..Sites::default()
    };
    // Prompts come in between two rungs.
    let vpt = Vpt {
        sites: late,
        ..Vpt::default()
    };
    let with = model(vec![of(vpt.clone()), of(half())]);
    let without = model(vec![of(vpt)]);
    let batch = pairs();
    let last = |model: &Tuned| stream(model, Tap::vision(At::Block(2)), &batch);
    let (with, without) = (last(&with), last(&without));
    assert_eq!(spans(&with), spans(&without));
    let wanted = [
        (SpanKind::Special, 1),
        (prompts("vpt"), 5),
        (SpanKind::Patches, 16),
    ];
    assert_eq!(spans(&with), wanted);
    let part = |s: &Stream, at, len| s.data.narrow(1, at, len).unwrap();
    let apart = |at, len| difference(&part(&with, at, len), &part(&without, at, len));
    assert_eq!(apart(1, 5), 0.0);
    assert!(apart(0, 1) > 1e-3 && apart(6, 16) > 1e-3);
}

#[test]
fn the_side_can_be_scaled_and_taken_away() {
    let mut with = model(vec![of(half())]);
    let bare = model(vec![]);
    let batch = pairs();
    let last = |model: &Tuned| -> Tensor { stream(model, Tap::text(At::Block(2)), &batch).data };
    let (full, none) = (last(&with), last(&bare));
    with.scale("lst", 0.5).unwrap();
    let between = ((&full + &none).unwrap() * 0.5).unwrap();
    assert!(difference(&last(&with), &between) < 1e-12);
    with.disable("lst").unwrap();
    assert_eq!(difference(&last(&with), &none), 0.0);
}

#[test]
fn sentences_do_not_change_each_other_by_their_padding() {
    let model = model(vec![of(half())]);
    let all = pairs();
    let pooled = |words: usize| {
        let batch = Batch {
            tokens: all
                .tokens
                .narrow(1, 0, words)
                .unwrap()
                .narrow(0, 0, 1)
                .unwrap(),
            images: all.images.narrow(0, 0, 1).unwrap(),
            pairs: vec![(0, 0)],
            ..all.clone()
        };
        stream(&model, Tap::text(At::Pooled), &batch).data
    };
    assert!(difference(&pooled(6), &pooled(3)) < 1e-12);
}

#[test]
fn refusals_say_the_numbers() {
    let none = Lst {
        reduction: 0,
        ..Lst::default()
    };
    assert_eq!(refusal(none), "lst: reduction must be above 0");
    let much = Lst {
        reduction: 9,
        ..Lst::default()
    };
    assert_eq!(
        refusal(much),
        "lst: reduction = 9 leaves nothing of a width of 8"
    );
    let cold = Lst {
        temperature: 0.0,
        ..Lst::default()
    };
    assert_eq!(refusal(cold), "lst: temperature = 0 must be above 0");
}
