//! Every operation against central finite differences in `f64`, in every argument, for arguments
//! that are strided views, and with every choice of tracked arguments.

mod ops_probe;

use candle_core::{DType, Device, Tensor};
use ops_probe::{LIES, Op, differentiate, flat, tensor, weigh};
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::ops::{self, Conv, Dropout, Interpolation, Mask};

/// Central differences of step 1e-5 are good to about 1e-10 relative to values around 1.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

fn check(name: &str, arguments: &[Tensor], f: Op) {
    for lie in LIES {
        let stored: Vec<Tensor> = arguments.iter().map(|t| lie.store(t)).collect();
        let seen = |t: &[Tensor]| f(&t.iter().map(|t| lie.look(t)).collect::<Vec<_>>());
        let name = format!("{name} {lie:?}");
        let all = vec![true; stored.len()];
        let (_, exact) = differentiate(&stored, &all, &seen);
        for (which, exact) in exact.iter().enumerate() {
            compare(&name, &stored, which, &flat(exact), &seen);
        }
    }
    subsets(name, arguments, f);
}

/// Nudges every element of one argument.
fn compare(name: &str, stored: &[Tensor], which: usize, exact: &[f64], f: Op) {
    let values = flat(&stored[which]);
    let shape = stored[which].dims();
    let loss = |values: Vec<f64>| {
        let mut nudged = stored.to_vec();
        nudged[which] = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let y = weigh(&f(&nudged).unwrap());
        y.to_scalar::<f64>().unwrap()
    };
    for i in 0..values.len() {
        let nudge = |by: f64| {
            let mut values = values.clone();
            values[i] += by;
            loss(values)
        };
        let slope = (nudge(STEP) - nudge(-STEP)) / (2. * STEP);
        let error = (slope - exact[i]).abs();
        assert!(
            error <= TOLERANCE * slope.abs().max(1.),
            "{name}: argument {which}, element {i}: {} but differences say {slope}",
            exact[i]
        );
    }
}

/// Only tracked arguments have entries in the store, and theirs do not depend on the others.
fn subsets(name: &str, arguments: &[Tensor], f: Op) {
    let n = arguments.len();
    let (_, full) = differentiate(arguments, &vec![true; n], f);
    for choice in 1..(1 << n) - 1 {
        let tracked: Vec<bool> = (0..n).map(|i| choice >> i & 1 == 1).collect();
        let (_, some) = differentiate(arguments, &tracked, f);
        let expected = full.iter().zip(&tracked).filter(|&(_, &t)| t);
        for (some, (full, _)) in some.iter().zip(expected) {
            assert_eq!(flat(some), flat(full), "{name}: tracked {tracked:?}");
        }
        let variables: Vec<_> = arguments
            .iter()
            .map(|t| candle_core::Var::from_tensor(t).unwrap())
            .collect();
        let given: Vec<Tensor> = (0..n)
            .map(|i| match tracked[i] {
                true => variables[i].as_tensor().clone(),
                false => variables[i].as_detached_tensor(),
            })
            .collect();
        let store = weigh(&f(&given).unwrap()).backward().unwrap();
        let asked = tracked.iter().filter(|&&t| t).count();
        let kept = store.get_ids().count();
        assert_eq!(kept, asked, "{name}: entries with tracked {tracked:?}");
    }
    let plain = f(arguments).unwrap();
    assert!(!plain.track_op(), "{name}: tracked from nothing tracked");
}

#[test]
fn linear_with_and_without_bias() {
    let (x, w, b) = (tensor(&[2, 3, 5], 1), tensor(&[7, 5], 2), tensor(&[7], 3));
    check("linear", &[x.clone(), w.clone()], &|t| {
        ops::linear(&t[0], &t[1], None)
    });
    check("linear + b", &[x, w, b], &|t| {
        ops::linear(&t[0], &t[1], Some(&t[2]))
    });
}

#[test]
fn linear_frozen_differentiates_everything_but_the_weight() {
    let (x, b) = (tensor(&[3, 2, 5], 1), tensor(&[7], 3));
    let w = Frozen::dense(&tensor(&[7, 5], 2));
    check("linear_frozen", std::slice::from_ref(&x), &|t| {
        ops::linear_frozen(&t[0], &w, None)
    });
    check("linear_frozen + b", &[x, b], &|t| {
        ops::linear_frozen(&t[0], &w, Some(&t[1]))
    });
}

