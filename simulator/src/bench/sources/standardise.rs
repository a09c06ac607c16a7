//! The scale that the learning rates assume: `(x - mean) / std / sqrt(d / 16)`.

use ndarray::{Array2, ArrayView2};

/// How many times too large or too small a spread may be before it is worth a word.
const UNUSUAL: f64 = 3.0;

/// Mean and spread of each feature.
pub(super) struct Scale {
    mean: Vec<f64>,
    /// What a feature is multiplied with after its mean was taken off; 0 where all samples agree.
    factor: Vec<f64>,
}

impl Scale {
    /// Of samples `[n][d]`, at least one.
    pub(super) fn of(features: ArrayView2<'_, f32>) -> Self {
        let (mean, deviation) = moments(features);
        let root = (features.ncols() as f64 / 16.0).sqrt();
        // Below the precision of the features a spread is rounding.
        let is_spread = |mean: f64, deviation: f64| deviation > mean.abs() * f64::from(f32::EPSILON);
        let factor = mean
            .iter()
            .zip(deviation)
            .map(|(&mean, deviation)| if is_spread(mean, deviation) { 1.0 / (deviation * root) } else { 0.0 });
        Self { factor: factor.collect(), mean }
    }

    pub(super) fn apply(&self, features: &mut Array2<f32>) {
        for mut row in features.rows_mut() {
            for ((value, mean), factor) in row.iter_mut().zip(&self.mean).zip(&self.factor) {
                *value = ((f64::from(*value) - mean) * factor) as f32;
            }
        }
    }
}

/// What to say about features whose spread is far from what the learning rates assume.
pub(crate) fn unusual_spread(features: ArrayView2<'_, f32>) -> Option<String> {
    let (_, deviation) = moments(features);
    let variance = deviation.iter().map(|deviation| deviation * deviation).sum::<f64>() / deviation.len() as f64;
    let (spread, expected) = (variance.sqrt(), 4.0 / (features.ncols() as f64).sqrt());
    let is_usual = (expected / UNUSUAL..=expected * UNUSUAL).contains(&spread);
    (!is_usual).then(|| {
        format!(
            "The features have a spread of {spread:.3} where the learning rates assume {expected:.3}: standardise them \
             with --standardise train, or choose --learning-rate yourself."
        )
    })
}

/// Mean and standard deviation of each feature.
fn moments(features: ArrayView2<'_, f32>) -> (Vec<f64>, Vec<f64>) {
    let rows = features.nrows().max(1) as f64;
    let mut mean = vec![0.0; features.ncols()];
    for row in features.rows() {
        mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / rows);
    }
    let mut variance = vec![0.0; features.ncols()];
    for row in features.rows() {
        let away = row.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean);
        variance.iter_mut().zip(away).for_each(|(variance, away)| *variance += away * away / rows);
    }
    (mean, variance.into_iter().map(f64::sqrt).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standardised_features_have_the_scale_of_the_learning_rates() {
        let value = |at: usize| (at * 37 % 101) as f32 * (at % 4) as f32 + 5.0;
        let mut features = Array2::from_shape_fn((100, 4), |(row, feature)| value(4 * row + feature));
        assert!(unusual_spread(features.view()).unwrap().contains("--standardise train"));
        let scale = Scale::of(features.view());
        scale.apply(&mut features);
        let (mean, deviation) = moments(features.view());
        assert!(mean.iter().all(|mean| mean.abs() < 1e-6), "{mean:?}");
        // The first feature is the same for all samples.
        assert_eq!(deviation[0], 0.0);
        assert!(deviation[1..].iter().all(|deviation| (deviation - 2.0).abs() < 1e-5), "{deviation:?}");
        assert_eq!(unusual_spread(features.view()), None);
    }
}
