//! FacT against its equation, on square layers and on those of an MLP.

mod toy;

use candle_core::Tensor;
use toy::{adapter, base, ends, features, largest_difference, recipe, shake, tuned};
use twinspan_adapters::fact::Fact;
use twinspan_sdk::adapter::Adapter;
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::testkit::laws::{Outcome, of_adapter, table};
use twinspan_sdk::testkit::{self, Look, ToyTask};
use twinspan_sdk::tuned::Tuned;

fn model(fact: Option<Fact>) -> Tuned {
    let adapters = fact.map(|fact| Configured::<dyn Adapter>::of(fact).unwrap());
    let task = ToyTask::of(&[Look::VisionFinal, Look::TextFinal]);
    testkit::tuned(&testkit::recipe(task, adapters.into_iter().collect()).unwrap()).unwrap()
}

#[test]
fn every_square_of_a_weight_is_v_sigma_u() {
    let fact = Fact {
        rank: 3,
        scale: 0.5,
        ..Default::default()
    };
    let moved = model(Some(fact));
    shake(&moved, |_| true);
    let values = moved.overlay.tensors();
    let mut weights = std::collections::BTreeMap::new();
    for name in moved.base.names() {
        let weight = moved.base.get(name).unwrap();
        let cpu = &candle_core::Device::Cpu;
        let weight = weight.tensor(candle_core::DType::F64, cpu).unwrap();
        weights.insert(name.to_string(), weight);
    }
    let mut rectangles = 0;
    for p in moved.topology.projections() {
        let Some(sigma) = values.get(&format!("fact.{}.sigma", p.name)) else {
            continue;
        };
        let d = p.input.min(p.output);
        rectangles += usize::from(p.input != p.output);
        let shared = |part: &str| &values[&format!("fact.{d}.{part}")];
        let rows = (0..p.output / d).map(|i| {
            let squares = (0..p.input / d).map(|j| {
                let sigma = sigma
                    .narrow(0, 3 * i, 3)
                    .unwrap()
                    .narrow(1, 3 * j, 3)
                    .unwrap();
                let left = shared("v").matmul(&sigma.contiguous().unwrap()).unwrap();
                left.matmul(shared("u")).unwrap()
            });
            Tensor::cat(&squares.collect::<Vec<_>>(), 1).unwrap()
        });
        let delta = Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap();
        let weight = weights.get_mut(&format!("{}.weight", p.name)).unwrap();
        *weight = (weight.clone() + (delta * 0.5).unwrap()).unwrap();
    }
    assert!(rectangles > 0);
    let bare = testkit::recipe(ToyTask::of(&[Look::VisionFinal, Look::TextFinal]), vec![]);
    let base = twinspan_sdk::base::Base::from_tensors(weights);
    let plain = Tuned::new(&bare.unwrap(), base, moved.compute()).unwrap();
    let batch = testkit::batch(2, 2, &[(0, 0), (1, 1)], 1).unwrap();
    let mut pass = twinspan_sdk::pass::Pass::predict();
    let wanted = features(&plain, &batch, &mut pass);
    for (got, wanted) in features(&moved, &batch, &mut pass).iter().zip(&wanted) {
        assert!(largest_difference(got, wanted) < 1e-10);
    }
    let untouched = features(&model(None), &batch, &mut pass);
    assert!(largest_difference(&wanted[0], &untouched[0]) > 1e-3);
}

#[test]
fn it_keeps_the_laws() {
    let toy = Configured::<dyn Backbone>::of(testkit::Toy::default()).unwrap();
    let fact = Configured::<dyn Adapter>::of(Fact::default()).unwrap();
    let verdicts = of_adapter(&fact, &toy);
    assert!(
        verdicts.iter().all(|v| v.outcome == Outcome::Held),
        "{}",
        table(&verdicts)
    );
}

#[test]
fn what_is_not_made_of_squares_is_refused() {
    let sites = Sites {
        projections: vec![Projection::Query],
        ..Default::default()
    };
    let fact = Fact {
        sites,
        ..Default::default()
    };
    // Queries of the toy's text tower read 5 channels and give as many; its embedding is a table.
    let table = Fact {
        sites: Sites {
            projections: vec![Projection::Token],
            ..Default::default()
        },
        ..fact.clone()
    };
    let topology = toy::topology(&[toy::token_stream(4, (3, 3))], 5);
    let refused = |fact: Fact| {
        let recipe = recipe(toy::Toy::new(topology.clone()), adapter(fact), ends());
        tuned(&recipe, base(&topology)).err().unwrap().to_string()
    };
    assert_eq!(
        refused(table),
        "fact: text.embed.token [5, 7] is not made of squares: choose linear layers of which one \
         width is a multiple of the other"
    );
    let none = Fact { rank: 0, ..fact };
    assert_eq!(refused(none), "fact: rank must be above 0");
}
