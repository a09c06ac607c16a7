//! The logarithm of a class prior.

use alloc::vec::Vec;

/// The logarithm of class shares `[C]`, with a class nobody holds at half the smallest share instead of minus infinity.
pub(crate) fn log_prior(prior: &[f32]) -> Vec<f32> {
    let smallest = prior.iter().copied().filter(|p| *p > 0.0).fold(f32::INFINITY, f32::min);
    let floor = if smallest.is_finite() { smallest / 2.0 } else { 1.0 };
    prior.iter().map(|&p| libm::logf(if p > 0.0 { p } else { floor })).collect()
}
