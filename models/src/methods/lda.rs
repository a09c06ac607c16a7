//! `lda`: linear discriminant analysis with a uniform class prior, from one exchange of pure sums.
//!
//! Fisher, "The Use of Multiple Measurements in Taxonomic Problems", 1936; the covariance shrunk towards a multiple of the
//! identity as in Friedman, "Regularized Discriminant Analysis", JASA 1989.

use super::{Definition, InitialModel, ncm::one_head};
use crate::hyper_parameters::HyperParameter;
use crate::oneshot::{self, LDA_SHRINKAGE};
use crate::params::ValidParams;
use crate::statistics::{Statistics, Sums};

const SHRINKAGE: HyperParameter = HyperParameter::number(
    "shrinkage",
    LDA_SHRINKAGE as f32,
    (0.0, 1.0),
    "share of the covariance that is replaced with its mean variance",
);

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: linear discriminant analysis, from sums of features in one round",
    source: "Friedman, JASA 1989",
    params: &[SHRINKAGE],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> InitialModel {
    one_head(oneshot::lda(statistics, f64::from(params.method_params[0])))
}
