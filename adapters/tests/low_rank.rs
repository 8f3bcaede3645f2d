//! DoRA, VeRA, AdaLoRA, PiSSA and ranks by site against their equations.

mod toy;

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use toy::*;
use twinspan_adapters::adalora::Adalora;
use twinspan_adapters::dora::Dora;
use twinspan_adapters::lora::{Lora, Start};
use twinspan_adapters::vera::Vera;
use twinspan_sdk::adapter::{Adapter, Progress};
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{Projection, Sites, Tower};
use twinspan_sdk::topology::{ProjectionInfo, Shape, Topology};
use twinspan_sdk::tuned::Tuned;

const GRID: (usize, usize) = (6, 5);

/// Linear layers and an embedding in the text tower, convolutions of stride 1 and 2 in the other.
fn mixed() -> Topology {
    topology(&[map_stream(4, GRID), map_stream(6, (3, 3))], 5)
}

fn everywhere() -> Sites {
    let projections = [
        Projection::Patch,
        Projection::Token,
        Projection::Query,
        Projection::Conv1,
    ];
    Sites {
        projections: projections.to_vec(),
        ..Default::default()
    }
}

fn model(adapters: Vec<Configured<dyn Adapter>>) -> Tuned {
    let topology = mixed();
    let recipe = recipe(Toy::new(topology.clone()), adapters, ends());
    let mut model = tuned(&recipe, base(&topology)).unwrap();
    model.prepare(None, None).unwrap();
    model
}

fn seen(model: &Tuned) -> Vec<Tensor> {
    features(model, &batch(GRID), &mut Pass::predict())
}

fn farthest(a: &Tuned, b: &Tuned) -> f64 {
    let pairs = seen(a).into_iter().zip(seen(b));
    pairs.fold(0.0, |most, (a, b)| {
        f64::max(most, largest_difference(&a, &b))
    })
}

/// The bare backbone, in which every projection that `adapted` names has the weight it gives from
/// the frozen one; both as matrices `[out, ..]`.
fn by_hand(adapted: impl Fn(&ProjectionInfo, &Tensor) -> Option<Tensor>) -> Tuned {
    let topology = mixed();
    let mut weights = base(&topology);
    for p in topology.projections() {
        let weight = weights.get_mut(&format!("{}.weight", p.name)).unwrap();
        let matrix = match p.shape {
            Shape::Embedding => weight.t().unwrap(),
            _ => weight.flatten_from(1).unwrap(),
        };
        if let Some(new) = adapted(p, &matrix) {
            *weight = match p.shape {
                Shape::Embedding => new.t().unwrap().contiguous().unwrap(),
                _ => new.reshape(weight.dims()).unwrap(),
            };
        }
    }
    tuned(&recipe(Toy::new(topology), vec![], ends()), weights).unwrap()
}

fn value(model: &Tuned, name: &str) -> Option<Tensor> {
    model.overlay.tensors().get(name).cloned()
}

fn product(b: &Tensor, a: &Tensor) -> Tensor {
    let (a, b) = (a.flatten_from(1).unwrap(), b.flatten_from(1).unwrap());
    b.matmul(&a).unwrap()
}

/// Each row of a matrix to this length.
fn of_length(matrix: &Tensor, lengths: &Tensor) -> Tensor {
    let norms = matrix.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let factor = (lengths / norms).unwrap().unsqueeze(1).unwrap();
    matrix.broadcast_mul(&factor).unwrap()
}

#[test]
fn dora_turns_rows_and_sets_their_lengths() {
    let dora = Dora {
        rank: 2,
        alpha: 3.0,
        sites: everywhere(),
        ..Default::default()
    };
    let moved = model(adapter(dora));
    // The lengths start as those of the frozen rows.
    assert!(farthest(&moved, &model(vec![])) < 1e-12);
    shake(&moved, |_| true);
    let plain = by_hand(|p, w| {
        let of = |part: &str| value(&moved, &format!("dora.{}.{part}", p.name)).unwrap();
        let updated = (w + (product(&of("b"), &of("a")) * 1.5).unwrap()).unwrap();
        Some(of_length(&updated, &of("length")))
    });
    assert!(farthest(&moved, &plain) < 1e-11);
    assert!(farthest(&moved, &model(vec![])) > 1e-2);
}

