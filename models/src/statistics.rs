//! Pure-sum statistics: counts, class sums and the second moment, added exactly.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::{FACTOR_FRACTION_BITS, MAX_FEATURE_VALUE, MAX_SAMPLES, MOMENT_FRACTION_BITS, SUM_FRACTION_BITS};
use crate::samples::Samples;
use crate::sampling::class_counts;
use crate::shape::Shape;

/// How much of the pure sums a method needs; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sums {
    /// No statistics.
    Nothing,
    /// Samples per class.
    Counts,
    /// Counts and class sums.
    Means,
    /// Counts, class sums and the second moment of all features.
    SecondMoment,
}

/// `(n_c, sum h, sum h hᵀ)` as fixed-point integers: the same numbers for any partition of the samples over devices
/// and any order of adding them.
///
/// ```
/// use grapevine_models::{Samples, Shape, Statistics, Sums};
///
/// let shape = Shape::new(2, 1).unwrap();
/// let of = |features: &[f32], labels: &[u16]| {
///     Statistics::of(&Samples::new(shape, features, labels).unwrap(), Sums::Means, 1)
/// };
/// let mut fleet = of(&[1.0, 2.0], &[0, 0]);
/// fleet.add(&of(&[4.0], &[1])).unwrap();
/// assert_eq!(fleet.counts(), [2, 1]);
/// assert_eq!(fleet, of(&[4.0, 1.0, 2.0], &[1, 0, 0]), "as if one device held all samples");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    shape: Shape,
    counts: Vec<u64>,
    /// `[C][d]`, or empty where only counts were asked for.
    sums: Vec<i64>,
    /// Upper triangle of `[d][d]`, row after row, or empty where it was not asked for.
    moment: Vec<i64>,
}

/// Why numbers are not statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// Lengths that do not fit the fleet's shape and what was asked for.
    #[error("statistics of {expected} values were expected in `{part}`, got {received}")]
    Length {
        /// Which part.
        part: &'static str,
        /// Values it must have.
        expected: usize,
        /// Values it has.
        received: usize,
    },
    /// More samples than a device or a fleet may have.
    #[error("the statistics claim more samples than a device may hold")]
    TooMany,
    /// Sums that no samples can have.
    #[error("the statistics are impossible: {0}")]
    Impossible(&'static str),
    /// A sum that no such number of bounded features can have.
    #[error("`{0}` is not finite, or larger than its number of samples allows")]
    Value(&'static str),
    /// Two parts of different fleets or different extent.
    #[error("statistics of different shapes cannot be added")]
    Mismatch,
    /// The sum of the fleet left its accumulator.
    #[error("the sum over the fleet is too large")]
    Overflow,
}

/// Class means, for the classes somebody holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Means {
    /// Class to mean `[d]`.
    pub by_class: BTreeMap<u16, Vec<f32>>,
}

/// The numbers of [`Statistics`] as they travel: plain floating point, `counts [C]`, `sums [C][d]`, and the upper
/// triangle of the second moment. A part that was not asked for is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatSums {
    /// `[C]`.
    pub counts: Vec<u32>,
    /// `[C][d]`.
    pub sums: Vec<f64>,
    /// `[d * (d + 1) / 2]`.
    pub moment: Vec<f64>,
}

impl Means {
    /// Of `[C]` means, `None` where nobody holds a class.
    pub(crate) fn within_limits(means: Vec<Option<Vec<f64>>>) -> Self {
        let held = (0_u16..).zip(means).filter_map(|(class, mean)| mean.map(|mean| (class, mean)));
        // Rounding on the way may carry a sum just over what its samples allow.
        let within = |value: &f64| (*value as f32).clamp(-MAX_FEATURE_VALUE, MAX_FEATURE_VALUE);
        Self { by_class: held.map(|(class, mean)| (class, mean.iter().map(within).collect())).collect() }
    }
}

impl Statistics {
    /// No samples yet.
    pub fn empty(shape: Shape, extent: Sums) -> Self {
        Self {
            shape,
            counts: vec![0; shape.classes()],
            sums: vec![0; if extent >= Sums::Means { shape.weights() } else { 0 }],
            moment: vec![0; if extent >= Sums::SecondMoment { triangle(shape.features()) } else { 0 }],
        }
    }

    /// The sums over a device's samples, leaving out every class of which it holds fewer than `min_samples`.
    pub fn of(samples: &Samples<'_>, extent: Sums, min_samples: u16) -> Self {
        let mut statistics = Self::empty(samples.shape(), extent);
        let held = class_counts(samples.labels(), samples.shape().classes());
        let mut factors = vec![0_i32; samples.shape().features()];
        for (features, label) in samples.iter() {
            if held[usize::from(label)] >= u32::from(min_samples) {
                statistics.add_sample(features, label, &mut factors);
            }
        }
        statistics
    }

