//! `exp`, `softmax` and sums in plain arithmetic: the same bits on every architecture, whatever its vectors.
//!
//! Sums go through a fixed number of lanes, which is what lets the compiler use vectors. Nothing here is fused: the
//! compiler may not do that by itself.

use crate::kernel::vectorised;

/// Lanes of a sum or of a maximum.
const LANES: usize = 16;

/// `e^x` for `x <= 0`, within 2 units in the last place; underflows to zero below -87.3.
///
/// Cody and Waite range reduction, then a degree-6 polynomial on `[-ln 2 / 2, ln 2 / 2]`. No fused
/// multiply-add and no library call, so x86 and ARM agree bit for bit.
#[inline(always)]
pub(crate) fn exp_non_positive(x: f32) -> f32 {
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a library call.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.3;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // The low bits of `shifted` hold the integer n; adding the exponent bias makes 2^n. `n >= -126` by the clamp.
    let exponent = (shifted.to_bits().wrapping_sub(ROUND.to_bits())).wrapping_add(127);
    let scale = f32::from_bits(exponent << 23);
    if x < LOWEST { 0.0 } else { p * scale }
}

/// Turns one row of logits into `weight * (softmax - one-hot)` in place: the gradient of the cross-entropy.
///
/// The entry of the true class is minus the sum of the others. `p - 1` would lose every digit where the head is sure,
/// and the balanced gradient is rescaled, which would blow the rounding error up.
pub(crate) fn softmax_error(row: &mut [f32], label: usize, weight: f32) {
    vectorised!(_ => softmax_error_in_lanes(row, label, weight));
}

/// Turns one row of logits into `weight` times the gradient of the focal loss `-(1 - p)^gamma log p` in place, for the
/// probability `p` of the true class: the cross-entropy's, times `(1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p`.
pub(crate) fn focal_error(row: &mut [f32], label: usize, weight: f32, gamma: f32) {
    softmax_error(row, label, 1.0);
    let gamma = f64::from(gamma);
    // The error of the true class is p - 1, without the digits that a difference would lose.
    let miss = f64::from(-row[label]);
    let p = 1.0 - miss;
    let factor = if gamma == 0.0 {
        1.0
    } else if miss > 0.0 {
        let slope = if p > 0.0 { gamma * p * libm::pow(miss, gamma - 1.0) * libm::log1p(-miss) } else { 0.0 };
        libm::pow(miss, gamma) - slope
    } else {
        0.0
    };
    let scale = (f64::from(weight) * factor) as f32;
    row.iter_mut().for_each(|value| *value *= scale);
}

/// L2 norm of a slice, in double precision: squares of tiny gradients do not underflow.
pub(crate) fn norm(values: &[f32]) -> f64 {
    libm::sqrt(dot(values, values))
}

/// Sum of the products of two slices of equal length, in double precision.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    vectorised!(_ => dot_in_lanes(a, b))
}

#[inline(always)]
fn softmax_error_in_lanes(row: &mut [f32], label: usize, weight: f32) {
    let largest = largest(row);
    for value in row.iter_mut() {
        *value = exp_non_positive(*value - largest);
    }
    let own = core::mem::take(&mut row[label]);
    let others = sum(row);
    let scale = weight / (own + others);
    for value in row.iter_mut() {
        *value *= scale;
    }
    row[label] = -others * scale;
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).sum()
}

#[inline(always)]
fn dot_in_lanes(a: &[f32], b: &[f32]) -> f64 {
    let product = |x: f32, y: f32| f64::from(x) * f64::from(y);
    let ((chunks_a, rest_a), (chunks_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in chunks_a.iter().zip(chunks_b) {
        for (lane, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += product(*x, *y);
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(x, y)| product(*x, *y)).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = 0.0_f32;
        while x > -87.0 {
            let exact = f64::from(x).exp();
            let relative = (f64::from(exp_non_positive(x)) - exact).abs() / exact;
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative:e}");
            x -= 0.000_977;
        }
        assert_eq!(exp_non_positive(0.0), 1.0);
        assert_eq!(exp_non_positive(-1.0e30), 0.0);
        assert_eq!(exp_non_positive(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn extreme_logits_give_finite_errors() {
        let mut row = [3.0e4, -3.0e4, 3.0e4];
        softmax_error(&mut row, 0, 1.0);
        assert_eq!(row, [-0.5, 0.0, 0.5]);
    }

    #[test]
    fn a_sure_head_keeps_the_digits_of_its_small_error() {
        let mut row = [20.0, 0.0];
        softmax_error(&mut row, 0, 1.0);
        let exact = 1.0 / (1.0 + 20.0_f64.exp());
        assert!((f64::from(row[1]) - exact).abs() < 1e-6 * exact);
        assert_eq!(row[0], -row[1]);
    }
}
