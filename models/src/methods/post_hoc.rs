//! `post-hoc`: logit adjustment of a trained head.
//!
//! Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 9: federated averaging, and the head in
//! use has `tau * log prior` taken from its bias, with tau 1 (`Params::tau` adds, hence the sign). Adapted to a fleet:
//! the prior is that of all devices together, from their counts.

use super::Definition;

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg whose head is corrected for how often the fleet has each class when it is used",
    source: "Menon et al., ICLR 2021",
    defaults: |params, _| params.tau = -1.0,
    ..Definition::PLAIN
};
