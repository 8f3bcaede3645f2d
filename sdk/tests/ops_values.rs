//! The kernels against the compositions, closed forms, and inputs that break careless formulas.

mod ops_probe;

use candle_core::{DType, Device, Result, Tensor, Var};
use ops_probe::{LIES, Op, assert_close, differentiate, flat, tensor};
use twinspan_sdk::frozen::Frozen;
use twinspan_sdk::ops::{self, Conv, Dropout, Interpolation, Mask, composed};

/// Double precision: both sides round a few hundred times.
const DOUBLE: f64 = 1e-11;
/// Single precision, sums of up to a few thousand terms around 1.
const SINGLE: f64 = 2e-5;

/// The kernel in both precisions, value and gradients, against the composition in `f64`.
fn agree(name: &str, arguments: &[Tensor], kernel: Op, composition: Op) {
    let all = vec![true; arguments.len()];
    let (y, expected) = differentiate(arguments, &all, composition);
    for (dtype, tolerance) in [(DType::F64, DOUBLE), (DType::F32, SINGLE)] {
        for lie in LIES {
            let stored: Vec<Tensor> = arguments
                .iter()
                .map(|t| lie.store(&t.to_dtype(dtype).unwrap()))
                .collect();
            let name = format!("{name} {dtype:?} {lie:?}");
            let seen = |t: &[Tensor]| kernel(&t.iter().map(|t| lie.look(t)).collect::<Vec<_>>());
            let (found, gradients) = differentiate(&stored, &all, &seen);
            assert_close(&name, &found, &y, tolerance);
            for (i, (g, e)) in gradients.iter().zip(&expected).enumerate() {
                let name = format!("{name}, gradient {i}");
                assert_close(&name, &lie.look(g), e, tolerance);
            }
        }
    }
}

#[test]
fn linear() {
    let arguments = [tensor(&[3, 33, 65], 1), tensor(&[130, 65], 2)];
    agree(
        "linear",
        &arguments,
        &|t| ops::linear(&t[0], &t[1], None),
        &|t| composed::linear(&t[0], &t[1]),
    );
}

/// The same weight, dense and in a file, in single and half precision.
#[test]
fn linear_frozen_from_memory_and_from_a_file() {
    use std::io::Write;
    let device = Device::Cpu;
    let (n, k) = (70, 400);
    let x = tensor(&[2, 19, k], 1).to_dtype(DType::F32).unwrap();
    let b = tensor(&[n], 3).to_dtype(DType::F32).unwrap();
    // Halves are exact in single precision, so that all three hold the same numbers.
    let half = tensor(&[n, k], 2).to_dtype(DType::F16).unwrap();
    let w = half.to_dtype(DType::F32).unwrap();
    let mut bytes: Vec<u8> = vec![0; 64];
    for x in flat(&w) {
        bytes.extend((x as f32).to_le_bytes());
    }
    let second = bytes.len();
    for x in half.flatten_all().unwrap().to_vec1::<half::f16>().unwrap() {
        bytes.extend(x.to_le_bytes());
    }
    // Once more each, where no element can be read in place.
    let odd = bytes.len() + 1;
    bytes.extend_from_within(63..);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    // SAFETY: the file is anonymous: nobody else can shorten it.
    let map = std::sync::Arc::new(unsafe { memmap2::Mmap::map(&file).unwrap() });
    let expected = ops::linear(&x, &w, Some(&b)).unwrap();
    let weights = [
        Frozen::dense(&w),
        unsafe { Frozen::mapped(map.clone(), 64, DType::F32, (n, k)) }.unwrap(),
        unsafe { Frozen::mapped(map.clone(), second, DType::F16, (n, k)) }.unwrap(),
        unsafe { Frozen::mapped(map.clone(), odd, DType::F32, (n, k)) }.unwrap(),
        unsafe { Frozen::mapped(map, odd + second - 64, DType::F16, (n, k)) }.unwrap(),
        Frozen::dense(&half),
        Frozen::dense(&w.to_dtype(DType::F64).unwrap()),
        Frozen::dense(&w.t().unwrap().contiguous().unwrap().t().unwrap()),
    ];
    let rounded = weights.each_ref().map(|w| w.in_precision(DType::F16));
    for weight in weights.iter().chain(&rounded) {
        let x = Var::from_tensor(&x).unwrap();
        let y = ops::linear_frozen(&x, weight, Some(&b)).unwrap();
        assert_close("frozen", &y, &expected, SINGLE);
        let g = y.backward().unwrap();
        assert_eq!(g.get_ids().count(), 1);
        let ones = Tensor::ones((38, n), DType::F32, &device).unwrap();
        let dx = ones.matmul(&w).unwrap().reshape((2, 19, k)).unwrap();
        assert_close("dx", g.get(&x).unwrap(), &dx, SINGLE);
        let wide = ops::linear_frozen(&x.to_dtype(DType::F64).unwrap(), weight, None);
        assert_eq!(wide.unwrap().dtype(), DType::F64);
    }
}