    /// Takes received numbers.
    ///
    /// # Errors
    /// For lengths that do not fit, and for values that no samples with features within [`MAX_FEATURE_VALUE`] could have
    /// summed to.
    pub fn from_floats(shape: Shape, extent: Sums, floats: &FloatSums) -> Result<Self, StatisticsError> {
        let mut statistics = Self::empty(shape, extent);
        let lengths = [
            ("counts", statistics.counts.len(), floats.counts.len()),
            ("sums", statistics.sums.len(), floats.sums.len()),
            ("moment", statistics.moment.len(), floats.moment.len()),
        ];
        for (part, expected, received) in lengths {
            if expected != received {
                return Err(StatisticsError::Length { part, expected, received });
            }
        }
        let samples: u64 = floats.counts.iter().map(|&count| u64::from(count)).sum();
        if samples > u64::from(MAX_SAMPLES) {
            return Err(StatisticsError::TooMany);
        }
        let largest = f64::from(MAX_FEATURE_VALUE);
        for (count, &received) in statistics.counts.iter_mut().zip(&floats.counts) {
            *count = u64::from(received);
        }
        for (at, (sum, &received)) in statistics.sums.iter_mut().zip(&floats.sums).enumerate() {
            let most = f64::from(floats.counts[at / shape.features()]) * largest;
            *sum = to_fixed(received, SUM_FRACTION_BITS, most).ok_or(StatisticsError::Value("sums"))?;
        }
        let most = samples as f64 * largest * largest;
        for (entry, &received) in statistics.moment.iter_mut().zip(&floats.moment) {
            *entry = to_fixed(received, MOMENT_FRACTION_BITS, most).ok_or(StatisticsError::Value("moment"))?;
        }
        statistics.check_possible()?;
        Ok(statistics)
    }

    /// The exact integers `(counts [C], sums [C][d], moment [d (d + 1) / 2])`, to be stored.
    pub fn parts(&self) -> (&[u64], &[i64], &[i64]) {
        (&self.counts, &self.sums, &self.moment)
    }

    /// What [`Statistics::parts`] gave.
    ///
    /// # Errors
    /// For lengths that no extent has.
    pub fn from_parts(
        shape: Shape,
        counts: Vec<u64>,
        sums: Vec<i64>,
        moment: Vec<i64>,
    ) -> Result<Self, StatisticsError> {
        let lengths = [
            ("counts", shape.classes(), counts.len()),
            ("sums", if sums.is_empty() && moment.is_empty() { 0 } else { shape.weights() }, sums.len()),
            ("moment", if moment.is_empty() { 0 } else { triangle(shape.features()) }, moment.len()),
        ];
        match lengths.into_iter().find(|(_, expected, received)| expected != received) {
            Some((part, expected, received)) => Err(StatisticsError::Length { part, expected, received }),
            None => Ok(Self { shape, counts, sums, moment }),
        }
    }

    /// How many numbers travel.
    pub fn values(&self) -> usize {
        self.counts.len() + self.sums.len() + self.moment.len()
    }

    /// The numbers as they travel.
    pub fn to_floats(&self) -> FloatSums {
        let float = |value: &i64, bits: u32| *value as f64 / (1_u64 << bits) as f64;
        FloatSums {
            counts: self.counts.iter().map(|&count| u32::try_from(count).unwrap_or(u32::MAX)).collect(),
            sums: self.sums.iter().map(|value| float(value, SUM_FRACTION_BITS)).collect(),
            moment: self.moment.iter().map(|value| float(value, MOMENT_FRACTION_BITS)).collect(),
        }
    }

