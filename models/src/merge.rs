//! Exact merging: parameters become fixed-point integers before they are added, so that the result is the same bytes
//! whatever the order of arrival, and whatever tree or shards the sums went through.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::head::{Head, Heads};
use crate::limits::{
    GRADIENT_FRACTION_BITS, HEAD_FRACTION_BITS, MAX_DEVICE_WEIGHT, MAX_DEVICES, MAX_SAMPLES, WEIGHT_FRACTION_BITS,
};
use crate::prototype::Prototypes;
use crate::shape::Shape;

/// How much a device counts in the mean of the heads beside its samples: a fixed-point number, so that sums stay exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceWeight(u32);

impl DeviceWeight {
    /// Every sample counts once.
    pub const ONE: Self = Self(1 << WEIGHT_FRACTION_BITS);

    /// The nearest weight to a number, between 0 and [`MAX_DEVICE_WEIGHT`]; 0 for a NaN.
    pub fn nearest(weight: f64) -> Self {
        let within = if weight > 0.0 { weight.min(f64::from(MAX_DEVICE_WEIGHT)) } else { 0.0 };
        Self(libm::rint(within * f64::from(Self::ONE.0)) as u32)
    }
}

/// The weights of a round's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWeights {
    /// Of the devices that have one of their own.
    pub by_device: BTreeMap<String, DeviceWeight>,
    /// Of every other one.
    pub others: DeviceWeight,
}

impl Default for DeviceWeights {
    fn default() -> Self {
        Self { by_device: BTreeMap::new(), others: DeviceWeight::ONE }
    }
}

impl DeviceWeights {
    /// The weight of one device.
    pub fn of(&self, device: &str) -> DeviceWeight {
        self.by_device.get(device).copied().unwrap_or(self.others)
    }
}

/// The running sum of heads weighted by samples and device weights, `sum w_k n_k (W_k, b_k, Ŵ_k, b̂_k)`. Its size does
/// not depend on the number of devices.
///
/// ```
/// use grapevine_models::{DeviceWeight, Head, HeadSum, Heads, Shape};
///
/// let shape = Shape::new(2, 1).unwrap();
/// let heads = |value| {
///     let main = Head { weight: vec![value; 2], bias: vec![value; 2] };
///     Heads { main, supplementary: Head::zeros(shape) }
/// };
/// let merged = |order: [(f32, u32); 2]| {
///     let mut sum = HeadSum::new(shape);
///     for (value, samples) in order {
///         sum.add(&heads(value), samples, DeviceWeight::nearest(1.0)).unwrap();
///     }
///     sum.mean().unwrap()
/// };
/// // A device with three times the samples weighs three times as much.
/// assert_eq!(merged([(1.0, 30), (5.0, 10)]), heads(2.0));
/// // The order of arrival changes no bit.
/// assert_eq!(merged([(0.1, 30), (0.7, 10)]), merged([(0.7, 10), (0.1, 30)]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSum {
    shape: Shape,
    sums: Vec<i128>,
    /// `sum w_k n_k`, in units of the weights' resolution.
    weight: u64,
    samples: u64,
    devices: usize,
}

/// Why something cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// No samples, or more than a device may hold.
    #[error("an update of {0} samples cannot be weighted")]
    Samples(u32),
    /// More devices than the accumulators are made for.
    #[error("a merge takes at most {max} devices", max = MAX_DEVICES)]
    Devices,
}

impl HeadSum {
    /// Nothing added yet.
    pub fn new(shape: Shape) -> Self {
        Self { shape, sums: vec![0; 2 * shape.parameters()], weight: 0, samples: 0, devices: 0 }
    }

    /// Adds one device's heads, which must have passed [`Heads::check`] for this shape.
    ///
    /// # Errors
    /// If there are no samples or more than a device may hold, or the sum holds as many devices as it can.
    pub fn add(&mut self, heads: &Heads, samples: u32, weight: DeviceWeight) -> Result<(), MergeError> {
        self.add_values(tensors(heads).into_iter().flatten(), samples, weight)
    }

