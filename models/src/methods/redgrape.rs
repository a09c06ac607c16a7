//! `redgrape`: two heads, the main one balanced with the fleet's gradients.
//!
//! Yang et al., "Decentralized Decoupled Training for Federated Long-Tailed Learning", TMLR 2024 (arXiv 2301.10394),
//! algorithm 1. The sum of both heads fits a device's own long-tailed samples; the main head, used alone later, is also
//! pulled towards balance by a gradient in which every class counts the same: the device's own samples of the classes
//! it is rich in, the fleet's gradient prototypes (equation 9) for the classes it lacks. Adapted: both heads are
//! classifiers on frozen features; without momentum and clipping for the balanced step, as the paper has it and the
//! authors' code has not.

use super::{Answer, Closed, Definition};
use crate::aid::{Aid, AidView};
use crate::fleet::Merged;
use crate::local::Local;
use crate::params::ValidParams;
use crate::prototype::Prototypes;
use crate::train::Balance;

pub(super) const DEFINITION: Definition = Definition {
    summary: "devices re-balance the head while they train: with their own samples of a class where they have enough, \
              with the fleet's class gradients where they have not",
    source: "Yang et al., TMLR 2024",
    answer: Answer { prototypes: true, ..Definition::PLAIN.answer },
    supplementary: true,
    balanced: true,
    local,
    conclude,
    ..Definition::PLAIN
};

/// In the very first round the fleet has no prototypes and nothing is balanced.
fn local<'a>(_: &ValidParams, aid: Option<AidView<'a>>, _: bool) -> Local<'a> {
    match aid {
        Some(AidView::Prototypes(prototypes)) => Local { balance: Balance::Prototypes(prototypes), ..Local::PLAIN },
        Some(AidView::Means(_) | AidView::Prior(_) | AidView::Weights(_) | AidView::Anchor(_)) | None => Local::PLAIN,
    }
}

/// A class nobody sent keeps its prototype.
fn conclude(mut closed: Closed<'_>) -> Merged {
    let mut prototypes = match closed.known.aid.take() {
        Some(Aid::Prototypes(prototypes)) => prototypes,
        Some(Aid::Means(_) | Aid::Prior(_) | Aid::Weights(_) | Aid::Anchor(_)) | None => Prototypes::default(),
    };
    closed.prototypes.merge_into(&mut prototypes);
    Merged { aid: Some(Aid::Prototypes(prototypes)), ..closed.plain() }
}