#[test]
fn convolutions() {
    let cases = [
        // picture, kernel, stride, padding
        ([2, 3, 5, 4], [2, 3, 3, 3], 1, 1),
        ([2, 2, 8, 7], [3, 2, 3, 3], 2, 1),
        ([1, 2, 8, 7], [2, 2, 3, 2], 2, 0),
        ([2, 3, 4, 5], [4, 3, 1, 1], 1, 0),
        ([2, 3, 5, 5], [2, 3, 1, 1], 2, 0),
        ([1, 3, 6, 6], [2, 3, 2, 2], 2, 0),
        ([1, 1, 3, 3], [1, 1, 5, 5], 3, 2),
        ([1, 2, 4, 3], [2, 2, 3, 1], 1, 2),
    ];
    for (i, (x, w, stride, padding)) in cases.into_iter().enumerate() {
        let c = Conv { stride, padding };
        let (bias, o) = (tensor(&[w[0]], 3), i % 2 == 0);
        let mut arguments = vec![tensor(&x, 1), tensor(&w, 2)];
        arguments.extend(o.then_some(bias));
        check(&format!("conv2d {x:?} {w:?} {c:?}"), &arguments, &|t| {
            ops::conv2d(&t[0], &t[1], t.get(2), c)
        });
    }
}

#[test]
fn transposed_convolutions() {
    let cases = [
        ([2, 3, 3, 2], [3, 2, 2, 2], 2, 0),
        ([1, 2, 3, 4], [2, 3, 3, 3], 1, 1),
        ([2, 2, 3, 2], [2, 1, 3, 3], 2, 1),
        ([1, 3, 2, 3], [3, 2, 1, 1], 1, 0),
        ([1, 2, 2, 3], [2, 2, 2, 3], 3, 0),
        ([1, 2, 2, 3], [2, 2, 1, 2], 3, 0),
    ];
    for (i, (x, w, stride, padding)) in cases.into_iter().enumerate() {
        let c = Conv { stride, padding };
        let mut arguments = vec![tensor(&x, 1), tensor(&w, 2)];
        arguments.extend((i % 2 == 0).then(|| tensor(&[w[1]], 3)));
        let name = format!("conv_transpose2d {x:?} {w:?} {c:?}");
        check(&name, &arguments, &|t| {
            ops::conv_transpose2d(&t[0], &t[1], t.get(2), c)
        });
    }
}

#[test]
fn correlation_per_sample() {
    for (kernel, padding) in [((3, 3), 1), ((2, 3), 0), ((1, 1), 0), ((3, 1), 2)] {
        let x = tensor(&[2, 3, 4, 5], 1);
        let k = tensor(&[2, 3, kernel.0, kernel.1], 2);
        let name = format!("correlate_per_sample {kernel:?} {padding}");
        check(&name, &[x, k, tensor(&[2], 3)], &|t| {
            ops::correlate_per_sample(&t[0], &t[1], &t[2], padding)
        });
    }
}

#[test]
fn normalisations() {
    let [w, b] = [2, 3].map(|s| tensor(&[5], s));
    let x = tensor(&[3, 2, 5], 1);
    check("layer_norm", &[x, w, b], &|t| {
        ops::layer_norm(&t[0], &t[1], &t[2], 1e-2)
    });
    let [mean, w, b] = [4, 5, 6].map(|s| tensor(&[3], s));
    let var = tensor(&[3], 7).sqr().unwrap();
    for shape in [&[2, 3, 3, 2][..], &[4, 3], &[2, 3, 5]] {
        let given = [tensor(shape, 8), w.clone(), b.clone()];
        check(&format!("batch_norm {shape:?}"), &given, &|t| {
            ops::batch_norm(&t[0], &mean, &var, &t[1], &t[2], 1e-2)
        });
        check(&format!("batch_norm_train {shape:?}"), &given, &|t| {
            Ok(ops::batch_norm_train(&t[0], &t[1], &t[2], 1e-2)?.0)
        });
    }
}

