//! `redgrape-plus`: [`redgrape`](super::redgrape) that starts from the fleet's sums.
//!
//! Ours, after Yang et al., TMLR 2024. Devices tell counts, class sums and the second moment of their features once. The
//! means of rare classes are drawn towards the common one (see [`crate::oneshot::gaussians`]). The main head starts at
//! the scaled down LDA head of these means and the supplementary one at the logarithm of the class prior, so that the
//! main head is the balanced one and their sum the long-tailed one from the first round on.
//!
//! Where some devices are asked in each round, they train. For every step a device draws a small balanced set anew, as
//! many rows of each class: its own samples of a class it has enough of, else draws from the class's normal
//! distribution. The gradient on it, at the current main head, is not rescaled. The head in use is the mean over the
//! last half of the rounds.
//!
//! Where all are asked (`exact`), local steps would only drift apart. The supplementary head stays as it is, each device
//! takes one step down the gradient of the summed head on all its samples, and the merge of these heads is the fleet's
//! gradient to the last digit. With it the aggregator minimises `sum of cross-entropies + pull * v / 2 * |W - W_start|²`,
//! `v` being the mean variance of a feature within classes, by [`crate::descent`]: a round is one point. The start
//! counts as much as `pull` samples of unit variance.

use alloc::vec;
use alloc::vec::Vec;

use super::{Balanced, Closed, Definition, Dial, Prepared, Setting};
use crate::aid::{Aid, AidView, Gaussians};
use crate::curvature::Curvature;
use crate::descent::{Descent, MOST_VECTORS};
use crate::fleet::{FleetModel, Memory, Merged};
use crate::head::{Head, Heads};
use crate::keys::Key;
use crate::limits::{MAX_CLASSES, MAX_FEATURES, MAX_MEMORY_NUMBERS, MAX_PARAMETER_VALUE};
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
const EXACT: Setting = Setting {
    name: "exact",
    meaning: "1 where devices send the gradient of all their samples and the aggregator does the steps, 0 where they train",
    default: 0.0,
    least: 0.0,
    most: 1.0,
    whole: true,
    allowed: "0 or 1",
};
const PULL: Setting = Setting {
    name: "pull",
    meaning: "as how many samples the start counts, where exact is 1",
    default: 100.0,
    least: 0.0,
    most: 1e9,
    whole: false,
    allowed: "0 to 1000000000",
};

// The number of samples, the start, and the descent.
const _: () = assert!((1 + MOST_VECTORS) * MAX_CLASSES * (MAX_FEATURES + 1) < MAX_MEMORY_NUMBERS);

pub(super) const DEFINITION: Definition = Definition {
    summary: "redgrape from a head that the fleet's sums give; where all devices are asked they send gradients and the \
              aggregator descends, else they balance every step with a few samples of each class, drawn from the fleet's \
              class statistics where a device lacks the class",
    source: "Grapevine, after Yang et al., TMLR 2024",
    settings: &[SPREAD, ROWS, EXACT, PULL],
    defaults,
    asked_of_all: |params| _ = params.set_own(EXACT.name, 1.0),
    reads,
    needs: Sums::SecondMoment,
    supplementary: true,
    balanced: Balanced::Redrawn,
    dial: Dial::Head,
    local,
    prepare,
    conclude,
    ..Definition::PLAIN
};

fn defaults(params: &mut Params, _: usize) {
    params.learning_rate = 0.05;
    params.lambda = 0.5;
    params.start = Start::Posterior;
    params.start_scale = 0.35;
    params.averaged = true;
}

fn reads(params: &Params, key: Key) -> bool {
    let descends = params.own(EXACT.name) == Some(1.0);
    match key {
        Key::LearningRate | Key::Momentum | Key::Clip | Key::Batch | Key::Epochs => !descends,
        Key::Lambda | Key::RichSamples => !descends,
        Key::Own(name) if name == SPREAD.name || name == ROWS.name => !descends,
        Key::Own(name) if name == PULL.name => descends,
        Key::MinSamples | Key::StartScale | Key::Tau | Key::Own(_) => true,
    }
}

fn prepare(statistics: &Statistics, _: &ValidParams) -> Prepared {
    let mut heads = Heads::zeros(statistics.shape());
    heads.supplementary.bias = log_prior(&statistics.prior());
    let aid = Aid::Gaussians(gaussians(statistics, LDA_SHRINKAGE));
    Prepared { heads: Some(heads), aid: Some(aid), numbers: vec![statistics.samples() as f32] }
}

