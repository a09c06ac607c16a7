//! How well a head classifies: accuracy per class, balanced accuracy, and the head, mid and tail groups.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::head::Head;
use crate::train::Samples;

/// Accuracy per class on some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// `[C]`; `None` for a class without samples.
    pub by_class: Vec<Option<f64>>,
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

impl Accuracy {
    /// Classifies every sample with a head: the largest logit, the lowest class among equals.
    pub fn of(head: &Head, samples: &Samples<'_>) -> Self {
        let classes = samples.shape().classes();
        let mut right = vec![0_u32; classes];
        let mut all = vec![0_u32; classes];
        let mut logits = vec![0.0; classes];
        for (features, label) in samples.iter() {
            head.logits(features, &mut logits);
            all[usize::from(label)] += 1;
            if largest(&logits) == usize::from(label) {
                right[usize::from(label)] += 1;
            }
        }
        let share = |(&right, &all): (&u32, &u32)| (all > 0).then(|| f64::from(right) / f64::from(all));
        Self { by_class: right.iter().zip(&all).map(share).collect() }
    }

    /// Balanced accuracy: the mean over the classes that have samples.
    pub fn balanced(&self) -> f64 {
        self.mean_over(0..self.by_class.len())
    }

    /// The mean over a range of classes, leaving out those without samples; zero where none has any.
    pub fn mean_over(&self, classes: Range<usize>) -> f64 {
        let known: Vec<f64> = self.by_class[classes].iter().flatten().copied().collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }
}

/// Index of the largest value, the lowest among equals.
pub fn largest(values: &[f32]) -> usize {
    let better = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (0..values.len()).fold(0, better)
}
