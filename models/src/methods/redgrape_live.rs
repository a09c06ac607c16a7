//! `redgrape-live`: [`redgrape`](super::redgrape) with class means in place of gradients.
//!
//! Ours, after Yang et al., TMLR 2024. Devices tell the sum of their features per class once; the fleet sends back the
//! means, and a device takes the gradient of a class it lacks at that class's mean and at its current head. Such a
//! gradient is never stale and `C` times smaller on the wire. It is the gradient of the mean, not the mean of the
//! gradients: the spread within a class is lost.

use super::{Definition, InitialModel};
use crate::exchange::Request;
use crate::params::ValidParams;
use crate::side_information::{SideInformation, SideInformationView};
use crate::statistics::Sums;
use crate::train::Balance;
use crate::train::LocalObjective;

pub(super) const DEFINITION: Definition = Definition {
    summary: "devices re-balance the head while they train, as redgrape does, with the fleet's class means in place of \
              its class gradients",
    source: "Grapevine, after Yang et al., TMLR 2024",
    defaults: |params, _| {
        params.momentum = 0.0;
        params.lambda = 1.0;
    },
    needs: Sums::Means,
    training: Request::Heads { supplementary: true, prototypes: false, loss: false },
    balanced: true,
    local,
    prepare: |statistics, _| InitialModel {
        side_information: Some(SideInformation::Means(statistics.means())),
        ..InitialModel::default()
    },
    ..Definition::PLAIN
};

fn local<'a>(_: &ValidParams, side_information: Option<SideInformationView<'a>>, _: bool) -> LocalObjective<'a> {
    let means = side_information.and_then(SideInformationView::means).filter(|means| !means.by_class.is_empty());
    let balance = means.map_or(Balance::Nothing, Balance::Means);
    LocalObjective { balance, ..LocalObjective::PLAIN }
}