    /// Takes off sums that were added before: what is left is, to the bit, what it would be without them. On an error
    /// nothing has changed.
    ///
    /// # Errors
    /// If the shapes differ, or if a class would be left with less than no samples.
    pub fn subtract(&mut self, other: &Self) -> Result<(), StatisticsError> {
        self.check_same_extent(other)?;
        if self.counts.iter().zip(&other.counts).any(|(whole, part)| whole < part) {
            return Err(StatisticsError::Impossible("more samples are taken off than are there"));
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a -= b);
        // As long as what is taken off was added before, nothing wraps.
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a = a.wrapping_sub(*b));
        self.moment.iter_mut().zip(&other.moment).for_each(|(a, b)| *a = a.wrapping_sub(*b));
        Ok(())
    }

    fn check_same_extent(&self, other: &Self) -> Result<(), StatisticsError> {
        let same_extent = self.sums.len() == other.sums.len() && self.moment.len() == other.moment.len();
        if self.shape == other.shape && same_extent { Ok(()) } else { Err(StatisticsError::Mismatch) }
    }

    /// The mean of `|h|²` over the samples; `None` where the second moment is not part of the sums or nobody has samples.
    pub fn mean_square(&self) -> Option<f64> {
        let samples = self.samples();
        if self.moment.is_empty() || samples == 0 {
            return None;
        }
        let trace: f64 = (0..self.shape.features()).map(|i| self.moment_at(i, i)).sum();
        Some(trace / samples as f64)
    }

    /// Entry `i, j` of the second moment, `i <= j`.
    pub(crate) fn moment_at(&self, i: usize, j: usize) -> f64 {
        let d = self.shape.features();
        let start = i * d - i * i.saturating_sub(1) / 2;
        self.moment[start + j - i] as f64 / (1_u64 << MOMENT_FRACTION_BITS) as f64
    }

    /// Adds another device's sums; on an error nothing has changed.
    ///
    /// # Errors
    /// If the shapes or the extents differ, or a sum leaves its accumulator.
    pub fn add(&mut self, other: &Self) -> Result<(), StatisticsError> {
        self.check_same_extent(other)?;
        let overflows = |(a, b): (&i64, &i64)| a.checked_add(*b).is_none();
        if self.sums.iter().zip(&other.sums).any(overflows) || self.moment.iter().zip(&other.moment).any(overflows) {
            return Err(StatisticsError::Overflow);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.moment.iter_mut().zip(&other.moment).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// The fleet's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Samples per class, `[C]`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of each class, `[C]`; zeros where there is no sample at all.
    pub fn prior(&self) -> Vec<f32> {
        let samples = self.samples().max(1) as f64;
        self.counts.iter().map(|&count| (count as f64 / samples) as f32).collect()
    }

    /// The means of the classes somebody holds.
    pub fn means(&self) -> Means {
        Means::within_limits(self.means_f64())
    }

    /// Per class its mean `[d]`, or `None` where nobody holds it.
    pub(crate) fn means_f64(&self) -> Vec<Option<Vec<f64>>> {
        let rows = self.sums.chunks_exact(self.shape.features());
        let unit = (1_u64 << SUM_FRACTION_BITS) as f64;
        let mean = |(row, &count): (&[i64], &u64)| {
            (count > 0).then(|| row.iter().map(|&sum| sum as f64 / unit / count as f64).collect())
        };
        rows.zip(&self.counts).map(mean).collect()
    }

    /// The pooled within-class covariance `[d][d]`, full and row-major: `(sum h hᵀ - sum n_c mu_c mu_cᵀ) / n`.
    pub(crate) fn within_class_covariance(&self, means: &[Option<Vec<f64>>]) -> Vec<f64> {
        let d = self.shape.features();
        let samples = self.samples().max(1) as f64;
        let unit = (1_u64 << MOMENT_FRACTION_BITS) as f64;
        let mut covariance = vec![0.0; d * d];
        let mut entries = self.moment.iter();
        for i in 0..d {
            for (j, entry) in (i..d).zip(entries.by_ref()) {
                covariance[i * d + j] = *entry as f64 / unit;
            }
        }
        for (mean, &count) in means.iter().zip(&self.counts) {
            let Some(mean) = mean else { continue };
            for i in 0..d {
                for j in i..d {
                    covariance[i * d + j] -= count as f64 * mean[i] * mean[j];
                }
            }
        }
        for i in 0..d {
            for j in i..d {
                covariance[i * d + j] /= samples;
                covariance[j * d + i] = covariance[i * d + j];
            }
        }
        covariance
    }

    fn add_sample(&mut self, features: &[f32], label: u16, factors: &mut [i32]) {
        self.counts[usize::from(label)] += 1;
        if self.sums.is_empty() {
            return;
        }
        let start = usize::from(label) * features.len();
        for (sum, &feature) in self.sums[start..start + features.len()].iter_mut().zip(features) {
            *sum += scaled(f64::from(feature), SUM_FRACTION_BITS);
        }
        if self.moment.is_empty() {
            return;
        }
        for (factor, &feature) in factors.iter_mut().zip(features) {
            *factor = scaled(f64::from(feature), FACTOR_FRACTION_BITS) as i32;
        }
        const SHIFT: u32 = 2 * FACTOR_FRACTION_BITS - MOMENT_FRACTION_BITS;
        let mut row_start = 0;
        for (i, &left) in factors.iter().enumerate() {
            let row = &mut self.moment[row_start..row_start + factors.len() - i];
            for (entry, &right) in row.iter_mut().zip(&factors[i..]) {
                *entry += (i64::from(left) * i64::from(right) + (1 << (SHIFT - 1))) >> SHIFT;
            }
            row_start += factors.len() - i;
        }
    }
}

/// Entries of the upper triangle of a `[d][d]` matrix, diagonal included.
pub const fn triangle(features: usize) -> usize {
    features * (features + 1) / 2
}

fn scaled(value: f64, bits: u32) -> i64 {
    libm::rint(value * (1_u64 << bits) as f64) as i64
}

/// `None` for what is not finite or above `most` (with room for rounding on the way).
fn to_fixed(value: f64, bits: u32, most: f64) -> Option<i64> {
    (value.abs() <= most * 1.001 + 1e-6).then(|| scaled(value, bits))
}
