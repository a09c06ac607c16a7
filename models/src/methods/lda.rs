//! `lda`: linear discriminant analysis with a uniform class prior, from one exchange of pure sums.
//!
//! Fisher, "The Use of Multiple Measurements in Taxonomic Problems", 1936; the covariance shrunk towards a multiple of the
//! identity as in Friedman, "Regularized Discriminant Analysis", JASA 1989.

use super::{Definition, Prepared, Setting, ncm::one_head};
use crate::oneshot::{self, LDA_SHRINKAGE};
use crate::params::{Sums, ValidParams};
use crate::statistics::Statistics;

const SHRINKAGE: Setting = Setting {
    name: "shrinkage",
    meaning: "share of the covariance that is replaced with its mean variance",
    default: LDA_SHRINKAGE as f32,
    least: 0.0,
    most: 1.0,
    whole: false,
    allowed: "0 to 1",
};

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: linear discriminant analysis, from sums of features in one round",
    source: "Friedman, JASA 1989",
    settings: &[SHRINKAGE],
    needs: Sums::SecondMoment,
    prepare,
    ..Definition::ONE_SHOT
};

fn prepare(statistics: &Statistics, params: &ValidParams) -> Prepared {
    one_head(oneshot::lda(statistics, f64::from(params.own[0])))
}
