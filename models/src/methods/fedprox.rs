//! `fedprox`: federated averaging with a proximal term.
//!
//! Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2 and algorithm 2: a device
//! minimises its loss plus `mu / 2 * |W - W_received|²`. Adapted: every device does the same number of epochs (the paper
//! also lets devices stop early), and the term's gradient is clipped together with the loss's.

use super::{Definition, Setting};
use crate::local::Local;

/// The paper tries 0.001, 0.01, 0.1 and 1.
const MU: Setting = Setting {
    name: "mu",
    meaning: "weight of the term that holds a device back to the received head",
    default: 0.01,
    least: 0.0,
    most: 1_000.0,
    whole: false,
    allowed: "0 to 1000",
};

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg whose devices are held back to the head they received",
    source: "Li et al., MLSys 2020",
    settings: &[MU],
    local: |params, _, _| Local { proximal: params.own[0], ..Local::PLAIN },
    ..Definition::PLAIN
};
