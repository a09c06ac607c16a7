//! `fedavg`: federated averaging.
//!
//! McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
//! algorithm 1. Adapted: momentum and clipping of the local steps as for every method here.

use super::Definition;

pub(super) const DEFINITION: Definition = Definition {
    summary: "each device trains on its own samples, the heads are averaged",
    source: "McMahan et al., AISTATS 2017",
    ..Definition::PLAIN
};
