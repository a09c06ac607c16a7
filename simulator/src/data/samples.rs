//! Samples in memory, whoever holds them.

use grapevine_models::{Samples, SamplesError, Shape};
use ndarray::{Array2, ArrayView1, Axis};

/// Features and labels of one device, of a part of a data set, or of the test set.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSet {
    /// Standardised features: `[sample][feature]`, in standard layout.
    pub features: Array2<f32>,
    /// `[sample]`.
    pub labels: Vec<u16>,
}

impl SampleSet {
    /// No samples, of `features` features each.
    pub fn empty(features: usize) -> Self {
        Self { features: Array2::zeros((0, features)), labels: Vec::new() }
    }

    /// Samples whose features stand one behind the other.
    ///
    /// # Panics
    /// If there are not `width` features for each label.
    pub fn of_rows(features: Vec<f32>, labels: Vec<u16>, width: usize) -> Self {
        let features = Array2::from_shape_vec((labels.len(), width), features);
        Self { features: features.expect("a row of features for each label"), labels }
    }

    /// The rows with these indices, in this order.
    pub fn select(&self, rows: &[u32]) -> Self {
        let rows: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
        let labels = rows.iter().map(|&row| self.labels[row]).collect();
        Self { features: self.features.select(Axis(0), &rows), labels }
    }

    /// Adds one sample at the end.
    ///
    /// # Panics
    /// If it has another number of features.
    pub fn push(&mut self, features: ArrayView1<'_, f32>, label: u16) {
        self.features.push_row(features).expect("as many features as the others");
        self.labels.push(label);
    }

    /// Each sample's features and label.
    pub fn iter(&self) -> impl Iterator<Item = (&[f32], u16)> {
        let rows = self.features.rows().into_iter().map(|row| row.to_slice().expect("standard layout"));
        rows.zip(self.labels.iter().copied())
    }

    /// The samples, checked, for training and measuring.
    ///
    /// # Errors
    /// If the numbers are no samples of this shape.
    pub fn samples(&self, shape: Shape) -> Result<Samples<'_>, SamplesError> {
        Samples::new(shape, self.features.as_slice().expect("standard layout"), &self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_and_added_with_their_labels() {
        let all = SampleSet::of_rows(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![7, 8, 9], 2);
        let mut chosen = all.select(&[2, 0]);
        assert_eq!(chosen, SampleSet::of_rows(vec![5.0, 6.0, 1.0, 2.0], vec![9, 7], 2));
        chosen.push(all.features.row(1), all.labels[1]);
        assert_eq!(chosen.iter().last(), Some((&[3.0, 4.0][..], 8)));
        assert_eq!(chosen.samples(Shape::new(10, 2).unwrap()).unwrap().labels(), [9, 7, 8]);
        assert!(chosen.samples(Shape::new(5, 2).unwrap()).is_err(), "labels beyond the classes");
        assert_eq!(SampleSet::empty(2).select(&[]), SampleSet::empty(2));
    }
}
