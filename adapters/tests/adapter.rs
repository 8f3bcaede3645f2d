//! Bottleneck adapters: each placement against its equation, its starts, sizes and refusals.

mod by_hand;

use by_hand::*;
use candle_core::{DType, Device, Tensor};
use twinspan_adapters::adapter::{Adapter, Placement};
use twinspan_adapters::bottleneck::{Activation, Bottleneck, Pointwise};
use twinspan_adapters::setting::Setting::{Auto, Is};
use twinspan_sdk::hooks::Channels;
use twinspan_sdk::ops;
use twinspan_sdk::parameter::{Init, Overlay, Params};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{Branch, Projection, Sites, Tower};

fn of(placement: Placement) -> Adapter {
    Adapter {
        placement,
        ..Default::default()
    }
}

#[test]
fn every_placement_keeps_the_laws() {
    let skipped = |adapter: Adapter| laws(adapter);
    assert_eq!(
        skipped(of(Placement::Houlsby)),
        ["identity at the start", "merged"]
    );
    assert_eq!(
        skipped(of(Placement::Pfeiffer)),
        ["identity at the start", "merged"]
    );
    assert_eq!(skipped(of(Placement::Parallel)), ["merged"]);
    let behind = Adapter {
        sites: Sites {
            projections: vec![Projection::Query, Projection::Patch, Projection::Token],
            branches: vec![Branch::Mlp],
            ..Default::default()
        },
        dropout: Is(0.3),
        ..Default::default()
    };
    assert_eq!(skipped(behind), ["identity at the start", "merged"]);
}

#[test]
fn in_series_the_output_goes_through_the_bottleneck() {
    let houlsby = Adapter {
        width: Is(3),
        ..of(Placement::Houlsby)
    };
    is_as_by_hand(houlsby, |values, slot, _, y| {
        let narrow = gelu(&linear(values, &format!("adapter.{slot}.down"), y));
        (y + linear(values, &format!("adapter.{slot}.up"), &narrow)).unwrap()
    });
    let pfeiffer = Adapter {
        reduction: Is(2),
        scale: Is(0.7),
        ..of(Placement::Pfeiffer)
    };
    is_as_by_hand(pfeiffer, |values, slot, _, y| {
        let narrow = linear(values, &format!("adapter.{slot}.down"), y)
            .relu()
            .unwrap();
        (y + linear(values, &format!("adapter.{slot}.up"), &narrow) * 0.7).unwrap()
    });
}

#[test]
fn in_parallel_the_input_before_the_norm_does() {
    let parallel = Adapter {
        activation: Activation::QuickGelu,
        ..of(Placement::Parallel)
    };
    is_as_by_hand(parallel, |values, slot, view, y| {
        let narrow = linear(values, &format!("adapter.{slot}.down"), view.input);
        let wide = linear(values, &format!("adapter.{slot}.up"), &quick_gelu(&narrow));
        (y + wide * 0.1).unwrap()
    });
}

#[test]
fn sites_and_sizes_follow_from_the_placement() {
    let shapes = |adapter: Adapter| -> Vec<(String, Vec<usize>)> {
        let model = model(adapter).unwrap();
        let weights = model.overlay.trained.iter();
        let weights =
            weights.filter(|(name, _)| name.contains("blocks.1") && name.ends_with("down.weight"));
        weights
            .map(|(name, t)| (name.clone(), t.var.dims().to_vec()))
            .collect()
    };
    let named = |name: &str, d| (format!("adapter.{name}.down.weight"), vec![d, 8]);
    let both = |d| {
        let places = [
            "text.blocks.1.attention",
            "text.blocks.1.mlp",
            "vision.blocks.1.attention",
            "vision.blocks.1.mlp",
        ];
        places.map(|place| named(place, d))
    };
    // 8/16 is less than one channel.
    assert_eq!(shapes(of(Placement::Houlsby)), both(1));
    assert_eq!(
        shapes(Adapter {
            reduction: Is(4),
            ..of(Placement::Houlsby)
        }),
        both(2)
    );
    let [_, text, _, vision] = both(1);
    assert_eq!(shapes(of(Placement::Pfeiffer)), [text, vision]);
    assert_eq!(
        shapes(of(Placement::Parallel)),
        [
            named("text.blocks.1.mlp", 64),
            named("vision.blocks.1.mlp", 64)
        ]
    );
    let vision = Sites {
        towers: vec![Tower::Vision],
        projections: vec![Projection::Output],
        ..Default::default()
    };
    assert_eq!(
        shapes(Adapter {
            width: Is(5),
            sites: vision,
            ..of(Placement::Houlsby)
        }),
        [named("vision.blocks.1.output", 5)]
    );
}