    fn add_values<'a>(
        &mut self,
        values: impl Iterator<Item = &'a f32>,
        samples: u32,
        weight: DeviceWeight,
    ) -> Result<(), MergeError> {
        if samples == 0 || samples > MAX_SAMPLES {
            return Err(MergeError::Samples(samples));
        }
        if self.devices == MAX_DEVICES {
            return Err(MergeError::Devices);
        }
        let weight = u64::from(samples) * u64::from(weight.0);
        for (sum, &value) in self.sums.iter_mut().zip(values) {
            *sum += i128::from(to_fixed(value, HEAD_FRACTION_BITS)) * i128::from(weight);
        }
        self.weight += weight;
        self.samples += u64::from(samples);
        self.devices += 1;
        Ok(())
    }

    /// Adds a gradient in the main head, in the place of heads; the supplementary ones stay zero. It must have passed
    /// [`Head::check`] for this shape.
    ///
    /// # Errors
    /// If there are no samples or more than a device may hold, or the sum holds as many devices as it can.
    pub fn add_main(&mut self, main: &Head, samples: u32, weight: DeviceWeight) -> Result<(), MergeError> {
        self.add_values(main.weight.iter().chain(&main.bias), samples, weight)
    }

    /// Adds another sum: the tree merge.
    pub fn add_sum(&mut self, other: &Self) {
        debug_assert_eq!(self.shape, other.shape, "sums of one fleet");
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.weight += other.weight;
        self.samples += other.samples;
        self.devices += other.devices;
    }

    /// Devices added.
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Samples added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The weighted mean, or `None` before anything of any weight was added.
    pub fn mean(&self) -> Option<Heads> {
        if self.weight == 0 {
            return None;
        }
        let unit = (1_u64 << HEAD_FRACTION_BITS) as f64 * self.weight as f64;
        let mut values = self.sums.iter().map(|&sum| (sum as f64 / unit) as f32);
        let mut heads = Heads::zeros(self.shape);
        for head in [&mut heads.main, &mut heads.supplementary] {
            for parameter in head.weight.iter_mut().chain(&mut head.bias) {
                *parameter = values.next().expect("one sum per parameter");
            }
        }
        Some(heads)
    }
}

/// The running sum of gradient prototypes, per class; the mean is unweighted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrototypeSum {
    shape: Shape,
    by_class: BTreeMap<u16, ClassSum>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ClassSum {
    sums: Vec<i64>,
    devices: u32,
}

impl PrototypeSum {
    /// Nothing added yet.
    pub fn new(shape: Shape) -> Self {
        Self { shape, by_class: BTreeMap::new() }
    }

    /// Adds one device's prototypes, which must have passed [`Prototypes::check`] for this shape.
    ///
    /// # Errors
    /// If the sum holds as many devices of a class as it can.
    pub fn add(&mut self, prototypes: &Prototypes) -> Result<(), MergeError> {
        let full = |class| self.by_class.get(class).is_some_and(|sum| sum.devices as usize >= MAX_DEVICES);
        if prototypes.by_class.keys().any(full) {
            return Err(MergeError::Devices);
        }
        for (&class, gradient) in &prototypes.by_class {
            let empty = || ClassSum { sums: vec![0; self.shape.parameters()], devices: 0 };
            let sum = self.by_class.entry(class).or_insert_with(empty);
            for (total, &value) in sum.sums.iter_mut().zip(gradient.weight.iter().chain(&gradient.bias)) {
                *total += to_fixed(value, GRADIENT_FRACTION_BITS);
            }
            sum.devices += 1;
        }
        Ok(())
    }

    /// The new prototypes: the mean for every class somebody sent, the previous one for the others.
    pub fn merge_into(&self, previous: &mut Prototypes) {
        for (&class, sum) in &self.by_class {
            let unit = (1_u64 << GRADIENT_FRACTION_BITS) as f64 * f64::from(sum.devices);
            let mut values = sum.sums.iter().map(|&total| (total as f64 / unit) as f32);
            let weight = values.by_ref().take(self.shape.weights()).collect();
            previous.by_class.insert(class, Head { weight, bias: values.collect() });
        }
    }
}

fn tensors(heads: &Heads) -> [&[f32]; 4] {
    [&heads.main.weight, &heads.main.bias, &heads.supplementary.weight, &heads.supplementary.bias]
}

/// Exact for every f32 above `2^(23 - bits)`; the values were checked, so the product fits.
fn to_fixed(value: f32, bits: u32) -> i64 {
    libm::rint(f64::from(value) * (1_u64 << bits) as f64) as i64
}