fn local<'a>(params: &ValidParams, aid: Option<AidView<'a>>, _: bool) -> Local<'a> {
    let [spread, rows, exact, ..] = params.own;
    if exact == 1.0 {
        return Local { whole: true, ..Local::PLAIN };
    }
    let balance = match aid {
        Some(AidView::Gaussians(gaussians)) => Balance::Redrawn(Redraw { gaussians, spread, rows: rows as u16 }),
        Some(AidView::Prototypes(_) | AidView::Means(_) | AidView::Prior(_) | AidView::Weights(_)) | None => {
            Balance::Nothing
        }
    };
    Local { balance, ..Local::PLAIN }
}

fn conclude(mut closed: Closed<'_>) -> Merged {
    let [_, _, exact, pull, ..] = closed.conditions.params.own;
    if exact != 1.0 || closed.known.memory.numbers.is_empty() {
        return closed.plain();
    }
    let FleetModel { heads, aid, memory, .. } = &mut closed.known;
    match (heads.take(), aid.take(), closed.heads.take()) {
        (Some(tried), Some(Aid::Gaussians(gaussians)), Some(answers)) => {
            let memory = core::mem::take(memory);
            descend(&gaussians, memory, tried, &answers.main, pull)
        }
        _ => closed.plain(),
    }
}

/// One round of the descent: the gradient at the heads that were `tried`, from the mean of the `answers`, then the heads to
/// try next. The head in use is the best point known, not the one that nobody has tried yet.
fn descend(gaussians: &Gaussians, mut memory: Memory, tried: Heads, answers: &Head, pull: f32) -> Merged {
    let numbers = &mut memory.numbers;
    let at = rows_of(&tried.main);
    let (length, d) = (at.len(), tried.main.weight.len() / tried.main.bias.len());
    if numbers.len() <= length {
        numbers.truncate(1);
        numbers.extend(at.iter().map(|&value| value as f32));
    }
    let (samples, start) = (f64::from(numbers[0]).max(1.0), &numbers[1..=length]);
    let variance = gaussians.root.iter().map(|&entry| f64::from(entry) * f64::from(entry)).sum::<f64>() / d as f64;
    let pull = f64::from(pull) * variance / samples;
    let answers = rows_of(answers);
    let away = at.iter().zip(start).map(|(value, start)| pull * (value - f64::from(*start)));
    let gradient = at.iter().zip(&answers).zip(away).map(|((at, answer), away)| at - answer + away).collect();
    let descent = match Descent::read(&numbers[1 + length..], length) {
        Some(mut descent) => {
            descent.learn(at, gradient);
            descent
        }
        None => Descent::new(at, gradient),
    };
    numbers.truncate(1 + length);
    descent.write(numbers);
    let prior: Vec<f64> = tried.supplementary.bias.iter().map(|&log| libm::exp(f64::from(log))).collect();
    let curvature = Curvature::new(gaussians, &prior, d, pull);
    let next = head_of(&descent.next(|vector| curvature.unbend(vector)), d);
    Merged {
        heads: Some(Heads { main: next, supplementary: tried.supplementary }),
        in_use: Some(head_of(&descent.base, d)),
        memory,
        aid: None,
    }
}

/// A head as rows of weights and bias, `[C][d + 1]`.
fn rows_of(head: &Head) -> Vec<f64> {
    let rows = head.weight.chunks_exact(head.weight.len() / head.bias.len()).zip(&head.bias);
    rows.flat_map(|(row, bias)| row.iter().chain([bias])).map(|&value| f64::from(value)).collect()
}

/// The other way, with every entry within what a device accepts.
fn head_of(rows: &[f64], d: usize) -> Head {
    let within = |value: &f64| {
        let value = *value as f32;
        if value.is_finite() { value.clamp(-MAX_PARAMETER_VALUE, MAX_PARAMETER_VALUE) } else { 0.0 }
    };
    let rows = || rows.chunks_exact(d + 1);
    Head {
        weight: rows().flat_map(|row| row[..d].iter().map(within)).collect(),
        bias: rows().map(|row| within(&row[d])).collect(),
    }
}