#[test]
fn convolutions() {
    for (x, w, stride, padding) in [
        ([2, 5, 13, 11], [7, 5, 3, 3], 1, 1),
        ([1, 4, 16, 14], [6, 4, 3, 3], 2, 1),
        ([2, 3, 12, 12], [8, 3, 4, 4], 4, 0),
        ([2, 33, 9, 10], [17, 33, 1, 1], 1, 0),
    ] {
        let c = Conv { stride, padding };
        let arguments = [tensor(&x, 1), tensor(&w, 2)];
        let name = format!("conv2d {x:?} {w:?} {c:?}");
        agree(
            &name,
            &arguments,
            &|t| ops::conv2d(&t[0], &t[1], None, c),
            &|t| composed::conv2d(&t[0], &t[1], c),
        );
    }
    for (w, stride, padding) in [([5, 6, 2, 2], 2, 0), ([5, 4, 3, 3], 2, 1)] {
        let c = Conv { stride, padding };
        let arguments = [tensor(&[2, 5, 7, 6], 1), tensor(&w, 2)];
        agree(
            &format!("conv_transpose2d {w:?} {c:?}"),
            &arguments,
            &|t| ops::conv_transpose2d(&t[0], &t[1], None, c),
            &|t| composed::conv_transpose2d(&t[0], &t[1], c),
        );
    }
    let [x, k, b] = [
        tensor(&[3, 9, 17, 15], 1),
        tensor(&[3, 9, 3, 3], 2),
        tensor(&[3], 3),
    ];
    agree(
        "correlate_per_sample",
        &[x, k, b],
        &|t| ops::correlate_per_sample(&t[0], &t[1], &t[2], 1),
        &|t| composed::correlate_per_sample(&t[0], &t[1], &t[2], 1),
    );
}

/// Larger than one band of columns, so that bands have to meet.
#[test]
fn a_convolution_in_several_bands() {
    let x = tensor(&[1, 64, 90, 88], 1).to_dtype(DType::F32).unwrap();
    let w = tensor(&[3, 64, 3, 3], 2).to_dtype(DType::F32).unwrap();
    let c = Conv {
        stride: 1,
        padding: 1,
    };
    let both = [true, true];
    let (y, g) = differentiate(&[x.clone(), w.clone()], &both, &|t| {
        ops::conv2d(&t[0], &t[1], None, c)
    });
    let (expected, e) = differentiate(&[x, w], &both, &|t| composed::conv2d(&t[0], &t[1], c));
    assert_close("y", &y, &expected, SINGLE);
    assert_close("dx", &g[0], &e[0], SINGLE);
    // Sums of 7920 products.
    assert_close("dw", &g[1], &e[1], 1e-4);
}

#[test]
fn normalisations() {
    let arguments = [
        tensor(&[5, 41, 101], 1),
        tensor(&[101], 2),
        tensor(&[101], 3),
    ];
    agree(
        "layer_norm",
        &arguments,
        &|t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-5),
        &|t| composed::layer_norm(&t[0], &t[1], &t[2], 1e-5),
    );
    let arguments = [
        tensor(&[3, 19, 9, 7], 1),
        tensor(&[19], 2),
        tensor(&[19], 3),
    ];
    let mean = tensor(&[19], 4);
    let var = (tensor(&[19], 5) + 1.5).unwrap();
    agree(
        "batch_norm",
        &arguments,
        &|t| {
            let [mean, var] = [&mean, &var].map(|s| s.to_dtype(t[0].dtype()).unwrap());
            ops::batch_norm(&t[0], &mean, &var, &t[1], &t[2], 1e-5)
        },
        &|t| composed::batch_norm(&t[0], &mean, &var, &t[1], &t[2], 1e-5),
    );
    agree(
        "batch_norm_train",
        &arguments,
        &|t| Ok(ops::batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0),
        &|t| {
            let (mean, var) = composed::batch_statistics(&t[0])?;
            composed::batch_norm(&t[0], &mean, &var, &t[1], &t[2], 1e-5)
        },
    );
}

