//! Conv-Adapter against its equation: around and behind convolutions and branches of maps, strided
//! ones too, and on a grid of tokens; its start and its refusals.

mod by_hand;
mod toy;

use by_hand::{Values, convolved, flat, is_as_by_hand, largest, laws, off, refusal};
use candle_core::{Device, Tensor};
use toy::{
    adapter, base, batch, check_gradients, features, map_stream, recipe, shake, topology, tuned,
};
use twinspan_adapters::bottleneck::Activation;
use twinspan_adapters::conv_adapter::{ConvAdapter, Placement};
use twinspan_sdk::adapter::{Adapter, Slot};
use twinspan_sdk::hooks::BranchView;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::site::{At, Branch, Projection, Sites, Tap, Tower};
use twinspan_sdk::testkit::{By, Scripted, Toy as Tokens};
use twinspan_sdk::topology::Topology;
use twinspan_sdk::tuned::Tuned;

const GRID: (usize, usize) = (6, 4);
const PLACEMENTS: [Placement; 4] = [
    Placement::ConvParallel,
    Placement::ConvSeries,
    Placement::ResidualParallel,
    Placement::ResidualSeries,
];

/// A block that keeps the grid, and one that halves it and has more channels.
fn maps() -> Topology {
    topology(&[map_stream(4, GRID), map_stream(6, (3, 2))], 5)
}

/// At the toy's convolutions, or at its branches.
fn at(placement: Placement) -> ConvAdapter {
    let mut sites = Sites::default();
    if matches!(placement, Placement::ConvParallel | Placement::ConvSeries) {
        sites.projections.push(Projection::Conv1);
    }
    ConvAdapter {
        placement,
        reduction: 2,
        sites,
        ..Default::default()
    }
}

/// The vision tower, which alone is adapted.
fn seen() -> Vec<Tap> {
    vec![Tap::vision(At::Final)]
}

fn with(conv_adapter: ConvAdapter) -> Tuned {
    let topology = maps();
    let toy = toy::Toy::new(topology.clone());
    tuned(&recipe(toy, adapter(conv_adapter), seen()), base(&topology)).unwrap()
}

/// f(x) by the values of the place `name`.
fn f(values: &Values, name: &str, x: &Tensor, conv: (usize, usize)) -> Tensor {
    let value = |part: &str| &values[&format!("conv-adapter.{name}.{part}")];
    let (kernel, up) = (value("down.weight"), value("up.weight"));
    let groups = kernel.dim(0).unwrap();
    let narrow = convolved(x, kernel, value("down.bias"), groups, conv)
        .relu()
        .unwrap();
    let up = up.reshape((up.dim(0).unwrap(), groups, 1, 1)).unwrap();
    let wide = convolved(&narrow, &up, value("up.bias"), 1, (1, 0));
    wide.broadcast_mul(&value("scale").reshape(((), 1, 1)).unwrap())
        .unwrap()
}

/// Whether the block's convolution is strided, by the number of its channels.
fn stride(output: usize) -> usize {
    if output == 6 { 2 } else { 1 }
}

fn by_hand(placement: Placement, values: Values) -> Scripted {
    let wants = at(placement).wants();
    Scripted::new("by hand", wants, move |slots, _, hooks| {
        for slot in slots {
            let (values, place) = (values.clone(), slot.to_string());
            match slot {
                Slot::Projection(slot) => {
                    let (name, stride) = (slot.name.clone(), stride(slot.output));
                    match placement {
                        Placement::ConvParallel => hooks.bypass(
                            slot,
                            By(move |x: &Tensor, _: &mut Pass| {
                                Ok(f(&values, &name, x, (stride, 1)))
                            }),
                        ),
                        _ => hooks.output(
                            slot,
                            By(move |y: &Tensor, _: &mut Pass| {
                                Ok((y + f(&values, &name, y, (1, 1)))?)
                            }),
                        ),
                    }
                }
                Slot::Branch(slot) => {
                    let (name, stride) = (place, stride(slot.width));
                    let hook = move |view: BranchView<'_>, y: &Tensor, _: &mut Pass| {
                        Ok(match placement {
                            Placement::ResidualParallel => {
                                (y + f(&values, &name, view.normed, (stride, 1)))?
                            }
                            _ => (y + f(&values, &name, y, (1, 1)))?,
                        })
                    };
                    hooks.branch(slot, By(hook));
                }
                _ => unreachable!(),
            }
        }
        Ok(())
    })
}

#[test]
fn every_placement_is_its_equation() {
    let topology = maps();
    for placement in PLACEMENTS {
        let found = with(at(placement));
        shake(&found, |_| true);
        let trained = found.overlay.trained.iter();
        let values = trained.map(|(n, t)| (n.clone(), t.var.as_detached_tensor()));
        let scripted = by_hand(placement, values.collect());
        let toy = toy::Toy::new(topology.clone());
        let expected = recipe(toy.clone(), vec![scripted.configured()], seen());
        let expected = tuned(&expected, base(&topology)).unwrap();
        let bare = tuned(&recipe(toy, vec![], seen()), base(&topology)).unwrap();
        let run = |model: &Tuned| features(model, &batch(GRID), &mut Pass::predict()).remove(0);
        let expected = run(&expected);
        assert!(
            off(&run(&found), &expected) < 1e-12 * (1.0 + largest(&expected)),
            "{placement:?}"
        );
        assert!(off(&run(&bare), &expected) > 1e-3, "{placement:?}");
    }
}

