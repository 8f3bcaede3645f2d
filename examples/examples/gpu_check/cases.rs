//! The operations that training uses, at shapes that are no multiple of anything.

use candle_core::{DType, Device, Result, Tensor};
use twinspan::sdk::frozen::Frozen;
use twinspan::sdk::ops::{self, Conv, Dropout, Interpolation, Mask};

/// An operation and its arguments.
pub struct Case {
    /// The operation, and its variant.
    pub name: &'static str,
    /// The shapes of the arguments.
    pub shapes: &'static [&'static [usize]],
    /// How many arguments, from the first, get a gradient.
    pub trained: usize,
    /// The call.
    pub call: fn(&[Tensor]) -> Result<Tensor>,
}

fn case(
    name: &'static str,
    shapes: &'static [&'static [usize]],
    trained: usize,
    call: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case {
        name,
        shapes,
        trained,
        call,
    }
}

fn conv(stride: usize, padding: usize) -> Conv {
    Conv { stride, padding }
}

/// Every sentence but the first ends early.
fn padding(b: usize, m: usize, device: &Device) -> Result<Tensor> {
    let hidden = (0..b).flat_map(|i| (0..m).map(move |j| u8::from(j + 2 * i >= m)));
    Tensor::from_vec(hidden.collect(), (b, m), device)
}

fn attention(t: &[Tensor], mask: Mask, dropout: Dropout) -> Result<Tensor> {
    ops::attention(&t[0], &t[1], &t[2], 3, mask, dropout)
}

/// A weight as it comes from a file: on the CPU, whatever the device.
fn frozen(w: &Tensor, stored: DType) -> Result<Frozen> {
    let w = w.detach().to_device(&Device::Cpu)?.to_dtype(stored)?;
    Ok(Frozen::dense(&w))
}

/// Moves a row far up: a difference of large numbers loses what a mean taken first keeps.
fn far(x: &Tensor) -> Result<Tensor> {
    x + 100.0
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = products();
    cases.extend(convolutions());
    cases.extend(attentions());
    cases.extend(norms());
    cases.extend(pictures());
    cases.extend(elements());
    cases.extend(losses());
    cases
}

fn products() -> Vec<Case> {
    vec![
        case("linear", &[&[3, 33, 65], &[131, 65], &[131]], 3, |t| {
            ops::linear(&t[0], &t[1], Some(&t[2]))
        }),
        case("linear, no bias", &[&[7, 65], &[3, 65]], 2, |t| {
            ops::linear(&t[0], &t[1], None)
        }),
        case(
            "linear_frozen",
            &[&[3, 33, 65], &[131], &[131, 65]],
            2,
            |t| ops::linear_frozen(&t[0], &frozen(&t[2], t[2].dtype())?, Some(&t[1])),
        ),
        case("linear_frozen, f16", &[&[33, 65], &[131, 65]], 1, |t| {
            ops::linear_frozen(&t[0], &frozen(&t[1], DType::F16)?, None)
        }),
        case("select", &[&[5, 7, 3]], 1, |t| {
            ops::select(&t[0], &[4, 0, 0, 2, 4])
        }),
        case("concat", &[&[3, 5, 7], &[3, 2, 7]], 2, |t| {
            ops::concat(&t[0], &t[1], 1)
        }),
    ]
}

fn convolutions() -> Vec<Case> {
    const SAME: &[&[usize]] = &[&[2, 5, 13, 11], &[7, 5, 3, 3], &[7]];
    const HALF: &[&[usize]] = &[&[2, 5, 12, 9], &[7, 5, 3, 3], &[7]];
    vec![
        case("conv2d", SAME, 3, |t| {
            ops::conv2d(&t[0], &t[1], Some(&t[2]), conv(1, 1))
        }),
        case("conv2d, stride 2", HALF, 3, |t| {
            ops::conv2d(&t[0], &t[1], Some(&t[2]), conv(2, 1))
        }),
        case(
            "conv2d, patches",
            &[&[2, 3, 33, 32], &[9, 3, 16, 16]],
            2,
            |t| ops::conv2d(&t[0], &t[1], None, conv(16, 0)),
        ),
        case(
            "conv2d, 1x1",
            &[&[3, 33, 9, 10], &[17, 33, 1, 1], &[17]],
            3,
            |t| ops::conv2d(&t[0], &t[1], Some(&t[2]), conv(1, 0)),
        ),
        case(
            "conv_transpose2d, 2x2",
            &[&[2, 5, 7, 6], &[5, 6, 2, 2], &[6]],
            3,
            |t| ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), conv(2, 0)),
        ),
        case(
            "conv_transpose2d, 3x3",
            &[&[2, 5, 7, 6], &[5, 4, 3, 3]],
            2,
            |t| ops::conv_transpose2d(&t[0], &t[1], None, conv(2, 1)),
        ),
        case(
            "correlate_per_sample",
            &[&[3, 9, 17, 15], &[3, 9, 3, 3], &[3]],
            3,
            |t| ops::correlate_per_sample(&t[0], &t[1], &t[2], 1),
        ),
    ]
}

