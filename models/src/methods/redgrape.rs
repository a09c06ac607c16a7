//! `redgrape`: two heads, the main one balanced with the fleet's gradients.
//!
//! Yang et al., "Decentralized Decoupled Training for Federated Long-Tailed Learning", TMLR 2024 (arXiv 2301.10394),
//! algorithm 1. The sum of both heads fits a device's own long-tailed samples; the main head, used alone later, is also
//! pulled towards balance by a gradient in which every class counts the same: the device's own samples of the classes
//! it is rich in, the fleet's gradient prototypes (equation 9) for the classes it lacks. Adapted: both heads are
//! classifiers on frozen features; without momentum and clipping for the balanced step, as the paper has it and the
//! authors' code has not.

use super::{Definition, RoundResponses};
use crate::exchange::Request;
use crate::fleet::RoundResult;
use crate::params::ValidParams;
use crate::prototype::Prototypes;
use crate::side_information::{SideInformation, SideInformationView};
use crate::train::Balance;
use crate::train::LocalObjective;

pub(super) const DEFINITION: Definition = Definition {
    summary: "devices re-balance the head while they train: with their own samples of a class where they have enough, \
              with the fleet's class gradients where they have not",
    source: "Yang et al., TMLR 2024",
    training: Request::Heads { supplementary: true, prototypes: true, loss: false },
    balanced: true,
    local,
    conclude,
    ..Definition::PLAIN
};

/// In the very first round the fleet has no prototypes and nothing is balanced.
fn local<'a>(_: &ValidParams, side_information: Option<SideInformationView<'a>>, _: bool) -> LocalObjective<'a> {
    let prototypes = side_information.and_then(SideInformationView::prototypes);
    let balance = prototypes.map_or(Balance::Nothing, Balance::Prototypes);
    LocalObjective { balance, ..LocalObjective::PLAIN }
}

/// A class nobody sent keeps its prototype.
fn conclude(mut responses: RoundResponses<'_>) -> RoundResult {
    let mut prototypes = match responses.known.side_information.take() {
        Some(SideInformation::Prototypes(prototypes)) => prototypes,
        Some(_) | None => Prototypes::default(),
    };
    responses.prototypes.merge_into(&mut prototypes);
    RoundResult { side_information: Some(SideInformation::Prototypes(prototypes)), ..responses.plain() }
}