#[test]
fn gradients_reach_every_part() {
    for placement in PLACEMENTS {
        // A smooth nonlinearity: differences do not step over the kink of a ReLU.
        let smooth = ConvAdapter {
            activation: Activation::Gelu,
            ..at(placement)
        };
        let model = with(smooth);
        shake(&model, |_| true);
        check_gradients(&model, &batch(GRID), || Pass::train(1));
    }
}

#[test]
fn it_starts_as_the_identity() {
    let topology = maps();
    let toy = toy::Toy::new(topology.clone());
    let bare = tuned(&recipe(toy, vec![], seen()), base(&topology)).unwrap();
    let run = |model: &Tuned| features(model, &batch(GRID), &mut Pass::predict()).remove(0);
    for placement in PLACEMENTS {
        assert_eq!(off(&run(&with(at(placement))), &run(&bare)), 0.0);
    }
    let model = with(at(Placement::ConvParallel));
    let value = |part: &str| {
        let name = format!("conv-adapter.vision.blocks.1.conv1.{part}");
        model.overlay.trained[&name].var.as_detached_tensor()
    };
    assert_eq!(value("down.weight").dims(), [2, 2, 3, 3]);
    let kernel = largest(&value("down.weight"));
    assert!(kernel > 0.1 && kernel <= (1.0f64 / 18.0).sqrt());
    assert_eq!(value("up.weight").dims(), [6, 2]);
    assert_eq!(largest(&value("up.weight")), 0.0);
    assert_eq!(flat(&value("scale")), [1.0; 6]);
}

fn on_tokens(placement: Placement) -> ConvAdapter {
    ConvAdapter {
        placement,
        sites: Sites {
            branches: vec![Branch::Mlp],
            ..Default::default()
        },
        ..Default::default()
    }
}

#[test]
fn patches_of_a_transformer_are_a_map_and_its_class_token_is_left_alone() {
    for placement in [Placement::ResidualParallel, Placement::ResidualSeries] {
        assert_eq!(laws(on_tokens(placement)), ["merged"]);
    }
    is_as_by_hand(
        on_tokens(Placement::ResidualParallel),
        |values, slot, view, y| on_patches(values, slot, view.normed, y),
    );
    is_as_by_hand(
        on_tokens(Placement::ResidualSeries),
        |values, slot, _, y| on_patches(values, slot, y, y),
    );
}

fn on_patches(values: &Values, slot: &str, x: &Tensor, y: &Tensor) -> Tensor {
    let (b, n, d) = x.dims3().unwrap();
    let (rows, columns) = Tokens::GRID;
    let patches = x.narrow(1, 1, n - 1).unwrap().transpose(1, 2).unwrap();
    let added = f(
        values,
        slot,
        &patches.reshape((b, d, rows, columns)).unwrap(),
        (1, 1),
    );
    let added = added.flatten_from(2).unwrap().transpose(1, 2).unwrap();
    let none = Tensor::zeros((b, 1, d), added.dtype(), &Device::Cpu).unwrap();
    (y + Tensor::cat(&[none, added], 1).unwrap()).unwrap()
}

#[test]
fn what_has_no_grid_or_no_even_groups_is_refused() {
    let mut text = on_tokens(Placement::ResidualSeries);
    text.sites.towers.push(Tower::Text);
    assert_eq!(
        refusal(text),
        "conv-adapter: text.blocks.0.mlp lies on no grid"
    );
    let linear = ConvAdapter {
        sites: Sites {
            projections: vec![Projection::Query],
            ..Default::default()
        },
        ..Default::default()
    };
    assert_eq!(
        refusal(linear),
        "conv-adapter: vision.blocks.0.query is no convolution"
    );
    let groups = ConvAdapter {
        reduction: 3,
        ..on_tokens(Placement::ResidualSeries)
    };
    assert_eq!(
        refusal(groups),
        "conv-adapter: reduction = 3 does not divide the 8 channels of vision.blocks.0.mlp"
    );
    let none = ConvAdapter {
        reduction: 0,
        ..Default::default()
    };
    // The toy has no second convolution; its patches are one.
    let sites = Sites {
        projections: vec![Projection::Patch],
        ..Default::default()
    };
    assert_eq!(
        refusal(ConvAdapter {
            sites: sites.clone(),
            ..none
        }),
        "conv-adapter: reduction must be above 0"
    );
    assert_eq!(
        refusal(ConvAdapter {
            kernel: 4,
            sites,
            ..Default::default()
        }),
        "conv-adapter: kernel = 4 must be odd and at most 31"
    );
}