#[test]
fn a_row_of_zeros_stays_one_with_dora() {
    let topology = mixed();
    let mut weights = base(&topology);
    let name = "text.blocks.0.query.weight";
    let zeros = weights[name].zeros_like().unwrap();
    weights.insert(name.into(), zeros);
    let recipe = recipe(Toy::new(topology), adapter(Dora::default()), ends());
    let mut with = tuned(&recipe, weights).unwrap();
    with.prepare(None, None).unwrap();
    for features in seen(&with) {
        assert!(largest(&features).is_finite());
    }
}

#[test]
fn no_gradient_goes_through_doras_norm() {
    let sites = Sites {
        towers: vec![Tower::Text],
        blocks: vec![0],
        ..Default::default()
    };
    let dora = Dora {
        rank: 2,
        sites: sites.clone(),
        ..Default::default()
    };
    let moved = model(adapter(dora));
    shake(&moved, |_| true);
    let batch = batch(GRID);
    let found = loss(&moved, &batch, &mut Pass::train(0))
        .backward()
        .unwrap();
    // With the factor m/‖·‖ held where it is, A and B act as LoRA's on rows scaled by it.
    let lora = Lora {
        rank: 2,
        sites,
        ..Default::default()
    };
    let name = "text.blocks.0.query";
    let of = |part: &str| value(&moved, &format!("dora.{name}.{part}")).unwrap();
    let frozen = base(&mixed()).remove(&format!("{name}.weight")).unwrap();
    let updated = (&frozen + (product(&of("b"), &of("a")) * 4.0).unwrap()).unwrap();
    let norms = updated.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let factor = (of("length") / norms).unwrap().unsqueeze(1).unwrap();
    let topology = mixed();
    let mut scaled = base(&topology);
    scaled.insert(
        format!("{name}.weight"),
        frozen.broadcast_mul(&factor).unwrap(),
    );
    let recipe = recipe(Toy::new(topology), adapter(lora), ends());
    let plain = tuned(&recipe, scaled).unwrap();
    let (a, b) = (of("a"), of("b").broadcast_mul(&factor).unwrap());
    for (trained, start) in [("a", &a), ("b", &b)] {
        let var = &plain.overlay.trained[&format!("lora.{name}.{trained}")].var;
        var.set(start).unwrap();
    }
    let wanted = loss(&plain, &batch, &mut Pass::train(0))
        .backward()
        .unwrap();
    let of = |store: &GradStore, model: &Tuned, name: &str| {
        store.get(&model.overlay.trained[name].var).unwrap().clone()
    };
    let got = of(&found, &moved, &format!("dora.{name}.a"));
    let want = of(&wanted, &plain, &format!("lora.{name}.a"));
    assert!(largest_difference(&got, &want) < 1e-9 * (1.0 + largest(&want)));
}

#[test]
fn a_weight_takes_one_reparametrisation() {
    let topology = mixed();
    let two = [adapter(Dora::default()), adapter(Dora::default())].concat();
    let recipe = recipe(Toy::new(topology.clone()), two, ends());
    let error = tuned(&recipe, base(&topology)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "`dora-2` reparametrises text.blocks.0.query, which another adapter reparametrises already"
    );
}

