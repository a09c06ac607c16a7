//! `logit-adjusted`: the logit-adjusted softmax loss.
//!
//! Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10 with tau 1. Adapted to a fleet: the
//! prior is that of all devices together, from their counts.

use super::{Definition, Prepared};
use crate::aid::{Aid, AidView};
use crate::local::{Local, Loss};
use crate::params::Sums;

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg with a loss that accounts for how often the fleet has each class",
    source: "Menon et al., ICLR 2021",
    needs: Sums::Counts,
    prepare: |statistics, _| Prepared { aid: Some(Aid::Prior(statistics.prior())), ..Prepared::default() },
    local: |_, aid, _| match aid {
        Some(AidView::Prior(prior)) => Local { loss: Loss::Shifted(prior), ..Local::PLAIN },
        Some(AidView::Prototypes(_) | AidView::Means(_) | AidView::Weights(_) | AidView::Anchor(_)) | None => {
            Local::PLAIN
        }
    },
    ..Definition::PLAIN
};