fn attentions() -> Vec<Case> {
    const SELF: &[&[usize]] = &[&[3, 19, 24], &[3, 19, 24], &[3, 19, 24]];
    const CROSS: &[&[usize]] = &[&[3, 37, 24], &[3, 11, 24], &[3, 11, 15]];
    vec![
        case("attention", SELF, 3, |t| {
            attention(t, Mask::default(), Dropout::default())
        }),
        case("attention, causal", SELF, 3, |t| {
            let mask = Mask {
                causal: true,
                padding: None,
            };
            attention(t, mask, Dropout::default())
        }),
        case("attention, padded", CROSS, 3, |t| {
            let hidden = padding(3, 11, t[0].device())?;
            let mask = Mask {
                causal: false,
                padding: Some(&hidden),
            };
            attention(t, mask, Dropout::default())
        }),
        case("attention, both", SELF, 3, |t| {
            let hidden = padding(3, 19, t[0].device())?;
            let mask = Mask {
                causal: true,
                padding: Some(&hidden),
            };
            attention(t, mask, Dropout::default())
        }),
        case("attention, dropout", CROSS, 3, |t| {
            attention(t, Mask::default(), Dropout { p: 0.3, key: 5 })
        }),
        case("softmax", &[&[5, 7, 13]], 1, |t| ops::softmax(&t[0])),
    ]
}

fn norms() -> Vec<Case> {
    vec![
        case("layer_norm", &[&[3, 5, 77], &[77], &[77]], 3, |t| {
            ops::layer_norm(&t[0], &t[1], &t[2], 1e-5)
        }),
        case("layer_norm, frozen", &[&[3, 5, 77], &[77], &[77]], 1, |t| {
            ops::layer_norm(&t[0], &t[1], &t[2], 1e-5)
        }),
        case(
            "layer_norm, far off",
            &[&[3, 5, 77], &[77], &[77]],
            1,
            |t| ops::layer_norm(&far(&t[0])?, &t[1], &t[2], 1e-5),
        ),
        case(
            "batch_norm",
            &[&[3, 5, 7, 9], &[5], &[5], &[5], &[5]],
            3,
            |t| {
                let var = (t[4].sqr()? + 0.5)?;
                ops::batch_norm(&t[0], &t[3], &var, &t[1], &t[2], 1e-5)
            },
        ),
        case("batch_norm_train", &[&[3, 5, 7, 9], &[5], &[5]], 3, |t| {
            Ok(ops::batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0)
        }),
        case("batch_norm_train, [B,C]", &[&[9, 5], &[5], &[5]], 3, |t| {
            Ok(ops::batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0)
        }),
        case("unit", &[&[5, 13]], 1, |t| ops::unit(&t[0])),
    ]
}

fn pictures() -> Vec<Case> {
    const SMALL: &[&[usize]] = &[&[2, 3, 7, 9]];
    vec![
        case("resize, bilinear", SMALL, 1, |t| {
            ops::resize(&t[0], (15, 4), Interpolation::Bilinear, false)
        }),
        case("resize, bicubic", SMALL, 1, |t| {
            ops::resize(&t[0], (13, 18), Interpolation::Bicubic, true)
        }),
        case("avg_pool2d", SMALL, 1, |t| ops::avg_pool2d(&t[0], 2)),
    ]
}

fn elements() -> Vec<Case> {
    const ONE: &[&[usize]] = &[&[3, 17, 129]];
    vec![
        case("gelu", ONE, 1, |t| ops::gelu(&t[0])),
        case("gelu_tanh", ONE, 1, |t| ops::gelu_tanh(&t[0])),
        case("quick_gelu", ONE, 1, |t| ops::quick_gelu(&t[0])),
        case("relu", ONE, 1, |t| ops::relu(&t[0])),
        case("sigmoid", ONE, 1, |t| ops::sigmoid(&t[0])),
        case("tanh", ONE, 1, |t| ops::tanh(&t[0])),
        case("dropout", ONE, 1, |t| {
            ops::dropout(&t[0], Dropout { p: 0.2, key: 7 })
        }),
        case("add", &[&[3, 17, 129], &[3, 17, 129]], 2, |t| {
            ops::add(&t[0], &t[1])
        }),
        case("add, repeated", &[&[3, 17, 129], &[3, 1, 129]], 2, |t| {
            ops::add(&t[0], &t[1])
        }),
        case("mul", &[&[3, 17, 129], &[3, 17, 129]], 2, |t| {
            ops::mul(&t[0], &t[1])
        }),
        case("mul, by channel", &[&[2, 5, 7, 9], &[5, 1, 1]], 2, |t| {
            ops::mul(&t[0], &t[1])
        }),
    ]
}

fn losses() -> Vec<Case> {
    vec![
        case(
            "bce_with_logits",
            &[&[3, 1, 17, 13], &[3, 1, 17, 13]],
            1,
            |t| ops::bce_with_logits(&(&t[0] * 10.0)?, &ops::sigmoid(&t[1])?),
        ),
        case("cross_entropy", &[&[5, 13]], 1, |t| {
            ops::cross_entropy(&(&t[0] * 10.0)?, &[0, 12, 3, 3, 7])
        }),
    ]
}