#[test]
fn vera_cuts_shared_matrices_to_each_site() {
    let vera = |sites| Vera {
        rank: 3,
        sites,
        ..Default::default()
    };
    let linear = Sites {
        projections: vec![Projection::Query],
        ..Default::default()
    };
    let moved = model(adapter(vera(linear)));
    shake(&moved, |_| true);
    let shared = |name: &str| value(&moved, &format!("vera.{name}")).unwrap();
    assert_eq!(moved.overlay.constants.len(), 2);
    let plain = by_hand(|p, w| {
        let b = value(&moved, &format!("vera.{}.b", p.name))?;
        let d = value(&moved, &format!("vera.{}.d", p.name))?;
        let a = shared("a").narrow(1, 0, p.input).unwrap();
        let a = a.broadcast_mul(&d.unsqueeze(1).unwrap()).unwrap();
        let wide = shared("b").narrow(0, 0, p.output).unwrap();
        let delta = wide.matmul(&a).unwrap();
        Some((w + delta.broadcast_mul(&b.unsqueeze(1).unwrap()).unwrap()).unwrap())
    });
    assert!(farthest(&moved, &plain) < 1e-12);
    assert!(farthest(&moved, &model(vec![])) > 1e-3);
    check_gradients(&moved, &batch(GRID), || Pass::train(1));
    assert_eq!(
        refused(vera(everywhere())),
        "vera: vision.embed.patch is not linear, and matrices that sites share fit linear layers \
         alone"
    );
}

#[test]
fn pissa_starts_as_the_weight_and_trains_its_principal_part() {
    let lora = Lora {
        rank: 2,
        alpha: 3.0,
        start: Start::Pissa,
        sites: everywhere(),
        ..Default::default()
    };
    let fresh = model(adapter(lora.clone()));
    assert!(farthest(&fresh, &model(vec![])) < 1e-11);
    // s·B·A is the nearest matrix of its rank: what is left is orthogonal to it on both sides.
    let topology = mixed();
    for p in topology.projections() {
        let of = |part: &str| value(&fresh, &format!("lora.{}.{part}", p.name)).unwrap();
        let principal = (product(&of("b"), &of("a")) * 1.5).unwrap();
        let weight = base(&topology)
            .remove(&format!("{}.weight", p.name))
            .unwrap();
        let weight = match p.shape {
            Shape::Embedding => weight.t().unwrap().contiguous().unwrap(),
            _ => weight.flatten_from(1).unwrap(),
        };
        let rest = (&weight - &principal).unwrap();
        let across = principal.t().unwrap().matmul(&rest).unwrap();
        assert!(largest(&across) < 1e-10, "{}", p.name);
        assert!(largest(&principal) > 0.1);
    }
    shake(&fresh, |_| true);
    let plain = by_hand(|p, w| {
        let of = |part: &str| value(&fresh, &format!("lora.{}.{part}", p.name)).unwrap();
        let delta = (product(&of("b"), &of("a")) - product(&of("b0"), &of("a0"))).unwrap();
        Some((w + (delta * 1.5).unwrap()).unwrap())
    });
    assert!(farthest(&fresh, &plain) < 1e-11);
    let deep = Lora {
        rank: 5,
        ..lora.clone()
    };
    assert_eq!(
        refused(deep),
        "lora: start = \"pissa\": rank 5 is above the 4 singular values of vision.embed.patch"
    );
    let flat = Lora {
        alpha: -1.0,
        ..lora
    };
    assert_eq!(
        refused(flat),
        "lora: start = \"pissa\" asks for an alpha above 0"
    );
}

fn by_site<T: Copy>(values: &[(&str, T)]) -> BTreeMap<String, T> {
    values.iter().map(|(k, v)| (k.to_string(), *v)).collect()
}

