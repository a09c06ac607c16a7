//! `redgrape-no-supplementary`: the ablation of [`redgrape`](super::redgrape) in which one head both fits the device's own
//! samples and is balanced (Yang et al., TMLR 2024, section on ablations).

use super::{Definition, redgrape};
use crate::exchange::Request;

pub(super) const DEFINITION: Definition = Definition {
    summary: "redgrape with one head instead of two",
    training: Request::Heads { supplementary: false, prototypes: true, loss: false },
    ..redgrape::DEFINITION
};
