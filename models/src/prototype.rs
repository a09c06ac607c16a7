//! Gradient prototypes: per class, the mean gradient of the main head.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::exp::softmax_error;
use crate::head::Head;
use crate::kernel;
use crate::limits::MAX_GRADIENT_VALUE;
use crate::samples::Samples;
use crate::sampling::class_counts;
use crate::shape::Shape;

/// Samples taken through the head at a time.
const ROWS: usize = 64;

/// Numbers of a sum that stay in the nearest cache while all gradients are added to them: 16 KiB.
pub const SUM_VALUES: usize = 4_096;

/// One gradient of a head per class, for the classes that have one. The gradient of class `c` is
/// `mean over y_i = c of (softmax(W h_i + b) - e_c) ⊗ [h_i ; 1]` (Yang et al., equation 9).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prototypes {
    /// Class to gradient: weight part `[C][d]`, bias part `[C]`.
    pub by_class: BTreeMap<u16, Head>,
}

/// Why gradients are not prototypes of a fleet.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PrototypeError {
    /// A class the fleet does not have.
    #[error("a prototype of class {class} arrived; the fleet has classes 0 to {last}")]
    Class {
        /// The class received.
        class: u16,
        /// The largest class of the fleet.
        last: usize,
    },
    /// Lengths that do not fit the fleet's shape.
    #[error("the prototype of class {0} does not have the fleet's shape")]
    Length(u16),
    /// A value no gradient of bounded features can have.
    #[error("the prototype of class {0} is not finite or larger than any gradient can be")]
    Value(u16),
}

impl Prototypes {
    /// The prototypes of a device's own samples at the received main head, for every class of which it holds at
    /// least `min_samples`.
    pub fn of(main: &Head, samples: &Samples<'_>, min_samples: u16) -> Self {
        OwnPrototypes::new(Cow::Borrowed(main), *samples, min_samples).to_prototypes()
    }

    /// Refuses unknown classes, wrong lengths and impossible values.
    ///
    /// # Errors
    /// If a class is unknown, the lengths do not fit the shape, or a value is not finite or too large.
    pub fn check(&self, shape: Shape) -> Result<(), PrototypeError> {
        for (&class, gradient) in &self.by_class {
            if usize::from(class) >= shape.classes() {
                return Err(PrototypeError::Class { class, last: shape.classes() - 1 });
            }
            if gradient.weight.len() != shape.weights() || gradient.bias.len() != shape.classes() {
                return Err(PrototypeError::Length(class));
            }
            // The comparison is false for NaN, which must not pass.
            let possible = |value: &f32| value.abs() <= MAX_GRADIENT_VALUE;
            if !gradient.weight.iter().chain(&gradient.bias).all(possible) {
                return Err(PrototypeError::Value(class));
            }
        }
        Ok(())
    }
}

/// Prototypes wherever they lie: what a device balances with.
pub trait PrototypeSource: fmt::Debug {
    /// The classes that have one, ascending.
    fn classes(&self) -> Vec<u16>;

    /// Adds `share` times the prototype of each of some classes, in their order, to a sum of the fleet's shape; nothing for
    /// a class that has none.
    fn add_to(&self, sum: &mut Head, share: f32, classes: &[u16]);
}

impl PrototypeSource for Prototypes {
    fn classes(&self) -> Vec<u16> {
        self.by_class.keys().copied().collect()
    }

    fn add_to(&self, sum: &mut Head, share: f32, classes: &[u16]) {
        let gradients: Vec<&Head> = classes.iter().filter_map(|class| self.by_class.get(class)).collect();
        for (at, sums) in sum.weight.chunks_mut(SUM_VALUES).enumerate() {
            gradients.iter().for_each(|gradient| add_scaled(sums, &gradient.weight[at * SUM_VALUES..], share));
        }
        gradients.iter().for_each(|gradient| add_scaled(&mut sum.bias, &gradient.bias, share));
    }
}

fn add_scaled(sums: &mut [f32], values: &[f32], share: f32) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
}

/// The prototypes of a device's own samples, not made yet: those of many classes are too many to hold at once.
#[derive(Clone, Debug)]
pub struct OwnPrototypes<'a> {
    main: Cow<'a, Head>,
    samples: Samples<'a>,
    /// Samples per class, `[C]`.
    counts: Vec<u32>,
    /// The samples of the classes that are shared, class by class.
    order: Vec<u32>,
    /// The classes that are shared, ascending, and where in `order` their samples are.
    classes: Vec<(u16, Range<usize>)>,
}

impl<'a> OwnPrototypes<'a> {
    /// At the received main head, for every class of which there are at least `min_samples` samples.
    pub fn new(main: Cow<'a, Head>, samples: Samples<'a>, min_samples: u16) -> Self {
        let counts = class_counts(samples.labels(), samples.shape().classes());
        let least = u32::from(min_samples.max(1));
        let mut classes = Vec::new();
        let mut starts = vec![0; counts.len()];
        let mut total = 0;
        for ((class, &count), start) in
            (0_u16..).zip(&counts).zip(&mut starts).filter(|((_, count), _)| **count >= least)
        {
            *start = total;
            total += count as usize;
            classes.push((class, *start..total));
        }
        let mut order = vec![0; total];
        for (index, &label) in (0_u32..).zip(samples.labels()) {
            let label = usize::from(label);
            if counts[label] >= least {
                order[starts[label]] = index;
                starts[label] += 1;
            }
        }
        Self { main, samples, counts, order, classes }
    }

    /// The classes that have one, ascending.
    pub fn classes(&self) -> impl ExactSizeIterator<Item = u16> {
        self.classes.iter().map(|(class, _)| *class)
    }

    /// All of them at once.
    pub fn to_prototypes(&self) -> Prototypes {
        let mut by_class = BTreeMap::new();
        self.for_each(|class, gradient| drop(by_class.insert(class, gradient.clone())));
        Prototypes { by_class }
    }

    /// Makes one after the other, classes ascending, all in the same buffer.
    pub fn for_each(&self, mut each: impl FnMut(u16, &Head)) {
        let classes = self.counts.len();
        let mut gradient = Head::zeros(self.samples.shape());
        let mut errors = vec![0.0; ROWS.min(self.order.len()) * classes];
        let mut at_hand = 0..0;
        for (class, own) in &self.classes {
            let mut from = own.start;
            while from < own.end {
                if from == at_hand.end {
                    at_hand = from..self.order.len().min(from + ROWS);
                    self.errors_of(at_hand.clone(), &mut errors);
                }
                let to = own.end.min(at_hand.end);
                let errors = &errors[(from - at_hand.start) * classes..(to - at_hand.start) * classes];
                let rows = self.samples.rows(&self.order[from..to]);
                kernel::gradient_of(errors, rows, from > own.start, &mut gradient.weight, &mut gradient.bias);
                from = to;
            }
            each(*class, &gradient);
        }
    }

    /// The errors of some of the samples in order, each at its share in the mean of its class.
    fn errors_of(&self, range: Range<usize>, errors: &mut [f32]) {
        let members = &self.order[range];
        let classes = self.counts.len();
        let errors = &mut errors[..members.len() * classes];
        kernel::logits_of(self.samples.rows(members), &self.main.weight, &self.main.bias, errors);
        for (row, &member) in errors.chunks_exact_mut(classes).zip(members) {
            let label = usize::from(self.samples.labels()[member as usize]);
            softmax_error(row, label, 1.0 / self.counts[label] as f32);
        }
    }
}
