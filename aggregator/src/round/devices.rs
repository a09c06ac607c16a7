//! Devices come and go; what they do wrong is counted, and too much of it sends them away.

use core::time::Duration;

use grapevine_protocol::{
    DeviceId, Digest, Goodbye, Hello, Incarnation, Receipt, Refusal, Refused, RoundId, RunId, ToDevice, Welcome,
};

use super::action::{Durable, Tell};
use super::device_index::DeviceIndex;
use super::watchlist::TurnedAway;
use super::{Coordinator, Event, Phase};

/// Devices that make room together when the registry is full: one by one each would cost the ledger a write.
const EVICTED_AT_ONCE: usize = 512;

impl Coordinator {
    pub(super) fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let is_eligible = self.config.select.matches(&hello.attributes);
        let known = self.registry.find(device);
        let former = known.and_then(|index| self.registry.incarnation(index)).unwrap_or(hello.incarnation);
        let was_here = former == hello.incarnation && known.is_some_and(|index| self.registry.is_present(index));
        let index = match self.take_in(now, device, hello, is_eligible) {
            Ok(index) => index,
            Err(reason) => {
                self.turn_away(now, device, reason);
                return self.refuse_device(device, Some(hello.incarnation), reason);
            }
        };
        self.serving.forget(index);
        // What the device sees first is what there is to do, and not that there is nothing.
        if matches!(self.phase, Phase::Resting) {
            self.wake(now, index);
        }
        self.send(index, ToDevice::Welcome(Welcome { incarnation: hello.incarnation, run: self.run, is_eligible }));
        if !was_here {
            self.report(Event::DeviceCame(device.clone()));
        }
        self.watchlist.said_hello(index, hello.incarnation, now);
        if self.watchlist.takes_turns(index, former, hello.incarnation, now) {
            // Behind the welcome, which ends what a device was refused for before.
            self.turn_away(now, device, Refusal::SameName);
            self.refuse_device(device, None, Refusal::SameName);
        } else {
            self.watchlist.welcome(device);
        }
        match &mut self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Collecting(collecting) if is_eligible => collecting.welcome_back(index, device, hello.samples),
            Phase::Collecting(_) | Phase::Sifting(_) | Phase::Committing(_) | Phase::Resting => {}
        }
    }

    fn take_in(
        &mut self,
        now: Duration,
        device: &DeviceId,
        hello: &Hello,
        is_eligible: bool,
    ) -> Result<DeviceIndex, Refusal> {
        if hello.extractor != self.config.extractor {
            return Err(Refusal::Extractor);
        }
        if hello.classes != self.config.classes {
            return Err(Refusal::Classes);
        }
        if hello.shape != self.config.shape {
            return Err(Refusal::Shape);
        }
        if hello.samples > self.config.max_samples {
            return Err(Refusal::Samples);
        }
        if self.registry.find(device).is_some_and(|index| self.registry.is_quarantined(index)) {
            return Err(Refusal::Quarantined);
        }
        match self.registry.greet(device, hello, is_eligible, now) {
            Some(index) => Ok(index),
            None if self.make_room() => {
                self.registry.greet(device, hello, is_eligible, now).ok_or(Refusal::TooManyDevices)
            }
            None => Err(Refusal::TooManyDevices),
        }
    }

    /// The registry is full: names that never delivered anything make room, for anybody can say hello under any name.
    fn make_room(&mut self) -> bool {
        let is_busy = |index| {
            let is_in_round = matches!(&self.phase, Phase::Collecting(collecting) if collecting.has(index));
            is_in_round || self.uploads.has(index)
        };
        let strangers = self.registry.strangers(EVICTED_AT_ONCE, is_busy);
        if strangers.is_empty() {
            return false;
        }
        let devices: Vec<DeviceId> = strangers.iter().map(|index| self.registry.names().id(index)).collect();
        strangers.iter().for_each(|index| self.let_go(index));
        self.registry.evict(&strangers);
        self.report(Event::RoomMade(devices.len()));
        self.actions.durable(Durable::ForgetDevices(devices));
        true
    }

    /// Nothing but the registry means this device any more.
    fn let_go(&mut self, index: DeviceIndex) {
        self.serving.forget(index);
        self.uploads.forget(index);
        self.watchlist.forget(index);
        // Its statistics stay in the sum; should it come back, the ledger knows what to put others in the place of.
        self.contributions.forget(index);
        if let Phase::Collecting(collecting) = &mut self.phase {
            collecting.forget(index);
        }
    }

    /// Somebody wants a device out of the registry; one that still runs comes back as a new one. What it contributed stays.
    /// `false` if nobody of this name is known.
    pub fn handle_forget(&mut self, device: &DeviceId) -> bool {
        self.watchlist.welcome(device);
        let Some(index) = self.registry.find(device) else { return false };
        self.let_go(index);
        self.registry.forget(index);
        self.actions.durable(Durable::ForgetDevices(vec![device.clone()]));
        self.ask_for_hello(device.clone());
        self.report(Event::Forgotten(device.clone()));
        true
    }

    /// Devices that are turned away, or told something, with every hello: the newest ones.
    pub fn turned_away(&self) -> impl Iterator<Item = (&DeviceId, &TurnedAway)> {
        self.watchlist.turned_away()
    }

    /// A device that is welcome and says hello again and again: it does not seem to hear the aggregator.
    pub fn deaf_device(&self, now: Duration) -> Option<DeviceId> {
        self.watchlist.deaf(now).map(|index| self.registry.names().id(index))
    }

    pub(super) fn turn_away(&mut self, now: Duration, device: &DeviceId, reason: Refusal) {
        // A quarantine is told where it begins, and stands in the registry.
        if reason != Refusal::Quarantined && self.watchlist.note(device, reason, now) {
            self.report(Event::TurnedAway { device: device.clone(), reason });
        }
    }

    /// A device came while the run rests: it may have news, or be one that the last round lacked.
    fn wake(&mut self, now: Duration, index: DeviceIndex) {
        let has_answered = self.closed.as_ref().is_some_and(|(_, answers)| answers.has(index));
        if self.is_held_back && !has_answered {
            self.progress.counters.is_unchanged = false;
        }
        self.gather(now);
    }

    pub(super) fn handle_goodbye(&mut self, now: Duration, index: DeviceIndex, goodbye: &Goodbye) {
        if self.registry.leave(index, goodbye.incarnation) {
            if let Phase::Collecting(collecting) = &mut self.phase {
                collecting.left(index, now);
            }
            let device = self.registry.names().id(index);
            self.report(Event::DeviceLeft(device.clone()));
            // The goodbye of a lost connection may come after the device's next hello.
            self.ask_for_hello(device);
        }
    }

    /// A device that still runs says hello again.
    fn ask_for_hello(&mut self, device: DeviceId) {
        let refused = Refused { incarnation: None, reason: Refusal::UnknownDevice };
        self.actions.tell(Tell::Device(device, ToDevice::Refused(refused)));
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    pub fn handle_release(&mut self, device: &DeviceId) -> bool {
        let was_quarantined = self.registry.find(device).is_some_and(|index| self.registry.release(index));
        if was_quarantined {
            self.actions.durable(Durable::KeepDevice(device.clone()));
            self.report(Event::Released(device.clone()));
        }
        was_quarantined
    }

    pub(super) fn refuse_device(&mut self, device: &DeviceId, incarnation: Option<Incarnation>, reason: Refusal) {
        self.count(Some(device), reason);
        self.actions.tell(Tell::Device(device.clone(), ToDevice::Refused(Refused { incarnation, reason })));
    }

    /// Refuses an update for good, so that the device does not send it again.
    pub(super) fn refuse_update(
        &mut self,
        index: DeviceIndex,
        run: RunId,
        round: RoundId,
        digest: Digest,
        reason: Refusal,
    ) {
        self.count_of(index, reason);
        self.send(index, ToDevice::Receipt(Receipt { run, round, digest, refused: Some(reason) }));
        let rule = &self.config.quarantine;
        if rule.after == 0 || !rule.reasons.contains(&reason) || !self.registry.strike(index, rule.after, reason) {
            return;
        }
        self.serving.forget(index);
        self.uploads.forget(index);
        // Durable before told: after a restart the device is not welcome either.
        let device = self.registry.names().id(index);
        self.actions.durable(Durable::KeepDevice(device.clone()));
        let incarnation = self.registry.incarnation(index);
        self.send(index, ToDevice::Refused(Refused { incarnation, reason: Refusal::Quarantined }));
        self.report(Event::Quarantined { device, reason });
    }

    /// Counts a refusal of a known device.
    pub(super) fn count_of(&mut self, index: DeviceIndex, reason: Refusal) {
        self.registry.count_failure(index, reason);
        let device = self.registry.names().id(index);
        self.note_refusal(Some(device), reason);
    }

    pub(super) fn count(&mut self, device: Option<&DeviceId>, reason: Refusal) {
        if let Some(index) = device.and_then(|device| self.registry.find(device)) {
            self.registry.count_failure(index, reason);
        }
        self.note_refusal(device.cloned(), reason);
    }

    fn note_refusal(&mut self, device: Option<DeviceId>, reason: Refusal) {
        *self.refusals.entry(reason).or_default() += 1;
        self.report(Event::Refused { device, reason });
    }
}
