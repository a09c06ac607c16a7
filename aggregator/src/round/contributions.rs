//! Which of the devices' samples the run knows already. A device that holds others has news: a new device, or one whose
//! images changed.

use grapevine_protocol::DatasetId;

use super::device_index::{Column, DeviceIndex, DeviceSet};

/// What a device last told the run about its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contribution {
    /// Which samples.
    pub dataset: DatasetId,
    /// How many.
    pub samples: u32,
    /// The mean of `|h|²` over those in its statistics; 0 where it told no second moment.
    pub mean_square: f32,
}

/// One for each device.
#[derive(Default)]
pub(super) struct Contributions {
    all: Column<Contribution>,
    from: DeviceSet,
    samples: u64,
    /// The largest of all devices.
    mean_square: f32,
}

impl Contributions {
    /// Puts what a device told in the place of what it told before.
    pub(super) fn put(&mut self, index: DeviceIndex, contribution: Contribution) {
        let former = core::mem::replace(self.all.slot(index), contribution);
        self.samples = self.samples + u64::from(contribution.samples) - u64::from(former.samples);
        self.mean_square = self.mean_square.max(contribution.mean_square);
        self.from.insert(index);
    }

    /// A device is not in the registry any more, and its index may become another's.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        if self.from.remove(index) {
            let former = core::mem::take(self.all.slot(index));
            self.samples -= u64::from(former.samples);
        }
    }

    /// Samples of all of them.
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Of how many samples the run does not know, at least, where a device holds so many of this dataset; `None` where it
    /// knows them all.
    pub(super) fn news(&self, index: DeviceIndex, dataset: DatasetId, samples: u32) -> Option<u64> {
        let known = self.all.get(index).filter(|_| self.from.contains(index));
        match known {
            Some(known) if known.dataset == dataset => None,
            Some(known) => Some(u64::from(samples.abs_diff(known.samples)).max(1)),
            None => Some(u64::from(samples)).filter(|samples| *samples > 0),
        }
    }

    /// The largest norm that the gradient of the mean cross-entropy can have at this device, `|(p - e) [h; 1]|` with
    /// `|p - e|² <= 2`, averaged (Jensen); of the difference of two gradients it is twice that. Its images may have
    /// changed since, so some room is left.
    pub(super) fn largest_gradient(&self, index: DeviceIndex) -> f64 {
        const ROOM: f64 = 2.0;
        let own = self.all.get(index).map_or(0.0, |contribution| contribution.mean_square);
        let mean_square = f64::from(if own > 0.0 { own } else { self.mean_square });
        2.0 * ROOM * (2.0 * (mean_square + 1.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::device_index::Names;
    use super::*;

    #[test]
    fn news_are_of_new_devices_and_changed_samples() {
        let mut names = Names::default();
        let (one, other) = (names.index(&"a".parse().unwrap()), names.index(&"b".parse().unwrap()));
        let mut known = Contributions::default();
        assert_eq!(known.news(one, DatasetId(7), 40), Some(40));
        known.put(one, Contribution { dataset: DatasetId(7), samples: 40, mean_square: 3.0 });
        assert_eq!(known.news(one, DatasetId(7), 40), None);
        assert_eq!(known.news(one, DatasetId(8), 40), Some(1), "a label was changed");
        assert_eq!(known.news(one, DatasetId(9), 65), Some(25));
        assert_eq!(known.news(other, DatasetId(7), 5), Some(5));
        known.put(one, Contribution { dataset: DatasetId(9), samples: 65, mean_square: 1.0 });
        known.put(other, Contribution { dataset: DatasetId(1), samples: 5, mean_square: 0.0 });
        assert_eq!(known.samples(), 70);
        let mut without = Contributions::default();
        without.put(one, Contribution { dataset: DatasetId(9), samples: 65, mean_square: 1.0 });
        without.forget(one);
        assert_eq!((without.samples(), without.news(one, DatasetId(9), 65)), (0, Some(65)));
        assert!((known.largest_gradient(one) - 8.0).abs() < 1e-6);
        assert!(known.largest_gradient(other) > known.largest_gradient(one), "by the largest of the fleet");
    }
}
