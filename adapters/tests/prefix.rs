//! Prefixes against keys and values put in front by hand, in whole attentions, and their masks.

mod beside;

use std::collections::BTreeMap;

use beside::*;
use candle_core::Tensor;
use twinspan_adapters::prefix::Prefix;
use twinspan_sdk::adapter::{Adapter, Want};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{At, Sites, Tap, Tower};
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{By, Scripted, Toy};

const SKIPPED: [Law; 2] = [Law::Start, Law::Merge];

fn small(hidden: usize) -> Prefix {
    Prefix {
        length: 3,
        hidden,
        ..Prefix::default()
    }
}

#[test]
fn laws_hold() {
    keeps_laws(Prefix::default(), &SKIPPED);
    keeps_laws(small(0), &SKIPPED);
}

/// An adapter that puts keys and values, by tower and block, in front by hand.
fn in_front(values: BTreeMap<(Tower, usize), [Tensor; 2]>) -> Configured<dyn Adapter> {
    let sites = Sites::default();
    let hand = Scripted::new(
        "hand",
        vec![Want::KeyValues { sites }],
        move |slots, _, hooks| {
            for slot in slots.iter().filter_map(|s| s.key_value()) {
                let Some(values) = values.get(&(slot.tower, slot.block)) else {
                    continue;
                };
                let values = values.clone();
                let hook = move |key: Tensor, value: Tensor, _: &mut Pass| {
                    let batch = key.dim(0)?;
                    let all = |own: &Tensor| repeat(&own.unsqueeze(0).unwrap(), batch);
                    Ok((
                        join(&[&all(&values[0]), &key]),
                        join(&[&all(&values[1]), &value]),
                    ))
                };
                hooks.key_value(slot, By(hook));
            }
            Ok(())
        },
    );
    hand.configured()
}

#[test]
fn keys_and_values_come_from_one_embedding_a_tower() {
    let prefix = model(vec![of(small(5))]);
    let values = trained(&prefix);
    let linear = |x: &Tensor, name: &str| {
        let weight = &values[&format!("prefix.{name}.weight")];
        let product = x.matmul(&weight.t().unwrap()).unwrap();
        product
            .broadcast_add(&values[&format!("prefix.{name}.bias")])
            .unwrap()
    };
    let mut made = BTreeMap::new();
    for tower in Tower::BOTH {
        let embedding = &values[&format!("prefix.{tower}.embedding")];
        assert_eq!(embedding.dims(), [3, 8]);
        let hidden = linear(embedding, &format!("{tower}.hidden"))
            .tanh()
            .unwrap();
        for block in 0..3 {
            let of = |part: &str| linear(&hidden, &format!("{tower}.blocks.{block}.{part}"));
            made.insert((tower, block), [of("key"), of("value")]);
        }
    }
    let hand = model(vec![in_front(made)]);
    assert!(apart(&hand, &prefix, &pairs()) < 1e-12);
    let of_tower = 3 * 8 + (5 * 8 + 5) + 3 * 2 * (8 * 5 + 8);
    assert_eq!(prefix.overlay.count("prefix"), 2 * of_tower);
}

#[test]
fn without_a_perceptron_they_are_parameters() {
    let text = Sites {
        towers: vec![Tower::Text],
        last: 1,
        ..Sites::default()
    };
    let prefix = model(vec![of(Prefix {
        sites: text,
        ..small(0)
    })]);
    let values = trained(&prefix);
    let of = |part: &str| values[&format!("prefix.text.blocks.2.{part}")].clone();
    assert_eq!(prefix.overlay.count("prefix"), 2 * 3 * 8);
    let made = BTreeMap::from([((Tower::Text, 2), [of("key"), of("value")])]);
    let hand = model(vec![in_front(made)]);
    assert!(apart(&hand, &prefix, &pairs()) < 1e-12);
}

/// Sentences of the toy, cut to `words` ids.
fn cut(batch: &Batch, words: usize) -> Batch {
    Batch {
        tokens: batch.tokens.narrow(1, 0, words).unwrap(),
        ..batch.clone()
    }
}

#[test]
fn padding_still_does_not_matter() {
    let model = model(vec![of(small(5))]);
    // The first sentence has a start, a word and an end; the rest of it is padding.
    let all = pairs();
    let one = Batch {
        tokens: all.tokens.narrow(0, 0, 1).unwrap(),
        images: all.images.narrow(0, 0, 1).unwrap(),
        pairs: vec![(0, 0)],
        ..all
    };
    let pooled = |batch: &Batch| stream(&model, Tap::text(At::Pooled), batch).data;
    let full = pooled(&one);
    assert!(difference(&full, &pooled(&cut(&one, 3))) < 1e-12);
    // What was cut off is padding, behind the end.
    let ids: Vec<u32> = one.tokens.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!((ids[2], ids[3]), (Toy::END, 0));
    let words = |model: &_, batch: &Batch| {
        let stream = stream(model, Tap::text(At::Final), batch);
        stream.content().unwrap().narrow(1, 0, 3).unwrap()
    };
    assert!(difference(&words(&model, &one), &words(&model, &cut(&one, 3))) < 1e-12);
}

#[test]
fn earlier_words_do_not_see_later_ones_and_all_see_the_prefix() {
    let model = model(vec![of(small(5))]);
    let all = pairs();
    let first = |batch: &Batch| {
        let stream = stream(&model, Tap::text(At::Final), batch);
        stream.content().unwrap().narrow(1, 0, 2).unwrap()
    };
    let before = first(&all);
    // The third id of each sentence changes: the first two cannot know.
    let mut ids: Vec<Vec<u32>> = all.tokens.to_vec2().unwrap();
    ids.iter_mut().for_each(|ids| ids[2] = 7);
    let shape = all.tokens.dims().to_vec();
    let changed = Tensor::from_vec(ids.concat(), shape, all.tokens.device()).unwrap();
    let other = Batch {
        tokens: changed,
        ..all.clone()
    };
    assert_eq!(difference(&before, &first(&other)), 0.0);
    // Another prefix changes what the very first word sees.
    let embedding = &model.overlay.trained["prefix.text.embedding"].var;
    let moved = (embedding.as_detached_tensor() + 1.0).unwrap();
    embedding.set(&moved).unwrap();
    let start = |x: &Tensor| x.narrow(1, 0, 1).unwrap();
    assert!(difference(&start(&before), &start(&first(&all))) > 1e-3);
}

#[test]
fn a_prefix_of_nothing_is_refused() {
    let none = Prefix {
        length: 0,
        ..Prefix::default()
    };
    assert_eq!(refusal(none), "prefix: length must be above 0");
}
