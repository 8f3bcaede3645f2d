//! How long the operations take at the shapes of a ViT-B/16 on 416 by 416 pictures.
//!
//! Owns the list of shapes, which `examples/baselines/ops.py` repeats for PyTorch; prints
//! nothing.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};
use serde::Serialize;

use super::{Conv, Dropout, Interpolation, Mask};
use crate::frozen::Frozen;

/// One operation at one shape, one pass.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The operation, and its variant.
    pub name: String,
    /// The shapes of the arguments.
    pub shape: String,
    /// `forward` without a graph, or `forward+backward` through candle.
    pub pass: &'static str,
    /// The middle time.
    pub milliseconds_median: f64,
    /// The shortest time.
    pub milliseconds_best: f64,
    /// How many times were taken.
    pub repeats: usize,
}

type Call = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    /// How many arguments, from the first, get a gradient.
    trained: usize,
    call: Call,
}

fn case(
    name: &'static str,
    shapes: &[&[usize]],
    trained: usize,
    call: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Case {
    Case {
        name,
        shapes: shapes.iter().map(|s| s.to_vec()).collect(),
        trained,
        call: Box::new(call),
    }
}

fn linear_cases(cases: &mut Vec<Case>) -> Result<()> {
    for (n, k) in [(768, 768), (3072, 768), (768, 3072)] {
        let weight = Frozen::dense(&Tensor::randn(0f32, 0.05, (n, k), &Device::Cpu)?);
        let (x, b): (&[usize], &[usize]) = (&[2708, k], &[n]);
        cases.push(case("linear_frozen", &[x, b, &[n, k]], 1, move |t| {
            super::linear_frozen(&t[0], &weight, Some(&t[1]))
        }));
        cases.push(case("linear", &[x, &[n, k], b], 3, |t| {
            super::linear(&t[0], &t[1], Some(&t[2]))
        }));
    }
    Ok(())
}

fn convolution_cases(cases: &mut Vec<Case>) {
    let conv = |stride, padding| Conv { stride, padding };
    let all: [(&'static str, [usize; 4], [usize; 4], Conv); 5] = [
        ("conv2d", [1, 512, 26, 26], [512, 512, 3, 3], conv(1, 1)),
        ("conv2d", [1, 512, 52, 52], [512, 512, 3, 3], conv(1, 1)),
        ("conv2d", [1, 512, 104, 104], [256, 512, 3, 3], conv(1, 1)),
        (
            "conv2d patch embedding",
            [1, 3, 416, 416],
            [768, 3, 16, 16],
            conv(16, 0),
        ),
        (
            "conv2d 1x1",
            [1, 1536, 26, 26],
            [512, 1536, 1, 1],
            conv(1, 0),
        ),
    ];
    for (name, x, w, c) in all {
        cases.push(case(name, &[&x, &w, &[w[0]]], 3, move |t| {
            super::conv2d(&t[0], &t[1], Some(&t[2]), c)
        }));
    }
    let shapes: [&[usize]; 3] = [&[1, 256, 52, 52], &[256, 128, 2, 2], &[128]];
    cases.push(case("conv_transpose2d", &shapes, 3, move |t| {
        super::conv_transpose2d(&t[0], &t[1], Some(&t[2]), conv(2, 0))
    }));
    let shapes: [&[usize]; 3] = [&[4, 256, 104, 104], &[4, 256, 3, 3], &[4]];
    cases.push(case("correlate_per_sample", &shapes, 3, |t| {
        super::correlate_per_sample(&t[0], &t[1], &t[2], 1)
    }));
}

fn attention_cases(cases: &mut Vec<Case>) {
    for (name, n, width, heads, causal) in [
        ("attention", 677, 768, 12, false),
        ("attention causal", 17, 512, 8, true),
    ] {
        let x: &[usize] = &[4, n, width];
        cases.push(case(name, &[x, x, x], 3, move |t| {
            let mask = Mask {
                causal,
                padding: None,
            };
            super::attention(&t[0], &t[1], &t[2], heads, mask, Dropout::default())
        }));
    }
}

fn norm_cases(cases: &mut Vec<Case>) {
    let shapes: [&[usize]; 3] = [&[4, 677, 768], &[768], &[768]];
    cases.push(case("layer_norm", &shapes, 3, |t| {
        super::layer_norm(&t[0], &t[1], &t[2], 1e-5)
    }));
    cases.push(case("layer_norm frozen", &shapes, 1, |t| {
        super::layer_norm(&t[0], &t[1], &t[2], 1e-5)
    }));
    let shapes: [&[usize]; 5] = [&[4, 512, 26, 26], &[512], &[512], &[512], &[512]];
    cases.push(case("batch_norm", &shapes, 3, |t| {
        let var = t[4].detach().sqr()?;
        super::batch_norm(&t[0], &t[3], &var, &t[1], &t[2], 1e-5)
    }));
    cases.push(case("batch_norm_train", &shapes[..3], 3, |t| {
        Ok(super::batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0)
    }));
}

fn picture_cases(cases: &mut Vec<Case>) {
    let small: &[usize] = &[1, 512, 26, 26];
    cases.push(case("resize bilinear", &[small], 1, |t| {
        super::resize(&t[0], (52, 52), Interpolation::Bilinear, false)
    }));
    cases.push(case("resize bicubic", &[&[1, 1, 104, 104]], 1, |t| {
        super::resize(&t[0], (416, 416), Interpolation::Bicubic, true)
    }));
    cases.push(case("avg_pool2d", &[&[1, 512, 52, 52]], 1, |t| {
        super::avg_pool2d(&t[0], 2)
    }));
}

fn elementwise_cases(cases: &mut Vec<Case>) {
    let (wide, tokens): (&[usize], &[usize]) = (&[4, 677, 3072], &[4, 677, 768]);
    let masks: &[usize] = &[8, 1, 416, 416];
    cases.push(case("gelu", &[wide], 1, |t| super::gelu(&t[0])));
    cases.push(case("gelu_tanh", &[wide], 1, |t| super::gelu_tanh(&t[0])));
    cases.push(case("quick_gelu", &[wide], 1, |t| super::quick_gelu(&t[0])));
    cases.push(case("relu", &[wide], 1, |t| super::relu(&t[0])));
    cases.push(case("sigmoid", &[tokens], 1, |t| super::sigmoid(&t[0])));
    cases.push(case("tanh", &[tokens], 1, |t| super::tanh(&t[0])));
    cases.push(case("softmax", &[&[12, 677, 677]], 1, |t| {
        super::softmax(&t[0])
    }));
    cases.push(case("dropout", &[tokens], 1, |t| {
        super::dropout(&t[0], Dropout { p: 0.1, key: 7 })
    }));
    cases.push(case("bce_with_logits", &[masks, masks], 1, |t| {
        super::bce_with_logits(&t[0], &t[1])
    }));
    let others: [&[usize]; 4] = [tokens, &[768], &[1, 677, 768], &[4, 1, 768]];
    for other in others {
        cases.push(case("add", &[tokens, other], 2, |t| {
            super::add(&t[0], &t[1])
        }));
        cases.push(case("mul", &[tokens, other], 2, |t| {
            super::mul(&t[0], &t[1])
        }));
    }
    cases.push(case("mul", &[&[4, 512, 26, 26], &[512, 1, 1]], 2, |t| {
        super::mul(&t[0], &t[1])
    }));
    cases.push(case("concat", &[tokens, &[4, 16, 768]], 2, |t| {
        super::concat(&t[0], &t[1], 1)
    }));
    cases.push(case("select", &[tokens], 1, |t| {
        super::select(&t[0], &[0, 0, 1, 2, 2, 2, 3, 3])
    }));
}

/// Times every operation whose name contains `filter` on `device`; `progress` hears each name and
/// shape before its turn.
///
/// # Errors
/// An operation fails.
pub fn run(
    filter: Option<&str>,
    device: &Device,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Timing>> {
    let mut cases = vec![];
    linear_cases(&mut cases)?;
    attention_cases(&mut cases);
    norm_cases(&mut cases);
    convolution_cases(&mut cases);
    picture_cases(&mut cases);
    elementwise_cases(&mut cases);
    let mut timings = vec![];
    for case in cases {
        let shape = format!("{:?}", case.shapes).replace(' ', "");
        if filter.is_some_and(|f| !case.name.contains(f)) {
            continue;
        }
        progress(&format!("{} {shape}", case.name));
        let arguments = case
            .shapes
            .iter()
            .map(|s| Var::randn(0f32, 1., &s[..], device))
            .collect::<Result<Vec<Var>>>()?;
        let plain: Vec<Tensor> = arguments.iter().map(Var::as_detached_tensor).collect();
        let tracked: Vec<Tensor> = arguments
            .iter()
            .enumerate()
            .map(|(i, v)| match i < case.trained {
                true => v.as_tensor().clone(),
                false => v.as_detached_tensor(),
            })
            .collect();
        debug_assert!(plain.iter().all(|t| t.dtype() == DType::F32));
        // A device works on by itself: the clock is read when it is done.
        let forward = || (case.call)(&plain).and_then(|_| device.synchronize());
        let both = || {
            let gradients = (case.call)(&tracked)?.backward()?;
            device.synchronize().map(|()| drop(gradients))
        };
        timings.push(time(case.name, &shape, "forward", forward)?);
        timings.push(time(case.name, &shape, "forward+backward", both)?);
    }
    Ok(timings)
}

fn time(name: &str, shape: &str, pass: &'static str, f: impl Fn() -> Result<()>) -> Result<Timing> {
    f()?;
    let mut times = vec![];
    let begin = Instant::now();
    while times.len() < 5 || (begin.elapsed() < Duration::from_millis(300) && times.len() < 100) {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Timing {
        name: name.to_owned(),
        shape: shape.to_owned(),
        pass,
        milliseconds_median: times[times.len() / 2],
        milliseconds_best: times[0],
        repeats: times.len(),
    })
}
