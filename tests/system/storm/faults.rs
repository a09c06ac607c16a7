//! What fails, what that does to a part and its connection, and how it comes back.

use core::time::Duration;
use std::rc::Rc;

use super::invariants::Broken;
use super::meter::Owner;
use super::plan::Weather;
use super::power::Power;
use super::stimulus::{Fault, Part, Stimulus};
use super::world::{World, index};

/// How long a broker that flaps is away each time.
const FLAP: Duration = Duration::from_millis(200);
/// Once everything works, somebody releases who is in quarantine this often.
pub(super) const LOOKED_AFTER: Duration = Duration::from_secs(20);
/// Pause before a program that could not start is started again.
const START_AGAIN: Duration = Duration::from_secs(5);
/// Between two attempts to reach the broker.
const BACKOFF_MS: u32 = 4_000;

impl World {
    /// Gives the part that a fault met, if any.
    pub(super) fn befall(&mut self, fault: Fault) -> Result<Option<Part>, Broken> {
        match fault {
            Fault::Kill { part, down } => return Ok(self.kill(part, down)),
            Fault::CutPower { part, writes, down } => {
                self.downs[index(part)] = down;
                self.power(part).fail_after(writes);
            }
            Fault::Stop { device, down } => return Ok(self.stop(device, down)),
            Fault::FillDisk { full } => {
                self.aggregator.ledger.has_room = false;
                self.later(full, Fault::FreeDisk);
            }
            Fault::FreeDisk => {
                self.aggregator.ledger.has_room = true;
                self.act(Part::Aggregator)?;
                return Ok(Some(Part::Aggregator));
            }
            Fault::ChangeSamples { device } => {
                self.devices[device as usize].changes += 1;
                if self.devices[device as usize].is_filled {
                    self.ingested(device);
                    return Ok(Some(Part::Device(device)));
                }
            }
            Fault::Start(part) => return Ok(self.start(part)),
            Fault::CutLink { part, away } => {
                self.network.link(part).is_cut = true;
                let silence = self.network.silence();
                self.later(silence, Fault::Lost(part));
                self.later(away, Fault::MendLink(part));
            }
            Fault::MendLink(part) => self.network.link(part).is_cut = false,
            Fault::Lost(part) => return Ok(self.lose(part)),
            Fault::Connect(part) => return self.connect(part),
            Fault::StopBroker { down, forgets } => self.stop_broker(down, forgets),
            Fault::Flap { times, every } => {
                self.stop_broker(FLAP, false);
                if let Some(times) = times.checked_sub(1) {
                    self.later(every, Fault::Flap { times, every });
                }
            }
            Fault::Noise(part) => self.make_noise(part),
            Fault::StartBroker => self.network.is_up = true,
            Fault::Forge { device, forgery } => self.forge(device, forgery),
            Fault::Deafen { device } => {
                if let Some(process) = &mut self.devices[device as usize].process {
                    process.is_deaf = true;
                }
            }
            Fault::Release { device } => return self.release(device),
            Fault::Heal => self.heal(),
        }
        Ok(None)
    }

    pub(super) fn later(&mut self, after: Duration, fault: Fault) {
        self.queue.push(self.now + after, Stimulus::Fault(fault));
    }

    /// The process is gone from one instant to the next; its connection breaks, and the broker tells so.
    pub(super) fn kill(&mut self, part: Part, down: Duration) -> Option<Part> {
        let (will, is_seen) = (self.will(part), self.network.reaches(part));
        let is_running = match part {
            Part::Aggregator => self.aggregator.process.is_some(),
            Part::Device(device) => self.devices[device as usize].process.is_some(),
        };
        if !is_running {
            return None;
        }
        self.figures.deaths += 1;
        match part {
            Part::Aggregator => self.aggregator.die(&mut self.meter),
            Part::Device(device) => self.devices[device as usize].die(&mut self.meter),
        }
        let was_connected = core::mem::take(&mut self.network.link(part).is_connected);
        if let (Some((device, will)), true) = (will, was_connected) {
            let later = if is_seen { Duration::ZERO } else { self.network.silence() };
            self.publish_will(device, &will, later);
        }
        self.later(down, Fault::Start(part));
        Some(part)
    }

    fn will(&self, part: Part) -> Option<(u32, Rc<[u8]>)> {
        match part {
            Part::Aggregator => None,
            Part::Device(device) => Some((device, self.devices[device as usize].last_will()?)),
        }
    }

    fn publish_will(&mut self, device: u32, will: &Rc<[u8]>, later: Duration) {
        if self.network.is_up {
            let make = |broker| Stimulus::Heard { device, frame: will.clone(), broker };
            self.network.carry(self.now + later, &mut self.queue, &make);
        }
    }

    /// A device says goodbye and goes.
    fn stop(&mut self, device: u32, down: Duration) -> Option<Part> {
        let part = Part::Device(device);
        let (_, goodbye) = self.will(part)?;
        if self.network.reaches(part) {
            self.publish_will(device, &goodbye, Duration::ZERO);
        }
        self.network.link(part).is_connected = false;
        self.devices[device as usize].die(&mut self.meter);
        self.later(down, Fault::Start(part));
        Some(part)
    }

