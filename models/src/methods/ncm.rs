//! `ncm`: the nearest class mean, from one exchange of pure sums.
//!
//! Legate et al., "Guiding The Last Layer in Federated Learning with Pre-Trained Models", NeurIPS 2023 (FedNCM), without
//! the normalisation of features, which are standardised here.

use super::{Definition, InitialModel};
use crate::head::{Head, Heads};
use crate::oneshot;
use crate::statistics::Sums;

pub(super) const DEFINITION: Definition = Definition {
    summary: "no training: the class whose mean is nearest, from sums of features in one round",
    source: "Legate et al., NeurIPS 2023",
    needs: Sums::Means,
    prepare: |statistics, _| one_head(oneshot::ncm(statistics)),
    ..Definition::ONE_SHOT
};

/// The main head alone.
pub(super) fn one_head(main: Head) -> InitialModel {
    let supplementary = Head { weight: alloc::vec![0.0; main.weight.len()], bias: alloc::vec![0.0; main.bias.len()] };
    InitialModel { heads: Some(Heads { main, supplementary }), ..InitialModel::default() }
}
