//! `ridge`: class-weighted ridge regression on one-hot targets, from one exchange of pure sums.
//!
//! Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024, with every class
//! weighing the same. Adapted: only the pooled second moment is summed, so each class is given its own mean and the
//! pooled covariance within the classes.

use super::{Definition, InitialModel, ncm::one_head};
use crate::hyper_parameters::HyperParameter;
use crate::oneshot::{self, RIDGE_STRENGTH};
use crate::params::ValidParams;
use crate::statistics::{Statistics, Sums};

pub(super) const STRENGTH: HyperParameter = HyperParameter::number(
    "strength",
    RIDGE_STRENGTH as f32,
    (0.0, 100.0),
    "what is added to the covariance's diagonal, as a share of its mean",
);

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: class-weighted ridge regression, from sums of features in one round",
    source: "Fanì et al., ICML 2024, with class weights",
    params: &[STRENGTH],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> InitialModel {
    one_head(oneshot::ridge(statistics, f64::from(params.method_params[0])))
}
