//! Whether sums can be those of any samples. A device may be broken or lie, and sums that no samples have spoil the
//! fleet's covariance for everybody.

use alloc::vec;
use alloc::vec::Vec;

use crate::cholesky::dot;
use crate::statistics::{Statistics, StatisticsError};

/// Of the trace of the second moment, what rounding on the way may come to in any direction.
const ROUNDING: f64 = 1e-5;
/// The same for each sample and feature, from the fixed-point products.
const ROUNDING_PER_SAMPLE: f64 = 4e-6;
/// Up to so many features the within-class scatter is factored; that takes as long as the cube of their number.
const MOST_FACTORED: usize = 640;
/// Directions in which the scatter of more features is looked at.
const PROBES: usize = 16;

impl Statistics {
    /// Refuses second moments that no samples have: the diagonal, the entries beside it (Cauchy-Schwarz) and the
    /// within-class scatter `sum h hᵀ - sum S_c S_cᵀ / n_c` must be those of real features.
    ///
    /// # Errors
    /// [`StatisticsError::Impossible`], with what is wrong.
    pub fn check_possible(&self) -> Result<(), StatisticsError> {
        let refuse = |what| Err(StatisticsError::Impossible(what));
        let (_, _, moment) = self.parts();
        let d = self.shape().features();
        if moment.is_empty() {
            return Ok(());
        }
        if self.samples() == 0 {
            let is_empty = moment.iter().all(|entry| *entry == 0);
            return if is_empty { Ok(()) } else { refuse("there are no samples and a second moment") };
        }
        let diagonal: Vec<f64> = (0..d).map(|i| self.moment_at(i, i)).collect();
        let trace: f64 = diagonal.iter().sum();
        let slack = ROUNDING * trace.max(0.0) + ROUNDING_PER_SAMPLE * self.samples() as f64;
        if diagonal.iter().any(|entry| *entry < -slack) {
            return refuse("the second moment has a negative entry on its diagonal");
        }
        for (i, left) in diagonal.iter().enumerate() {
            let is_too_large = |(j, right): (usize, &f64)| {
                self.moment_at(i, j).abs() > libm::sqrt(left.max(0.0) * right.max(0.0)) + slack
            };
            if diagonal.iter().enumerate().skip(i + 1).any(is_too_large) {
                return refuse("an entry of the second moment is larger than its diagonal allows");
            }
        }
        let mut scatter = self.within_class_covariance(&self.means_f64());
        let share = slack / self.samples().max(1) as f64;
        scatter.iter_mut().step_by(d + 1).for_each(|entry| *entry += share);
        let is_possible =
            if d <= MOST_FACTORED { can_be_factored(scatter, d) } else { is_positive_in_places(&scatter, d) };
        if is_possible { Ok(()) } else { refuse("the features vary by less than nothing within their classes") }
    }
}

/// Whether a symmetric `[d][d]` matrix is positive definite: whether Cholesky's pivots are above zero.
fn can_be_factored(mut matrix: Vec<f64>, d: usize) -> bool {
    for j in 0..d {
        let (above, row) = matrix.split_at_mut(j * d);
        for k in 0..j {
            row[k] = (row[k] - dot(&row[..k], &above[k * d..k * d + k])) / above[k * d + k];
        }
        let pivot = row[j] - dot(&row[..j], &row[..j]);
        // A NaN is not above zero either.
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        row[j] = libm::sqrt(pivot);
    }
    true
}

/// Whether `vᵀ M v` is above zero along the axes and in some directions whose entries are 1 and -1.
fn is_positive_in_places(matrix: &[f64], d: usize) -> bool {
    if matrix.iter().step_by(d + 1).any(|entry| entry.is_nan() || *entry <= 0.0) {
        return false;
    }
    let mut signs = 0x9e37_79b9_7f4a_7c15_u64;
    let mut direction = vec![0.0; d];
    (0..PROBES).all(|_| {
        for entry in &mut direction {
            // Xorshift: any sequence does that does not repeat within a few thousand steps.
            signs ^= signs << 13;
            signs ^= signs >> 7;
            signs ^= signs << 17;
            *entry = if signs & 1 == 0 { 1.0 } else { -1.0 };
        }
        let along: f64 = matrix.chunks_exact(d).zip(&direction).map(|(row, sign)| sign * dot(row, &direction)).sum();
        along > 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FloatSums, Samples, Shape, Sums};

    fn floats(d: usize) -> (Shape, FloatSums) {
        let shape = Shape::new(3, d).unwrap();
        let value = |at: usize| libm::sin(at as f64 * 12.9898) as f32 + 1.5;
        let features: Vec<f32> = (0..7 * d).map(value).collect();
        let samples = Samples::new(shape, &features, &[0, 0, 0, 1, 1, 1, 1]).unwrap();
        (shape, Statistics::of(&samples, Sums::SecondMoment, 1).to_floats())
    }

    /// What arrives is rounded to single precision.
    fn received(shape: Shape, mut floats: FloatSums) -> Result<Statistics, StatisticsError> {
        floats.sums.iter_mut().chain(&mut floats.moment).for_each(|value| *value = f64::from(*value as f32));
        Statistics::from_floats(shape, Sums::SecondMoment, &floats)
    }

    #[test]
    fn sums_of_samples_are_possible_though_they_were_rounded() {
        for d in [1, 2, 5, 64, MOST_FACTORED + 1] {
            let (shape, floats) = floats(d);
            assert!(received(shape, floats).is_ok(), "{d}");
        }
    }

    #[test]
    fn sums_that_no_samples_have_are_refused() {
        for d in [2, 64, MOST_FACTORED + 1] {
            let (shape, good) = floats(d);
            let changed = |change: &dyn Fn(&mut FloatSums)| {
                let mut floats = good.clone();
                change(&mut floats);
                received(shape, floats)
            };
            let impossible = |result: Result<Statistics, StatisticsError>| {
                assert!(matches!(result, Err(StatisticsError::Impossible(_))), "{d}: {result:?}");
            };
            impossible(changed(&|floats| floats.moment.iter_mut().for_each(|entry| *entry = -*entry)));
            impossible(changed(&|floats| floats.moment[0] = -1.0));
            impossible(changed(&|floats| floats.moment[1] = 1e3));
            impossible(changed(&|floats| floats.sums[..d].iter_mut().for_each(|sum| *sum = 600.0)));
            impossible(changed(&|floats| floats.moment.iter_mut().for_each(|entry| *entry *= 0.05)));
        }
    }

    #[test]
    fn what_is_taken_off_leaves_what_was_there() {
        let (shape, one) = floats(5);
        let one = received(shape, one).unwrap();
        let mut other = FloatSums { counts: std::vec![0, 2, 0], ..one.to_floats() };
        other.sums.iter_mut().for_each(|sum| *sum = 0.0);
        other.moment.iter_mut().for_each(|entry| *entry = 0.0);
        let other = received(shape, other).unwrap();
        let mut both = one.clone();
        both.add(&other).unwrap();
        assert_ne!(both, one);
        both.subtract(&other).unwrap();
        assert_eq!(both, one);
        assert!(both.subtract(&other).is_ok() && both.subtract(&one).is_err());
    }
}
