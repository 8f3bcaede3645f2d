//! Elementwise nonlinearities.
//!
//! Owns their values and slopes; knows no shapes.

use candle_core::{Result, Tensor};

use super::check::choose;
use super::composed;
use super::parallel::{map, map2};
use super::real::Real;
use super::record::{dense, record, replay, shaped, view};

/// `y = f(x)` with `dx = slope(x, g)`, where the backward sees `x` again.
fn from_input<T: Real>(
    name: &'static str,
    x: &Tensor,
    f: impl Fn(T) -> T + Copy + Sync,
    slope: impl Fn(T, T) -> T + Copy + Send + Sync + 'static,
) -> Result<Tensor> {
    let kept = dense(x)?;
    let y = map(&view::<T>(&kept)?, f);
    record(name, [Some(x)], y, x.shape(), move |b| {
        let dx = map2(&view::<T>(&kept)?, &view::<T>(b.grad)?, slope);
        Ok([shaped(dx, &kept)?])
    })
}

/// `y = f(x)` with `dx = slope(y, g)`, where the backward sees `y`.
fn from_output<T: Real>(
    name: &'static str,
    x: &Tensor,
    f: impl Fn(T) -> T + Copy + Sync,
    slope: impl Fn(T, T) -> T + Copy + Send + Sync + 'static,
) -> Result<Tensor> {
    let y = map(&view::<T>(&dense(x)?)?, f);
    record(name, [Some(x)], y, x.shape(), move |b| {
        let dx = map2(&view::<T>(b.output)?, &view::<T>(b.grad)?, slope);
        Ok([shaped(dx, b.output)?])
    })
}

/// The normal density at 0.
const HEIGHT: f64 = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

/// The normal distribution function.
#[inline(always)]
fn normal<T: Real>(x: T) -> T {
    let half = T::of(0.5);
    half + half * (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).error_function()
}

fn gelu_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_input::<T>(
        "gelu",
        x,
        #[inline(always)]
        |x| x * normal(x),
        #[inline(always)]
        |x, g| {
            let density = T::of(HEIGHT) * (T::of(-0.5) * x * x).exponential();
            g * (normal(x) + x * density)
        },
    )
}

/// Twice √(2/π), and the cubic's factor, of [`gelu_tanh`]: ½ (1 + tanh y) is σ(2 y).
const SLOPE: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
const CUBIC: f64 = 0.044_715;

fn gelu_tanh_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_input::<T>(
        "gelu_tanh",
        x,
        #[inline(always)]
        |x| x * (T::of(SLOPE) * x * (T::ONE + T::of(CUBIC) * x * x)).logistic(),
        #[inline(always)]
        |x, g| {
            let s = (T::of(SLOPE) * x * (T::ONE + T::of(CUBIC) * x * x)).logistic();
            let inner = T::of(SLOPE) * (T::ONE + T::of(3.0 * CUBIC) * x * x);
            g * (s + x * s * (T::ONE - s) * inner)
        },
    )
}

fn quick_gelu_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_input::<T>(
        "quick_gelu",
        x,
        #[inline(always)]
        |x| x * (T::of(1.702) * x).logistic(),
        #[inline(always)]
        |x, g| {
            let s = (T::of(1.702) * x).logistic();
            g * (s + T::of(1.702) * x * s * (T::ONE - s))
        },
    )
}

fn relu_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_output::<T>(
        "relu",
        x,
        #[inline(always)]
        |x| x.at_least(T::ZERO),
        #[inline(always)]
        |y, g| if y > T::ZERO { g } else { T::ZERO },
    )
}

fn sigmoid_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_output::<T>(
        "sigmoid",
        x,
        #[inline(always)]
        |x| x.logistic(),
        #[inline(always)]
        |y, g| g * y * (T::ONE - y),
    )
}

fn tanh_kernel<T: Real>(x: &Tensor) -> Result<Tensor> {
    from_output::<T>(
        "tanh",
        x,
        #[inline(always)]
        |x| x.hyperbolic_tangent(),
        #[inline(always)]
        |y, g| g * (T::ONE - y * y),
    )
}

/// `x Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016).
///
/// # Errors
/// The element type is no float.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    choose!(
        "gelu",
        &[x],
        gelu_kernel(x),
        replay("gelu", [x], |[x]| composed::gelu(x))
    )
}

/// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the approximation that SigLIP was trained with
/// (Hendrycks and Gimpel 2016).
///
/// # Errors
/// The element type is no float.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    choose!(
        "gelu_tanh",
        &[x],
        gelu_tanh_kernel(x),
        replay("gelu_tanh", [x], |[x]| composed::gelu_tanh(x))
    )
}

/// `x σ(1.702 x)`, the approximation that CLIP was trained with.
///
/// # Errors
/// The element type is no float.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    choose!(
        "quick_gelu",
        &[x],
        quick_gelu_kernel(x),
        replay("quick_gelu", [x], |[x]| composed::quick_gelu(x))
    )
}

/// `max(x, 0)`; the slope at 0 is 0.
///
/// # Errors
/// The element type is no float.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    choose!(
        "relu",
        &[x],
        relu_kernel(x),
        replay("relu", [x], |[x]| composed::relu(x))
    )
}

/// `1 / (1 + e⁻ˣ)`.
///
/// # Errors
/// The element type is no float.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    choose!(
        "sigmoid",
        &[x],
        sigmoid_kernel(x),
        replay("sigmoid", [x], |[x]| composed::sigmoid(x))
    )
}

/// The hyperbolic tangent.
///
/// # Errors
/// The element type is no float.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    choose!(
        "tanh",
        &[x],
        tanh_kernel(x),
        replay("tanh", [x], |[x]| composed::tanh(x))
    )
}
