//! Class means given how few samples some of them rest on.
//!
//! In coordinates in which the covariance within classes is the identity, the mean `z_c` of `n_c` samples is the class's
//! true mean plus noise of variance `1 / n_c`, and the true means scatter about a common mean `m` with variance `b_j`
//! along direction `j`. Given `z_c` the true mean is expected at `m + sum_j b_j / (b_j + 1 / n_c) (z_c - m)_j`: a class
//! with many samples stays where it is, one with few is drawn in where classes hardly differ (empirical Bayes: Efron and
//! Morris, JASA 1973). The unshrunk mean of a rare class is too long by its noise, which makes linear discriminant
//! analysis choose it too seldom.

use alloc::vec;
use alloc::vec::Vec;

use crate::cholesky::{Cholesky, difference, dot};
use crate::eigen;

/// Rounds of estimating the variances, far more than change anything.
const STEPS: usize = 50;
/// With more directions and classes than this, one variance serves for all: their eigenvectors would take seconds.
const MOST_DIRECTIONS: usize = 256;
/// A direction in which the means scatter less than this share of the widest is none.
const LEAST_SCATTER: f64 = 1e-10;

/// Of `means [C]`, `None` where nobody holds a class, and their `counts [C]`; `factor` is of the covariance within
/// classes. Fewer than two classes stay as they are.
pub(crate) fn posterior_means(means: &[Option<Vec<f64>>], counts: &[u64], factor: &Cholesky) -> Vec<Option<Vec<f64>>> {
    let whitened = means.iter().zip(counts).filter_map(|(mean, &count)| {
        let mean = mean.as_ref()?;
        Some((factor.whiten(mean), 1.0 / count as f64))
    });
    let (rows, noises): (Vec<Vec<f64>>, Vec<f64>) = whitened.unzip();
    if rows.len() < 2 {
        return means.to_vec();
    }
    let common = Common::of(&rows, &noises);
    let deviations: Vec<Vec<f64>> = rows.iter().map(|row| difference(row, &common.mean)).collect();
    let shrunk = common.shrink(&deviations, &noises);
    let mut posterior = shrunk.iter().map(|shrunk| {
        let whitened: Vec<f64> = shrunk.iter().zip(&common.mean).map(|(s, m)| s + m).collect();
        factor.unwhiten(&whitened)
    });
    means.iter().map(|mean| mean.as_ref().and_then(|_| posterior.next())).collect()
}

/// What the classes have in common.
struct Common {
    /// `m [d]`.
    mean: Vec<f64>,
    /// `b`, were it the same in all directions.
    variance: f64,
}

impl Common {
    /// By alternating between the mean, weighted by certainty, and the variance that explains the scatter about it.
    fn of(rows: &[Vec<f64>], noises: &[f64]) -> Self {
        let (classes, d) = (rows.len() as f64, rows[0].len());
        // Means that do not differ at all are still drawn in by half at most, for the most certain one.
        let least = noises.iter().copied().fold(f64::INFINITY, f64::min);
        let mut common = Self { mean: vec![0.0; d], variance: least };
        for _ in 0..STEPS {
            let certainties: Vec<f64> = noises.iter().map(|noise| 1.0 / (common.variance + noise)).collect();
            let total: f64 = certainties.iter().sum();
            common.mean.fill(0.0);
            for (row, certainty) in rows.iter().zip(&certainties) {
                common.mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += certainty / total * value);
            }
            let (mut sum, mut weights) = (0.0, 0.0);
            for ((row, noise), certainty) in rows.iter().zip(noises).zip(&certainties) {
                let away = difference(row, &common.mean);
                let scatter = dot(&away, &away) / d as f64 * classes / (classes - 1.0);
                sum += certainty * certainty * (scatter - noise);
                weights += certainty * certainty;
            }
            common.variance = (sum / weights).max(least);
        }
        common
    }

    /// The deviations from the mean, drawn in.
    fn shrink(&self, deviations: &[Vec<f64>], noises: &[f64]) -> Vec<Vec<f64>> {
        let weights: Vec<f64> = noises.iter().map(|noise| 1.0 / (self.variance + noise)).collect();
        let directions = directions(deviations, &weights);
        if directions.is_empty() {
            let shares = noises.iter().map(|noise| self.variance / (self.variance + noise));
            return deviations.iter().zip(shares).map(|(row, share)| row.iter().map(|v| share * v).collect()).collect();
        }
        let mut shrunk = vec![vec![0.0; self.mean.len()]; deviations.len()];
        for direction in &directions {
            let along: Vec<f64> = deviations.iter().map(|row| dot(row, direction)).collect();
            let variance = self.variance_along(&along, noises);
            for ((row, along), noise) in shrunk.iter_mut().zip(&along).zip(noises) {
                let length = variance / (variance + noise) * along;
                row.iter_mut().zip(direction).for_each(|(value, axis)| *value += length * axis);
            }
        }
        shrunk
    }

    /// `b_j` by expectation maximisation. The common variance counts as `d² / C` classes: the fewer classes there are for
    /// the directions, the less is a direction's own scatter to be believed.
    fn variance_along(&self, along: &[f64], noises: &[f64]) -> f64 {
        let (classes, d) = (along.len() as f64, self.mean.len() as f64);
        let believed = d * d / classes;
        let mut variance = self.variance;
        for _ in 0..STEPS {
            let expected = along.iter().zip(noises).map(|(value, noise)| {
                let share = variance / (variance + noise);
                share * value * share * value + share * noise
            });
            variance = (expected.sum::<f64>() + believed * self.variance) / (classes - 1.0 + believed);
        }
        variance
    }
}

/// Orthonormal axes `[d]` of the weighted scatter of the rows; none where there would be too many.
fn directions(rows: &[Vec<f64>], weights: &[f64]) -> Vec<Vec<f64>> {
    let (count, d) = (rows.len(), rows[0].len());
    if count.min(d) > MOST_DIRECTIONS {
        return Vec::new();
    }
    let scaled = rows.iter().zip(weights);
    let scaled: Vec<Vec<f64>> =
        scaled.map(|(row, weight)| row.iter().map(|v| libm::sqrt(*weight) * v).collect()).collect();
    // The scatter and the inner products of its rows have the same eigenvalues; the smaller of the two is taken apart.
    let columns = (0..d).map(|j| scaled.iter().map(|row| row[j]).collect());
    let vectors: Vec<Vec<f64>> = if count <= d { scaled.clone() } else { columns.collect() };
    let size = vectors.len();
    let products = (0..size * size).map(|at| dot(&vectors[at / size], &vectors[at % size])).collect();
    let (values, axes) = eigen::symmetric(products, size);
    let widest = values.iter().copied().fold(0.0, f64::max);
    let wide = values.iter().zip(axes.chunks_exact(size)).filter(|(value, _)| **value > LEAST_SCATTER * widest);
    if count > d {
        return wide.map(|(_, axis)| axis.to_vec()).collect();
    }
    wide.map(|(value, axis)| {
        let mut direction = vec![0.0; d];
        for (row, share) in scaled.iter().zip(axis) {
            direction.iter_mut().zip(row).for_each(|(entry, v)| *entry += share / libm::sqrt(*value) * v);
        }
        direction
    })
    .collect()
}
