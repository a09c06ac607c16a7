//! Devices come and go; what they do wrong is counted, and too much of it sends them away.

use core::time::Duration;

use grapevine_protocol::{
    BootId, DeviceId, Digest, Hello, Leaving, Receipt, Refusal, Refused, RoundId, RunId, ToDevice, Welcome,
};

use super::places::Place;
use super::{Action, Coordinator, Event, Phase};

impl Coordinator {
    pub(super) fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let is_eligible = self.config.select.matches(&hello.labels);
        let place = match self.take_in(now, device, hello, is_eligible) {
            Ok(place) => place,
            Err(reason) => return self.refuse_device(device, Some(hello.boot), reason),
        };
        self.serving.forget(place);
        // What the device sees first is what there is to do, and not that there is nothing.
        if matches!(self.phase, Phase::Resting) {
            self.wake(now, place);
        }
        self.send(place, ToDevice::Welcome(Welcome { boot: hello.boot, run: self.run, is_eligible }));
        self.report(Event::DeviceCame(device.clone()));
        match &mut self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Collecting(collecting) if is_eligible => collecting.welcome_back(place, device, hello.samples),
            Phase::Collecting(_) | Phase::Committing(_) | Phase::Resting => {}
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
        self.registry.greet(device, hello, is_eligible, now).ok_or(Refusal::TooManyDevices)
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
            self.report(Event::DeviceLeft(device));
        }
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    pub fn handle_release(&mut self, device: &DeviceId) -> bool {
        let was_quarantined = self.registry.find(device).is_some_and(|place| self.registry.release(place));
        if was_quarantined {
            self.actions.push_back(Action::KeepDevice(device.clone()));
            self.report(Event::Released(device.clone()));
        }
        was_quarantined
    }

    pub(super) fn refuse_device(&mut self, device: &DeviceId, boot: Option<BootId>, reason: Refusal) {
        self.count(Some(device), reason);
        self.actions.push_back(Action::Send(device.clone(), ToDevice::Refused(Refused { boot, reason })));
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
        self.actions.push_back(Action::KeepDevice(device.clone()));
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
