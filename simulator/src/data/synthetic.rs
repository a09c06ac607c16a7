//! Made-up features of any shape, for measuring speed, memory and bytes without a data set.
//!
//! Every class is a round cluster around a random centre. Features have the standardised scale that the learning rates
//! assume: a spread of `4 / sqrt(d)`. Labels are long-tailed and dealt as real ones are. Only the labels and the class
//! centres are kept; the features of a device are drawn when they are asked for, the same every time.

use core::fmt;
use core::str::FromStr;

use grapevine_models::{Shape, ShapeError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::SampleSet;
use super::class_counts;
use super::partition::{Partition, PartitionError, partition};

/// Distance between two class centres, in standard deviations of a class: clusters overlap, but can be told apart.
const SEPARATION: f32 = 6.0;
const TEST_STREAM: u64 = 1;
const FIRST_DEVICE_STREAM: u64 = 2;

/// A shape written as `synthetic:<features>x<classes>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticSpec {
    /// Features and classes.
    pub shape: Shape,
}

/// Why a text is not a [`SyntheticSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntheticSpecError {
    /// It is written differently.
    #[error("`{0}` is no synthetic data set: write synthetic:<features>x<classes>, for example synthetic:512x100")]
    Form(String),
    /// The numbers are out of range.
    #[error("synthetic data set out of range")]
    Shape(#[from] ShapeError),
}

/// What a synthetic fleet looks like besides its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SyntheticFleet {
    /// Devices.
    pub devices: usize,
    /// Samples per device; with the partition `symmetric` their mean.
    pub samples_per_device: usize,
    /// Samples of the first class per sample of the last one.
    pub imbalance_ratio: f64,
    /// How samples are dealt to devices.
    pub partition: Partition,
    /// Concentration of the partition.
    pub alpha: f64,
    /// Decides everything random.
    pub seed: u64,
}

/// Why a synthetic fleet cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SyntheticError {
    /// Some class would have no sample.
    #[error("{samples} samples for {classes} classes: every class needs one, ask for more devices or samples")]
    TooFewSamples {
        /// Samples of the whole fleet.
        samples: usize,
        /// Classes.
        classes: usize,
    },
    /// The imbalance ratio is below one or not finite.
    #[error("imbalance ratio {0}: give a number of at least 1 (1 is balanced, 100 is a long tail)")]
    ImbalanceRatio(f64),
    /// Samples cannot be dealt.
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

/// A synthetic fleet: class centres and who holds which labels.
#[derive(Clone, Debug)]
pub struct Synthetic {
    shape: Shape,
    seed: u64,
    centres: Vec<f32>,
    labels: Vec<Vec<u16>>,
}

