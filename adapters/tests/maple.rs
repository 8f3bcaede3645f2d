//! Coupled tokens against tokens spliced into both towers by hand, and refusals.

mod beside;
mod toy;

use std::collections::BTreeMap;

use beside::*;
use candle_core::Tensor;
use twinspan_adapters::maple::Maple;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, EmbedStep, Moment, Tap, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{Toy, Words};
use twinspan_sdk::tokenizer::Tokenizer;

const SKIPPED: [Law; 2] = [Law::Start, Law::Merge];

fn with(depth: usize) -> Maple {
    Maple {
        depth,
        ..Maple::default()
    }
}

#[test]
fn laws_hold() {
    keeps_laws(with(3), &SKIPPED);
    let spoken = Maple {
        words: "a photo".into(),
        ..with(1)
    };
    keeps_laws(spoken, &SKIPPED);
}

/// The first `front` tokens, `tokens`, and what stands behind `skip` more.
fn replaced(stream: Stream, tokens: &Tensor, front: usize, skip: usize) -> Stream {
    let x = &stream.data;
    let tokens = repeat(tokens, x.dim(0).unwrap());
    let rest = x.dim(1).unwrap() - front - skip;
    let mut parts = vec![x.narrow(1, 0, front).unwrap(), tokens];
    if rest > 0 {
        parts.push(x.narrow(1, front + skip, rest).unwrap());
    }
    stream.with(join(&parts.iter().collect::<Vec<_>>()))
}

fn coupled(values: &BTreeMap<String, Tensor>, place: &str) -> Tensor {
    let value = |name: &str| &values[&format!("maple.{place}.{name}")];
    let map = value("vision.weight").t().unwrap();
    let product = value("context").broadcast_matmul(&map).unwrap();
    product.broadcast_add(value("vision.bias")).unwrap()
}

#[test]
fn tokens_of_pictures_are_made_from_those_of_sentences() {
    let maple = model(vec![of(with(2))]);
    let values = trained(&maple);
    let of_block = 2 * 8 + (8 * 8 + 8);
    assert_eq!(maple.overlay.count("maple"), 2 * of_block);

    let contexts = ["embed", "blocks.1"].map(|p| values[&format!("maple.{p}.context")].clone());
    let text = move |stream: Stream, _: &mut Pass| {
        Ok(match stream.data.dim(1)? == Toy::WORDS {
            true => spliced(stream, &contexts[0]),
            false => replaced(stream, &contexts[1], 1, 2),
        })
    };
    let moments = [Moment::Embed(EmbedStep::Tokens), Moment::Before(1)];
    let hand = model(vec![by_hand(
        Tower::Text,
        moments.map(|m| (m, text.clone())).into(),
    )]);
    let pooled = |model| stream(model, Tap::text(At::Pooled), &pairs()).data;
    assert!(difference(&pooled(&hand), &pooled(&maple)) < 1e-12);

    let made = ["embed", "blocks.1"].map(|place| coupled(&values, place));
    let patches = 1 + Toy::GRID.0 * Toy::GRID.1;
    let vision = move |stream: Stream, _: &mut Pass| {
        Ok(match stream.data.dim(1)? == patches {
            true => replaced(stream, &made[0], patches, 0),
            false => replaced(stream, &made[1], patches, 2),
        })
    };
    let moments = [Moment::Embed(EmbedStep::Positions), Moment::Before(1)];
    let hand = model(vec![by_hand(
        Tower::Vision,
        moments.map(|m| (m, vision.clone())).into(),
    )]);
    for at in [At::Pooled, At::Final] {
        let of = |model| stream(model, Tap::vision(at), &pairs()).data;
        assert!(difference(&of(&hand), &of(&maple)) < 1e-12);
    }
}

#[test]
fn tokens_lie_behind_the_start_and_behind_the_patches() {
    let model = model(vec![of(with(3))]);
    let batch = pairs();
    let text = stream(&model, Tap::text(At::Block(2)), &batch);
    let wanted = [
        (SpanKind::Start, 1),
        (prompts("maple"), 2),
        (SpanKind::Words, Toy::WORDS - 1),
    ];
    assert_eq!(spans(&text), wanted);
    let vision = stream(&model, Tap::vision(At::Block(2)), &batch);
    let wanted = [
        (SpanKind::Special, 1),
        (SpanKind::Patches, 16),
        (prompts("maple"), 2),
    ];
    assert_eq!(spans(&vision), wanted);
}

#[test]
fn the_first_tokens_start_as_words() {
    let spoken = Maple {
        words: "a photo".into(),
        ..with(2)
    };
    let mut model = fresh(vec![of(spoken)]).unwrap();
    model.prepare(Some(&Words), None).unwrap();
    let context = trained(&model)["maple.embed.context"].squeeze(0).unwrap();
    let table = model.base.get("text.token.weight").unwrap();
    let table = table.tensor(context.dtype(), context.device()).unwrap();
    let ids = Tensor::from_slice(&Words.encode("a photo", 4).ids[1..3], 2, context.device());
    let rows = table.index_select(&ids.unwrap(), 0).unwrap();
    assert_eq!(difference(&context, &rows), 0.0);
}

#[test]
fn a_shallow_tower_gets_tokens_in_every_block() {
    let count = |depth| model(vec![of(with(depth))]).overlay.count("maple");
    assert_eq!(count(3), 3 * count(1));
    assert_eq!(count(9), count(3));
    assert_eq!(count(usize::MAX >> 1), count(3));
}

#[test]
fn refusals_name_the_option_or_the_tower() {
    assert_eq!(refusal(with(0)), "maple: depth must be above 0");
    let none = Maple {
        tokens: 0,
        ..with(2)
    };
    assert_eq!(refusal(none), "maple: tokens must be above 0");
    let maps = toy::topology(&[toy::map_stream(4, (4, 4))], 5);
    let recipe = toy::recipe(
        toy::Toy::new(maps.clone()),
        toy::adapter(with(1)),
        toy::ends(),
    );
    let error = toy::tuned(&recipe, toy::base(&maps)).err().unwrap();
    let message = error.to_string();
    for part in [
        "maple",
        "tokens of the vision stream",
        "a map of 4 channels",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
