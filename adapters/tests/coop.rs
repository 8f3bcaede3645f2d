//! Context of sentences against words spliced by hand, its start as words, and refusals.

mod beside;

use beside::*;
use candle_core::IndexOp;
use twinspan_adapters::coop::Coop;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, EmbedStep, Moment, Tap, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::testkit::laws::Law;
use twinspan_sdk::testkit::{Toy, Words};
use twinspan_sdk::tokenizer::Tokenizer;

const SKIPPED: [Law; 2] = [Law::Start, Law::Merge];
const PHRASE: &str = "a photo of a";

fn with(tokens: usize, words: &str) -> Coop {
    Coop {
        tokens,
        words: words.to_string(),
    }
}

#[test]
fn laws_hold() {
    keeps_laws(Coop::default(), &SKIPPED);
    keeps_laws(with(4, PHRASE), &SKIPPED);
}

#[test]
fn context_stands_between_the_start_and_the_words() {
    let coop = model(vec![of(with(3, ""))]);
    let context = trained(&coop)["coop.context"].clone();
    assert_eq!(context.dims(), [1, 3, 8]);
    assert_eq!(coop.overlay.count("coop"), 3 * 8);
    let hook = move |stream: Stream, _: &mut Pass| Ok(spliced(stream, &context));
    let moment = Moment::Embed(EmbedStep::Tokens);
    let hand = model(vec![by_hand(Tower::Text, vec![(moment, hook)])]);
    // By hand the context counts as words, so only what is read at the end is the same.
    let pooled = |model| stream(model, Tap::text(At::Pooled), &pairs()).data;
    assert!(difference(&pooled(&hand), &pooled(&coop)) < 1e-12);
}

#[test]
fn two_of_a_kind_keep_their_own_context() {
    let model = model(vec![of(with(3, "")), of(with(2, ""))]);
    let stream = stream(&model, Tap::text(At::Embed), &pairs());
    let wanted = [
        (SpanKind::Start, 1),
        (prompts("coop-2"), 2),
        (prompts("coop"), 3),
        (SpanKind::Words, Toy::WORDS - 1),
    ];
    assert_eq!(spans(&stream), wanted);
}

#[test]
fn it_starts_as_its_words_or_by_chance() {
    let mut model = fresh(vec![of(with(4, PHRASE))]).unwrap();
    model.prepare(Some(&Words), None).unwrap();
    let context = trained(&model)["coop.context"].i(0).unwrap();
    let table = model.base.get("text.token.weight").unwrap();
    let table = table.tensor(context.dtype(), context.device()).unwrap();
    let encoded = Words.encode(PHRASE, 6).ids;
    for (row, id) in encoded[1..5].iter().enumerate() {
        let word = table.i(*id as usize).unwrap();
        assert_eq!(difference(&context.i(row).unwrap(), &word), 0.0);
    }

    let drawn = fresh(vec![of(with(200, ""))]);
    let values = trained(&drawn.unwrap())["coop.context"].clone();
    let deviation = values.sqr().unwrap().mean_all().unwrap().sqrt().unwrap();
    // Of 1,600 values, to 5 of its own deviations of 1.8%.
    assert!((deviation.to_scalar::<f64>().unwrap() / 0.02 - 1.0).abs() < 0.09);
}

#[test]
fn refusals_name_both_counts() {
    assert_eq!(refusal(with(0, "")), "coop: tokens must be above 0");
    let mut model = fresh(vec![of(with(16, PHRASE))]).unwrap();
    let error = model.prepare(Some(&Words), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "coop: words = \"a photo of a\" are 4 tokens, and tokens = 16"
    );
    let error = model.prepare(None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "coop: words = \"a photo of a\" ask for a tokenizer"
    );
}
