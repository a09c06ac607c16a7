//! Gradient prototypes: per class, the mean gradient of the main head.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::exp::softmax_error;
use crate::head::Head;
use crate::kernel;
use crate::limits::MAX_GRADIENT_VALUE;
use crate::shape::Shape;
use crate::train::Samples;

/// Rows gathered at a time.
const ROWS: usize = 64;

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
        let classes = samples.shape().classes();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); classes];
        for (index, &label) in (0_u32..).zip(samples.labels()) {
            members[usize::from(label)].push(index);
        }
        let mut gradient = ClassGradient::new(samples.shape());
        let shared = (0_u16..).zip(&members).filter(|(_, m)| !m.is_empty() && m.len() >= usize::from(min_samples));
        Self { by_class: shared.map(|(class, members)| (class, gradient.of(main, samples, class, members))).collect() }
    }

    /// Refuses unknown classes, wrong lengths and impossible values.
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

    /// The mean over some classes, and over how many it went; zeros where none of them has a prototype.
    pub(crate) fn mean_of(&self, classes: &[u16], shape: Shape) -> (Head, usize) {
        let mut mean = Head::zeros(shape);
        let known: Vec<&Head> = classes.iter().filter_map(|class| self.by_class.get(class)).collect();
        if known.is_empty() {
            return (mean, 0);
        }
        let share = 1.0 / known.len() as f32;
        for gradient in &known {
            add_scaled(&mut mean.weight, &gradient.weight, share);
            add_scaled(&mut mean.bias, &gradient.bias, share);
        }
        (mean, known.len())
    }
}

fn add_scaled(target: &mut [f32], source: &[f32], factor: f32) {
    for (t, s) in target.iter_mut().zip(source) {
        *t += factor * s;
    }
}

/// Buffers for one class after another.
struct ClassGradient {
    shape: Shape,
    rows: Vec<f32>,
    errors: Vec<f32>,
}

impl ClassGradient {
    fn new(shape: Shape) -> Self {
        Self { shape, rows: vec![0.0; ROWS * shape.features()], errors: vec![0.0; ROWS * shape.classes()] }
    }

    fn of(&mut self, main: &Head, samples: &Samples<'_>, class: u16, members: &[u32]) -> Head {
        let (classes, features) = (self.shape.classes(), self.shape.features());
        let mut gradient = Head::zeros(self.shape);
        let share = 1.0 / members.len() as f32;
        for members in members.chunks(ROWS) {
            let rows = &mut self.rows[..members.len() * features];
            samples.gather(members, rows);
            let errors = &mut self.errors[..members.len() * classes];
            kernel::logits(rows, &main.weight, &main.bias, features, errors);
            for row in errors.chunks_exact_mut(classes) {
                softmax_error(row, usize::from(class), share);
            }
            kernel::accumulate_gradient(errors, rows, features, 1.0, &mut gradient.weight, &mut gradient.bias);
        }
        gradient
    }
}
