//! Rows for classes that the fleet's head never learned, from one device's own samples.
//!
//! A device may not share a class of which it holds too few samples, so the fleet's head can lack the class although
//! devices hold it. What may not be shared can still be used where it is: the rows of such classes are trained here, on
//! this device's samples alone, beside the fleet's rows, which stay as they are.

use alloc::vec;
use alloc::vec::Vec;

use crate::exp::softmax_error;
use crate::head::Head;
use crate::samples::Samples;

/// Samples that are looked at, as many of each class as of any other.
const MOST_SAMPLES: usize = 512;
/// Steps of accelerated gradient descent.
const STEPS: usize = 200;
/// Share of the last step that the next one repeats.
const MOMENTUM: f32 = 0.9;
/// Weight of `|w|² / 2` in what is minimised.
const DECAY: f32 = 0.01;

/// The fleet's head with rows of a device's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// To classify with, on this device alone.
    pub head: Head,
    /// The classes whose rows are from the device's own samples, ascending.
    pub own: Vec<u16>,
}

/// Trains rows for the classes that `head` never learned and of which there are samples, by the mean cross-entropy over the
/// classes (every class weighs the same), the other rows held. `None` where there is no such class. The result depends on
/// nothing but the head and the samples.
pub fn complete(head: &Head, samples: &Samples<'_>) -> Option<Completed> {
    let (classes, features) = (samples.shape().classes(), samples.shape().features());
    let rows = rows_by_class(samples, classes);
    let is_blank = head.is_blank();
    let is_lacking = |class: u16| is_blank || head.is_unlearned(usize::from(class));
    let held = (0_u16..).zip(&rows).filter(|(_, rows)| !rows.is_empty());
    let own: Vec<u16> = held.map(|(class, _)| class).filter(|class| is_lacking(*class)).collect();
    if own.is_empty() {
        return None;
    }
    let mut completed = head.clone();
    for &class in &own {
        completed.bias[usize::from(class)] = 0.0;
    }
    let held = rows.iter().filter(|rows| !rows.is_empty()).count();
    let per_class = (MOST_SAMPLES / held).max(1);
    let chosen: Vec<(u32, f32)> = rows
        .iter()
        .flat_map(|rows| {
            let rows = &rows[..rows.len().min(per_class)];
            rows.iter().map(move |&row| (row, 1.0 / (held * rows.len()) as f32))
        })
        .collect();
    let square = chosen.iter().map(|(row, _)| squared(samples.row(*row))).sum::<f32>() / chosen.len() as f32;
    // The curvature of a cross-entropy is at most half the mean of |[h; 1]|².
    let step = (1.0 - MOMENTUM) * 4.0 / (1.0 + square);
    let mut velocity = vec![0.0_f32; own.len() * (features + 1)];
    let mut gradient = vec![0.0_f32; velocity.len()];
    let mut logits = vec![0.0_f32; classes];
    for _ in 0..STEPS {
        gradient.fill(0.0);
        for &(row, share) in &chosen {
            let (h, label) = (samples.row(row), usize::from(samples.labels()[row as usize]));
            completed.logits(h, &mut logits);
            softmax_error(&mut logits, label, share);
            for (gradient, &class) in gradient.chunks_exact_mut(features + 1).zip(&own) {
                let error = logits[usize::from(class)];
                gradient.iter_mut().zip(h.iter().chain([&1.0])).for_each(|(sum, value)| *sum += error * value);
            }
        }
        for ((velocity, gradient), &class) in
            velocity.chunks_exact_mut(features + 1).zip(gradient.chunks_exact(features + 1)).zip(&own)
        {
            let class = usize::from(class);
            let weights = &mut completed.weight[class * features..(class + 1) * features];
            let parameters = weights.iter_mut().chain([&mut completed.bias[class]]);
            for ((velocity, gradient), parameter) in velocity.iter_mut().zip(gradient).zip(parameters) {
                *velocity = MOMENTUM * *velocity - step * (gradient + DECAY * *parameter);
                *parameter += *velocity;
            }
        }
    }
    Some(Completed { head: completed, own })
}

/// The numbers of each class's samples, `[C][..]`.
fn rows_by_class(samples: &Samples<'_>, classes: usize) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); classes];
    (0_u32..).zip(samples.labels()).for_each(|(row, label)| rows[usize::from(*label)].push(row));
    rows
}

fn squared(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Accuracy;
    use crate::head::ABSENT_BIAS;
    use crate::oneshot::lda;
    use crate::{Shape, Statistics, Sums};

    /// Three classes on a circle; so many samples of the last.
    fn samples(rare: usize) -> (Shape, Vec<f32>, Vec<u16>) {
        let shape = Shape::new(3, 2).unwrap();
        let labels: Vec<u16> = [(0, 30), (1, 30), (2, rare)].into_iter().flat_map(|(c, n)| vec![c; n]).collect();
        let features = labels.iter().enumerate().flat_map(|(at, label)| {
            let angle = f64::from(*label) * 2.1 + (at % 7) as f64 * 0.1 - 0.3;
            [libm::cos(angle) as f32 * 2.0, libm::sin(angle) as f32 * 2.0]
        });
        (shape, features.collect(), labels)
    }

    #[test]
    fn a_class_that_may_not_be_shared_is_told_apart_on_its_own_device_and_the_others_stay() {
        let (shape, features, labels) = samples(4);
        let own = Samples::new(shape, &features, &labels).unwrap();
        let fleet = lda(&Statistics::of(&own, Sums::SecondMoment, 5), 0.1);
        assert!(fleet.is_unlearned(2) && !fleet.is_unlearned(1) && fleet.bias[2] <= ABSENT_BIAS);
        assert_eq!(Accuracy::of(&fleet, &own).by_class[2], Some(0.0));
        let completed = complete(&fleet, &own).unwrap();
        assert_eq!(completed.own, [2]);
        assert_eq!(completed.head.weight[..4], fleet.weight[..4]);
        assert!(completed.head.check(shape).is_ok());
        let (test_shape, features, labels) = samples(40);
        let test = Samples::new(test_shape, &features, &labels).unwrap();
        assert!(Accuracy::of(&completed.head, &test).balanced() > 0.95);
        assert_eq!(complete(&completed.head, &own), None, "nothing is left to do");
    }

    #[test]
    fn a_device_alone_learns_what_a_blank_head_lacks() {
        let (shape, features, labels) = samples(4);
        let own = Samples::new(shape, &features, &labels).unwrap();
        let completed = complete(&Head::zeros(shape), &own).unwrap();
        assert_eq!(completed.own, [0, 1, 2]);
        assert!(Accuracy::of(&completed.head, &own).balanced() > 0.95);
        let nothing = Samples::new(shape, &[], &[]).unwrap();
        assert_eq!(complete(&Head::zeros(shape), &nothing), None);
    }
}
