//! What is known about devices, and what they do wrong: it is counted, and too much of it sends them away.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::{DeviceId, Digest, Hello, Incarnation, Receipt, Refusal, Refused, RoundId, RunId, ToDevice};

use super::action::{Actions, Durable, Tell};
use super::device_index::DeviceIndex;
use super::registry::Registry;
use super::watchlist::Watchlist;
use super::{Event, Quarantine, RoundConfig};

/// The registry, and beside it what it does not say.
#[derive(Default)]
pub(super) struct Devices {
    pub(super) registry: Registry,
    pub(super) watchlist: Watchlist,
    refusals: BTreeMap<Refusal, u64>,
}

/// An update by name.
#[derive(Clone, Copy)]
pub(super) struct UpdateName {
    pub(super) run: RunId,
    pub(super) round: RoundId,
    pub(super) digest: Digest,
}

impl UpdateName {
    pub(super) fn receipt(self, refused: Option<Refusal>) -> ToDevice {
        ToDevice::Receipt(Receipt { run: self.run, round: self.round, digest: self.digest, refused })
    }
}

impl Devices {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, ..Self::default() }
    }

    /// How often each reason occurred since the start.
    pub(super) fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    pub(super) fn id(&self, index: DeviceIndex) -> DeviceId {
        self.registry.names().id(index)
    }

    /// Whether a device fits the fleet.
    pub(super) fn check(&self, config: &RoundConfig, device: &DeviceId, hello: &Hello) -> Result<(), Refusal> {
        if hello.extractor != config.extractor {
            return Err(Refusal::Extractor);
        }
        if hello.classes != config.classes {
            return Err(Refusal::Classes);
        }
        if hello.shape != config.shape {
            return Err(Refusal::Shape);
        }
        if hello.samples > config.max_samples {
            return Err(Refusal::Samples);
        }
        if self.registry.find(device).is_some_and(|index| self.registry.is_quarantined(index)) {
            return Err(Refusal::Quarantined);
        }
        Ok(())
    }

    /// A device said something other than hello, with so many bytes of a block; `None` if it is not listened to.
    #[must_use]
    pub(super) fn heard(
        &mut self,
        now: Duration,
        device: &DeviceId,
        bytes: usize,
        out: &mut Actions,
    ) -> Option<DeviceIndex> {
        let Some(index) = self.registry.heard(device, now, bytes) else {
            self.refuse(device, None, Refusal::UnknownDevice, out);
            return None;
        };
        self.watchlist.said_more(index);
        if self.registry.is_quarantined(index) {
            // It was told when that began, and is told again with its next hello.
            self.count_by_name(Some(device), Refusal::Quarantined, out);
            return None;
        }
        Some(index)
    }

    /// A device that is welcome said hello, after a start `former`. `true` if two devices have its name.
    #[must_use]
    pub(super) fn welcomed(
        &mut self,
        now: Duration,
        index: DeviceIndex,
        former: Incarnation,
        incarnation: Incarnation,
    ) -> bool {
        self.watchlist.said_hello(index, incarnation, now);
        self.watchlist.takes_turns(index, former, incarnation, now)
    }

    /// A device's hello is not welcome, or there are two of its name.
    pub(super) fn turn_away(&mut self, now: Duration, device: &DeviceId, reason: Refusal, out: &mut Actions) {
        // A quarantine is told where it begins, and stands in the registry.
        if reason != Refusal::Quarantined && self.watchlist.note(device, reason, now) {
            out.report(Event::TurnedAway { device: device.clone(), reason });
        }
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    #[must_use]
    pub(super) fn release(&mut self, device: &DeviceId, out: &mut Actions) -> bool {
        let was_quarantined = self.registry.find(device).is_some_and(|index| self.registry.release(index));
        if was_quarantined {
            out.durable(Durable::KeepDevice(device.clone()));
            out.report(Event::Released(device.clone()));
        }
        was_quarantined
    }

    /// Refuses what a device says.
    pub(super) fn refuse(
        &mut self,
        device: &DeviceId,
        incarnation: Option<Incarnation>,
        reason: Refusal,
        out: &mut Actions,
    ) {
        self.count_by_name(Some(device), reason, out);
        out.tell(Tell::Device(device.clone(), ToDevice::Refused(Refused { incarnation, reason })));
    }

    /// Refuses an update for good, so that the device does not send it again. `true` if it was one too many, and the
    /// device is not heard any more.
    #[must_use]
    pub(super) fn refuse_update(
        &mut self,
        index: DeviceIndex,
        update: UpdateName,
        reason: Refusal,
        rule: &Quarantine,
        out: &mut Actions,
    ) -> bool {
        self.count(index, reason, out);
        let device = self.id(index);
        out.tell(Tell::Device(device.clone(), update.receipt(Some(reason))));
        if rule.after == 0 || !rule.reasons.contains(&reason) || !self.registry.strike(index, rule.after, reason) {
            return false;
        }
        // Durable before told: after a restart the device is not welcome either.
        out.durable(Durable::KeepDevice(device.clone()));
        let refused = Refused { incarnation: self.registry.incarnation(index), reason: Refusal::Quarantined };
        out.tell(Tell::Device(device.clone(), ToDevice::Refused(refused)));
        out.report(Event::Quarantined { device, reason });
        true
    }

    /// Counts a refusal of a known device.
    pub(super) fn count(&mut self, index: DeviceIndex, reason: Refusal, out: &mut Actions) {
        self.registry.count_failure(index, reason);
        self.note_refusal(Some(self.id(index)), reason, out);
    }

    /// Counts a refusal of somebody, whoever that is.
    pub(super) fn count_by_name(&mut self, device: Option<&DeviceId>, reason: Refusal, out: &mut Actions) {
        if let Some(index) = device.and_then(|device| self.registry.find(device)) {
            self.registry.count_failure(index, reason);
        }
        self.note_refusal(device.cloned(), reason, out);
    }

    fn note_refusal(&mut self, device: Option<DeviceId>, reason: Refusal, out: &mut Actions) {
        *self.refusals.entry(reason).or_default() += 1;
        out.report(Event::Refused { device, reason });
    }
}

/// A device that still runs says hello again.
pub(super) fn ask_for_hello(device: DeviceId, out: &mut Actions) {
    let refused = Refused { incarnation: None, reason: Refusal::UnknownDevice };
    out.tell(Tell::Device(device, ToDevice::Refused(refused)));
}
