//! Who holds which sample: the two partitions of the data protocol.
//!
//! Both hand out every sample exactly once, leave no device empty, and are skewed by one number: the smaller `alpha`,
//! the fewer classes a device sees.

use core::fmt;
use core::str::FromStr;

use clap::ValueEnum;
use rand::RngExt;
use rand::distr::weighted::WeightedIndex;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{class_counts, dirichlet, indices_by_class, stray_label};

/// Smallest `alpha`: practically one class per device.
pub const MIN_ALPHA: f64 = 1e-6;
/// Largest `alpha`: practically no skew.
pub const MAX_ALPHA: f64 = 1e6;

/// How samples are dealt to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Equally large devices, each with its own class shares around the fleet's: `q_k ~ Dirichlet(alpha * prior)`.
    #[default]
    GlobalPrior,
    /// Each class is divided over the devices by its own `Dirichlet(alpha)`; devices differ in size.
    Symmetric,
}

/// The name is neither `global-prior` nor `symmetric`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no partition is called `{0}`: use `global-prior` or `symmetric`")]
pub struct UnknownPartition(pub String);

/// Why samples cannot be dealt to devices.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartitionError {
    /// Nobody to deal to.
    #[error("no device to deal samples to: ask for at least one")]
    NoDevice,
    /// Some device would stay empty.
    #[error("{samples} samples for {devices} devices: every device needs one, use fewer devices or more data")]
    TooFewSamples {
        /// Samples to deal.
        samples: usize,
        /// Devices to deal them to.
        devices: usize,
    },
    /// The concentration is out of range.
    #[error("alpha {0}: give a number from 0.000001 (most skewed) to 1000000 (not skewed)")]
    Alpha(f64),
    /// A label names no class.
    #[error("sample {index} has label {label}, but there are {classes} classes: labels go from 0 to classes - 1")]
    Label {
        /// Position of the sample.
        index: usize,
        /// Its label.
        label: u16,
        /// Number of classes.
        classes: usize,
    },
}

