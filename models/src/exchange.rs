//! What a round asks of devices, and what they answer. Every answer has one variant, so nothing travels as something else.

use serde::{Deserialize, Serialize};

use crate::fields::OfMethod;
use crate::head::{Head, Heads};
use crate::method::Method;
use crate::prototype::Prototypes;
use crate::statistics::{Statistics, Sums};

/// What a round asks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The statistics of its samples. They take the place of those that it sent before.
    Statistics(Sums),
    /// The heads after local training, and what else the method reads.
    Heads {
        /// Whether there is a supplementary head.
        supplementary: bool,
        /// Whether gradient prototypes at the received main head are wanted, too.
        prototypes: bool,
        /// Whether the mean cross-entropy of the received main head is wanted, too.
        loss: bool,
    },
    /// The gradient, in the main head, of the mean cross-entropy of both heads' sum on all samples, less that at
    /// [`crate::SideInformation::ReferencePoint`] where there is one.
    Gradient,
    /// Gradient prototypes at the received main head, and nothing else.
    Prototypes,
    /// What the method itself defines, in its file.
    OfMethod(Method),
}

/// What a device answers. `P` is how it holds its prototypes: all of them, or the means to make one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Response<P = Prototypes> {
    /// See [`Request::Statistics`].
    Statistics(Statistics),
    /// See [`Request::Heads`].
    Heads {
        /// After local training.
        heads: Heads,
        /// For the classes that the device may share; `None` where the request wants none.
        prototypes: Option<P>,
        /// `None` where the request wants none.
        loss: Option<f32>,
    },
    /// See [`Request::Gradient`].
    Gradient(Head),
    /// See [`Request::Prototypes`]: for the classes that the device may share.
    Prototypes(P),
    /// See [`Request::OfMethod`].
    OfMethod(OfMethod),
}

impl Request {
    /// The heads of a method that has one and reads nothing else.
    pub const MAIN_HEAD: Self = Self::Heads { supplementary: false, prototypes: false, loss: false };

    /// The same with a supplementary head, where heads are asked for.
    pub fn with_supplementary(self) -> Self {
        match self {
            Self::Heads { supplementary: _, prototypes, loss } => Self::Heads { supplementary: true, prototypes, loss },
            Self::Statistics(_) | Self::Gradient | Self::Prototypes | Self::OfMethod(_) => self,
        }
    }

    /// Whether it is answered by a round of training, and not by pure sums.
    pub fn is_training(self) -> bool {
        match self {
            Self::Statistics(_) => false,
            Self::Heads { .. } | Self::Gradient | Self::Prototypes | Self::OfMethod(_) => true,
        }
    }

    /// Whether prototypes are part of the answer.
    pub fn wants_prototypes(self) -> bool {
        match self {
            Self::Heads { prototypes, .. } => prototypes,
            Self::Prototypes => true,
            Self::Statistics(_) | Self::Gradient | Self::OfMethod(_) => false,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        if self.is_training() { "train" } else { "statistics" }
    }
}

impl<P> Response<P> {
    /// The same with its prototypes held in another way.
    pub fn map_prototypes<Q>(self, hold: impl FnOnce(P) -> Q) -> Response<Q> {
        match self {
            Self::Statistics(statistics) => Response::Statistics(statistics),
            Self::Heads { heads, prototypes, loss } => {
                Response::Heads { heads, prototypes: prototypes.map(hold), loss }
            }
            Self::Gradient(gradient) => Response::Gradient(gradient),
            Self::Prototypes(prototypes) => Response::Prototypes(hold(prototypes)),
            Self::OfMethod(value) => Response::OfMethod(value),
        }
    }
}