#[test]
fn batch_statistics_have_their_closed_form() {
    let x = Tensor::new(&[[1f64, 10.], [2., 10.], [6., 10.]], &Device::Cpu).unwrap();
    let x = Var::from_tensor(&x).unwrap();
    let one = Tensor::ones(2, DType::F64, &Device::Cpu).unwrap();
    let zero = one.zeros_like().unwrap();
    let (_, s) = ops::batch_norm_train(&x, &one, &zero, 1e-5).unwrap();
    assert_eq!(flat(&s.mean), [3., 10.]);
    assert_eq!(flat(&s.var_unbiased), [7., 0.]);
    assert_eq!(s.count, 3);
    assert!(!s.mean.track_op() && !s.var_unbiased.track_op());
}

#[test]
fn attention_in_several_blocks() {
    let hide: Vec<u8> = (0..2 * 300).map(|i| u8::from(i % 7 == 3)).collect();
    let hide = Tensor::from_vec(hide, (2, 300), &Device::Cpu).unwrap();
    for (causal, padding, p) in [
        (false, None, 0.),
        (true, None, 0.),
        (true, Some(&hide), 0.2),
    ] {
        let q = tensor(&[2, 290, 24], 1);
        let (k, v) = (tensor(&[2, 300, 24], 2), tensor(&[2, 300, 15], 3));
        let (mask, d) = (Mask { causal, padding }, Dropout { p, key: 11 });
        agree(
            &format!("attention {causal} {p}"),
            &[q, k, v],
            &|t| ops::attention(&t[0], &t[1], &t[2], 3, mask, d),
            &|t| composed::attention(&t[0], &t[1], &t[2], 3, mask, d),
        );
    }
}

#[test]
fn attention_sees_prefix_keys_and_nothing_behind() {
    let (n, m) = (3, 5);
    let [q, k] = [n, m].map(|rows| Tensor::zeros((1, rows, 2), DType::F32, &Device::Cpu).unwrap());
    let v = Tensor::arange(0f32, 5., &Device::Cpu).unwrap();
    let v = v.reshape((1, m, 1)).unwrap();
    let mask = Mask {
        causal: true,
        padding: None,
    };
    let y = ops::attention(&q, &k, &v, 1, mask, Dropout::default()).unwrap();
    // Means of 0..=2, 0..=3 and 0..=4.
    assert_close(
        "y",
        &y.flatten_all().unwrap(),
        &Tensor::new(&[1f32, 1.5, 2.], &Device::Cpu).unwrap(),
        1e-6,
    );
    let all = Tensor::ones((1, m), DType::U8, &Device::Cpu).unwrap();
    let mask = Mask {
        causal: false,
        padding: Some(&all),
    };
    let y = ops::attention(&q, &k, &v, 1, mask, Dropout::default()).unwrap();
    assert_eq!(flat(&y), [0.; 3]);
}

