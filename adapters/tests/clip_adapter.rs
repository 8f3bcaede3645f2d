//! CLIP-Adapter against its equation.

mod whole;

use candle_core::Tensor;
use twinspan_adapters::clip_adapter::ClipAdapter;
use twinspan_sdk::site::Tower;
use twinspan_sdk::testkit::Look;
use twinspan_sdk::testkit::laws::Law;
use whole::*;

const POOLED: [Look; 2] = [Look::VisionPooled, Look::TextPooled];

fn both(reduction: usize, ratio: f64) -> ClipAdapter {
    ClipAdapter {
        reduction,
        ratio,
        towers: Vec::new(),
    }
}

#[test]
fn it_keeps_the_laws() {
    let skipped = [Law::Start, Law::Merge];
    keeps_the_laws(ClipAdapter::default(), &skipped);
    keeps_the_laws(both(2, 0.5), &skipped);
}

/// ratio·relu(W₂ relu(W₁ f)) + (1 - ratio)·f by plain loops.
fn by_hand(f: &Tensor, down: &Tensor, up: &Tensor, ratio: f64) -> Vec<Vec<f64>> {
    let rows = |x: &Tensor| x.to_vec2::<f64>().unwrap();
    let times = |w: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        let dot = |row: &Vec<f64>| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        w.iter().map(|row| dot(row).max(0.0)).collect()
    };
    let (down, up) = (rows(down), rows(up));
    let mixed = |f: Vec<f64>| {
        let own = times(&up, &times(&down, &f));
        let pairs = own.iter().zip(&f);
        pairs.map(|(a, f)| ratio * a + (1.0 - ratio) * f).collect()
    };
    rows(f).into_iter().map(mixed).collect()
}

#[test]
fn forward_is_the_equation() {
    for (reduction, ratio) in [(2, 0.2), (3, 0.7), (1, 1.0)] {
        let with = model(both(reduction, ratio), &POOLED).unwrap();
        shake(&with);
        let bare = over(frozen(&with), &POOLED);
        let found = features(&with);
        for ((tower, f), found) in Tower::BOTH.iter().zip(features(&bare)).zip(found) {
            let of = |name: &str| trained(&with, &format!("clip-adapter.{tower}.{name}"));
            assert_eq!(of("down").dims(), [6 / reduction, 6]);
            let expected = by_hand(&f, &of("down"), &of("up"), ratio);
            let expected = Tensor::new(expected, f.device()).unwrap();
            assert!(apart(&[expected], &[found]) < 1e-14);
        }
    }
}

#[test]
fn it_acts_on_the_vision_vector_alone_unless_told() {
    let with = model(ClipAdapter::default(), &POOLED).unwrap();
    let bare = over(frozen(&with), &POOLED);
    let (with, bare) = (features(&with), features(&bare));
    assert!(apart(&with[..1], &bare[..1]) > 1e-3);
    assert_eq!(apart(&with[1..], &bare[1..]), 0.0);
}

#[test]
fn impossible_options_are_refused() {
    let reduction = |reduction| refusal(both(reduction, 0.2), &POOLED);
    for given in [0, 7] {
        assert_eq!(
            reduction(given),
            format!(
                "clip-adapter: reduction = {given} must lie between 1 and 6, the width of the vision vector"
            )
        );
    }
    for given in [0.0, 1.5, -0.2] {
        assert_eq!(
            refusal(both(4, given), &POOLED),
            format!("clip-adapter: ratio = {given} must lie in (0, 1]")
        );
    }
    let unread = refusal(both(4, 0.2), &[Look::VisionPooled]);
    assert!(unread.contains("clip-adapter"), "{unread}");
}