#[test]
fn ranks_and_strengths_are_set_by_parts_of_names() {
    let lora = Lora {
        rank: 1,
        alpha: 2.0,
        ranks: by_site(&[("vision", 2), ("vision.blocks.1", 3), ("query", 4)]),
        alphas: by_site(&[("token", 6.0)]),
        sites: everywhere(),
        ..Default::default()
    };
    let moved = model(adapter(lora.clone()));
    let rank = |site: &str| value(&moved, &format!("lora.{site}.a")).unwrap().dims()[0];
    let ranks = [
        ("vision.embed.patch", 2),
        ("vision.blocks.1.conv1", 3),
        ("text.blocks.0.query", 4),
        ("text.embed.token", 1),
    ];
    for (site, wanted) in ranks {
        assert_eq!(rank(site), wanted, "{site}");
    }
    shake(&moved, |_| true);
    let plain = by_hand(|p, w| {
        let of = |part: &str| value(&moved, &format!("lora.{}.{part}", p.name)).unwrap();
        let alpha = if p.projection == Projection::Token {
            6.0
        } else {
            2.0
        };
        let delta = product(&of("b"), &of("a"));
        Some((w + (delta * (alpha / rank(&p.name) as f64)).unwrap()).unwrap())
    });
    assert!(farthest(&moved, &plain) < 1e-12);
    let with = |ranks: &[(&str, usize)]| Lora {
        ranks: by_site(ranks),
        ..lora.clone()
    };
    assert_eq!(
        refused(with(&[("text", 2), ("query", 3)])),
        "lora: ranks: `query` and `text` both fit text.blocks.0.query; name more of it"
    );
    assert_eq!(
        refused(with(&[("quer", 3)])),
        "lora: ranks: `quer` fits no site; a key is part of a site's name, as vision.embed.patch; \
         its projections are: conv1, patch, query, token"
    );
    assert_eq!(refused(with(&[("query", 0)])), "lora: rank must be above 0");
}

fn ranked() -> Adalora {
    Adalora {
        rank: 1,
        start_rank: 3,
        alpha: 3.0,
        warmup: 1,
        cooldown: 1,
        sites: everywhere(),
        ..Default::default()
    }
}

#[test]
fn adalora_scales_triplets_and_asks_for_right_angles() {
    let moved = model(adapter(ranked()));
    assert!(farthest(&moved, &model(vec![])) == 0.0);
    shake(&moved, |_| true);
    let of = |p: &str, part: &str| value(&moved, &format!("adalora.{p}.{part}")).unwrap();
    let plain = by_hand(|p, w| {
        let q = of(&p.name, "q").flatten_from(1).unwrap();
        let lambda = of(&p.name, "lambda").unsqueeze(1).unwrap();
        let delta = product(&of(&p.name, "p"), &q.broadcast_mul(&lambda).unwrap());
        Some((w + delta).unwrap())
    });
    assert!(farthest(&moved, &plain) < 1e-12);
    let (mut skew, mut count) = (0.0, 0.0);
    for p in mixed().projections() {
        let q = of(&p.name, "q").flatten_from(1).unwrap();
        let rows = of(&p.name, "p").flatten_from(1).unwrap().t().unwrap();
        for m in [q, rows] {
            let off = m.matmul(&m.t().unwrap()).unwrap();
            let off = (off - Tensor::eye(3, m.dtype(), m.device()).unwrap()).unwrap();
            let off = off.sqr().unwrap().sum_all().unwrap();
            skew += off.to_scalar::<f64>().unwrap().sqrt();
            count += 1.0;
        }
    }
    let mut moved = moved;
    let life = &moved.lives()[0];
    let penalty = life.penalty(&Pass::predict()).unwrap().unwrap();
    let penalty = penalty.to_scalar::<f64>().unwrap();
    assert!((penalty - 0.5 * skew / count).abs() < 1e-12);
}

