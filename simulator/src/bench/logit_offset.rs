//! From outcomes to logit offsets: which `tau` of a method stands against which rival.

use grapevine_models::Method;
use grapevine_models::evaluate::{Accuracy, Groups};

use super::federation::Outcome;
use crate::report::logit_offset::{Against, LogitOffset};

/// Values of `tau` that suit most methods.
pub const USUAL_TAUS: [f64; 29] = [
    -1.0, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2,
    1.4, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0,
];

/// Whose final heads are shifted, and by how much.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitOffsetOptions {
    /// Of these methods; none of them asks for no logit offset.
    pub methods: Vec<Method>,
    /// The values of `tau`, beside a method's own.
    pub taus: Vec<f64>,
}

/// What one method did, seed after seed.
pub(super) struct Measured<'a> {
    pub(super) method: Method,
    /// On the test samples.
    pub(super) test: Vec<&'a Outcome>,
    /// On those held out of the training samples.
    pub(super) held_out: &'a [Outcome],
}

/// The logit offsets asked for. `order` is that of the classes by frequency.
pub(super) fn logit_offsets(
    options: &LogitOffsetOptions,
    measured: &[Measured<'_>],
    order: &[usize],
) -> Vec<LogitOffset> {
    let shifted = measured.iter().filter(|one| options.methods.contains(&one.method) && !one.test.is_empty());
    shifted.map(|one| logit_offset(&options.taus, one, measured, order)).collect()
}

fn logit_offset(taus: &[f64], shifted: &Measured<'_>, measured: &[Measured<'_>], order: &[usize]) -> LogitOffset {
    let held_out: Vec<&Outcome> = shifted.held_out.iter().collect();
    let at = |outcomes: &[&Outcome]| {
        let turned = |tau: usize| {
            let of = |outcome: &&Outcome| Some(Point::of(outcome.logit_offset.get(tau)?, &outcome.tested, order));
            Point::mean(outcomes.iter().filter_map(of))
        };
        (0..taus.len()).map(turned).collect::<Vec<Point>>()
    };
    let (test, validation) = (at(&shifted.test), at(&held_out));
    let last = |outcome: &Outcome| Some(Point::of(outcome.last()?, &outcome.tested, order));
    let against = |rival: &Measured<'_>| {
        let chosen = surest(&validation, taus, Point::mean(rival.held_out.iter().filter_map(last)));
        let (own, other) = (test[chosen], Point::mean(rival.test.iter().copied().filter_map(last)));
        Against {
            rival: rival.method.name().into(),
            tau: taus[chosen],
            head_accuracy: own.head.mean,
            balanced_accuracy: own.balanced.mean,
            rival_head_accuracy: other.head.mean,
            rival_balanced_accuracy: other.balanced.mean,
            dominates: own.head.mean >= other.head.mean && own.balanced.mean >= other.balanced.mean,
        }
    };
    let rivals = measured.iter().filter(|rival| rival.method != shifted.method && !rival.test.is_empty());
    let all = |points: &[Point], value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<f64>>();
    LogitOffset {
        method: shifted.method.name().into(),
        adds: shifted.method.logit_offset_in_words().into(),
        taus: taus.to_vec(),
        balanced_accuracy: all(&test, |point| point.balanced.mean),
        head_accuracy: all(&test, |point| point.head.mean),
        tail_accuracy: all(&test, |point| point.tail.mean),
        validation_balanced_accuracy: all(&validation, |point| point.balanced.mean),
        validation_head_accuracy: all(&validation, |point| point.head.mean),
        against: rivals.map(against).collect(),
    }
}

/// The position at which both, head and balanced accuracy, are most probably at least those of the goal, given how few
/// samples they were measured on; among equals the one that turns the least.
fn surest(points: &[Point], taus: &[f64], goal: Point) -> usize {
    let chances: Vec<f64> = points.iter().map(|point| point.chance_against(goal)).collect();
    let better = |best: usize, at: usize| {
        let order = chances[at].total_cmp(&chances[best]).then(taus[best].abs().total_cmp(&taus[at].abs()));
        if order.is_gt() { at } else { best }
    };
    (0..points.len()).fold(0, better)
}

/// An accuracy that was measured on few samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Measurement {
    mean: f64,
    variance: f64,
}

impl Measurement {
    /// The mean over some classes, those without samples left out.
    fn of(accuracy: &Accuracy, tested: &[u64], classes: &[usize]) -> Self {
        let known = |class: &usize| Some((accuracy.by_class[*class]?, tested[*class] as f64));
        let known: Vec<(f64, f64)> = classes.iter().filter_map(known).collect();
        let count = known.len().max(1) as f64;
        // Of one sample the share of right ones is 0 or 1, but not surely (Laplace's rule).
        let variance = |(share, tested): &(f64, f64)| {
            let share = (share * tested + 1.0) / (tested + 2.0);
            share * (1.0 - share) / tested
        };
        Self { mean: accuracy.mean_of(classes), variance: known.iter().map(variance).sum::<f64>() / (count * count) }
    }

