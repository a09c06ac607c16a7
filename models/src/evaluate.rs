//! How well a head classifies: accuracy per class, balanced accuracy, and the head, mid and tail groups.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::exp::exp_non_positive;
use crate::head::Head;
use crate::kernel;
use crate::samples::Samples;

/// Rows classified at a time.
const ROWS: usize = 64;

/// Accuracy per class on some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// `[C]`; `None` for a class without samples.
    pub by_class: Vec<Option<f64>>,
}

/// How many samples of each class there were and how many were classified right: parts of a test set add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    right: Vec<u32>,
    all: Vec<u32>,
}

/// The classes in order of frequency, split into head, mid and tail: 30 %, 40 % and 30 %, of ten classes 3, 4 and 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The most frequent classes.
    pub head: Range<usize>,
    /// Those between.
    pub mid: Range<usize>,
    /// The rarest classes.
    pub tail: Range<usize>,
}

impl Groups {
    /// The groups of `classes` classes, class 0 being the most frequent one; each group has at least one class
    /// where there are three classes or more.
    pub fn of(classes: usize) -> Self {
        let outer = (classes * 3 / 10).max(1).min(classes);
        let tail = classes.saturating_sub(outer).max(outer);
        Self { head: 0..outer, mid: outer..tail, tail: tail..classes }
    }
}

impl Tally {
    /// Classifies every sample with a head: the largest logit, the lowest class among equals.
    pub fn of(head: &Head, samples: &Samples<'_>) -> Self {
        let (classes, features) = (samples.shape().classes(), samples.shape().features());
        let mut tally = Self { right: vec![0; classes], all: vec![0; classes] };
        let mut logits = vec![0.0; ROWS * classes];
        let rows = samples.features().chunks(ROWS * features).zip(samples.labels().chunks(ROWS));
        for (rows, labels) in rows {
            let logits = &mut logits[..labels.len() * classes];
            kernel::logits(rows, &head.weight, &head.bias, features, logits);
            for (logits, &label) in logits.chunks_exact(classes).zip(labels) {
                let label = usize::from(label);
                tally.all[label] += 1;
                tally.right[label] += u32::from(largest(logits) == label);
            }
        }
        tally
    }

    /// Adds what was counted on other samples.
    pub fn plus(mut self, other: &Self) -> Self {
        self.right.iter_mut().zip(&other.right).for_each(|(a, b)| *a += b);
        self.all.iter_mut().zip(&other.all).for_each(|(a, b)| *a += b);
        self
    }

    /// The shares of right ones.
    pub fn accuracy(&self) -> Accuracy {
        let share = |(&right, &all): (&u32, &u32)| (all > 0).then(|| f64::from(right) / f64::from(all));
        Accuracy { by_class: self.right.iter().zip(&self.all).map(share).collect() }
    }
}

impl Accuracy {
    /// Classifies every sample with a head, see [`Tally::of`].
    pub fn of(head: &Head, samples: &Samples<'_>) -> Self {
        Tally::of(head, samples).accuracy()
    }

    /// Balanced accuracy: the mean over the classes that have samples.
    pub fn balanced(&self) -> f64 {
        self.mean_over(0..self.by_class.len())
    }

    /// The mean over a range of classes, leaving out those without samples; zero where none has any.
    pub fn mean_over(&self, classes: Range<usize>) -> f64 {
        self.mean_of(&classes.collect::<Vec<usize>>())
    }

    /// The same over some classes.
    pub fn mean_of(&self, classes: &[usize]) -> f64 {
        let known: Vec<f64> = classes.iter().filter_map(|&class| self.by_class[class]).collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }
}

/// Index of the largest value, the lowest among equals.
pub fn largest(values: &[f32]) -> usize {
    let better = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (0..values.len()).fold(0, better)
}

/// The mean cross-entropy of a head on some samples; zero without any.
pub fn cross_entropy(head: &Head, samples: &Samples<'_>) -> f32 {
    let (classes, features) = (samples.shape().classes(), samples.shape().features());
    let mut logits = vec![0.0; ROWS * classes];
    let mut total = 0.0;
    let rows = samples.features().chunks(ROWS * features).zip(samples.labels().chunks(ROWS));
    for (rows, labels) in rows {
        let logits = &mut logits[..labels.len() * classes];
        kernel::logits(rows, &head.weight, &head.bias, features, logits);
        for (logits, &label) in logits.chunks_exact_mut(classes).zip(labels) {
            let own = logits[usize::from(label)];
            let most = logits[largest(logits)];
            let sum: f32 = logits.iter().map(|logit| exp_non_positive(logit - most)).sum();
            total += libm::log(f64::from(sum)) + f64::from(most) - f64::from(own);
        }
    }
    (total / samples.labels().len().max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn cross_entropy_is_the_mean_of_the_losses() {
        let shape = Shape::new(3, 2).unwrap();
        let head = Head { weight: vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.5], bias: vec![0.1, 0.0, -0.2] };
        let features: Vec<f32> = (0..140).map(|at| (at % 11) as f32 * 0.3 - 1.0).collect();
        let labels: Vec<u16> = (0..70).map(|at| at % 3).collect();
        let samples = Samples::new(shape, &features, &labels).unwrap();
        let loss = |(row, label): (&[f32], u16)| {
            let logit = |class: usize| {
                f64::from(head.bias[class])
                    + (0..2).map(|f| f64::from(head.weight[2 * class + f] * row[f])).sum::<f64>()
            };
            (0..3).map(|class| logit(class).exp()).sum::<f64>().ln() - logit(usize::from(label))
        };
        let expected = samples.iter().map(loss).sum::<f64>() / 70.0;
        assert!((f64::from(cross_entropy(&head, &samples)) - expected).abs() < 1e-6);
        assert_eq!(cross_entropy(&head, &Samples::new(shape, &[], &[]).unwrap()), 0.0);
        let sure = Head { weight: vec![0.0; 6], bias: vec![6.0e4, -6.0e4, 0.0] };
        let wrong = Samples::new(shape, &[0.0, 0.0], &[1]).unwrap();
        assert_eq!(cross_entropy(&sure, &wrong), 1.2e5);
    }
}
