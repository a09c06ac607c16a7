//! `redgrape-plus`: [`redgrape`](super::redgrape) that starts from the fleet's sums and balances with virtual samples.
//!
//! Ours, after Yang et al., TMLR 2024. Devices tell counts, class sums and the second moment of their features once. The
//! means of rare classes are drawn towards the common one (see [`crate::oneshot::gaussians`]). The main head starts at
//! the scaled down LDA head of these means and the supplementary one at the logarithm of the class prior, so that the
//! main head is the balanced one and their sum the long-tailed one from the first round on. For every step a device draws
//! a small balanced set anew, as many rows of each class: its own samples of a class it has enough of, else draws from
//! the class's normal distribution. The gradient on it, at the current main head, is not rescaled. The head in use is
//! the mean over the last half of the rounds.

use super::{Balanced, Definition, Prepared, Setting};
use crate::aid::{Aid, AidView};
use crate::head::Heads;
use crate::local::Local;
use crate::oneshot::{LDA_SHRINKAGE, gaussians};
use crate::params::{Params, Start, Sums, ValidParams};
use crate::prior::log_prior;
use crate::statistics::Statistics;
use crate::train::{Balance, Redraw};

const SPREAD: Setting = Setting {
    name: "spread",
    meaning: "how far virtual samples scatter about their class mean, 1 being as far as the fleet's samples do",
    default: 1.0,
    least: 0.0,
    most: 10.0,
    whole: false,
    allowed: "0 to 10",
};
const ROWS: Setting = Setting {
    name: "rows",
    meaning: "rows of each class in the balanced set of a step",
    default: 2.0,
    least: 1.0,
    most: 64.0,
    whole: true,
    allowed: "a whole number from 1 to 64",
};

pub(super) const DEFINITION: Definition = Definition {
    summary: "redgrape from a head that the fleet's sums give, balanced in every step with a few samples of each class, \
              drawn from the fleet's class statistics where a device lacks the class",
    source: "Grapevine, after Yang et al., TMLR 2024",
    settings: &[SPREAD, ROWS],
    defaults,
    needs: Sums::SecondMoment,
    supplementary: true,
    balanced: Balanced::Redrawn,
    local,
    prepare,
    ..Definition::PLAIN
};

fn defaults(params: &mut Params, _: usize) {
    params.learning_rate = 0.05;
    params.lambda = 0.5;
    params.start = Start::Posterior;
    params.start_scale = 0.35;
    params.averaged = true;
}

fn prepare(statistics: &Statistics, _: &ValidParams) -> Prepared {
    let mut heads = Heads::zeros(statistics.shape());
    heads.supplementary.bias = log_prior(&statistics.prior());
    let aid = Aid::Gaussians(gaussians(statistics, LDA_SHRINKAGE));
    Prepared { heads: Some(heads), aid: Some(aid) }
}

fn local<'a>(params: &ValidParams, aid: Option<AidView<'a>>, _: bool) -> Local<'a> {
    let [spread, rows, ..] = params.own;
    let balance = match aid {
        Some(AidView::Gaussians(gaussians)) => Balance::Redrawn(Redraw { gaussians, spread, rows: rows as u16 }),
        Some(AidView::Prototypes(_) | AidView::Means(_) | AidView::Prior(_) | AidView::Weights(_)) | None => {
            Balance::Nothing
        }
    };
    Local { balance, ..Local::PLAIN }
}
