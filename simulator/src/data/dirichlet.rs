//! Dirichlet shares for any number of categories, drawn in log space.
//!
//! Small concentrations underflow: a Gamma variate of shape `1e-4` is below the smallest `f64` most of the time, and a
//! vector of zeros has no shares. So variates are drawn as logarithms, with
//! `log G(a) = log G(a + 1) + log(U) / a` (Marsaglia and Tsang, 2000), and divided by the largest one before `exp`.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, Open01};

/// Draws the logarithms of the shares of `Dirichlet(concentrations)`, up to one constant that all of them share.
///
/// A concentration of zero gives minus infinity: that category never gets a share. Concentrations are finite and not
/// negative.
pub fn log_shares(concentrations: &[f64], rng: &mut ChaCha8Rng) -> Vec<f64> {
    concentrations.iter().map(|&concentration| log_gamma_variate(concentration, rng)).collect()
}

/// Turns logarithms of shares into weights whose largest is one. Categories that can never get a share weigh zero.
pub fn weights(log_shares: &[f64]) -> Vec<f64> {
    let largest = log_shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return vec![0.0; log_shares.len()];
    }
    log_shares.iter().map(|log| (log - largest).exp()).collect()
}

/// Draws the shares of `Dirichlet(concentrations)`; they add up to one.
pub fn shares(concentrations: &[f64], rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut shares = weights(&log_shares(concentrations, rng));
    let total: f64 = shares.iter().sum();
    if total > 0.0 {
        shares.iter_mut().for_each(|share| *share /= total);
    }
    shares
}

fn log_gamma_variate(shape: f64, rng: &mut ChaCha8Rng) -> f64 {
    if shape <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let gamma = Gamma::new(shape + 1.0, 1.0).expect("a finite shape above one and a scale of one");
    let uniform: f64 = rng.sample(Open01);
    gamma.sample(rng).ln() + uniform.ln() / shape
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn shares_have_the_mean_of_the_concentrations() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let concentrations = [2.0, 1.0, 0.5, 0.5];
        let mut mean = [0.0; 4];
        for _ in 0..4000 {
            let draw = shares(&concentrations, &mut rng);
            assert!((draw.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            mean.iter_mut().zip(&draw).for_each(|(mean, share)| *mean += share / 4000.0);
        }
        for (mean, concentration) in mean.iter().zip(concentrations) {
            assert!((mean - concentration / 4.0).abs() < 0.02, "{mean} for {concentration}");
        }
    }

    #[test]
    fn tiny_concentrations_still_give_one_share_of_everything() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..200 {
            let draw = shares(&[1e-9; 7], &mut rng);
            assert!(draw.iter().any(|&share| share > 0.999_999));
        }
    }

    #[test]
    fn weights_are_relative_to_the_largest() {
        assert_eq!(weights(&[-1e6, -1e6 - 1.0, f64::NEG_INFINITY]), [1.0, (-1.0f64).exp(), 0.0]);
        assert_eq!(weights(&[f64::NEG_INFINITY; 2]), [0.0; 2]);
    }
}