#[test]
fn elementwise() {
    // More than a piece, so that several workers share them.
    let x = (tensor(&[3, 61, 163], 1) * 6.).unwrap();
    let pairs: [(&str, Op, Op); 7] = [
        ("gelu", &|t| ops::gelu(&t[0]), &|t| composed::gelu(&t[0])),
        ("gelu_tanh", &|t| ops::gelu_tanh(&t[0]), &|t| {
            composed::gelu_tanh(&t[0])
        }),
        ("quick_gelu", &|t| ops::quick_gelu(&t[0]), &|t| {
            composed::quick_gelu(&t[0])
        }),
        ("relu", &|t| ops::relu(&t[0]), &|t| composed::relu(&t[0])),
        ("sigmoid", &|t| ops::sigmoid(&t[0]), &|t| {
            composed::sigmoid(&t[0])
        }),
        ("tanh", &|t| ops::tanh(&t[0]), &|t| composed::tanh(&t[0])),
        ("softmax", &|t| ops::softmax(&t[0]), &|t| {
            composed::softmax(&t[0])
        }),
    ];
    for (name, kernel, composition) in pairs {
        agree(name, std::slice::from_ref(&x), kernel, composition);
    }
    let d = Dropout { p: 0.25, key: 3 };
    agree(
        "dropout",
        std::slice::from_ref(&x),
        &|t| ops::dropout(&t[0], d),
        &|t| composed::dropout(&t[0], d),
    );
    let z = ((tensor(&[3, 61, 163], 2) + 1.).unwrap() / 2.).unwrap();
    agree(
        "bce_with_logits",
        &[x, z],
        &|t| ops::bce_with_logits(&t[0], &t[1]),
        &|t| composed::bce_with_logits(&t[0], &t[1]),
    );
    let x = (tensor(&[61, 163], 3) * 6.).unwrap();
    let right: Vec<u32> = (0..61).map(|i| i * 7 % 163).collect();
    agree(
        "cross_entropy",
        &[x],
        &|t| ops::cross_entropy(&t[0], &right),
        &|t| composed::cross_entropy(&t[0], &right),
    );
}

#[test]
fn resizing_and_pooling() {
    for to in [(26, 22), (7, 30), (13, 11)] {
        for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for corners in [false, true] {
                agree(
                    &format!("resize {to:?} {how:?} {corners}"),
                    &[tensor(&[2, 5, 13, 11], 1)],
                    &|t| ops::resize(&t[0], to, how, corners),
                    &|t| composed::resize(&t[0], to, how, corners),
                );
            }
        }
    }
    for k in [2, 3, 5] {
        agree(
            &format!("avg_pool2d {k}"),
            &[tensor(&[2, 3, 13, 11], 1)],
            &|t| ops::avg_pool2d(&t[0], k),
            &|t| composed::avg_pool2d(&t[0], k),
        );
    }
}

/// Values that PyTorch's `interpolate` gives for `[0, 1, 4, 9]`.
#[test]
fn resizing_follows_pytorch() {
    let x = Tensor::new(&[0f64, 1., 4., 9.], &Device::Cpu).unwrap();
    let x = x.reshape((1, 1, 1, 4)).unwrap();
    for (how, corners, expected) in [
        (Interpolation::Bilinear, false, RESIZED[0]),
        (Interpolation::Bilinear, true, RESIZED[1]),
        (Interpolation::Bicubic, false, RESIZED[2]),
        (Interpolation::Bicubic, true, RESIZED[3]),
    ] {
        let y = ops::resize(&x, (1, 6), how, corners).unwrap();
        let expected = Tensor::new(&expected, &Device::Cpu).unwrap();
        let y = y.flatten_all().unwrap();
        assert_close(&format!("{how:?} {corners}"), &y, &expected, 1e-6);
    }
    for how in [Interpolation::Bilinear, Interpolation::Bicubic] {
        let x = tensor(&[2, 3, 5, 4], 1);
        let same = ops::resize(&x.transpose(2, 3).unwrap(), (4, 5), how, false).unwrap();
        assert_close("same size", &same, &x.transpose(2, 3).unwrap(), 1e-15);
    }
}

/// `F.interpolate(x, (1, 6))`: bilinear, bilinear with corners, bicubic, bicubic with corners.
const RESIZED: [[f64; 6]; 4] = [
    [0.0, 0.5, 1.5, 3.5, 6.5, 9.0],
    [0.0, 0.6, 1.6, 3.4, 6.0, 9.0],
    [
        -0.0868055556,
        0.21875,
        1.43055556,
        3.15277778,
        6.78125,
        9.43402778,
    ],
    [0.0, 0.288, 1.504, 3.016, 6.264, 9.0],
];