/// The paper's scores and budget over some steps, by plain sums on one gradient a step.
#[test]
fn adalora_keeps_the_triplets_of_the_highest_scores() {
    let mut moved = model(adapter(ranked()));
    shake(&moved, |_| true);
    let sites: Vec<String> = mixed().projections().map(|p| p.name.clone()).collect();
    let steps = 5;
    let mut averages: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for step in 0..steps {
        let batch = batch(GRID);
        let store = loss(&moved, &batch, &mut Pass::train(step as u64));
        let store = store.backward().unwrap();
        let before = moved.overlay.tensors();
        // Steps counted from 1: the last choice is at 4 of 5, one before the end.
        if step < 4 {
            for (name, trained) in &moved.overlay.trained {
                let (s, u) = averages.entry(name.clone()).or_insert_with(|| {
                    let n = trained.var.elem_count();
                    (vec![0.0; n], vec![0.0; n])
                });
                let gradient = flat(store.get(&trained.var).unwrap());
                let value = flat(&before[name]);
                for i in 0..s.len() {
                    let now = (value[i] * gradient[i]).abs();
                    s[i] = 0.85 * s[i] + 0.15 * now;
                    u[i] = 0.85 * u[i] + 0.15 * (now - s[i]).abs();
                }
            }
        }
        for life in moved.lives() {
            let progress = Progress { step, steps };
            life.after_step(progress, &store).unwrap();
        }
        if step == 0 {
            assert_eq!(
                flat(&moved.overlay.tensors()["adalora.text.blocks.0.query.lambda"]),
                flat(&before["adalora.text.blocks.0.query.lambda"])
            );
            continue;
        }
        let done = ((step + 1).min(4) - 1) as f64 / 3.0;
        let count = sites.len();
        let budget = count + (2.0 * count as f64 * (1.0 - done).powi(3)) as usize;
        assert_eq!(ranked().budget(count, done), budget);
        let mut scores = Vec::new();
        for site in &sites {
            for triplet in 0..3 {
                let mean = |part: &str| {
                    let name = format!("adalora.{site}.{part}");
                    let dims = before[&name].dims().to_vec();
                    let (s, u) = &averages[&name];
                    let (rows, columns) = (dims[0], s.len() / dims[0]);
                    let of = |i: usize, j: usize| s[i * columns + j] * u[i * columns + j];
                    match part {
                        "p" => (0..rows).map(|i| of(i, triplet)).sum::<f64>() / rows as f64,
                        _ => {
                            let sum: f64 = (0..columns).map(|j| of(triplet, j)).sum();
                            sum / columns as f64
                        }
                    }
                };
                scores.push((mean("lambda") + mean("q") + mean("p"), site, triplet));
            }
        }
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (place, (_, site, triplet)) in scores.iter().enumerate() {
            let name = format!("adalora.{site}.lambda");
            let wanted = match place < budget {
                true => flat(&before[&name])[*triplet],
                false => 0.0,
            };
            assert_eq!(
                flat(&moved.overlay.tensors()[&name])[*triplet],
                wanted,
                "{name} {step}"
            );
        }
    }
    let left = sites
        .iter()
        .flat_map(|site| flat(&moved.overlay.tensors()[&format!("adalora.{site}.lambda")]));
    assert_eq!(left.filter(|l| *l != 0.0).count(), sites.len());
    let error = moved.lives()[0].after_step(Progress { step: 0, steps: 2 }, &{
        let batch = batch(GRID);
        loss(&model(adapter(ranked())), &batch, &mut Pass::train(0))
            .backward()
            .unwrap()
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "adalora: warmup = 1 and cooldown = 1 leave none of 2 steps for ranks to fall in"
    );
}

fn refused<P: Plugin + Adapter>(plugin: P) -> String {
    let topology = mixed();
    let recipe = recipe(Toy::new(topology.clone()), adapter(plugin), ends());
    let error = tuned(&recipe, base(&topology)).err().unwrap();
    assert!(error.is_wrong_use());
    error.to_string()
}

#[test]
fn impossible_options_are_refused() {
    let text = [
        refused(Adalora {
            start_rank: 4,
            rank: 8,
            ..Default::default()
        }),
        refused(Adalora {
            betas: (0.85, 1.0),
            ..Default::default()
        }),
        refused(Adalora {
            interval: 0,
            ..Default::default()
        }),
        refused(Adalora {
            orthogonality: -1.0,
            ..Default::default()
        }),
        refused(Dora {
            rank: 0,
            ..Default::default()
        }),
        refused(Vera {
            start: f64::NAN,
            ..Default::default()
        }),
    ];
    assert_eq!(
        text.join("\n"),
        "adalora: start_rank = 4 must be at least rank = 8
adalora: betas = [0.85, 1] must lie in [0, 1)
adalora: interval must be above 0
adalora: orthogonality = -1 must be 0 or above
dora: rank must be above 0
vera: start = NaN must be a number other than 0"
    );
}
