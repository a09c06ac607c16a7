//! `ridge-plain`: ridge regression on one-hot targets, from one exchange of pure sums.
//!
//! Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024: the closed form
//! that sums give exactly. Adapted: with an intercept, which is not shrunk.

use super::{Definition, Prepared, ncm::one_head, ridge};
use crate::oneshot;
use crate::params::{Sums, ValidParams};
use crate::statistics::Statistics;

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: ridge regression in which every sample weighs the same, from sums of features in one round",
    source: "Fanì et al., ICML 2024",
    settings: &[ridge::STRENGTH],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> Prepared {
    one_head(oneshot::ridge_plain(statistics, f64::from(params.own[0])))
}