#[test]
fn repetition_and_rows() {
    let a = tensor(&[3, 7, 11, 83], 1);
    let shapes: [&[usize]; 6] = [
        &[83],
        &[1, 7, 11, 83],
        &[3, 1, 11, 83],
        &[7, 1, 1],
        &[11, 1],
        &[],
    ];
    for shape in shapes {
        let arguments = [a.clone(), tensor(shape, 2)];
        agree(
            &format!("add {shape:?}"),
            &arguments,
            &|t| ops::add(&t[0], &t[1]),
            &|t| t[0].broadcast_add(&t[1]),
        );
        agree(
            &format!("mul {shape:?}"),
            &arguments,
            &|t| ops::mul(&t[0], &t[1]),
            &|t| t[0].broadcast_mul(&t[1]),
        );
    }
    for dim in 0..4 {
        let arguments = [a.clone(), a.narrow(dim, 0, 2).unwrap()];
        agree(
            &format!("concat {dim}"),
            &arguments,
            &|t| ops::concat(&t[0], &t[1], dim),
            &|t| Tensor::cat(t, dim),
        );
    }
    let rows = [2, 0, 0, 2, 2];
    agree("select", &[a], &|t| ops::select(&t[0], &rows), &|t| {
        composed::select(&t[0], &rows)
    });
}

#[test]
fn losses_stay_finite_for_certain_logits() {
    let x = Var::new(&[200f32, -200., 200., -200., 0.], &Device::Cpu).unwrap();
    let z = Tensor::new(&[1f32, 0., 0., 1., 1.], &Device::Cpu).unwrap();
    let loss = ops::bce_with_logits(&x, &z).unwrap();
    let expected = (400. + std::f64::consts::LN_2) / 5.;
    assert!((flat(&loss)[0] - expected).abs() < 1e-4);
    let g = loss.backward().unwrap();
    let expected = Tensor::new(&[0f32, 0., 0.2, -0.2, -0.1], &Device::Cpu).unwrap();
    assert_close("slope", g.get(&x).unwrap(), &expected, 1e-7);

    let x = Var::new(&[[300f32, -300.], [300., -300.]], &Device::Cpu).unwrap();
    let loss = ops::cross_entropy(&x, &[0, 1]).unwrap();
    assert_eq!(flat(&loss), [300.]);
    let g = loss.backward().unwrap();
    assert_eq!(flat(g.get(&x).unwrap()), [0., 0., 0.5, -0.5]);
}

#[test]
fn softmax_stays_finite() {
    let x = Tensor::new(
        &[[1e4f32, 1e4, -1e4], [-1e4, -1e4 - 1., f32::NEG_INFINITY]],
        &Device::Cpu,
    );
    let y = ops::softmax(&x.unwrap()).unwrap();
    let e = 1. / (1. + (-1f32).exp());
    let expected = Tensor::new(&[[0.5f32, 0.5, 0.], [e, 1. - e, 0.]], &Device::Cpu).unwrap();
    assert_close("softmax", &y, &expected, 1e-6);
    let none = Tensor::full(f32::NEG_INFINITY, (1, 40), &Device::Cpu).unwrap();
    assert_eq!(flat(&ops::softmax(&none).unwrap()), [0.; 40]);
    let bad = Tensor::new(&[1f32, f32::NAN, 2.], &Device::Cpu).unwrap();
    assert!(
        flat(&ops::softmax(&bad).unwrap())
            .iter()
            .all(|x| x.is_nan())
    );
}

#[test]
fn layer_norm_ignores_a_large_mean() {
    let x = tensor(&[4, 96], 1);
    // Halves of small integers stay exact beside 1000.
    let x = ((x * 64.).unwrap().round().unwrap() / 64.).unwrap();
    let one = Tensor::ones(96, DType::F32, &Device::Cpu).unwrap();
    let zero = one.zeros_like().unwrap();
    let near = x.to_dtype(DType::F32).unwrap();
    let far = (&x + 1000.).unwrap().to_dtype(DType::F32).unwrap();
    let [near, far] = [near, far].map(|x| ops::layer_norm(&x, &one, &zero, 1e-5).unwrap());
    assert_close("layer_norm", &far, &near, 2e-4);
}

