//! Samples, heads and statistics as arrays of the crate `ndarray`, for programs that speak it. Nothing is copied where it
//! need not be: views look at the same memory.

use alloc::vec::Vec;

use ndarray::{ArrayView1, ArrayView2};

use crate::head::{Head, HeadError};
use crate::samples::{Samples, SamplesError};
use crate::shape::{Shape, ShapeError};
use crate::statistics::{Means, Statistics};

/// Why arrays are no samples.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArraysError {
    /// The memory is not one row behind the other.
    #[error("the array is not in standard layout; make it so with `as_standard_layout`")]
    Layout,
    /// Too few or too many classes or features.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Labels or values that no samples have.
    #[error(transparent)]
    Samples(#[from] SamplesError),
}

impl<'a> Samples<'a> {
    /// Samples of a fleet with so many classes: `features [n][d]`, `labels [n]`.
    ///
    /// # Errors
    /// If an array is not in standard layout, or its numbers are no samples.
    pub fn of_arrays(
        features: ArrayView2<'a, f32>,
        labels: ArrayView1<'a, u16>,
        classes: usize,
    ) -> Result<Self, ArraysError> {
        let shape = Shape::new(classes, features.ncols())?;
        let features = features.to_slice().ok_or(ArraysError::Layout)?;
        Ok(Self::new(shape, features, labels.to_slice().ok_or(ArraysError::Layout)?)?)
    }

    /// `[n][d]`.
    pub fn features_array(&self) -> ArrayView2<'a, f32> {
        let shape = (self.labels().len(), self.shape().features());
        ArrayView2::from_shape(shape, self.features()).expect("samples are checked")
    }

    /// `[n]`.
    pub fn labels_array(&self) -> ArrayView1<'a, u16> {
        self.labels().into()
    }
}

impl Head {
    /// A head of `weight [class][feature]` and `bias [class]`, copied.
    ///
    /// # Errors
    /// If the lengths do not fit each other, or a number is not finite or too large.
    pub fn of_arrays(weight: ArrayView2<'_, f32>, bias: ArrayView1<'_, f32>) -> Result<Self, HeadError> {
        let head = Self { weight: weight.iter().copied().collect::<Vec<f32>>(), bias: bias.to_vec() };
        let (classes, features) = weight.dim();
        let wrong = || HeadError::Length {
            expected_weights: classes * features,
            expected_biases: classes,
            weights: head.weight.len(),
            biases: head.bias.len(),
        };
        head.check(Shape::new(classes, features).map_err(|_| wrong())?)?;
        Ok(head)
    }

    /// `[class][feature]`.
    ///
    /// # Panics
    /// If the weights are not as many for each bias.
    pub fn weight_array(&self) -> ArrayView2<'_, f32> {
        let shape = (self.bias.len(), self.weight.len() / self.bias.len().max(1));
        ArrayView2::from_shape(shape, &self.weight).expect("a head has as many weights for each class")
    }

    /// `[class]`.
    pub fn bias_array(&self) -> ArrayView1<'_, f32> {
        self.bias.as_slice().into()
    }
}

impl Statistics {
    /// Samples per class, `[class]`.
    pub fn counts_array(&self) -> ArrayView1<'_, u64> {
        self.counts().into()
    }
}

impl Means {
    /// The mean of a class, `[feature]`; `None` where nobody holds it.
    pub fn mean_array(&self, class: u16) -> Option<ArrayView1<'_, f32>> {
        self.by_class.get(&class).map(|mean| mean.as_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, arr1, arr2};

    use super::*;
    use crate::statistics::Sums;

    #[test]
    fn arrays_go_in_and_come_out_as_they_are() {
        let (features, labels) = (arr2(&[[1.0_f32, 2.0], [3.0, -1.0], [0.5, 0.0]]), arr1(&[0_u16, 2, 2]));
        let samples = Samples::of_arrays(features.view(), labels.view(), 3).unwrap();
        assert_eq!((samples.features_array(), samples.labels_array()), (features.view(), labels.view()));
        let statistics = Statistics::of(&samples, Sums::Means, 1);
        assert_eq!(statistics.counts_array(), arr1(&[1, 0, 2]).view());
        assert_eq!(statistics.means().mean_array(2).unwrap(), arr1(&[1.75, -0.5]).view());
        let head = Head::of_arrays(arr2(&[[1.0, 2.0], [3.0, 4.0]]).view(), arr1(&[0.5, -0.5]).view()).unwrap();
        assert_eq!((head.weight_array()[[1, 0]], head.bias_array()[1]), (3.0, -0.5));
    }

    #[test]
    fn arrays_that_are_no_samples_or_heads_are_refused() {
        let wide = Array2::<f32>::zeros((4, 6));
        let labels = arr1(&[0_u16, 1]);
        // Columns before rows.
        let turned = wide.t();
        assert_eq!(Samples::of_arrays(turned, labels.view(), 2).unwrap_err(), ArraysError::Layout);
        let refused = Samples::of_arrays(wide.view(), labels.view(), 2);
        assert!(matches!(refused, Err(ArraysError::Samples(SamplesError::Length { .. }))));
        assert!(matches!(Samples::of_arrays(wide.view(), labels.view(), 1), Err(ArraysError::Shape(_))));
        let not_finite = arr2(&[[f32::NAN, 0.0], [0.0, 0.0]]);
        assert_eq!(Head::of_arrays(not_finite.view(), arr1(&[0.0, 0.0]).view()), Err(HeadError::NotFinite));
        assert!(Head::of_arrays(not_finite.view(), arr1(&[0.0]).view()).is_err());
    }
}
