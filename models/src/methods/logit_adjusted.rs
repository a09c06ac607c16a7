//! `logit-adjusted`: the logit-adjusted softmax loss.
//!
//! Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10 with tau 1. Adapted to a fleet: the
//! prior is that of all devices together, from their counts.

use super::{Definition, InitialModel};
use crate::side_information::{SideInformation, SideInformationView};
use crate::statistics::Sums;
use crate::train::{LocalObjective, Loss};

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg with a loss that accounts for how often the fleet has each class",
    source: "Menon et al., ICLR 2021",
    needs: Sums::Counts,
    prepare: |statistics, _| InitialModel {
        side_information: Some(SideInformation::Prior(statistics.prior())),
        ..InitialModel::default()
    },
    local: |_, side_information, _| {
        let prior = side_information.and_then(SideInformationView::prior);
        LocalObjective { loss: prior.map_or(Loss::CrossEntropy, Loss::LogitAdjusted), ..LocalObjective::PLAIN }
    },
    ..Definition::PLAIN
};
