//! `ridge-plain`: ridge regression on one-hot targets, from one exchange of pure sums.
//!
//! Fanì et al., "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers", ICML 2024: the closed form
//! that sums give exactly. Adapted: with an intercept, which is not shrunk.

use super::{Definition, InitialModel, ncm::one_head, ridge};
use crate::hyper_parameters::HyperParameter;
use crate::oneshot;
use crate::params::ValidParams;
use crate::statistics::{Statistics, Sums};

/// Just enough to be solvable: more makes rare classes, whose targets are near zero, rarer still.
const STRENGTH: HyperParameter = ridge::STRENGTH.with_default(1e-3);

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: ridge regression in which every sample weighs the same, from sums of features in one round",
    source: "Fanì et al., ICML 2024",
    params: &[STRENGTH],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> InitialModel {
    one_head(oneshot::ridge_plain(statistics, f64::from(params.method_params[0])))
}
