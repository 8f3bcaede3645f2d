//! Visual prompts against tokens spliced by hand, their start, whose they are, and refusals.

mod beside;
mod toy;

use beside::*;
use candle_core::Tensor;
use twinspan_adapters::vpt::Vpt;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, EmbedStep, Moment, Projection, Sites, Tap, Tower};
use twinspan_sdk::stream::{SpanKind, Stream};
use twinspan_sdk::testkit::Toy;
use twinspan_sdk::testkit::laws::Law;

const SKIPPED: [Law; 2] = [Law::Start, Law::Merge];

fn shallow() -> Vpt {
    Vpt {
        deep: false,
        ..Vpt::default()
    }
}

fn with(sites: Sites) -> Vpt {
    Vpt {
        sites,
        ..Vpt::default()
    }
}

#[test]
fn laws_hold() {
    keeps_laws(Vpt::default(), &SKIPPED);
    keeps_laws(shallow(), &SKIPPED);
    let some = Sites {
        blocks: vec![1],
        ..Sites::default()
    };
    let dropping = Vpt {
        dropout: 0.5,
        ..with(some)
    };
    keeps_laws(dropping, &SKIPPED);
}

/// The class token, `tokens`, and what stands behind the first `front` tokens.
fn splice(stream: Stream, tokens: &Tensor, front: usize) -> Stream {
    let x = &stream.data;
    let tokens = repeat(tokens, x.dim(0).unwrap());
    let (class, patches) = (
        x.narrow(1, 0, 1),
        x.narrow(1, front, x.dim(1).unwrap() - front),
    );
    let joined = join(&[&class.unwrap(), &tokens, &patches.unwrap()]);
    // As many special tokens, of which the first is the class token.
    Stream::patches(joined, 1 + tokens.dim(1).unwrap(), Toy::GRID)
}

#[test]
fn shallow_tokens_go_in_once_behind_the_positions() {
    let vpt = model(vec![of(shallow())]);
    let tokens = trained(&vpt)["vpt.vision.embed.tokens"].clone();
    assert_eq!(tokens.dims(), [1, 5, 8]);
    let hook = move |stream: Stream, _: &mut Pass| Ok(splice(stream, &tokens, 1));
    let moment = Moment::Embed(EmbedStep::Positions);
    let hand = model(vec![by_hand(Tower::Vision, vec![(moment, hook)])]);
    assert!(apart(&hand, &vpt, &pairs()) < 1e-12);
}

#[test]
fn deep_tokens_are_new_before_every_chosen_block() {
    let last = Sites {
        last: 2,
        ..Sites::default()
    };
    for (sites, blocks) in [(Sites::default(), vec![0, 1, 2]), (last, vec![1, 2])] {
        let vpt = model(vec![of(with(sites))]);
        let values = trained(&vpt);
        let hooks = blocks.iter().enumerate().map(|(order, block)| {
            let tokens = values[&format!("vpt.vision.blocks.{block}.tokens")].clone();
            let front = if order == 0 { 1 } else { 6 };
            let hook = move |stream: Stream, _: &mut Pass| Ok(splice(stream, &tokens, front));
            (Moment::Before(*block), hook)
        });
        let hand = model(vec![by_hand(Tower::Vision, hooks.collect())]);
        assert!(apart(&hand, &vpt, &pairs()) < 1e-12);
        assert_eq!(vpt.overlay.count("vpt"), blocks.len() * 5 * 8);
    }
}

#[test]
fn the_start_is_uniform_by_the_patch_and_the_width() {
    let many = Vpt {
        tokens: 100,
        ..Vpt::default()
    };
    let model = fresh(vec![of(many)]).unwrap();
    let values = trained(&model)["vpt.vision.blocks.2.tokens"].clone();
    let values: Vec<f64> = values.flatten_all().unwrap().to_vec1().unwrap();
    // Patches of 3 · 2² values, width 8.
    let bound = (6.0f64 / (12.0 + 8.0)).sqrt();
    let largest = values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    assert!(largest <= bound && largest > 0.98 * bound, "{largest}");
    let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
    assert!((variance * 3.0 / (bound * bound) - 1.0).abs() < 0.15);
}

#[test]
fn two_of_a_kind_keep_their_own_tokens() {
    let other = Vpt {
        tokens: 2,
        ..Vpt::default()
    };
    let model = model(vec![of(Vpt::default()), of(other)]);
    let stream = stream(&model, Tap::vision(At::Block(2)), &pairs());
    let labels: Vec<_> = spans(&stream);
    let wanted = [
        (SpanKind::Special, 1),
        (prompts("vpt-2"), 2),
        (prompts("vpt"), 5),
        (SpanKind::Patches, 16),
    ];
    assert_eq!(labels, wanted);
}

#[test]
fn refusals_say_what_to_do() {
    let none = Vpt {
        tokens: 0,
        ..Vpt::default()
    };
    assert_eq!(refusal(none), "vpt: tokens must be above 0");
    let all = Vpt {
        dropout: 1.0,
        ..Vpt::default()
    };
    assert_eq!(refusal(all), "vpt: dropout = 1 must lie in [0, 1)");
    let text = Sites {
        towers: vec![Tower::Text],
        ..Sites::default()
    };
    assert_eq!(
        refusal(with(text)),
        "vpt: its tokens are the vision tower's: leave text out of `sites.towers`"
    );
    let query = Sites {
        projections: vec![Projection::Query],
        ..Sites::default()
    };
    assert_eq!(
        refusal(with(query)),
        "adapter `vpt`: it acts on no projections: leave `sites.projections` out"
    );
    let block = Sites {
        blocks: vec![1],
        ..Sites::default()
    };
    let once = Vpt {
        deep: false,
        ..with(block)
    };
    assert_eq!(
        refusal(once),
        "vpt: shallow tokens go in once: set deep = true to choose blocks"
    );
}

#[test]
fn maps_have_no_room_for_tokens() {
    let maps = toy::topology(&[toy::map_stream(4, (4, 4))], 5);
    let recipe = toy::recipe(
        toy::Toy::new(maps.clone()),
        toy::adapter(Vpt::default()),
        toy::ends(),
    );
    let error = toy::tuned(&recipe, toy::base(&maps)).err().unwrap();
    let message = error.to_string();
    for part in [
        "vpt",
        "tokens of the vision stream before block 0",
        "a map of 4 channels",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
