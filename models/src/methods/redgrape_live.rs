//! `redgrape-live`: [`redgrape`](super::redgrape) with class means in place of gradients.
//!
//! Ours, after Yang et al., TMLR 2024. Devices tell the sum of their features per class once; the fleet sends back the
//! means, and a device takes the gradient of a class it lacks at that class's mean and at its current head. Such a
//! gradient is never stale and `C` times smaller on the wire. It is the gradient of the mean, not the mean of the
//! gradients: the spread within a class is lost.

use super::{Definition, Prepared};
use crate::aid::{Aid, AidView};
use crate::local::Local;
use crate::params::{Sums, ValidParams};
use crate::train::Balance;

pub(super) const DEFINITION: Definition = Definition {
    summary: "devices re-balance the head while they train, as redgrape does, with the fleet's class means in place of \
              its class gradients",
    source: "Grapevine, after Yang et al., TMLR 2024",
    defaults: |params, _| {
        params.momentum = 0.0;
        params.lambda = 1.0;
    },
    needs: Sums::Means,
    supplementary: true,
    balanced: true,
    local,
    prepare: |statistics, _| Prepared { aid: Some(Aid::Means(statistics.means())), ..Prepared::default() },
    ..Definition::PLAIN
};

fn local<'a>(_: &ValidParams, aid: Option<AidView<'a>>, _: bool) -> Local<'a> {
    let balance = match aid {
        Some(AidView::Means(means)) if !means.by_class.is_empty() => Balance::Means(means),
        Some(
            AidView::Means(_) | AidView::Prototypes(_) | AidView::Prior(_) | AidView::Weights(_) | AidView::Anchor(_),
        )
        | None => Balance::Nothing,
    };
    Local { balance, ..Local::PLAIN }
}
