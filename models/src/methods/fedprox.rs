//! `fedprox`: federated averaging with a proximal term.
//!
//! Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2 and algorithm 2: a device
//! minimises its loss plus `mu / 2 * |W - W_received|²`. Adapted: every device does the same number of epochs (the paper
//! also lets devices stop early), and the term's gradient is clipped together with the loss's.

use super::Definition;
use crate::hyper_parameters::HyperParameter;
use crate::train::LocalObjective;

/// The paper tries 0.001, 0.01, 0.1 and 1.
const MU: HyperParameter = HyperParameter::number(
    "mu",
    0.01,
    (0.0, 1_000.0),
    "weight of the term that holds a device back to the received head",
);

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg whose devices are held back to the head they received",
    source: "Li et al., MLSys 2020",
    params: &[MU],
    local: |params, _, _| LocalObjective { proximal: params.method_params[0], ..LocalObjective::PLAIN },
    ..Definition::PLAIN
};