    /// The probability that this one is at least another, as the logistic function has it.
    fn chance_against(self, other: Self) -> f64 {
        let deviation = (self.variance + other.variance).sqrt().max(f64::EPSILON);
        1.0 / (1.0 + (-1.702 * (self.mean - other.mean) / deviation).exp())
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Point {
    balanced: Measurement,
    head: Measurement,
    tail: Measurement,
}

impl Point {
    fn of(accuracy: &Accuracy, tested: &[u64], order: &[usize]) -> Self {
        let groups = Groups::of(order.len());
        let over = |classes: &[usize]| Measurement::of(accuracy, tested, classes);
        Self { balanced: over(order), head: over(&order[groups.head]), tail: over(&order[groups.tail]) }
    }

    /// Over the seeds.
    fn mean(points: impl Iterator<Item = Self>) -> Self {
        let points: Vec<Self> = points.collect();
        let count = points.len().max(1) as f64;
        let over = |part: fn(&Self) -> Measurement| Measurement {
            mean: points.iter().map(|point| part(point).mean).sum::<f64>() / count,
            variance: points.iter().map(|point| part(point).variance).sum::<f64>() / (count * count),
        };
        Self { balanced: over(|point| point.balanced), head: over(|point| point.head), tail: over(|point| point.tail) }
    }

    fn chance_against(self, other: Self) -> f64 {
        self.balanced.chance_against(other.balanced) * self.head.chance_against(other.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with its standard error.
    fn point(balanced: (f64, f64), head: (f64, f64)) -> Point {
        let of = |(mean, error): (f64, f64)| Measurement { mean, variance: error * error };
        Point { balanced: of(balanced), head: of(head), tail: Measurement::default() }
    }

    #[test]
    fn the_position_that_is_most_probably_ahead_in_both_is_chosen() {
        let surely = |balanced, head| point((balanced, 0.001), (head, 0.001));
        let points = [surely(0.52, 0.5), surely(0.51, 0.6), surely(0.49, 0.7), surely(0.51, 0.6)];
        let taus = [-1.0, 0.5, 1.0, 0.2];
        assert_eq!(surest(&points, &taus, surely(0.5, 0.55)), 3);
        assert_eq!(surest(&points, &taus, surely(0.3, 0.69)), 2);
        assert_eq!(surest(&points, &taus, surely(0.515, 0.499)), 0);
        assert_eq!(surest(&points[..1], &taus[..1], surely(0.9, 0.9)), 0);
        // What is known well is not given away for what may be chance.
        let points = [point((0.50, 0.02), (0.60, 0.002)), point((0.51, 0.02), (0.55, 0.002))];
        assert_eq!(surest(&points, &[0.0, -0.2], point((0.512, 0.02), (0.55, 0.002))), 0);
    }

    #[test]
    fn few_samples_and_few_seeds_are_uncertain() {
        let of = |share, tested| Measurement::of(&Accuracy { by_class: vec![Some(share)] }, &[tested], &[0]);
        assert!((of(0.5, 100).variance - 0.0025).abs() < 1e-9);
        assert!(of(1.0, 1).variance > 0.2 && of(0.5, 10_000).variance < 1e-4);
        let point = Point { balanced: of(0.5, 100), ..Point::default() };
        assert!((Point::mean([point; 4].into_iter()).balanced.variance - 0.0025 / 4.0).abs() < 1e-9);
        assert!((of(0.5, 100).chance_against(of(0.5, 100)) - 0.5).abs() < 1e-9);
        assert!((of(0.6, 100).chance_against(of(0.5, 100)) - 0.92).abs() < 0.01);
    }

    #[test]
    fn classes_without_held_out_samples_do_not_count() {
        let accuracies = [
            Accuracy { by_class: vec![Some(0.2), Some(0.8), None, Some(0.5)] },
            Accuracy { by_class: vec![Some(0.4), Some(0.8), None, Some(0.6)] },
        ];
        let of = |accuracy| Point::of(accuracy, &[5, 5, 0, 5], &[1, 3, 0, 2]);
        let mean = Point::mean(accuracies.iter().map(of));
        assert!((mean.balanced.mean - 0.55).abs() < 1e-12 && (mean.head.mean - 0.8).abs() < 1e-12, "{mean:?}");
        assert_eq!(mean.tail, Measurement::default());
    }
}
