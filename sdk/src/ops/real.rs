//! The two element types of the kernels, and their elementary functions.
//!
//! The `f32` functions have no branches, so that loops over them become vector code (where the
//! processor multiplies and adds in one instruction; elsewhere they are slow). Their
//! coefficients were fitted for this file (relative error below 4e-7). `f64` is for tests and uses
//! the standard library, but for `erf`.

use candle_core::{Device, Result, WithDType};

use super::panels;
use super::record::view;
use crate::frozen::Frozen;

/// An element type that has kernels.
pub(super) trait Real: WithDType + Default + std::ops::Neg<Output = Self> {
    const ZERO: Self;
    const ONE: Self;
    const NEGATIVE_INFINITY: Self;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn root(self) -> Self;
    fn magnitude(self) -> Self;
    /// The larger one; if one is no number, the other.
    fn larger(self, other: Self) -> Self;
    fn natural_log(self) -> Self;
    /// `eˣ`; 0 below the smallest normal number.
    fn exponential(self) -> Self;
    /// `log(1 + t)` for `t` in `[0, 1]`.
    fn log_one_plus(self) -> Self;
    fn hyperbolic_tangent(self) -> Self;
    fn error_function(self) -> Self;

    /// Calls `f` with the elements of a frozen weight: converted for the moment, unless the type has
    /// a better way.
    fn with_frozen<R>(w: &Frozen, f: impl FnOnce(&[Self]) -> R) -> Result<R> {
        let dense = w.convert(Self::DTYPE, &Device::Cpu)?;
        Ok(f(&view::<Self>(&dense)?))
    }

    /// The product `x · Wᵀ + bias` with a frozen weight where it lies, if there is a kernel.
    fn product_in_place(
        _: &Frozen,
        _x: &[Self],
        _bias: Option<&[Self]>,
    ) -> Result<Option<Vec<Self>>> {
        Ok(None)
    }

    /// The larger one; not a number if `self` is not.
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        if self < low { low } else { self }
    }

    /// The smaller one; not a number if `self` is not.
    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        if self > high { high } else { self }
    }

    /// `1 / (1 + e⁻ˣ)`.
    #[inline(always)]
    fn logistic(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exponential())
    }
}

/// `c[0] + c[1] x + …`
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum.mul_add(x, c[i]);
    }
    sum
}

