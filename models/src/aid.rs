//! What a method adds to the heads that devices get.

use alloc::vec::Vec;

use crate::head::Head;
use crate::prototype::{PrototypeSource, Prototypes};
use crate::statistics::Means;

/// What a method adds to the heads that devices get.
#[derive(Clone, Debug, PartialEq)]
pub enum Aid {
    /// Mean gradients per class.
    Prototypes(Prototypes),
    /// Class means.
    Means(Means),
    /// Class shares `[C]`, each 0 to 1.
    Prior(Vec<f32>),
    /// The weight of each class in the local loss, `[C]`, each 0 to [`crate::limits::MAX_CLASS_WEIGHT`].
    Weights(Vec<f32>),
    /// A main head that gradients are told against.
    Anchor(Head),
}

/// An aid where it lies, as a device reads it.
#[derive(Clone, Copy, Debug)]
pub enum AidView<'a> {
    /// See [`Aid::Prototypes`].
    Prototypes(&'a dyn PrototypeSource),
    /// See [`Aid::Means`].
    Means(&'a Means),
    /// See [`Aid::Prior`].
    Prior(&'a [f32]),
    /// See [`Aid::Weights`].
    Weights(&'a [f32]),
    /// See [`Aid::Anchor`].
    Anchor(&'a Head),
}

impl Aid {
    /// The aid as a device reads it.
    pub fn view(&self) -> AidView<'_> {
        match self {
            Self::Prototypes(prototypes) => AidView::Prototypes(prototypes),
            Self::Means(means) => AidView::Means(means),
            Self::Prior(prior) => AidView::Prior(prior),
            Self::Weights(weights) => AidView::Weights(weights),
            Self::Anchor(head) => AidView::Anchor(head),
        }
    }
}
