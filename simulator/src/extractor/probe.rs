//! How good the features of an extractor are for some data: the balanced accuracy of linear heads in closed form.
//!
//! Both heads come from pure sums, so the sums of the part that regularisation is chosen on are simply added to the rest
//! for the final fit. The test samples take no part in any choice.

use grapevine_models::evaluate::Accuracy;
use grapevine_models::{Head, Method, Samples, SamplesError, Shape, Statistics, StatisticsError, Sums, oneshot};
use rayon::prelude::*;
use serde::Serialize;

use crate::data::SampleSet;
use crate::data::images::stratified;

/// Part of each class of the training samples on which the strength of regularisation is chosen.
pub const VALIDATION_SHARE: f64 = 0.2;
/// Strengths and shrinkages that are tried.
pub const STRENGTHS: [f64; 6] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1];
/// Samples per task.
const PART: usize = 2_048;

/// One head and how it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// `ridge` (class-weighted) or `lda`.
    pub method: String,
    /// The strength or shrinkage that was best on the validation part.
    pub regularisation: f64,
    /// Balanced accuracy there, before the validation part was added to the sums.
    pub validation_accuracy: f64,
    /// Mean of the accuracies of all classes on the test samples.
    pub balanced_accuracy: f64,
    /// `[class]`; `None` for a class without test samples.
    pub accuracy_by_class: Vec<Option<f64>>,
}

/// Why samples cannot be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The numbers are not samples.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// The sums leave their range.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// Fits class-weighted ridge regression and LDA to the training samples and measures them on the test samples.
///
/// # Errors
/// If the numbers are no samples of this shape, or their sums leave the range.
pub fn probe(shape: Shape, train: &SampleSet, test: &SampleSet) -> Result<[Probe; 2], ProbeError> {
    train.samples(shape)?;
    let (fit, validation) = stratified(&train.labels, VALIDATION_SHARE);
    let (fit, validation) = (train.select(&fit), train.select(&validation));
    let fit_sums = sums(&fit.samples(shape)?)?;
    let validation = validation.samples(shape)?;
    let mut all_sums = sums(&validation)?;
    all_sums.add(&fit_sums)?;
    let test = test.samples(shape)?;
    let best = |method: Method| {
        let tried = STRENGTHS.into_par_iter().map(|strength| {
            let head = head(method, &fit_sums, strength);
            (strength, Accuracy::of(&head, &validation).balanced())
        });
        let tried: Vec<(f64, f64)> = tried.collect();
        let first = tried[0];
        // The strongest of equals.
        tried.into_iter().fold(first, |best, next| if next.1 >= best.1 { next } else { best })
    };
    Ok([Method::Ridge, Method::Lda].map(|method| {
        let (regularisation, validation_accuracy) = best(method);
        let accuracy = Accuracy::of(&head(method, &all_sums, regularisation), &test);
        Probe {
            method: method.name().to_owned(),
            regularisation,
            validation_accuracy,
            balanced_accuracy: accuracy.balanced(),
            accuracy_by_class: accuracy.by_class,
        }
    }))
}

fn head(method: Method, sums: &Statistics, strength: f64) -> Head {
    if method == Method::Ridge { oneshot::ridge(sums, strength) } else { oneshot::lda(sums, strength) }
}

/// On all cores: sums are exact, so that their order does not matter.
fn sums(samples: &Samples<'_>) -> Result<Statistics, ProbeError> {
    let shape = samples.shape();
    let all = samples.labels().len();
    let starts = (0..all).into_par_iter().step_by(PART);
    let parts: Vec<Statistics> = starts
        .map(|start| Statistics::of(&samples.part(start..all.min(start + PART)), Sums::SecondMoment, 1))
        .collect();
    let mut sums = Statistics::empty(shape, Sums::SecondMoment);
    for part in parts {
        sums.add(&part)?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use ndarray::arr1;

    use super::*;

    /// Two clusters that only the second feature tells apart, with nine times as many samples of the first.
    fn samples(shift: u32) -> SampleSet {
        let mut samples = SampleSet::empty(3);
        for index in 0..200_u32 {
            let label = u16::from(index % 10 == 0);
            let noise = |factor: u32| ((index * factor + shift) % 17) as f32 / 17.0 - 0.5;
            samples.push(arr1(&[noise(5), noise(7) + 2.0 * f32::from(label), 3.0 * noise(11)]).view(), label);
        }
        samples
    }

    #[test]
    fn separable_classes_are_separated_however_rare() {
        let shape = Shape::new(2, 3).unwrap();
        for probe in probe(shape, &samples(0), &samples(3)).unwrap() {
            assert_eq!((probe.balanced_accuracy, probe.validation_accuracy), (1.0, 1.0), "{probe:?}");
            assert!(STRENGTHS.contains(&probe.regularisation));
        }
    }

    #[test]
    fn a_class_without_samples_has_no_accuracy() {
        let shape = Shape::new(3, 3).unwrap();
        let [ridge, lda] = probe(shape, &samples(0), &samples(1)).unwrap();
        assert_eq!((ridge.accuracy_by_class[2], lda.accuracy_by_class[2]), (None, None));
        assert_eq!((ridge.method.as_str(), lda.method.as_str()), ("ridge", "lda"));
    }

    #[test]
    fn samples_of_another_shape_are_refused() {
        assert!(probe(Shape::new(2, 4).unwrap(), &samples(0), &samples(1)).is_err());
    }
}
