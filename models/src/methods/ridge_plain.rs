//! `ridge-plain`: ridge regression on one-hot targets, from one exchange of pure sums.
//!
//! Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024: the closed form
//! that sums give exactly. Adapted: with an intercept, which is not shrunk.

use super::{Definition, Prepared, Setting, ncm::one_head, ridge};
use crate::oneshot;
use crate::params::{Sums, ValidParams};
use crate::statistics::Statistics;

/// Just enough to be solvable: more makes rare classes, whose targets are near zero, rarer still.
const STRENGTH: Setting = Setting { default: 1e-3, ..ridge::STRENGTH };

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: ridge regression in which every sample weighs the same, from sums of features in one round",
    source: "Fanì et al., ICML 2024",
    settings: &[STRENGTH],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> Prepared {
    one_head(oneshot::ridge_plain(statistics, f64::from(params.own[0])))
}
