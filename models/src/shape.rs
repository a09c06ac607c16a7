//! The shape every head, prototype and statistic of one fleet shares.

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CLASSES, MAX_FEATURES};

/// How many classes and how many features per sample; both within [`crate::limits`].
///
/// ```
/// use grapevine_models::Shape;
///
/// let shape = Shape::new(10, 64)?;
/// // A head has a weight for each class and feature, and a bias for each class.
/// assert_eq!((shape.weights(), shape.parameters()), (640, 650));
/// assert!(Shape::new(1, 64).is_err(), "with one class there is nothing to tell apart");
/// # Ok::<(), grapevine_models::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawShape", into = "RawShape")]
pub struct Shape {
    classes: u16,
    features: u16,
}

/// Why a pair of numbers is not a [`Shape`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Fewer than two classes, or more than [`MAX_CLASSES`].
    #[error("{0} classes: a fleet has 2 to {max} classes", max = MAX_CLASSES)]
    Classes(usize),
    /// No feature, or more than [`MAX_FEATURES`].
    #[error("{0} features: an extractor gives 1 to {max} features", max = MAX_FEATURES)]
    Features(usize),
}

impl Shape {
    /// Checks both numbers against the limits.
    ///
    /// # Errors
    /// If there are fewer than 2 or more than [`MAX_CLASSES`] classes, or no or more than [`MAX_FEATURES`] features.
    pub fn new(classes: usize, features: usize) -> Result<Self, ShapeError> {
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(ShapeError::Classes(classes));
        }
        if !(1..=MAX_FEATURES).contains(&features) {
            return Err(ShapeError::Features(features));
        }
        Ok(Self { classes: classes as u16, features: features as u16 })
    }

    /// Number of classes `C`.
    pub fn classes(self) -> usize {
        usize::from(self.classes)
    }

    /// Features per sample `d`.
    pub fn features(self) -> usize {
        usize::from(self.features)
    }

    /// Entries of one weight matrix, `C * d`.
    pub fn weights(self) -> usize {
        self.classes() * self.features()
    }

    /// Parameters of one head, `C * (d + 1)`.
    pub fn parameters(self) -> usize {
        self.weights() + self.classes()
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct RawShape {
    classes: u16,
    features: u16,
}

impl From<Shape> for RawShape {
    fn from(shape: Shape) -> Self {
        Self { classes: shape.classes, features: shape.features }
    }
}

impl TryFrom<RawShape> for Shape {
    type Error = ShapeError;

    fn try_from(raw: RawShape) -> Result<Self, ShapeError> {
        Self::new(usize::from(raw.classes), usize::from(raw.features))
    }
}