#[test]
fn dropout_keeps_its_promise() {
    let n = 100_000;
    let ones = Tensor::ones(n, DType::F32, &Device::Cpu).unwrap();
    for (p, key) in [(0.1, 1), (0.5, 2), (0.9, u64::MAX)] {
        let d = Dropout { p, key };
        let y = ops::dropout(&ones, d).unwrap();
        let kept = flat(&y).iter().filter(|&&y| y != 0.).count() as f64 / n as f64;
        // Five standard deviations.
        let p = f64::from(p);
        let near = 5. * (p * (1. - p) / n as f64).sqrt();
        assert!((kept - (1. - p)).abs() < near, "{kept} of {p}");
        assert_eq!(flat(&y), flat(&ops::dropout(&ones, d).unwrap()));
        let other = ops::dropout(&ones, Dropout { key: key ^ 1, ..d }).unwrap();
        let same = flat(&y)
            .iter()
            .zip(flat(&other))
            .filter(|(a, b)| **a == *b)
            .count();
        let expected = p * p + (1. - p) * (1. - p);
        let near = 5. * (expected * (1. - expected) / n as f64).sqrt();
        assert!(
            (same as f64 / n as f64 - expected).abs() < near,
            "keys are not independent"
        );
    }
    let off = ops::dropout(&ones, Dropout::default()).unwrap();
    assert_eq!(flat(&off), vec![1.; n]);
}

#[test]
fn the_same_arguments_give_the_same_bits() {
    let x = tensor(&[2, 300, 48], 1).to_dtype(DType::F32).unwrap();
    let w = tensor(&[48], 2).to_dtype(DType::F32).unwrap();
    let run = || {
        differentiate(&[x.clone(), w.clone()], &[true, true], &|t| {
            let y = ops::layer_norm(&t[0], &t[1], &t[1], 1e-5)?;
            ops::attention(
                &y,
                &t[0],
                &y,
                4,
                Mask::default(),
                Dropout { p: 0.1, key: 4 },
            )
        })
    };
    let (y, g) = run();
    for _ in 0..5 {
        let (again, h) = run();
        assert_eq!(flat(&y), flat(&again));
        assert!(g.iter().zip(&h).all(|(g, h)| flat(g) == flat(h)));
    }
}