#[test]
fn starts_are_those_of_the_table() {
    let start = |placement, part: &str| {
        let model = model(Adapter {
            width: Is(64),
            ..of(placement)
        })
        .unwrap();
        let name = format!("adapter.text.blocks.0.mlp.{part}");
        model.overlay.trained[&name].var.as_detached_tensor()
    };
    for placement in [Placement::Houlsby, Placement::Pfeiffer] {
        for part in ["down.weight", "up.weight"] {
            let values = flat(&start(placement, part));
            let mean = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
            // 512 draws: the deviation is known to three per cent.
            assert!(
                (mean.sqrt() / 0.02 - 1.0).abs() < 0.15,
                "{part}: {}",
                mean.sqrt()
            );
        }
    }
    let down = largest(&start(Placement::Parallel, "down.weight"));
    assert!(down > 0.3 && down <= (1.0f64 / 8.0).sqrt());
    assert_eq!(largest(&start(Placement::Parallel, "up.weight")), 0.0);
    for part in ["down.bias", "up.bias"] {
        assert_eq!(largest(&start(Placement::Houlsby, part)), 0.0);
    }
}

#[test]
fn dropout_acts_behind_the_activation_in_training() {
    let model = |dropout| {
        let mut overlay = Overlay::default();
        let mut params = Params::new(&mut overlay, "adapter", 1, false, DType::F64, &Device::Cpu);
        let mut layer = |name: &str, ends| {
            let start = Init::Normal(1.0);
            Pointwise::make(&mut params.within(name), ends, Channels::Last, start).unwrap()
        };
        Bottleneck {
            down: layer("down", (4, 200)),
            activation: ops::relu,
            dropout,
            up: layer("up", (200, 3)),
            scale: 1.0,
        }
    };
    let x = Init::Normal(1.0)
        .tensor(1, "x", &[2, 5, 4], DType::F64, &Device::Cpu)
        .unwrap();
    let run = |dropout, mut pass: Pass| model(dropout).forward(&x, &mut pass).unwrap();
    let plain = run(0.0, Pass::predict());
    assert_eq!(off(&run(0.5, Pass::predict()), &plain), 0.0);
    assert!(off(&run(0.5, Pass::train(1)), &plain) > 0.1);
    assert_eq!(
        off(&run(0.5, Pass::train(1)), &run(0.5, Pass::train(1))),
        0.0
    );
}

/// A map's pixels are tokens: 1x1 convolutions are the linear layers of the same weights.
#[test]
fn on_a_map_every_pixel_is_a_token() {
    let make = |channels| {
        let mut overlay = Overlay::default();
        let mut params = Params::new(&mut overlay, "adapter", 1, false, DType::F64, &Device::Cpu);
        let mut layer = |name: &str, ends| {
            Pointwise::make(&mut params.within(name), ends, channels, Init::Normal(1.0)).unwrap()
        };
        Bottleneck {
            down: layer("down", (6, 2)),
            activation: ops::gelu,
            dropout: 0.0,
            up: layer("up", (2, 5)),
            scale: 0.5,
        }
    };
    let map = Init::Normal(1.0)
        .tensor(1, "x", &[2, 6, 3, 4], DType::F64, &Device::Cpu)
        .unwrap();
    let tokens = map.flatten_from(2).unwrap().transpose(1, 2).unwrap();
    let mut pass = Pass::predict();
    let on_map = make(Channels::Map).forward(&map, &mut pass).unwrap();
    assert_eq!(on_map.dims(), [2, 5, 3, 4]);
    let on_tokens = make(Channels::Last).forward(&tokens, &mut pass).unwrap();
    let on_map: Tensor = on_map.flatten_from(2).unwrap().transpose(1, 2).unwrap();
    assert!(off(&on_map, &on_tokens) < ROUNDING);
}

#[test]
fn impossible_options_are_refused() {
    let start = Adapter::default;
    assert_eq!(
        refusal(Adapter {
            width: Is(0),
            ..start()
        }),
        "adapter: width must be above 0"
    );
    assert_eq!(
        refusal(Adapter {
            reduction: Is(0),
            ..start()
        }),
        "adapter: reduction must be above 0"
    );
    assert_eq!(
        refusal(Adapter {
            width: Is(4),
            reduction: Is(4),
            ..start()
        }),
        "adapter: width and reduction say the same: leave one out"
    );
    assert_eq!(
        refusal(Adapter {
            scale: Is(0.0),
            ..start()
        }),
        "adapter: scale = 0 must be a number other than 0"
    );
    assert_eq!(
        refusal(Adapter {
            dropout: Is(1.0),
            width: Auto,
            ..start()
        }),
        "adapter: dropout = 1 must lie in [0, 1)"
    );
    let projections = Sites {
        projections: vec![Projection::Query],
        ..Default::default()
    };
    assert_eq!(
        refusal(Adapter {
            sites: projections,
            ..of(Placement::Parallel)
        }),
        "adapter: placement = parallel serves branches; projections take houlsby or pfeiffer"
    );
}