impl Synthetic {
    /// Draws the class centres, long-tails the labels and deals them to the devices.
    ///
    /// # Errors
    /// If there are fewer samples than classes or devices, the imbalance ratio is not finite or below 1, or `alpha` is
    /// out of its range.
    pub fn generate(spec: SyntheticSpec, fleet: &SyntheticFleet) -> Result<Self, SyntheticError> {
        let (classes, features) = (spec.shape.classes(), spec.shape.features());
        if !fleet.imbalance_ratio.is_finite() || fleet.imbalance_ratio < 1.0 {
            return Err(SyntheticError::ImbalanceRatio(fleet.imbalance_ratio));
        }
        let samples = fleet.devices.saturating_mul(fleet.samples_per_device);
        if samples < classes {
            return Err(SyntheticError::TooFewSamples { samples, classes });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(fleet.seed);
        let scale = centre_deviation(features) / feature_scale(features);
        let centres = (0..classes * features).map(|_| scale * rng.sample::<f32, _>(StandardNormal)).collect();
        let mut all = Vec::with_capacity(samples);
        for (class, count) in (0u16..).zip(long_tailed_counts(samples, classes, fleet.imbalance_ratio)) {
            all.resize(all.len() + count, class);
        }
        let dealt = partition(&all, classes, fleet.devices, fleet.alpha, fleet.partition, &mut rng)?;
        let labels = dealt.iter().map(|indices| indices.iter().map(|&index| all[index as usize]).collect()).collect();
        Ok(Self { shape: spec.shape, seed: fleet.seed, centres, labels })
    }

    /// Features and classes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Devices of the fleet.
    pub fn devices(&self) -> usize {
        self.labels.len()
    }

    /// Samples of each class on each device: `[device][class]`.
    pub fn device_class_counts(&self) -> Vec<Vec<u64>> {
        self.labels.iter().map(|labels| class_counts(labels.iter().copied(), self.shape.classes())).collect()
    }

    /// The samples of one device, the same at every call; none for a device that does not exist.
    pub fn device(&self, device: usize) -> SampleSet {
        let labels = self.labels.get(device).cloned().unwrap_or_default();
        self.samples(labels, FIRST_DEVICE_STREAM + device as u64)
    }

    /// A balanced test set of `per_class` samples of every class, class after class.
    pub fn test(&self, per_class: usize) -> SampleSet {
        let labels = (0..self.shape.classes() as u16).flat_map(|class| core::iter::repeat_n(class, per_class));
        self.samples(labels.collect(), TEST_STREAM)
    }

    fn samples(&self, labels: Vec<u16>, stream: u64) -> SampleSet {
        let width = self.shape.features();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        let centre = centre_deviation(width);
        let scale = (1.0 - centre * centre).sqrt() / feature_scale(width);
        let mut features = Vec::with_capacity(labels.len() * width);
        for &label in &labels {
            let start = usize::from(label) * width;
            let centre = &self.centres[start..start + width];
            features.extend(centre.iter().map(|centre| centre + scale * rng.sample::<f32, _>(StandardNormal)));
        }
        SampleSet::of_rows(features, labels, width)
    }
}

impl FromStr for SyntheticSpec {
    type Err = SyntheticSpecError;

    fn from_str(text: &str) -> Result<Self, SyntheticSpecError> {
        let form = || SyntheticSpecError::Form(text.to_owned());
        let (features, classes) =
            text.strip_prefix("synthetic:").and_then(|numbers| numbers.split_once('x')).ok_or_else(form)?;
        let features = features.parse().map_err(|_| form())?;
        let classes = classes.parse().map_err(|_| form())?;
        Ok(Self { shape: Shape::new(classes, features)? })
    }
}

impl fmt::Display for SyntheticSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "synthetic:{}x{}", self.shape.features(), self.shape.classes())
    }
}

/// Divisor that gives features of unit variance the spread `4 / sqrt(d)`.
fn feature_scale(features: usize) -> f32 {
    (features as f32 / 16.0).sqrt()
}

/// Standard deviation of a centre's entries where entries of samples have a variance of one.
fn centre_deviation(features: usize) -> f32 {
    // Centres with deviation b and samples with deviation w around them: distance sqrt(2 d) b, variance b^2 + w^2 = 1.
    let ratio = SEPARATION / (2.0 * features as f32).sqrt();
    ratio / (1.0 + ratio * ratio).sqrt()
}