#[test]
fn attention_with_every_mask() {
    let hide = Tensor::new(&[[0u8, 1, 0, 0, 1], [0, 0, 0, 1, 1]], &Device::Cpu).unwrap();
    // The keys of the second sample are all hidden.
    let none = Tensor::new(&[[0u8, 1, 0, 0, 1], [1, 1, 1, 1, 1]], &Device::Cpu).unwrap();
    let off = Dropout::default();
    let some = Dropout { p: 0.4, key: 9 };
    for (causal, padding, dropout, queries) in [
        (false, None, off, 3),
        (true, None, off, 5),
        (true, None, some, 3),
        (false, Some(&hide), off, 4),
        (true, Some(&hide), some, 4),
        (false, Some(&none), off, 2),
    ] {
        let q = tensor(&[2, queries, 6], 1);
        let (k, v) = (tensor(&[2, 5, 6], 2), tensor(&[2, 5, 4], 3));
        let mask = Mask { causal, padding };
        let name = format!("attention {causal} {} {dropout:?}", padding.is_some());
        check(&name, &[q, k, v], &|t| {
            ops::attention(&t[0], &t[1], &t[2], 2, mask, dropout)
        });
    }
}

#[test]
fn elementwise() {
    let x = (tensor(&[3, 7], 1) * 3.).unwrap();
    check("gelu", std::slice::from_ref(&x), &|t| ops::gelu(&t[0]));
    check("gelu_tanh", std::slice::from_ref(&x), &|t| {
        ops::gelu_tanh(&t[0])
    });
    check("quick_gelu", std::slice::from_ref(&x), &|t| {
        ops::quick_gelu(&t[0])
    });
    check("relu", std::slice::from_ref(&x), &|t| ops::relu(&t[0]));
    check("sigmoid", std::slice::from_ref(&x), &|t| {
        ops::sigmoid(&t[0])
    });
    check("tanh", std::slice::from_ref(&x), &|t| ops::tanh(&t[0]));
    check("unit", std::slice::from_ref(&x), &|t| ops::unit(&t[0]));
    check("softmax", std::slice::from_ref(&x), &|t| {
        ops::softmax(&t[0])
    });
    let d = Dropout { p: 0.3, key: 5 };
    check("dropout", std::slice::from_ref(&x), &|t| {
        ops::dropout(&t[0], d)
    });
    let z = ((tensor(&[3, 7], 2) + 1.).unwrap() / 2.).unwrap();
    check("bce_with_logits", &[x.clone(), z], &|t| {
        ops::bce_with_logits(&t[0], &t[1])
    });
    check("cross_entropy", &[x], &|t| {
        ops::cross_entropy(&t[0], &[6, 0, 2])
    });
}

#[test]
fn relu_is_flat_at_zero() {
    let zero = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    let (_, g) = differentiate(&[zero], &[true], &|t| ops::relu(&t[0]));
    assert_eq!(flat(&g[0]), [0.; 4]);
}

#[test]
fn resizing() {
    for to in [(4, 3), (8, 6), (3, 7), (1, 1), (2, 2)] {
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for corners in [false, true] {
                let name = format!("resize {to:?} {how:?} {corners}");
                check(&name, &[tensor(&[2, 2, 4, 3], 1)], &|t| {
                    ops::resize(&t[0], to, how, corners)
                });
            }
        }
    }
}

#[test]
fn pooling() {
    for k in [1, 2, 3] {
        check(
            &format!("avg_pool2d {k}"),
            &[tensor(&[2, 2, 5, 4], 1)],
            &|t| ops::avg_pool2d(&t[0], k),
        );
    }
}

#[test]
fn repeated_sums_and_products() {
    let a = [2, 3, 4, 3];
    let shapes: [&[usize]; 10] = [
        &[2, 3, 4, 3],
        &[3],
        &[1],
        &[],
        &[3, 1, 1],
        &[1, 3, 4, 3],
        &[2, 1, 4, 3],
        &[2, 3, 1, 1],
        &[4, 1],
        &[2, 1, 4, 1],
    ];
    for shape in shapes {
        let arguments = [tensor(&a, 1), tensor(shape, 2)];
        check(&format!("add {shape:?}"), &arguments, &|t| {
            ops::add(&t[0], &t[1])
        });
        check(&format!("mul {shape:?}"), &arguments, &|t| {
            ops::mul(&t[0], &t[1])
        });
    }
}

#[test]
fn joining_and_selecting() {
    for dim in 0..3 {
        let mut other = [2, 3, 4];
        other[dim] = 5;
        let arguments = [tensor(&[2, 3, 4], 1), tensor(&other, 2)];
        check(&format!("concat {dim}"), &arguments, &|t| {
            ops::concat(&t[0], &t[1], dim)
        });
    }
    check("select", &[tensor(&[4, 2, 3], 1)], &|t| {
        ops::select(&t[0], &[2, 0, 2, 2, 3])
    });
}
