//! One-shot heads: closed forms from pure sums, no local training.

use alloc::vec;
use alloc::vec::Vec;

use crate::cholesky::{Cholesky, dot};
use crate::head::{ABSENT_BIAS, Head};
use crate::limits::{MAX_PARAMETER_VALUE, MOMENT_FRACTION_BITS};
use crate::posterior::posterior_means;
use crate::shape::Shape;
use crate::statistics::Statistics;

/// Shrinkage of the covariance towards a multiple of the identity, by default.
pub const LDA_SHRINKAGE: f64 = 0.1;
/// Ridge strength, as a share of the mean diagonal of the matrix it is added to, by default.
pub const RIDGE_STRENGTH: f64 = 0.1;
/// Below this share of the means' own size, a variance is rounding and not spread.
const DEGENERATE: f64 = 1e-6;

/// Nearest class mean: `W_c = mu_c`, `b_c = -|mu_c|² / 2`.
pub fn ncm(statistics: &Statistics) -> Head {
    let means = statistics.means_f64();
    from_rows(statistics.shape(), &means, |_, mean| {
        let bias = -0.5 * dot(mean, mean);
        (mean.to_vec(), bias)
    })
}

/// Linear discriminant analysis with a uniform class prior: `W_c = Sigma⁻¹ mu_c`, `b_c = -W_c · mu_c / 2`, where
/// `Sigma` is the pooled within-class covariance, shrunk by `shrinkage` towards its mean variance.
pub fn lda(statistics: &Statistics, shrinkage: f64) -> Head {
    let means = statistics.means_f64();
    let factor = shrunk_covariance(statistics, &means, shrinkage);
    from_rows(statistics.shape(), &means, |_, mean| discriminant(&factor, mean))
}

/// [`lda`] of class means that are drawn towards their common mean, each as far as its samples leave it uncertain.
pub fn posterior_lda(statistics: &Statistics, shrinkage: f64) -> Head {
    let Gaussians { means, factor } = Gaussians::of(statistics, shrinkage);
    from_rows(statistics.shape(), &means, |_, mean| discriminant(&factor, mean))
}

/// The classes as normal distributions with one covariance.
pub(crate) struct Gaussians {
    /// Posterior means given the fleet's sums, `[C]`; `None` for a class nobody holds.
    pub(crate) means: Vec<Option<Vec<f64>>>,
    /// A square root of the covariance of [`lda`].
    pub(crate) factor: Cholesky,
}

impl Gaussians {
    pub(crate) fn of(statistics: &Statistics, shrinkage: f64) -> Self {
        let means = statistics.means_f64();
        let factor = shrunk_covariance(statistics, &means, shrinkage);
        Self { means: posterior_means(&means, statistics.counts(), &factor), factor }
    }

    /// The mean variance of `d` features within classes.
    pub(crate) fn variance(&self, d: usize) -> f64 {
        let rows = self.factor.lower.chunks_exact(d).enumerate();
        rows.map(|(i, row)| dot(&row[..=i], &row[..=i])).sum::<f64>() / d as f64
    }
}

fn discriminant(factor: &Cholesky, mean: &[f64]) -> (Vec<f64>, f64) {
    let weight = factor.solve(mean);
    let bias = -0.5 * dot(&weight, mean);
    (weight, bias)
}

/// Unweighted ridge regression on one-hot targets, with an intercept: every sample weighs the same.
pub fn ridge_plain(statistics: &Statistics, strength: f64) -> Head {
    let means = statistics.means_f64();
    let samples = statistics.samples().max(1) as f64;
    let shares: Vec<f64> = statistics.counts().iter().map(|&count| count as f64 / samples).collect();
    ridge_of(statistics, &means, &shares, strength)
}

fn shrunk_covariance(statistics: &Statistics, means: &[Option<Vec<f64>>], shrinkage: f64) -> Cholesky {
    let d = statistics.shape().features();
    let mut covariance = statistics.within_class_covariance(means);
    let variance = mean_diagonal(&covariance, d);
    covariance.iter_mut().for_each(|entry| *entry *= 1.0 - shrinkage);
    add_to_diagonal(&mut covariance, d, solvable(shrinkage * variance, variance, means));
    Cholesky::of(covariance, d)
}

/// Class-weighted ridge regression on one-hot targets: every class weighs the same, whatever its count. The second
/// moment of a class is its mean's plus the pooled within-class covariance, since only the pooled one is known.
pub fn ridge(statistics: &Statistics, strength: f64) -> Head {
    let means = statistics.means_f64();
    let share = 1.0 / means.iter().flatten().count().max(1) as f64;
    let shares: Vec<f64> = means.iter().map(|mean| if mean.is_some() { share } else { 0.0 }).collect();
    ridge_of(statistics, &means, &shares, strength)
}

/// Ridge regression with an intercept, of classes that weigh `shares [C]`: the covariance is the pooled one within the
/// classes plus that of the weighted means.
fn ridge_of(statistics: &Statistics, means: &[Option<Vec<f64>>], shares: &[f64], strength: f64) -> Head {
    let d = statistics.shape().features();
    let held = || means.iter().zip(shares).filter_map(|(mean, share)| Some((mean.as_ref()?, *share)));
    let mut centre = vec![0.0; d];
    for (mean, share) in held() {
        centre.iter_mut().zip(mean).for_each(|(c, m)| *c += share * m);
    }
    let mut matrix = statistics.within_class_covariance(means);
    for (mean, share) in held() {
        let away: Vec<f64> = mean.iter().zip(&centre).map(|(m, c)| m - c).collect();
        for (row, &left) in matrix.chunks_exact_mut(d).zip(&away) {
            row.iter_mut().zip(&away).for_each(|(entry, right)| *entry += share * left * right);
        }
    }
    let variance = mean_diagonal(&matrix, d);
    add_to_diagonal(&mut matrix, d, solvable(strength * variance, variance, means));
    let factor = Cholesky::of(matrix, d);
    from_rows(statistics.shape(), means, |class, mean| {
        let target: Vec<f64> = mean.iter().zip(&centre).map(|(m, c)| shares[class] * (m - c)).collect();
        let weight = factor.solve(&target);
        let bias = shares[class] - dot(&weight, &centre);
        (weight, bias)
    })
}