/// Deals samples to devices: `[device][..]`, indices into `labels` in ascending order, every index exactly once and
/// every device with at least one.
///
/// `global-prior`: the sizes differ by at most one. Each device draws its samples one by one by its class shares; where
/// the class has run out, it takes any sample that is left instead: what is overdrawn is refilled from the other classes
/// in proportion to what they have left.
///
/// `symmetric`: a device that got nothing takes one sample from the largest device.
///
/// # Errors
/// If there is no device, there are fewer samples than devices, `alpha` is out of its range, or a label is no class.
pub fn partition(
    labels: &[u16],
    classes: usize,
    devices: usize,
    alpha: f64,
    kind: Partition,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Vec<u32>>, PartitionError> {
    if devices == 0 {
        return Err(PartitionError::NoDevice);
    }
    if labels.len() < devices {
        return Err(PartitionError::TooFewSamples { samples: labels.len(), devices });
    }
    if !(MIN_ALPHA..=MAX_ALPHA).contains(&alpha) {
        return Err(PartitionError::Alpha(alpha));
    }
    if let Some((index, label)) = stray_label(labels, classes) {
        return Err(PartitionError::Label { index, label, classes });
    }
    let mut by_class = indices_by_class(labels, classes);
    by_class.iter_mut().for_each(|indices| indices.shuffle(rng));
    let mut dealt = match kind {
        Partition::GlobalPrior => {
            let prior = class_counts(labels.iter().copied(), classes);
            let concentrations: Vec<f64> =
                prior.iter().map(|&count| alpha * count as f64 / labels.len() as f64).collect();
            deal_by_device(by_class, labels.len(), devices, &concentrations, rng)
        }
        Partition::Symmetric => deal_by_class(&by_class, devices, alpha, rng),
    };
    dealt.iter_mut().for_each(|indices| indices.sort_unstable());
    Ok(dealt)
}

impl Partition {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::GlobalPrior => "global-prior",
            Self::Symmetric => "symmetric",
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Partition {
    type Err = UnknownPartition;

    fn from_str(name: &str) -> Result<Self, UnknownPartition> {
        [Self::GlobalPrior, Self::Symmetric]
            .into_iter()
            .find(|partition| partition.name() == name)
            .ok_or_else(|| UnknownPartition(name.to_owned()))
    }
}

fn deal_by_device(
    mut by_class: Vec<Vec<u32>>,
    samples: usize,
    devices: usize,
    concentrations: &[f64],
    rng: &mut ChaCha8Rng,
) -> Vec<Vec<u32>> {
    let mut dealt = Vec::with_capacity(devices);
    for device in 0..devices {
        let size = samples / devices + usize::from(device < samples % devices);
        let classes = WeightedIndex::new(dirichlet::weights(&dirichlet::log_shares(concentrations, rng)))
            .expect("the class with the largest share weighs one");
        let mut indices = Vec::with_capacity(size);
        while indices.len() < size {
            let class = rng.sample(&classes);
            let index = by_class[class].pop().unwrap_or_else(|| take_any(&mut by_class, rng));
            indices.push(index);
        }
        dealt.push(indices);
    }
    dealt
}

/// Takes one of all samples that are left; there is at least one.
fn take_any(by_class: &mut [Vec<u32>], rng: &mut ChaCha8Rng) -> u32 {
    let mut at = rng.random_range(0..by_class.iter().map(Vec::len).sum());
    let left = by_class.iter_mut().find(|indices| {
        let is_here = at < indices.len();
        at -= if is_here { 0 } else { indices.len() };
        is_here
    });
    left.and_then(Vec::pop).expect("the draw lies among the samples that are left")
}

fn deal_by_class(by_class: &[Vec<u32>], devices: usize, alpha: f64, rng: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
    let concentrations = vec![alpha; devices];
    let mut dealt = vec![Vec::new(); devices];
    for indices in by_class {
        let shares = dirichlet::shares(&concentrations, rng);
        let mut cumulative = 0.0;
        let mut start = 0;
        for (device, share) in shares.iter().enumerate() {
            cumulative += share;
            let last = device + 1 == devices;
            let end = if last { indices.len() } else { (cumulative * indices.len() as f64).round() as usize };
            let end = end.clamp(start, indices.len());
            dealt[device].extend_from_slice(&indices[start..end]);
            start = end;
        }
    }
    fill_empty(&mut dealt);
    dealt
}

fn fill_empty(dealt: &mut [Vec<u32>]) {
    while let Some(empty) = dealt.iter().position(Vec::is_empty) {
        let Some(largest) = dealt.iter_mut().max_by_key(|indices| indices.len()) else { return };
        let Some(index) = largest.pop() else { return };
        dealt[empty].push(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::data::long_tail::kept_count;

    fn long_tailed_labels(classes: usize, head: usize, ratio: f64) -> Vec<u16> {
        (0..classes).flat_map(|class| vec![class as u16; kept_count(head, ratio, class, classes)]).collect()
    }

    fn deal(labels: &[u16], classes: usize, devices: usize, alpha: f64, kind: Partition, seed: u64) -> Vec<Vec<u32>> {
        partition(labels, classes, devices, alpha, kind, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
    }

    /// Mean over devices of the share of the device's largest class.
    fn skew(labels: &[u16], classes: usize, dealt: &[Vec<u32>]) -> f64 {
        let largest = |indices: &Vec<u32>| {
            let counts = class_counts(indices.iter().map(|&index| labels[index as usize]), classes);
            *counts.iter().max().unwrap() as f64 / indices.len() as f64
        };
        dealt.iter().map(largest).sum::<f64>() / dealt.len() as f64
    }

    fn kinds() -> impl Strategy<Value = Partition> {
        prop_oneof![Just(Partition::GlobalPrior), Just(Partition::Symmetric)]
    }

    proptest! {
        #[test]
        fn every_sample_is_dealt_once_and_nobody_is_empty(
            kind in kinds(), classes in 2usize..12, head in 10usize..120, ratio in 1.0f64..100.0,
            devices in 1usize..20, exponent in -6.0f64..6.0, seed: u64,
        ) {
            let labels = long_tailed_labels(classes, head, ratio);
            prop_assume!(labels.len() >= devices);
            let dealt = deal(&labels, classes, devices, 10f64.powf(exponent), kind, seed);
            prop_assert_eq!(dealt.len(), devices);
            prop_assert!(dealt.iter().all(|indices| !indices.is_empty()));
            let mut all = dealt.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len() as u32).collect::<Vec<_>>());
            if kind == Partition::GlobalPrior {
                let sizes: Vec<usize> = dealt.iter().map(Vec::len).collect();
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
        }

        #[test]
        fn the_seed_decides(kind in kinds(), seed: u64) {
            let labels = long_tailed_labels(10, 100, 20.0);
            prop_assert_eq!(deal(&labels, 10, 8, 0.5, kind, seed), deal(&labels, 10, 8, 0.5, kind, seed));
            prop_assert_ne!(
                deal(&labels, 10, 8, 0.5, kind, seed), deal(&labels, 10, 8, 0.5, kind, seed.wrapping_add(1))
            );
        }
    }

    #[test]
    fn skew_grows_as_alpha_falls() {
        let labels: Vec<u16> = (0..10).flat_map(|class| [class; 300]).collect();
        for kind in [Partition::GlobalPrior, Partition::Symmetric] {
            let mean = |alpha| {
                (0..5).map(|seed| skew(&labels, 10, &deal(&labels, 10, 20, alpha, kind, seed))).sum::<f64>() / 5.0
            };
            let skews = [1e-4, 0.1, 1.0, 10.0, 1000.0].map(mean);
            assert!(skews.is_sorted_by(|left, right| left > right), "{kind}: {skews:?}");
            assert!(skews[0] > 0.6 && skews[4] < 0.2, "{kind}: {skews:?}");
        }
    }

    #[test]
    fn without_skew_devices_look_like_the_fleet() {
        let labels = long_tailed_labels(5, 1000, 10.0);
        let fleet = class_counts(labels.iter().copied(), 5);
        for indices in deal(&labels, 5, 4, MAX_ALPHA, Partition::GlobalPrior, 7) {
            let counts = class_counts(indices.iter().map(|&index| labels[index as usize]), 5);
            let expected = fleet[0] as f64 / 4.0;
            assert!((counts[0] as f64 - expected).abs() < 0.15 * expected, "{counts:?} of {fleet:?}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for kind in [Partition::GlobalPrior, Partition::Symmetric] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert!("dirichlet".parse::<Partition>().unwrap_err().to_string().contains("`global-prior` or `symmetric`"));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let attempt = |labels: &[u16], devices, alpha| {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            partition(labels, 2, devices, alpha, Partition::Symmetric, &mut rng).unwrap_err()
        };
        assert_eq!(attempt(&[0, 1], 0, 1.0), PartitionError::NoDevice);
        assert_eq!(attempt(&[0, 1], 3, 1.0), PartitionError::TooFewSamples { samples: 2, devices: 3 });
        assert_eq!(attempt(&[0, 1], 2, 0.0), PartitionError::Alpha(0.0));
        assert!(matches!(attempt(&[0, 1], 2, f64::NAN), PartitionError::Alpha(_)));
        assert_eq!(attempt(&[0, 2], 2, 1.0), PartitionError::Label { index: 1, label: 2, classes: 2 });
    }
}
