//! Devices come and go; what they do wrong is counted, and too much of it sends them away.

use core::time::Duration;

use grapevine_protocol::{
    BootId, DeviceId, Digest, Hello, Leaving, Receipt, Refusal, Refused, RoundId, RunId, ToDevice, Welcome,
};

use super::{Action, Coordinator, Event, Phase};

impl Coordinator {
    pub(super) fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let reason = if hello.extractor != self.config.extractor {
            Some(Refusal::Extractor)
        } else if hello.classes != self.config.classes {
            Some(Refusal::Classes)
        } else if hello.shape != self.config.shape {
            Some(Refusal::Shape)
        } else if self.registry.is_quarantined(device) {
            Some(Refusal::Quarantined)
        } else if !self.registry.greet(device, hello, self.config.select.matches(&hello.labels), now) {
            Some(Refusal::TooManyDevices)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.refuse_device(device, Some(hello.boot), reason);
        }
        self.serving.forget(device);
        let is_eligible = self.registry.is_eligible(device);
        self.send(device, ToDevice::Welcome(Welcome { boot: hello.boot, run: self.run, is_eligible }));
        self.actions.push_back(Action::RememberDevice(device.clone()));
        self.report(Event::DeviceCame(device.clone()));
        match &mut self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Collecting(collecting) if is_eligible => collecting.welcome_back(device, hello.samples),
            Phase::Collecting(_) | Phase::Committing(_) | Phase::Finished => {}
        }
    }

    pub(super) fn handle_leaving(&mut self, device: &DeviceId, leaving: &Leaving) {
        if self.registry.leave(device, leaving.boot) {
            self.actions.push_back(Action::RememberDevice(device.clone()));
            self.report(Event::DeviceLeft(device.clone()));
        }
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    pub fn handle_release(&mut self, device: &DeviceId) -> bool {
        let was_quarantined = self.registry.release(device);
        if was_quarantined {
            self.actions.push_back(Action::KeepDevice(device.clone()));
            self.report(Event::Released(device.clone()));
        }
        was_quarantined
    }

    pub(super) fn refuse_device(&mut self, device: &DeviceId, boot: Option<BootId>, reason: Refusal) {
        self.count(Some(device), reason);
        self.send(device, ToDevice::Refused(Refused { boot, reason }));
    }

    /// Refuses an update for good, so that the device does not send it again.
    pub(super) fn refuse_update(
        &mut self,
        device: &DeviceId,
        run: RunId,
        round: RoundId,
        digest: Digest,
        reason: Refusal,
    ) {
        self.count(Some(device), reason);
        self.send(device, ToDevice::Receipt(Receipt { run, round, digest, refused: Some(reason) }));
        let rule = &self.config.quarantine;
        if rule.after == 0 || !rule.reasons.contains(&reason) || !self.registry.strike(device, rule.after, reason) {
            return;
        }
        self.serving.forget(device);
        self.uploads.forget(device);
        // Durable before told: after a restart the device is not welcome either.
        self.actions.push_back(Action::KeepDevice(device.clone()));
        let boot = self.registry.record(device).map(|record| record.boot);
        self.send(device, ToDevice::Refused(Refused { boot, reason: Refusal::Quarantined }));
        self.report(Event::Quarantined { device: device.clone(), reason });
    }

    pub(super) fn count(&mut self, device: Option<&DeviceId>, reason: Refusal) {
        *self.refusals.entry(reason).or_default() += 1;
        if let Some(device) = device {
            self.registry.count_failure(device, reason);
        }
        self.report(Event::Refused { device: device.cloned(), reason });
    }
}
