//! From outcomes to dials: which position of a method's dial stands against which rival.

use grapevine_models::Method;
use grapevine_models::evaluate::{Accuracy, Groups};

use super::federation::Outcome;
use crate::report::dial::{Against, Dial};

/// Positions of a dial that suit most methods.
pub const USUAL_TAUS: [f64; 29] = [
    -1.0, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2,
    1.4, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0,
];

/// Whose final heads are shifted, and by how much.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DialOptions {
    /// Of these methods; none of them asks for no dial.
    pub methods: Vec<Method>,
    /// The positions of the dial, beside a method's own `tau`.
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

/// The dials asked for. `order` is that of the classes by frequency.
pub(super) fn dials(options: &DialOptions, measured: &[Measured<'_>], order: &[usize]) -> Vec<Dial> {
    let dialled = measured.iter().filter(|one| options.methods.contains(&one.method) && !one.test.is_empty());
    dialled.map(|one| dial(&options.taus, one, measured, order)).collect()
}

fn dial(taus: &[f64], dialled: &Measured<'_>, measured: &[Measured<'_>], order: &[usize]) -> Dial {
    let held_out: Vec<&Outcome> = dialled.held_out.iter().collect();
    let at = |outcomes: &[&Outcome]| {
        let point = |tau: usize| Point::mean(outcomes.iter().filter_map(|outcome| outcome.dial.get(tau)), order);
        (0..taus.len()).map(point).collect::<Vec<Point>>()
    };
    let (test, validation) = (at(&dialled.test), at(&held_out));
    let against = |rival: &Measured<'_>| {
        let goal = Point::mean(rival.held_out.iter().filter_map(Outcome::last), order);
        let chosen = most_ahead(&validation, goal);
        let (own, other) = (test[chosen], Point::mean(rival.test.iter().filter_map(|outcome| outcome.last()), order));
        Against {
            rival: rival.method.name().into(),
            tau: taus[chosen],
            head_accuracy: own.head,
            balanced_accuracy: own.balanced,
            rival_head_accuracy: other.head,
            rival_balanced_accuracy: other.balanced,
            dominates: own.lead(other) >= 0.0,
        }
    };
    let rivals = measured.iter().filter(|rival| rival.method != dialled.method && !rival.test.is_empty());
    let all = |points: &[Point], value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<f64>>();
    Dial {
        method: dialled.method.name().into(),
        adds: dialled.method.dial_in_words().into(),
        taus: taus.to_vec(),
        balanced_accuracy: all(&test, |point| point.balanced),
        head_accuracy: all(&test, |point| point.head),
        tail_accuracy: all(&test, |point| point.tail),
        validation_balanced_accuracy: all(&validation, |point| point.balanced),
        validation_head_accuracy: all(&validation, |point| point.head),
        against: rivals.map(against).collect(),
    }
}

/// The position whose smaller lead over the goal is largest, the first among equals.
fn most_ahead(points: &[Point], goal: Point) -> usize {
    let better = |best: usize, at: usize| if points[at].lead(goal) > points[best].lead(goal) { at } else { best };
    (0..points.len()).fold(0, better)
}

/// Mean accuracies over the seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    balanced: f64,
    head: f64,
    tail: f64,
}

impl Point {
    fn mean<'a>(accuracies: impl Iterator<Item = &'a Accuracy>, order: &[usize]) -> Self {
        let (mut sum, mut count) = (Self { balanced: 0.0, head: 0.0, tail: 0.0 }, 0.0_f64);
        let groups = Groups::of(order.len());
        for accuracy in accuracies {
            sum.balanced += accuracy.balanced();
            sum.head += accuracy.mean_of(&order[groups.head.clone()]);
            sum.tail += accuracy.mean_of(&order[groups.tail.clone()]);
            count += 1.0;
        }
        let count = count.max(1.0);
        Self { balanced: sum.balanced / count, head: sum.head / count, tail: sum.tail / count }
    }

    /// By how much both, head and balanced accuracy, are at least above another's.
    fn lead(self, other: Self) -> f64 {
        (self.balanced - other.balanced).min(self.head - other.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(balanced: f64, head: f64) -> Point {
        Point { balanced, head, tail: 0.0 }
    }

    #[test]
    fn the_position_that_is_furthest_ahead_in_both_is_chosen() {
        let points = [point(0.52, 0.5), point(0.51, 0.6), point(0.49, 0.7), point(0.51, 0.6)];
        assert_eq!(most_ahead(&points, point(0.5, 0.55)), 1);
        assert_eq!(most_ahead(&points, point(0.3, 0.69)), 2);
        assert_eq!(most_ahead(&points, point(0.6, 0.4)), 0);
        assert_eq!(most_ahead(&points[..1], point(0.9, 0.9)), 0);
    }

    #[test]
    fn classes_without_held_out_samples_do_not_count() {
        let accuracies = [
            Accuracy { by_class: vec![Some(0.2), Some(0.8), None, Some(0.5)] },
            Accuracy { by_class: vec![Some(0.4), Some(0.8), None, Some(0.6)] },
        ];
        let mean = Point::mean(accuracies.iter(), &[1, 3, 0, 2]);
        assert!((mean.balanced - 0.55).abs() < 1e-12 && (mean.head - 0.8).abs() < 1e-12, "{mean:?}");
        assert_eq!(mean.tail, 0.0);
    }
}
