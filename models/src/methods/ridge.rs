//! `ridge`: class-weighted ridge regression on one-hot targets, from one exchange of pure sums.
//!
//! Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024, with every class
//! weighing the same. Adapted: only the pooled second moment is summed, so each class is given its own mean and the
//! pooled covariance within the classes.

use super::{Definition, Prepared, Setting, ncm::one_head};
use crate::oneshot::{self, RIDGE_STRENGTH};
use crate::params::{Sums, ValidParams};
use crate::statistics::Statistics;

pub(super) const STRENGTH: Setting = Setting {
    name: "strength",
    meaning: "what is added to the covariance's diagonal, as a share of its mean",
    default: RIDGE_STRENGTH as f32,
    least: 0.0,
    most: 100.0,
    whole: false,
    allowed: "0 to 100",
};

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: class-weighted ridge regression, from sums of features in one round",
    source: "Fanì et al., ICML 2024, with class weights",
    settings: &[STRENGTH],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> Prepared {
    one_head(oneshot::ridge(statistics, f64::from(params.own[0])))
}
