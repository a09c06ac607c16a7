//! What a method adds to the heads that devices get.

use alloc::vec::Vec;

use crate::fields::OfMethod;
use crate::head::Head;
use crate::prototype::{PrototypeSource, Prototypes};
use crate::statistics::Means;

/// What a method adds to the heads that devices get.
#[derive(Clone, Debug, PartialEq)]
pub enum SideInformation {
    /// Mean gradients per class.
    Prototypes(Prototypes),
    /// Class means.
    Means(Means),
    /// Class shares `[C]`, each 0 to 1.
    Prior(Vec<f32>),
    /// The weight of each class in the local loss, `[C]`, each 0 to [`crate::limits::MAX_CLASS_WEIGHT`].
    Weights(Vec<f32>),
    /// A main head that gradients are told against.
    ReferencePoint(Head),
    /// What the method itself defines, in its file.
    OfMethod(OfMethod),
}

/// Side information where it lies, as a device reads it.
#[derive(Clone, Copy, Debug)]
pub enum SideInformationView<'a> {
    /// See [`SideInformation::Prototypes`].
    Prototypes(&'a dyn PrototypeSource),
    /// See [`SideInformation::Means`].
    Means(&'a Means),
    /// See [`SideInformation::Prior`].
    Prior(&'a [f32]),
    /// See [`SideInformation::Weights`].
    Weights(&'a [f32]),
    /// See [`SideInformation::ReferencePoint`].
    ReferencePoint(&'a Head),
    /// See [`SideInformation::OfMethod`].
    OfMethod(&'a OfMethod),
}

impl SideInformation {
    /// The side information as a device reads it.
    pub fn view(&self) -> SideInformationView<'_> {
        match self {
            Self::Prototypes(prototypes) => SideInformationView::Prototypes(prototypes),
            Self::Means(means) => SideInformationView::Means(means),
            Self::Prior(prior) => SideInformationView::Prior(prior),
            Self::Weights(weights) => SideInformationView::Weights(weights),
            Self::ReferencePoint(head) => SideInformationView::ReferencePoint(head),
            Self::OfMethod(value) => SideInformationView::OfMethod(value),
        }
    }
}

impl<'a> SideInformationView<'a> {
    /// The prototypes, if it is these.
    pub fn prototypes(self) -> Option<&'a dyn PrototypeSource> {
        if let Self::Prototypes(prototypes) = self { Some(prototypes) } else { None }
    }

    /// The class means, if it is these.
    pub fn means(self) -> Option<&'a Means> {
        if let Self::Means(means) = self { Some(means) } else { None }
    }

    /// The class shares, if it is these.
    pub fn prior(self) -> Option<&'a [f32]> {
        if let Self::Prior(prior) = self { Some(prior) } else { None }
    }

    /// The class weights, if it is these.
    pub fn weights(self) -> Option<&'a [f32]> {
        if let Self::Weights(weights) = self { Some(weights) } else { None }
    }

    /// The reference point, if it is that.
    pub fn reference_point(self) -> Option<&'a Head> {
        if let Self::ReferencePoint(head) = self { Some(head) } else { None }
    }

    /// The value of the method's own, if it is that.
    pub fn of_method(self) -> Option<&'a OfMethod> {
        if let Self::OfMethod(value) = self { Some(value) } else { None }
    }
}