impl Real for f32 {
    const ZERO: Self = 0.;
    const ONE: Self = 1.;
    const NEGATIVE_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn magnitude(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
    #[inline(always)]
    fn natural_log(self) -> Self {
        self.ln()
    }

    fn with_frozen<R>(w: &Frozen, f: impl FnOnce(&[Self]) -> R) -> Result<R> {
        w.with_elements(|elements| f(&elements.wide()))
    }

    fn product_in_place(
        w: &Frozen,
        x: &[Self],
        bias: Option<&[Self]>,
    ) -> Result<Option<Vec<Self>>> {
        panels::product(w, x, bias)
    }

    #[inline(always)]
    fn exponential(self) -> Self {
        // Adding 1.5·2²³ leaves the nearest integer in the low bits.
        const ROUND: f32 = 12_582_912.;
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = self.at_least(-88.).at_most(89.);
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
        let e = polynomial(
            r,
            [
                1.,
                1.,
                0.5,
                1. / 6.,
                1. / 24.,
                1. / 120.,
                1. / 720.,
                1. / 5040.,
            ],
        );
        // 2ⁿ in two factors: n may be 128, which one exponent cannot hold.
        let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        let half = n >> 1;
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        let e = e * power(half) * power(n.wrapping_sub(half));
        if self < -87.33 { 0. } else { e }
    }

    #[inline(always)]
    fn log_one_plus(self) -> Self {
        let p = [1., 1.066_214_9, 2.381_554_9e-1, 3.417_221_2e-3];
        let q = [1., 1.566_214_8, 6.879_325e-1, 7.528_65e-2];
        self * polynomial(self, p) / polynomial(self, q)
    }

    #[inline(always)]
    fn hyperbolic_tangent(self) -> Self {
        let x = self.at_least(-9.).at_most(9.);
        let s = x * x;
        let p = [
            1.,
            1.338_104_3e-1,
            3.495_607_8e-3,
            2.060_936_1e-5,
            1.335_497_6e-8,
        ];
        let q = [1., 4.671_436e-1, 2.587_706e-2, 3.285_665e-4, 7.776_702e-7];
        x * polynomial(s, p) / polynomial(s, q)
    }

    #[inline(always)]
    fn error_function(self) -> Self {
        let x = self.at_least(-3.92).at_most(3.92);
        let s = x * x;
        let p = [
            std::f32::consts::FRAC_2_SQRT_PI,
            1.903_920_7e-1,
            5.274_677e-2,
            3.764_978_7e-3,
            2.848_651_3e-4,
            2.050_160_3e-6,
        ];
        let q = [
            1.,
            5.020_633_2e-1,
            1.141_031_1e-1,
            1.496_795e-2,
            1.162_374e-3,
            3.809_154e-5,
        ];
        x * polynomial(s, p) / polynomial(s, q)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.;
    const ONE: Self = 1.;
    const NEGATIVE_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn magnitude(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
    #[inline(always)]
    fn natural_log(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn exponential(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn log_one_plus(self) -> Self {
        self.ln_1p()
    }
    #[inline(always)]
    fn hyperbolic_tangent(self) -> Self {
        self.tanh()
    }

    fn error_function(self) -> Self {
        // The power series up to 3, the continued fraction of the complement above; both to
        // double precision (Abramowitz and Stegun 7.1.6 and 7.1.14).
        let x = self.abs();
        let scale = std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp();
        let positive = if x < 3. {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= 2. * x * x / f64::from(2 * n + 1);
                sum += term;
            }
            scale * sum
        } else {
            let mut tail = x;
            for n in (1..=60).rev() {
                tail = x + f64::from(n) / 2. / tail;
            }
            1. - scale / 2. / tail
        };
        positive.copysign(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    /// The largest relative error of `f` against `exact` on a grid of `[from, to]`.
    fn worst(from: f32, to: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        (0..=40_000)
            .map(|i| from + (to - from) * (i as f32 / 40_000.))
            .map(|x| (x, exact(f64::from(x))))
            .filter(|&(_, y)| y != 0.)
            .map(|(x, y)| (f64::from(f(x)) / y - 1.).abs())
            .fold(0., f64::max)
    }

    #[test]
    fn single_precision_functions_are_accurate() {
        let close = 5e-7;
        assert!(worst(-87., 88.7, Real::exponential, f64::exp) < close);
        assert!(worst(0., 1., Real::log_one_plus, f64::ln_1p) < close);
        assert!(worst(-12., 12., Real::hyperbolic_tangent, f64::tanh) < close);
        assert!(worst(-6., 6., Real::error_function, Real::error_function) < close);
    }

    #[test]
    fn the_error_function_has_its_tabulated_values() {
        for (x, y) in [
            (0.5f64, 0.520_499_877_813_046_5),
            (1., 0.842_700_792_949_714_9),
            (2., 0.995_322_265_018_952_7),
            (2.999, 0.9999777698314002),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!((x.error_function() - y).abs() < 1e-12, "{x}");
            assert_eq!((-x).error_function(), -x.error_function());
        }
    }

    #[test]
    fn extremes_are_kept() {
        assert_eq!(f32::NEG_INFINITY.exponential(), 0.);
        assert_eq!(f32::INFINITY.exponential(), f32::INFINITY);
        assert_eq!(100f32.exponential(), f32::INFINITY);
        assert!(f32::NAN.exponential().is_nan());
        assert!(f32::NAN.hyperbolic_tangent().is_nan());
        assert!(f32::NAN.error_function().is_nan());
        assert_eq!(0f32.exponential(), 1.);
        assert_eq!((-200f32).logistic(), 0.);
        assert_eq!(200f32.logistic(), 1.);
    }
}