/// One sample for every class, the others in proportion to `ratio^(-c / (C - 1))`, by largest remainder.
fn long_tailed_counts(samples: usize, classes: usize, ratio: f64) -> Vec<usize> {
    let weights: Vec<f64> =
        (0..classes).map(|class| ratio.powf(-(class as f64) / classes.saturating_sub(1).max(1) as f64)).collect();
    let total: f64 = weights.iter().sum();
    let spare = samples - classes;
    let exact: Vec<f64> = weights.iter().map(|weight| spare as f64 * weight / total).collect();
    let mut counts: Vec<usize> = exact.iter().map(|exact| 1 + *exact as usize).collect();
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by(|&left, &right| exact[right].fract().total_cmp(&exact[left].fract()));
    let missing = samples - counts.iter().sum::<usize>().min(samples);
    order.into_iter().cycle().take(missing).for_each(|class| counts[class] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(devices: usize, samples_per_device: usize) -> SyntheticFleet {
        SyntheticFleet {
            devices,
            samples_per_device,
            imbalance_ratio: 50.0,
            partition: Partition::GlobalPrior,
            alpha: 1.0,
            seed: 5,
        }
    }

    #[test]
    fn specs_are_read_and_refused_with_a_reason() {
        let spec: SyntheticSpec = "synthetic:512x100".parse().unwrap();
        assert_eq!((spec.shape.features(), spec.shape.classes()), (512, 100));
        assert_eq!(spec.to_string(), "synthetic:512x100");
        for text in ["512x100", "synthetic:512", "synthetic:ax3", "synthetic:-1x3", "synthetic:512x100x2", ""] {
            assert_eq!(text.parse::<SyntheticSpec>(), Err(SyntheticSpecError::Form(text.to_owned())));
        }
        for text in ["synthetic:512x1", "synthetic:0x10", "synthetic:4x1000000", "synthetic:1000000x4"] {
            assert!(matches!(text.parse::<SyntheticSpec>(), Err(SyntheticSpecError::Shape(_))), "{text}");
        }
    }

    #[test]
    fn devices_are_full_long_tailed_and_repeatable() {
        let data = Synthetic::generate("synthetic:16x10".parse().unwrap(), &fleet(20, 100)).unwrap();
        assert_eq!(data.devices(), 20);
        let mut fleet_counts = vec![0; 10];
        for (device, counts) in data.device_class_counts().into_iter().enumerate() {
            let samples = data.device(device);
            assert_eq!((samples.labels.len(), samples.features.len()), (100, 1600));
            assert_eq!(class_counts(samples.labels.iter().copied(), 10), counts);
            assert_eq!(samples, data.device(device));
            fleet_counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        assert!(fleet_counts.is_sorted_by(|left, right| left >= right));
        assert!((30..=60).contains(&(fleet_counts[0] / fleet_counts[9])), "{fleet_counts:?}");
        assert_ne!(data.device(0).features.row(0), data.device(1).features.row(0));
        assert!(data.device(20).labels.is_empty());
    }

    #[test]
    fn features_have_the_standardised_spread() {
        for features in [4u16, 64, 512] {
            let spec = format!("synthetic:{features}x20").parse().unwrap();
            let samples = Synthetic::generate(spec, &fleet(2, 50)).unwrap().test(20);
            let variance = samples.features.iter().map(|value| f64::from(value * value)).sum::<f64>()
                / samples.features.len() as f64;
            let expected = 16.0 / f64::from(features);
            assert!((variance / expected - 1.0).abs() < 0.25, "{features}: {variance} against {expected}");
        }
    }

    #[test]
    fn the_test_set_is_balanced_and_classes_can_be_told_apart() {
        let data = Synthetic::generate("synthetic:64x8".parse().unwrap(), &fleet(2, 50)).unwrap();
        let test = data.test(40);
        assert_eq!(class_counts(test.labels.iter().copied(), 8), [40; 8]);
        let nearest = |row: &[f32]| {
            let distance = |centre: &[f32]| -> f32 { row.iter().zip(centre).map(|(x, c)| (x - c) * (x - c)).sum() };
            let distances: Vec<f32> = data.centres.chunks(64).map(distance).collect();
            (0..8u16).min_by(|&a, &b| distances[usize::from(a)].total_cmp(&distances[usize::from(b)])).unwrap()
        };
        let hits = test.iter().filter(|&(row, label)| nearest(row) == label).count();
        assert!((280..320).contains(&hits), "{hits} of 320");
    }

    #[test]
    fn counts_add_up_for_any_size() {
        for (samples, classes, ratio) in [(10, 10, 100.0), (11, 10, 1.0), (4000, 100, 100.0), (7, 2, 1000.0)] {
            let counts = long_tailed_counts(samples, classes, ratio);
            assert_eq!(counts.iter().sum::<usize>(), samples);
            assert!(counts.iter().all(|&count| count >= 1));
        }
    }

    #[test]
    fn impossible_fleets_are_refused() {
        let spec: SyntheticSpec = "synthetic:4x10".parse().unwrap();
        let refuse = |fleet| Synthetic::generate(spec, &fleet).unwrap_err();
        assert_eq!(refuse(fleet(2, 4)), SyntheticError::TooFewSamples { samples: 8, classes: 10 });
        assert_eq!(
            refuse(SyntheticFleet { imbalance_ratio: 0.0, ..fleet(2, 50) }),
            SyntheticError::ImbalanceRatio(0.0)
        );
        let wrong_alpha = SyntheticFleet { alpha: -1.0, ..fleet(2, 50) };
        assert_eq!(refuse(wrong_alpha), SyntheticError::Partition(PartitionError::Alpha(-1.0)));
    }
}
