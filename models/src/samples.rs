//! A device's labelled features, checked once.

use core::ops::Range;

use crate::kernel::Rows;
use crate::limits::{MAX_FEATURE_VALUE, MAX_SAMPLES};
use crate::shape::Shape;

/// A device's labelled features, checked.
///
/// ```
/// use grapevine_models::{Samples, Shape};
///
/// let shape = Shape::new(2, 3).unwrap();
/// // Two samples of three features each, one after the other, and their classes.
/// let features = [0.5, 1.0, 0.0, -0.5, 0.0, 2.0];
/// let samples = Samples::new(shape, &features, &[0, 1]);
/// assert!(samples.is_ok());
/// assert!(Samples::new(shape, &features, &[0, 2]).is_err(), "there is no class 2");
/// assert!(Samples::new(shape, &[f32::NAN; 3], &[0]).is_err(), "a feature is a finite number");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    shape: Shape,
    pub(crate) features: &'a [f32],
    labels: &'a [u16],
}

/// Why numbers are not samples.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplesError {
    /// The number of features is not samples times features per sample.
    #[error("{labels} labels need {expected} feature values, got {features}")]
    Length {
        /// Labels given.
        labels: usize,
        /// `labels * d`.
        expected: usize,
        /// Values given.
        features: usize,
    },
    /// More than [`MAX_SAMPLES`].
    #[error("{0} samples are more than a device may hold")]
    TooMany(usize),
    /// A label outside the classes.
    #[error("label {label} is not a class; the classes are 0 to {last}")]
    Label {
        /// The label.
        label: u16,
        /// The largest class.
        last: usize,
    },
    /// Not finite or above [`MAX_FEATURE_VALUE`].
    #[error("sample {0} has a feature that is not finite or absurdly large; check the extractor's manifest")]
    Value(usize),
}

impl<'a> Samples<'a> {
    /// Checks `features [n][d]` and `labels [n]` against the shape.
    ///
    /// # Errors
    /// If the lengths do not fit, there are too many samples, a label is no class, or a feature is not finite or too
    /// large.
    pub fn new(shape: Shape, features: &'a [f32], labels: &'a [u16]) -> Result<Self, SamplesError> {
        let expected = labels.len() * shape.features();
        if features.len() != expected {
            return Err(SamplesError::Length { labels: labels.len(), expected, features: features.len() });
        }
        if labels.len() > MAX_SAMPLES as usize {
            return Err(SamplesError::TooMany(labels.len()));
        }
        if let Some(&label) = labels.iter().find(|&&label| usize::from(label) >= shape.classes()) {
            return Err(SamplesError::Label { label, last: shape.classes() - 1 });
        }
        // The comparison is false for NaN, which must not pass.
        let possible = |value: &f32| value.abs() <= MAX_FEATURE_VALUE;
        if let Some(at) = features.iter().position(|value| !possible(value)) {
            return Err(SamplesError::Value(at / shape.features()));
        }
        Ok(Self { shape, features, labels })
    }

    /// The fleet's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `[n][d]`.
    pub fn features(&self) -> &'a [f32] {
        self.features
    }

    /// Some of the samples, those of a range of positions.
    ///
    /// # Panics
    /// If the range goes beyond the samples.
    pub fn part(&self, range: Range<usize>) -> Self {
        let d = self.shape.features();
        let features = &self.features[range.start * d..range.end * d];
        Self { shape: self.shape, features, labels: &self.labels[range] }
    }

    /// `[n]`.
    pub fn labels(&self) -> &'a [u16] {
        self.labels
    }

    /// The samples in order, each `[d]` with its label.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [f32], u16)> {
        self.features.chunks_exact(self.shape.features()).zip(self.labels.iter().copied())
    }

    /// The features `[d]` of one sample.
    pub(crate) fn row(&self, index: u32) -> &'a [f32] {
        let d = self.shape.features();
        &self.features[index as usize * d..(index as usize + 1) * d]
    }

    /// The features of the samples at `indices`.
    pub(crate) fn rows<'b>(&'b self, indices: &'b [u32]) -> Rows<'b> {
        Rows::chosen(self.features, self.shape.features(), indices)
    }

    /// Copies the rows at `indices` into `rows [indices.len()][d]`.
    pub(crate) fn gather(&self, indices: &[u32], rows: &mut [f32]) {
        let d = self.shape.features();
        for (row, &index) in rows.chunks_exact_mut(d).zip(indices) {
            let start = index as usize * d;
            row.copy_from_slice(&self.features[start..start + d]);
        }
    }
}
