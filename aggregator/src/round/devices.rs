//! Devices come and go; what they do wrong is counted, and too much of it sends them away.

use core::time::Duration;

use grapevine_protocol::{
    BootId, DeviceId, Digest, Hello, Leaving, Receipt, Refusal, Refused, RoundId, RunId, ToDevice, Welcome,
};

use super::action::{Durable, Tell};
use super::places::Place;
use super::watchlist::TurnedAway;
use super::{Coordinator, Event, Phase};

/// Devices that make room together when the books are full: one by one each would cost the ledger a write.
const EVICTED_AT_ONCE: usize = 512;

impl Coordinator {
    pub(super) fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let is_eligible = self.config.select.matches(&hello.labels);
        let known = self.registry.find(device);
        let former = known.and_then(|place| self.registry.boot(place)).unwrap_or(hello.boot);
        let was_here = former == hello.boot && known.is_some_and(|place| self.registry.is_present(place));
        let place = match self.take_in(now, device, hello, is_eligible) {
            Ok(place) => place,
            Err(reason) => {
                self.turn_away(now, device, reason);
                return self.refuse_device(device, Some(hello.boot), reason);
            }
        };
        self.serving.forget(place);
        // What the device sees first is what there is to do, and not that there is nothing.
        if matches!(self.phase, Phase::Resting) {
            self.wake(now, place);
        }
        self.send(place, ToDevice::Welcome(Welcome { boot: hello.boot, run: self.run, is_eligible }));
        if !was_here {
            self.report(Event::DeviceCame(device.clone()));
        }
        self.watchlist.said_hello(place, hello.boot, now);
        if self.watchlist.takes_turns(place, former, hello.boot, now) {
            // Behind the welcome, which ends what a device was refused for before.
            self.turn_away(now, device, Refusal::SameName);
            self.refuse_device(device, None, Refusal::SameName);
        } else {
            self.watchlist.welcome(device);
        }
        match &mut self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Collecting(collecting) if is_eligible => collecting.welcome_back(place, device, hello.samples),
            Phase::Collecting(_) | Phase::Sifting(_) | Phase::Committing(_) | Phase::Resting => {}
        }
    }

    fn take_in(
        &mut self,
        now: Duration,
        device: &DeviceId,
        hello: &Hello,
        is_eligible: bool,
    ) -> Result<Place, Refusal> {
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
        if self.registry.find(device).is_some_and(|place| self.registry.is_quarantined(place)) {
            return Err(Refusal::Quarantined);
        }
        match self.registry.greet(device, hello, is_eligible, now) {
            Some(place) => Ok(place),
            None if self.make_room() => {
                self.registry.greet(device, hello, is_eligible, now).ok_or(Refusal::TooManyDevices)
            }
            None => Err(Refusal::TooManyDevices),
        }
    }

    /// The books are full: names that never delivered anything make room, for anybody can say hello under any name.
    fn make_room(&mut self) -> bool {
        let is_busy = |place| {
            let is_in_round = matches!(&self.phase, Phase::Collecting(collecting) if collecting.has(place));
            is_in_round || self.uploads.has(place)
        };
        let strangers = self.registry.strangers(EVICTED_AT_ONCE, is_busy);
        if strangers.is_empty() {
            return false;
        }
        let devices: Vec<DeviceId> = strangers.iter().map(|place| self.registry.names().id(place)).collect();
        strangers.iter().for_each(|place| self.let_go(place));
        self.registry.evict(&strangers);
        self.report(Event::RoomMade(devices.len()));
        self.actions.durable(Durable::ForgetDevices(devices));
        true
    }

    /// Nothing but the books means this device any more.
    fn let_go(&mut self, place: Place) {
        self.serving.forget(place);
        self.uploads.forget(place);
        self.watchlist.forget(place);
        // Its statistics stay in the sum; should it come back, the ledger knows what to put others in the place of.
        self.contributions.forget(place);
        if let Phase::Collecting(collecting) = &mut self.phase {
            collecting.forget(place);
        }
    }

    /// Somebody wants a device out of the books; one that still runs comes back as a new one. What it contributed stays.
    /// `false` if nobody of this name is known.
    pub fn handle_forget(&mut self, device: &DeviceId) -> bool {
        self.watchlist.welcome(device);
        let Some(place) = self.registry.find(device) else { return false };
        self.let_go(place);
        self.registry.forget(place);
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
        self.watchlist.deaf(now).map(|place| self.registry.names().id(place))
    }

    pub(super) fn turn_away(&mut self, now: Duration, device: &DeviceId, reason: Refusal) {
        // A quarantine is told where it begins, and stands in the books.
        if reason != Refusal::Quarantined && self.watchlist.note(device, reason, now) {
            self.report(Event::TurnedAway { device: device.clone(), reason });
        }
    }

    /// A device came while the run rests: it may have news, or be one that the last round lacked.
    fn wake(&mut self, now: Duration, place: Place) {
        let has_answered = self.closed.as_ref().is_some_and(|(_, answers)| answers.has(place));
        if self.is_held_back && !has_answered {
            self.progress.counters.is_unchanged = false;
        }
        self.gather(now);
    }

    pub(super) fn handle_leaving(&mut self, now: Duration, place: Place, leaving: &Leaving) {
        if self.registry.leave(place, leaving.boot) {
            if let Phase::Collecting(collecting) = &mut self.phase {
                collecting.left(place, now);
            }
            let device = self.registry.names().id(place);
            self.report(Event::DeviceLeft(device.clone()));
            // The goodbye of a lost connection may come after the device's next hello.
            self.ask_for_hello(device);
        }
    }

    /// A device that still runs says hello again.
    fn ask_for_hello(&mut self, device: DeviceId) {
        let refused = Refused { boot: None, reason: Refusal::UnknownDevice };
        self.actions.tell(Tell::Device(device, ToDevice::Refused(refused)));
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    pub fn handle_release(&mut self, device: &DeviceId) -> bool {
        let was_quarantined = self.registry.find(device).is_some_and(|place| self.registry.release(place));
        if was_quarantined {
            self.actions.durable(Durable::KeepDevice(device.clone()));
            self.report(Event::Released(device.clone()));
        }
        was_quarantined
    }

    pub(super) fn refuse_device(&mut self, device: &DeviceId, boot: Option<BootId>, reason: Refusal) {
        self.count(Some(device), reason);
        self.actions.tell(Tell::Device(device.clone(), ToDevice::Refused(Refused { boot, reason })));
    }

    /// Refuses an update for good, so that the device does not send it again.
    pub(super) fn refuse_update(&mut self, place: Place, run: RunId, round: RoundId, digest: Digest, reason: Refusal) {
        self.count_of(place, reason);
        self.send(place, ToDevice::Receipt(Receipt { run, round, digest, refused: Some(reason) }));
        let rule = &self.config.quarantine;
        if rule.after == 0 || !rule.reasons.contains(&reason) || !self.registry.strike(place, rule.after, reason) {
            return;
        }
        self.serving.forget(place);
        self.uploads.forget(place);
        // Durable before told: after a restart the device is not welcome either.
        let device = self.registry.names().id(place);
        self.actions.durable(Durable::KeepDevice(device.clone()));
        let boot = self.registry.boot(place);
        self.send(place, ToDevice::Refused(Refused { boot, reason: Refusal::Quarantined }));
        self.report(Event::Quarantined { device, reason });
    }

    /// Counts a refusal of a known device.
    pub(super) fn count_of(&mut self, place: Place, reason: Refusal) {
        self.registry.count_failure(place, reason);
        let device = self.registry.names().id(place);
        self.note_refusal(Some(device), reason);
    }

    pub(super) fn count(&mut self, device: Option<&DeviceId>, reason: Refusal) {
        if let Some(place) = device.and_then(|device| self.registry.find(device)) {
            self.registry.count_failure(place, reason);
        }
        self.note_refusal(device.cloned(), reason);
    }

    fn note_refusal(&mut self, device: Option<DeviceId>, reason: Refusal) {
        *self.refusals.entry(reason).or_default() += 1;
        self.report(Event::Refused { device, reason });
    }
}