    fn start(&mut self, part: Part) -> Option<Part> {
        match part {
            // It says that the disk is full and is started again.
            Part::Aggregator if self.aggregator.process.is_none() && !self.aggregator.ledger.has_room => {
                self.later(START_AGAIN, Fault::Start(part));
                return None;
            }
            Part::Aggregator if self.aggregator.process.is_none() => {
                self.aggregator.start(self.now, &mut self.meter);
                self.open_for = None;
            }
            Part::Device(device) if self.devices[device as usize].process.is_none() => {
                let (extractor, classes) = (self.plan.round.extractor, self.plan.round.classes);
                self.devices[device as usize].start(self.now, extractor, classes, &mut self.meter);
            }
            Part::Aggregator | Part::Device(_) => return None,
        }
        self.timers[index(part)] = None;
        self.connect_later(part);
        Some(part)
    }

    fn connect_later(&mut self, part: Part) {
        if !core::mem::replace(&mut self.network.link(part).is_connecting, true) {
            let most = if self.plan.calm_at.is_zero() { 1 } else { BACKOFF_MS };
            let at = self.now + self.network.within(most);
            self.queue.push(at, Stimulus::Fault(Fault::Connect(part)));
        }
    }

    fn connect(&mut self, part: Part) -> Result<Option<Part>, Broken> {
        let is_running = match part {
            Part::Aggregator => self.aggregator.process.is_some(),
            Part::Device(device) => self.devices[device as usize].process.is_some(),
        };
        self.network.link(part).is_connecting = false;
        if !is_running || self.network.link(part).is_connected {
            return Ok(None);
        }
        if !self.network.connect(part) {
            self.connect_later(part);
            return Ok(None);
        }
        match part {
            Part::Aggregator => {
                self.aggregator.handle_connected(self.now, &mut self.meter);
                self.seen_open_at = None;
            }
            Part::Device(device) => {
                let Some(process) = &mut self.devices[device as usize].process else { return Ok(None) };
                let now = self.now - process.started;
                process.is_deaf = false;
                self.meter.of(Owner::Devices, || process.session.handle_connected(now));
                if let Some(announcement) = self.network.retained() {
                    self.tell(device, &announcement);
                }
            }
        }
        self.act(part)?;
        Ok(Some(part))
    }

    /// A dead connection is noticed on both sides.
    fn lose(&mut self, part: Part) -> Option<Part> {
        if self.network.reaches(part) || !self.network.link(part).is_connected {
            return None;
        }
        self.hang_up(part)
    }

    /// The connection of a part is over, and it knows; it tries again.
    pub(super) fn hang_up(&mut self, part: Part) -> Option<Part> {
        self.network.link(part).is_connected = false;
        let will = self.will(part);
        match part {
            Part::Aggregator => {
                let process = self.aggregator.process.as_mut()?;
                process.coordinator.handle_disconnected(self.now - process.started);
            }
            Part::Device(device) => self.devices[device as usize].process.as_mut()?.session.handle_disconnected(),
        }
        if let Some((device, will)) = will {
            self.publish_will(device, &will, Duration::ZERO);
        }
        self.connect_later(part);
        Some(part)
    }

    fn make_noise(&mut self, part: Part) {
        let (frame, broker) = (self.network.noise(), self.network.broker);
        let device = match part {
            Part::Aggregator => 0,
            Part::Device(device) => device,
        };
        self.queue.push(self.now, Stimulus::Heard { device, frame: frame.clone(), broker });
        self.queue.push(self.now, Stimulus::Told { device, frame, broker });
    }

    fn stop_broker(&mut self, down: Duration, forgets: bool) {
        if !self.network.is_up {
            return;
        }
        self.network.stop(forgets);
        for part in self.parts() {
            let soon = self.network.within(1_000);
            self.later(soon, Fault::Lost(part));
        }
        self.later(down, Fault::StartBroker);
    }

    pub(super) fn ingested(&mut self, device: u32) {
        let now = self.now;
        let device = &mut self.devices[device as usize];
        device.is_filled = true;
        let (samples, dataset) = device.samples();
        if let Some(process) = &mut device.process {
            process.session.handle_samples(now - process.started, samples, dataset);
        }
    }

    fn heal(&mut self) {
        self.healed_at = Some(self.now);
        self.network.weather = Weather::CALM;
        self.network.is_up = true;
        self.aggregator.ledger.has_room = true;
        for part in self.parts() {
            self.network.link(part).is_cut = false;
            if self.power(part).is_on() {
                self.power(part).restore();
            }
            self.later(Duration::ZERO, Fault::Start(part));
            self.later(Duration::ZERO, Fault::Lost(part));
            self.queue.push(self.now, Stimulus::Act(part));
            if let (Part::Device(device), 1..) = (part, self.plan.round.quarantine.after) {
                self.later(LOOKED_AFTER, Fault::Release { device });
            }
        }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        core::iter::once(Part::Aggregator).chain((0..self.devices.len() as u32).map(Part::Device))
    }

    pub(super) fn power(&mut self, part: Part) -> &mut Power {
        match part {
            Part::Aggregator => &mut self.aggregator.ledger.power,
            Part::Device(device) => &mut self.devices[device as usize].power,
        }
    }
}
