//! The books: every device that ever said a fitting hello, and whether it is there.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::limits::MAX_DEVICES;
use grapevine_protocol::{BootId, DeviceId, Hello, Labels, Refusal, RoundId};

/// What is known about one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its newest start.
    pub boot: BootId,
    /// Samples it holds.
    pub samples: u32,
    /// What it says about itself.
    pub labels: Labels,
    /// Whether its labels are among those that rounds choose from.
    pub is_eligible: bool,
    /// Whether it is there.
    pub present: bool,
    /// When it was last heard, on the machine's clock.
    pub last_seen: Duration,
    /// Rounds its update was merged in.
    pub rounds_done: u32,
    /// The newest round its update was merged in.
    pub last_round: Option<RoundId>,
    /// What was refused of it, by reason.
    pub failures: BTreeMap<Refusal, u32>,
    /// Bad updates since its last good one.
    pub strikes: u32,
    /// Why it is not heard any more, until somebody releases it.
    pub quarantined: Option<Refusal>,
    /// Bytes of blocks received from it.
    pub bytes_up: u64,
    /// Bytes of blocks published while it fetched them.
    pub bytes_down: u64,
}

pub(super) struct Registry {
    devices: BTreeMap<DeviceId, DeviceRecord>,
}

impl Registry {
    pub(super) fn new(books: Vec<(DeviceId, DeviceRecord)>) -> Self {
        Self { devices: books.into_iter().take(MAX_DEVICES).collect() }
    }

    /// Takes a device in, or takes note of its return; `false` if the books are full.
    pub(super) fn greet(&mut self, device: &DeviceId, hello: &Hello, is_eligible: bool, now: Duration) -> bool {
        if !self.devices.contains_key(device) && self.devices.len() >= MAX_DEVICES {
            return false;
        }
        let record = self.devices.entry(device.clone()).or_default();
        record.boot = hello.boot;
        record.samples = hello.samples;
        record.labels = hello.labels.clone();
        record.is_eligible = is_eligible;
        record.present = true;
        record.last_seen = now;
        true
    }

    /// A known device spoke, with so many bytes of a block; `false` if it never said hello.
    pub(super) fn heard(&mut self, device: &DeviceId, now: Duration, bytes: usize) -> bool {
        let Some(record) = self.devices.get_mut(device) else { return false };
        record.last_seen = now;
        record.bytes_up += bytes as u64;
        true
    }

    /// A device went; `false` if that was an earlier start of it.
    pub(super) fn leave(&mut self, device: &DeviceId, boot: BootId) -> bool {
        match self.devices.get_mut(device) {
            Some(record) if record.boot == boot && record.present => {
                record.present = false;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Nobody is known to be there any more; gives those who were.
    pub(super) fn all_away(&mut self) -> Vec<DeviceId> {
        let present = self.devices.iter_mut().filter(|(_, record)| record.present);
        let left = present.map(|(device, record)| {
            record.present = false;
            device.clone()
        });
        left.collect()
    }

    pub(super) fn record(&self, device: &DeviceId) -> Option<&DeviceRecord> {
        self.devices.get(device)
    }

    /// The devices that are there, with their records.
    pub(super) fn present(&self) -> impl Iterator<Item = (&DeviceId, &DeviceRecord)> {
        self.devices.iter().filter(|(_, record)| record.present)
    }

    pub(super) fn is_eligible(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|record| record.is_eligible)
    }

    pub(super) fn is_quarantined(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|record| record.quarantined.is_some())
    }

    pub(super) fn count_failure(&mut self, device: &DeviceId, reason: Refusal) {
        if let Some(record) = self.devices.get_mut(device) {
            let count = record.failures.entry(reason).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// A bad update of a device; `true` if it was one too many, and the device is away now.
    pub(super) fn strike(&mut self, device: &DeviceId, most: u32, reason: Refusal) -> bool {
        let Some(record) = self.devices.get_mut(device) else { return false };
        record.strikes += 1;
        if record.strikes < most {
            return false;
        }
        record.quarantined = Some(reason);
        record.present = false;
        true
    }

    /// A good update: what was bad before it is forgiven.
    pub(super) fn forgive(&mut self, device: &DeviceId) {
        if let Some(record) = self.devices.get_mut(device) {
            record.strikes = 0;
        }
    }

    /// `false` if the device is not quarantined.
    pub(super) fn release(&mut self, device: &DeviceId) -> bool {
        self.forgive(device);
        self.devices.get_mut(device).is_some_and(|record| record.quarantined.take().is_some())
    }

    pub(super) fn count_down(&mut self, device: &DeviceId, bytes: usize) {
        if let Some(record) = self.devices.get_mut(device) {
            record.bytes_down += bytes as u64;
        }
    }

    pub(super) fn count_done(&mut self, device: &DeviceId, round: RoundId) {
        if let Some(record) = self.devices.get_mut(device) {
            record.rounds_done += 1;
            record.last_round = Some(round);
        }
    }
}
