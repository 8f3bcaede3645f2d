//! Context that depends on the picture, against a context by hand for each picture alone.

mod beside;

use beside::*;
use candle_core::Tensor;
use twinspan_adapters::cocoop::Cocoop;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::site::{At, EmbedStep, Moment, Tap, Tower};
use twinspan_sdk::stream::Stream;
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{Look, ToyTask, recipe};

const SKIPPED: [Law; 2] = [Law::Start, Law::Merge];

#[test]
fn laws_hold() {
    keeps_laws(Cocoop::default(), &SKIPPED);
    let spoken = Cocoop {
        words: "a photo of a".into(),
        reduction: 2,
        ..Cocoop::default()
    };
    keeps_laws(spoken, &SKIPPED);
}

#[test]
fn each_picture_moves_the_context_by_its_own() {
    let cocoop = model(vec![of(Cocoop {
        reduction: 2,
        ..Cocoop::default()
    })]);
    let values = trained(&cocoop);
    let value = |name: &str| &values[&format!("cocoop.{name}")];
    assert_eq!(value("context").dims(), [1, 4, 8]);
    // Pictures have 6 values.
    assert_eq!(value("meta.0.weight").dims(), [3, 6]);
    assert_eq!(value("meta.1.weight").dims(), [8, 3]);

    let batch = pairs();
    let pictures = stream(&model(vec![]), Tap::vision(At::Pooled), &batch).data;
    let length = pictures
        .sqr()
        .unwrap()
        .sum_keepdim(1)
        .unwrap()
        .sqrt()
        .unwrap();
    let pictures = pictures.broadcast_div(&length).unwrap();
    let linear = |x: &Tensor, layer: &str| {
        let weight = value(&format!("{layer}.weight")).t().unwrap();
        let product = x.matmul(&weight).unwrap();
        product
            .broadcast_add(value(&format!("{layer}.bias")))
            .unwrap()
    };
    let inside = linear(&pictures, "meta.0").maximum(0.0).unwrap();
    let shifts = linear(&inside, "meta.1");

    let found = stream(&cocoop, Tap::text(At::Pooled), &batch).data;
    // Both pictures with each of three sentences.
    assert_eq!(found.dims(), [6, 6]);
    for picture in 0..2 {
        let shift = shifts.narrow(0, picture, 1).unwrap().unsqueeze(1).unwrap();
        let context = value("context").broadcast_add(&shift).unwrap();
        let hook = move |stream: Stream, _: &mut Pass| Ok(spliced(stream, &context));
        let moment = Moment::Embed(EmbedStep::Tokens);
        let hand = model(vec![by_hand(Tower::Text, vec![(moment, hook)])]);
        let expected = stream(&hand, Tap::text(At::Pooled), &batch).data;
        let own = found.narrow(0, 3 * picture, 3).unwrap();
        assert!(difference(&own, &expected) < 1e-12, "picture {picture}");
    }
    let apart = |a: usize, b: usize| {
        let row = |i| found.narrow(0, i, 1).unwrap();
        difference(&row(a), &row(b))
    };
    assert!(apart(0, 3) > 1e-4, "one sentence beside two pictures");
}

#[test]
fn refusals_say_what_is_wrong() {
    let flat = Cocoop {
        reduction: 0,
        ..Cocoop::default()
    };
    assert_eq!(refusal(flat), "cocoop: reduction must be above 0");
    let none = Cocoop {
        tokens: 0,
        ..Cocoop::default()
    };
    assert_eq!(refusal(none), "cocoop: tokens must be above 0");
    // Sentences alone, without a picture beside them, it cannot serve.
    let task = ToyTask::of(&[Look::TextPooled]).by_item();
    let recipe = recipe(task, vec![of(Cocoop::default())]).unwrap();
    let message = plan(&recipe).err().unwrap().to_string();
    for part in ["cocoop", "text.pooled"] {
        assert!(message.contains(part), "{message}");
    }
}