#[test]
fn wrong_shapes_are_errors_that_name_the_operation() {
    let t = |shape: &[usize]| tensor(shape, 1);
    let (m, off) = (Mask::default(), Dropout::default());
    let causal = Mask {
        causal: true,
        padding: None,
    };
    let wrong_padding = t(&[2, 3]);
    let padding = Mask {
        causal: false,
        padding: Some(&wrong_padding),
    };
    let still = Conv {
        stride: 0,
        padding: 0,
    };
    let deep = Conv {
        stride: 1,
        padding: 9,
    };
    let c = Conv::default();
    let single = t(&[2, 3]).to_dtype(DType::F32).unwrap();
    let how = Interpolation::Bilinear;
    let frozen = Frozen::dense(&t(&[4, 5]));
    let cases: Vec<(&str, Result<Tensor>)> = vec![
        ("linear", ops::linear(&t(&[2, 3]), &t(&[4, 5]), None)),
        ("linear", ops::linear(&t(&[2, 3]), &t(&[3]), None)),
        (
            "linear",
            ops::linear(&t(&[2, 3]), &t(&[4, 3]), Some(&t(&[3]))),
        ),
        ("linear", ops::linear(&t(&[]), &t(&[4, 3]), None)),
        ("linear", ops::linear(&single, &t(&[4, 3]), None)),
        (
            "linear_frozen",
            ops::linear_frozen(&t(&[2, 3]), &frozen, None),
        ),
        (
            "conv2d",
            ops::conv2d(&t(&[1, 2, 5, 5]), &t(&[1, 3, 3, 3]), None, c),
        ),
        (
            "conv2d",
            ops::conv2d(&t(&[1, 2, 5, 5]), &t(&[1, 2, 3, 3]), None, still),
        ),
        (
            "conv2d",
            ops::conv2d(&t(&[1, 2, 2, 5]), &t(&[1, 2, 3, 3]), None, c),
        ),
        (
            "conv2d",
            ops::conv2d(&t(&[2, 5, 5]), &t(&[1, 2, 3, 3]), None, c),
        ),
        (
            "conv2d",
            ops::conv2d(&t(&[1, 2, 5, 5]), &t(&[4, 2, 3, 3]), Some(&t(&[2])), c),
        ),
        (
            "conv_transpose2d",
            ops::conv_transpose2d(&t(&[1, 2, 3, 3]), &t(&[3, 2, 2, 2]), None, c),
        ),
        (
            "conv_transpose2d",
            ops::conv_transpose2d(&t(&[1, 2, 3, 3]), &t(&[2, 3, 2, 2]), None, deep),
        ),
        (
            "correlate_per_sample",
            ops::correlate_per_sample(&t(&[2, 3, 4, 4]), &t(&[1, 3, 3, 3]), &t(&[2]), 0),
        ),
        (
            "correlate_per_sample",
            ops::correlate_per_sample(&t(&[2, 3, 2, 4]), &t(&[2, 3, 3, 3]), &t(&[2]), 0),
        ),
        (
            "layer_norm",
            ops::layer_norm(&t(&[2, 3]), &t(&[2]), &t(&[3]), 1e-5),
        ),
        (
            "layer_norm",
            ops::layer_norm(&t(&[]), &t(&[1]), &t(&[1]), 1e-5),
        ),
        (
            "batch_norm",
            ops::batch_norm(&t(&[2, 3]), &t(&[3]), &t(&[2]), &t(&[3]), &t(&[3]), 1e-5),
        ),
        (
            "batch_norm_train",
            ops::batch_norm_train(&t(&[1, 3]), &t(&[3]), &t(&[3]), 1e-5).map(|y| y.0),
        ),
        (
            "attention",
            ops::attention(&t(&[2, 3, 4]), &t(&[2, 3, 6]), &t(&[2, 3, 4]), 2, m, off),
        ),
        (
            "attention",
            ops::attention(&t(&[2, 3, 4]), &t(&[2, 3, 4]), &t(&[2, 3, 4]), 3, m, off),
        ),
        (
            "attention",
            ops::attention(&t(&[2, 3, 4]), &t(&[2, 3, 4]), &t(&[2, 3, 4]), 0, m, off),
        ),
        (
            "attention",
            ops::attention(
                &t(&[2, 3, 4]),
                &t(&[2, 2, 4]),
                &t(&[2, 2, 4]),
                2,
                causal,
                off,
            ),
        ),
        (
            "attention",
            ops::attention(
                &t(&[2, 3, 4]),
                &t(&[2, 3, 4]),
                &t(&[2, 3, 4]),
                2,
                padding,
                off,
            ),
        ),
        ("softmax", ops::softmax(&t(&[]))),
        ("resize", ops::resize(&t(&[2, 3, 4]), (2, 2), how, false)),
        ("resize", ops::resize(&t(&[1, 2, 3, 4]), (0, 2), how, false)),
        ("avg_pool2d", ops::avg_pool2d(&t(&[1, 2, 3, 4]), 0)),
        ("avg_pool2d", ops::avg_pool2d(&t(&[1, 2, 3, 4]), 4)),
        ("dropout", ops::dropout(&t(&[2]), Dropout { p: 1., key: 0 })),
        (
            "dropout",
            ops::dropout(
                &t(&[2]),
                Dropout {
                    p: f32::NAN,
                    key: 0,
                },
            ),
        ),
        ("bce_with_logits", ops::bce_with_logits(&t(&[2]), &t(&[3]))),
        ("cross_entropy", ops::cross_entropy(&t(&[2, 3]), &[0])),
        ("cross_entropy", ops::cross_entropy(&t(&[2, 3]), &[0, 3])),
        ("cross_entropy", ops::cross_entropy(&t(&[2]), &[0, 1])),
        ("add", ops::add(&t(&[2, 3]), &t(&[2]))),
        ("add", ops::add(&t(&[3]), &t(&[2, 3]))),
        ("mul", ops::mul(&t(&[2, 3]), &t(&[3, 1]))),
        ("concat", ops::concat(&t(&[2, 3]), &t(&[2, 4]), 0)),
        ("concat", ops::concat(&t(&[2, 3]), &t(&[2, 3]), 2)),
        ("select", ops::select(&t(&[2, 3]), &[0, 2])),
        ("select", ops::select(&t(&[]), &[0])),
    ];
    for (i, (name, result)) in cases.into_iter().enumerate() {
        let error = result.expect_err(&format!("case {i}, {name}")).to_string();
        assert!(error.contains(name), "case {i}: {error}");
    }
}