/// Fills a head class by class; a class nobody holds is never chosen.
fn from_rows(shape: Shape, means: &[Option<Vec<f64>>], row_of: impl Fn(usize, &[f64]) -> (Vec<f64>, f64)) -> Head {
    let mut head = Head::zeros(shape);
    let rows = head.weight.chunks_exact_mut(shape.features()).zip(&mut head.bias);
    for (class, ((weight, bias), mean)) in rows.zip(means).enumerate() {
        let Some(mean) = mean else {
            *bias = ABSENT_BIAS;
            continue;
        };
        let (row, constant) = row_of(class, mean);
        weight.iter_mut().zip(row).for_each(|(w, value)| *w = value as f32);
        *bias = constant as f32;
    }
    within_limits(&mut head);
    head
}

/// Scales a head of too large numbers, as very small spreads give, down to what every device accepts. The largest logit
/// stays the largest.
fn within_limits(head: &mut Head) {
    const LARGEST: f32 = MAX_PARAMETER_VALUE / 2.0;
    let largest = head.weight.iter().chain(&head.bias).fold(0.0_f32, |a, b| a.max(b.abs()));
    if largest > LARGEST {
        let scale = LARGEST / largest;
        head.weight.iter_mut().chain(&mut head.bias).for_each(|value| *value *= scale);
    }
}

fn mean_diagonal(matrix: &[f64], d: usize) -> f64 {
    matrix.iter().step_by(d + 1).sum::<f64>() / d as f64
}

fn add_to_diagonal(matrix: &mut [f64], d: usize, value: f64) {
    matrix.iter_mut().step_by(d + 1).for_each(|entry| *entry += value);
}

/// What to add to the diagonal: the `wanted` regularisation, or, where all samples of each class are equal and the spread
/// is no more than the rounding of their moments, the size of the means, which turns the head into a nearest-mean one.
fn solvable(wanted: f64, variance: f64, means: &[Option<Vec<f64>>]) -> f64 {
    let held: Vec<&Vec<f64>> = means.iter().flatten().collect();
    let values = held.iter().map(|mean| mean.len()).sum::<usize>().max(1) as f64;
    let size = held.iter().map(|mean| dot(mean, mean)).sum::<f64>() / values;
    let rounding = 64.0 * libm::sqrt(size) / (1_u64 << MOMENT_FRACTION_BITS) as f64;
    if variance > rounding.max(DEGENERATE * size) { wanted } else { size.max(DEGENERATE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cholesky::difference;
    use crate::{Samples, Sums};

    /// Two features; a class with many samples and two with few, far from and near to it.
    fn statistics(rare: usize) -> Statistics {
        let shape = Shape::new(3, 2).unwrap();
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for (class, count, centre) in [(0_u16, 400, [0.0, 0.0]), (1, rare, [1.0, 0.5]), (2, rare, [-0.5, 1.0])] {
            for at in 0..count {
                let (sign, other) = ([1.0, -1.0][at % 2], [1.0, 1.0, -1.0, -1.0][at % 4]);
                features.extend([centre[0] + sign, centre[1] + other]);
                labels.push(class);
            }
        }
        Statistics::of(&Samples::new(shape, &features, &labels).unwrap(), Sums::SecondMoment, 1)
    }

    fn moved(statistics: &Statistics) -> Vec<f32> {
        let (plain, posterior) = (statistics.means_f64(), Gaussians::of(statistics, 0.0).means);
        let away = |(plain, posterior): (&Option<Vec<f64>>, &Option<Vec<f64>>)| {
            let away = difference(plain.as_ref().unwrap(), posterior.as_ref().unwrap());
            libm::sqrt(dot(&away, &away)) as f32
        };
        plain.iter().zip(&posterior).map(away).collect()
    }

    #[test]
    fn the_fewer_samples_the_further_a_mean_is_drawn_in() {
        let (few, many) = (moved(&statistics(4)), moved(&statistics(400)));
        assert!(few[1] > 5.0 * few[0] && few[2] > 5.0 * few[0], "{few:?}");
        assert!(few[1] > 5.0 * many[1] && few[2] > 5.0 * many[2], "{few:?} and {many:?}");
    }

    #[test]
    fn with_many_samples_of_every_class_the_posterior_head_is_lda() {
        let statistics = statistics(40_000);
        let (plain, posterior) = (lda(&statistics, 0.1), posterior_lda(&statistics, 0.1));
        for (a, b) in plain.weight.iter().chain(&plain.bias).zip(posterior.weight.iter().chain(&posterior.bias)) {
            assert!((a - b).abs() < 0.02, "{plain:?} and {posterior:?}");
        }
    }

    #[test]
    fn rare_classes_are_chosen_more_often() {
        let statistics = statistics(4);
        let (plain, posterior) = (lda(&statistics, 0.1), posterior_lda(&statistics, 0.1));
        assert!(posterior.bias[1] - posterior.bias[0] > plain.bias[1] - plain.bias[0]);
    }
}
