//! `fed-focal`: federated averaging with the focal loss.
//!
//! Sarkar et al., "Fed-Focal Loss for imbalanced data classification in Federated Learning", 2020 (arXiv 2011.06283):
//! the loss `-(1 - p)^gamma log p` of Lin et al., ICCV 2017, equation 4, with its gamma of 2, on the devices. Left out:
//! the paper's sampling of devices, since who takes part is the same for every method here, and class factors, for
//! which it gives no rule.

use super::Definition;
use crate::hyper_parameters::HyperParameter;
use crate::train::{LocalObjective, Loss};

const GAMMA: HyperParameter =
    HyperParameter::number("gamma", 2.0, (0.0, 10.0), "how much less a sample counts that is classified well already");

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg with a loss in which samples that are classified well already count less",
    source: "Sarkar et al., 2020",
    params: &[GAMMA],
    local: |params, _, _| LocalObjective { loss: Loss::Focal(params.method_params[0]), ..LocalObjective::PLAIN },
    ..Definition::PLAIN
};
