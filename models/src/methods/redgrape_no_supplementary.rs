//! `redgrape-no-supplementary`: the ablation of [`redgrape`](super::redgrape) in which one head both fits the device's own
//! samples and is balanced (Yang et al., TMLR 2024, section on ablations).

use super::{Definition, redgrape};

pub(super) const DEFINITION: Definition =
    Definition { summary: "redgrape with one head instead of two", supplementary: false, ..redgrape::DEFINITION };
