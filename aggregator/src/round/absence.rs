//! Devices that an open round does not wait for: those that went, and those that did not answer the round before.
//!
//! A connection that breaks comes back in most cases, so a device that went is waited for a little longer.

use core::time::Duration;

use super::device_index::{DeviceIndex, DeviceSet};

/// How long a round waits for a device that went.
const GRACE: Duration = Duration::from_secs(30);

/// Whom of those asked a round does not wait for, and whom it will not.
#[derive(Default)]
pub(super) struct Absence {
    absent: DeviceSet,
    /// When each of these counts as absent.
    leaving: Vec<(DeviceIndex, Duration)>,
}

impl Absence {
    pub(super) fn of(absent: DeviceSet) -> Self {
        Self { absent, leaving: Vec::new() }
    }

    /// Devices that are not waited for.
    pub(super) fn len(&self) -> usize {
        self.absent.len()
    }

    pub(super) fn left(&mut self, index: DeviceIndex, now: Duration) {
        if !self.absent.contains(index) && self.leaving.iter().all(|(leaving, _)| *leaving != index) {
            self.leaving.push((index, now + GRACE));
        }
    }

    /// A device is there again, or has answered.
    pub(super) fn came(&mut self, index: DeviceIndex) {
        self.absent.remove(index);
        self.leaving.retain(|(leaving, _)| *leaving != index);
    }

    /// When the next device counts as absent.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.leaving.iter().map(|(_, at)| *at).min()
    }

    /// Counts devices as absent whose time is over; says whether there were any.
    #[must_use]
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let before = self.leaving.len();
        let absent = &mut self.absent;
        self.leaving.retain(|(index, at)| {
            let is_leaving = *at > now;
            if !is_leaving {
                absent.insert(*index);
            }
            is_leaving
        });
        self.leaving.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::super::device_index::Names;
    use super::*;

    #[test]
    fn a_device_that_comes_back_in_time_was_never_absent() {
        let mut names = Names::default();
        let (one, other) = (names.index(&"a".parse().unwrap()), names.index(&"b".parse().unwrap()));
        let mut absence = Absence::default();
        let seconds = Duration::from_secs;
        absence.left(one, seconds(1));
        absence.left(one, seconds(9));
        absence.left(other, seconds(2));
        assert_eq!(absence.next_at(), Some(seconds(1) + GRACE));
        assert!(!absence.expire(seconds(30)) && absence.len() == 0);
        absence.came(one);
        assert!(absence.expire(seconds(2) + GRACE) && absence.len() == 1);
        absence.came(other);
        assert_eq!((absence.len(), absence.next_at()), (0, None));
    }
}
