//! The devices of one seed with their samples, and what is set aside of them.

use std::sync::Arc;

use grapevine_models::{Samples, SamplesError, Shape};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::SampleSet;
use crate::data::class_counts;

/// Tells the draws of this file from those that deal samples to devices.
const HELD_OUT_STREAM: u64 = 1;
const AUXILIARY_STREAM: u64 = 2;

/// Which of the training samples are held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Validation {
    /// Of every class.
    pub(super) share: f64,
    /// How many such shares to leave before this one.
    pub(super) fold: u32,
}

/// The samples of a fleet, device by device, and what it is tested on.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) shape: Shape,
    /// In the order in which a device's store gives them.
    pub(super) devices: Vec<SampleSet>,
    pub(super) test: Arc<SampleSet>,
    pub(super) seed: u64,
}

impl Fleet {
    /// Samples of each class on each device: `[device][class]`.
    pub(super) fn device_class_counts(&self) -> Vec<Vec<u64>> {
        let of_device = |device: &SampleSet| class_counts(device.labels.iter().copied(), self.shape.classes());
        self.devices.iter().map(of_device).collect()
    }

    /// The devices' samples, checked.
    pub(super) fn samples(&self) -> Result<Vec<Samples<'_>>, SamplesError> {
        self.devices.iter().map(|device| device.samples(self.shape)).collect()
    }

    /// The same fleet less a share of every class, which becomes its test set: for choosing hyper-parameters without a
    /// look at the real one. A class gives at least one sample as long as there are any that no fold before gave, and keeps
    /// at least one; no device is left without samples.
    pub(super) fn with_validation(&self, Validation { share, fold }: Validation) -> Self {
        let mut left: Vec<usize> = self.devices.iter().map(|device| device.labels.len()).collect();
        let mut held_out = vec![Vec::new(); self.devices.len()];
        let mut test = SampleSet::empty(self.shape.features());
        for places in self.shuffled_places(HELD_OUT_STREAM) {
            let wanted = ((places.len() as f64 * share).round() as usize).clamp(1, places.len().max(2) - 1);
            let wanted = if places.len() < 2 { 0 } else { wanted };
            let mut taken = 0;
            for (device, row) in places.into_iter().skip(fold as usize * wanted) {
                if taken < wanted && left[device] > 1 {
                    left[device] -= 1;
                    taken += 1;
                    held_out[device].push(row);
                    push(&mut test, &self.devices[device], row);
                }
            }
        }
        let without = |(device, held_out): (&SampleSet, &Vec<usize>)| {
            let kept = (0..device.labels.len()).filter(|row| !held_out.contains(row)).map(|row| row as u32);
            device.select(&kept.collect::<Vec<u32>>())
        };
        let devices = self.devices.iter().zip(&held_out).map(without).collect();
        Self { devices, test: Arc::new(test), ..*self }
    }

    /// Copies of `per_class` samples of every class, or of all that there are: what an aggregator that needs samples of
    /// its own is given.
    pub(super) fn auxiliary(&self, per_class: u16) -> SampleSet {
        let mut set = SampleSet::empty(self.shape.features());
        for places in self.shuffled_places(AUXILIARY_STREAM) {
            for (device, row) in places.into_iter().take(usize::from(per_class)) {
                push(&mut set, &self.devices[device], row);
            }
        }
        set
    }

    /// Where the samples of each class are, in a random order: `[class][..]`, device and row.
    fn shuffled_places(&self, stream: u64) -> Vec<Vec<(usize, usize)>> {
        let mut places = vec![Vec::new(); self.shape.classes()];
        for (device, samples) in self.devices.iter().enumerate() {
            for (row, &label) in samples.labels.iter().enumerate() {
                places[usize::from(label)].push((device, row));
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        places.iter_mut().for_each(|places| places.shuffle(&mut rng));
        places
    }
}

fn push(set: &mut SampleSet, from: &SampleSet, row: usize) {
    set.push(from.features.row(row), from.labels[row]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let device = |labels: &[u16], first: f32| {
            let features = (0..labels.len()).map(|row| first + row as f32).collect();
            SampleSet::of_rows(features, labels.to_vec(), 1)
        };
        let devices = vec![device(&[0; 10], 0.0), device(&[0, 0, 1, 1, 1], 100.0), device(&[2], 200.0)];
        let test = Arc::new(device(&[0, 1, 2], 300.0));
        Fleet { shape: Shape::new(4, 1).unwrap(), devices, test, seed: 3 }
    }

    #[test]
    fn validation_samples_are_taken_and_nothing_is_lost() {
        let whole = fleet();
        let fold = |fold| Validation { share: 0.25, fold };
        let split = whole.with_validation(fold(0));
        let counts = class_counts(split.test.labels.iter().copied(), 4);
        assert_eq!(counts, [3, 1, 0, 0]);
        assert_eq!(split.devices.len(), 3);
        let all = |fleet: &Fleet| fleet.devices.iter().flat_map(|device| device.features.clone()).collect::<Vec<f32>>();
        let mut again = [all(&split), split.test.features.iter().copied().collect()].concat();
        again.sort_by(f32::total_cmp);
        assert_eq!(again, all(&whole));
        assert_eq!(whole.with_validation(fold(0)).test, split.test);
        assert_ne!(Fleet { seed: 4, ..whole.clone() }.with_validation(fold(0)).test, split.test);
        // No sample is held out twice.
        let mut held_out: Vec<f32> =
            (0..4).flat_map(|at| whole.with_validation(fold(at)).test.features.clone()).collect();
        let count = held_out.len();
        held_out.sort_by(f32::total_cmp);
        held_out.dedup();
        assert!(count == held_out.len() && count >= 12, "{held_out:?}");
    }

    #[test]
    fn no_share_leaves_a_device_or_a_class_empty() {
        let split = fleet().with_validation(Validation { share: 0.99, fold: 0 });
        assert!(split.devices.iter().all(|device| !device.labels.is_empty()));
        let left: Vec<u64> = split
            .device_class_counts()
            .iter()
            .fold(vec![0; 4], |sum, device| sum.iter().zip(device).map(|(a, b)| a + b).collect());
        assert_eq!(left, [1, 1, 1, 0]);
    }

    #[test]
    fn an_auxiliary_set_is_balanced_as_far_as_there_are_samples() {
        let set = fleet().auxiliary(2);
        assert_eq!(class_counts(set.labels.iter().copied(), 4), [2, 2, 1, 0]);
        assert_eq!(set.features.len(), 5);
    }
}
