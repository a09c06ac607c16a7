//! Gradient prototypes where they lie in a body: those of many classes are the largest thing a device is sent, so it
//! reads them from the bytes that it holds anyway.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use grapevine_models::limits::MAX_GRADIENT_VALUE;
use grapevine_models::{Head, PrototypeError, PrototypeSource, Prototypes, SUM_VALUES, Shape};

use crate::body::BodyError;
use crate::tensor::{Encoding, TensorError};

/// Gradient prototypes of a fleet in the bytes of a body, checked.
#[derive(Clone)]
pub struct EncodedPrototypes<'a> {
    shape: Shape,
    encoding: Encoding,
    /// Ascending.
    classes: Vec<u16>,
    /// One after another, each weight part and bias part.
    gradients: &'a [u8],
}

impl<'a> EncodedPrototypes<'a> {
    /// Takes a class list of so many classes and their gradients off the front of `rest`. Allocates the list alone.
    pub(crate) fn take(shape: Shape, encoding: Encoding, classes: u16, rest: &mut &'a [u8]) -> Result<Self, BodyError> {
        let classes = take_class_list(shape, classes, rest)?;
        let bytes = classes.len() * gradient_bytes(shape, encoding);
        let (gradients, after) = rest.split_at_checked(bytes).ok_or(TensorError::Short)?;
        *rest = after;
        let encoded = Self { shape, encoding, classes, gradients };
        encoded.check()?;
        Ok(encoded)
    }

    /// A copy that owns its numbers.
    pub(crate) fn to_prototypes(&self) -> Result<Prototypes, TensorError> {
        let (classes, features) = (self.shape.classes(), self.shape.features());
        let mut by_class = BTreeMap::new();
        for (class, mut gradient) in self.gradients() {
            let weight = self.encoding.read(classes, features, &mut gradient)?;
            by_class.insert(class, Head { weight, bias: Encoding::F32.read(1, classes, &mut gradient)? });
        }
        Ok(Prototypes { by_class })
    }

    fn check(&self) -> Result<(), BodyError> {
        for (class, gradient) in self.gradients() {
            let (weight, bias) = self.parts(gradient);
            let weight = self.encoding.largest(weight, self.shape.features());
            let largest = weight.max(Encoding::F32.largest(bias, self.shape.classes()));
            if !weight.is_finite() || !largest.is_finite() {
                return Err(TensorError::NotFinite.into());
            }
            if largest > MAX_GRADIENT_VALUE {
                return Err(PrototypeError::Value(class).into());
            }
        }
        Ok(())
    }

    fn gradients(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let bytes = gradient_bytes(self.shape, self.encoding);
        self.classes.iter().copied().zip(self.gradients.chunks_exact(bytes))
    }

    /// Weight part and bias part of a gradient.
    fn parts(&self, gradient: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        gradient.split_at(self.encoding.bytes(self.shape.classes(), self.shape.features()))
    }
}

impl PrototypeSource for EncodedPrototypes<'_> {
    fn classes(&self) -> Vec<u16> {
        self.classes.clone()
    }

    fn add_to(&self, sum: &mut Head, share: f32, classes: &[u16]) {
        let wanted = self.gradients().filter(|(class, _)| classes.contains(class));
        let parts: Vec<_> = wanted.map(|(_, gradient)| self.parts(gradient)).collect();
        let features = self.shape.features();
        let rows = (SUM_VALUES / features).max(1);
        let bytes = self.encoding.bytes(rows, features);
        for (at, sums) in sum.weight.chunks_mut(rows * features).enumerate() {
            for weight in parts.iter().filter_map(|(weight, _)| weight.chunks(bytes).nth(at)) {
                self.encoding.add_scaled(weight, features, share, sums);
            }
        }
        for (_, bias) in parts {
            Encoding::F32.add_scaled(bias, self.shape.classes(), share, &mut sum.bias);
        }
    }
}

impl fmt::Debug for EncodedPrototypes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, encoding, classes, .. } = self;
        f.debug_struct("EncodedPrototypes")
            .field("shape", shape)
            .field("encoding", encoding)
            .field("classes", classes)
            .finish_non_exhaustive()
    }
}

/// Bytes of one gradient. The bias stays f32, as in heads.
pub(crate) fn gradient_bytes(shape: Shape, encoding: Encoding) -> usize {
    encoding.bytes(shape.classes(), shape.features()) + Encoding::F32.bytes(1, shape.classes())
}

/// Takes an ascending list of so many of the fleet's classes off the front of `rest`.
pub(crate) fn take_class_list(shape: Shape, classes: u16, rest: &mut &[u8]) -> Result<Vec<u16>, BodyError> {
    if usize::from(classes) > shape.classes() {
        return Err(BodyError::ClassList);
    }
    let (list, after) = rest.split_at_checked(2 * usize::from(classes)).ok_or(TensorError::Short)?;
    *rest = after;
    let list: Vec<u16> = list.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
    let ascending = list.is_sorted_by(|a, b| a < b);
    let known = list.last().is_none_or(|&last| usize::from(last) < shape.classes());
    if ascending && known { Ok(list) } else { Err(BodyError::ClassList) }
}
