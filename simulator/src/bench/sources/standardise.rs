//! The scale that the learning rates assume: `(x - mean) / std / sqrt(d / 16)`.

use grapevine_models::Shape;

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
    pub(super) fn of(features: &[f32], shape: Shape) -> Self {
        let (mean, deviation) = moments(features, shape);
        let root = (shape.features() as f64 / 16.0).sqrt();
        // Below the precision of the features a spread is rounding.
        let is_spread = |mean: f64, deviation: f64| deviation > mean.abs() * f64::from(f32::EPSILON);
        let factor = mean
            .iter()
            .zip(deviation)
            .map(|(&mean, deviation)| if is_spread(mean, deviation) { 1.0 / (deviation * root) } else { 0.0 });
        Self { factor: factor.collect(), mean }
    }

    pub(super) fn apply(&self, features: &mut [f32], shape: Shape) {
        for row in features.chunks_exact_mut(shape.features()) {
            for ((value, mean), factor) in row.iter_mut().zip(&self.mean).zip(&self.factor) {
                *value = ((f64::from(*value) - mean) * factor) as f32;
            }
        }
    }
}

/// What to say about features whose spread is far from what the learning rates assume.
pub(crate) fn unusual_spread(features: &[f32], shape: Shape) -> Option<String> {
    let (_, deviation) = moments(features, shape);
    let variance = deviation.iter().map(|deviation| deviation * deviation).sum::<f64>() / deviation.len() as f64;
    let (spread, expected) = (variance.sqrt(), 4.0 / (shape.features() as f64).sqrt());
    let is_usual = (expected / UNUSUAL..=expected * UNUSUAL).contains(&spread);
    (!is_usual).then(|| {
        format!(
            "The features have a spread of {spread:.3} where the learning rates assume {expected:.3}: standardise them \
             with --standardise train, or choose --learning-rate yourself."
        )
    })
}

/// Mean and standard deviation of each feature.
fn moments(features: &[f32], shape: Shape) -> (Vec<f64>, Vec<f64>) {
    let width = shape.features();
    let rows = (features.len() / width).max(1) as f64;
    let mut mean = vec![0.0; width];
    for row in features.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / rows);
    }
    let mut variance = vec![0.0; width];
    for row in features.chunks_exact(width) {
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
        let shape = Shape::new(2, 4).unwrap();
        let mut features: Vec<f32> = (0..400).map(|at| (at * 37 % 101) as f32 * (at % 4) as f32 + 5.0).collect();
        assert!(unusual_spread(&features, shape).unwrap().contains("--standardise train"));
        let scale = Scale::of(&features, shape);
        scale.apply(&mut features, shape);
        let (mean, deviation) = moments(&features, shape);
        assert!(mean.iter().all(|mean| mean.abs() < 1e-6), "{mean:?}");
        // The first feature is the same for all samples.
        assert_eq!(deviation[0], 0.0);
        assert!(deviation[1..].iter().all(|deviation| (deviation - 2.0).abs() < 1e-5), "{deviation:?}");
        assert_eq!(unusual_spread(&features, shape), None);
    }
}
