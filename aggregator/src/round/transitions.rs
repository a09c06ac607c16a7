//! From one phase to the next, and what all devices are told about it.

use core::time::Duration;

use grapevine_protocol::ToDevice;

use super::action::Durable;
use super::collecting::{Collecting, Overdue};
use super::context::Shared;
use super::device_index::DeviceIndex;
use super::gathering::{self, Next};
use super::phase::Phase;
use super::{Coordinator, Event};

impl Coordinator {
    pub(super) fn check_deadline(&mut self, now: Duration) {
        let Some(collecting) = self.phase.collecting_mut() else { return };
        let is_addition = self.run.is_addition(collecting.record().request);
        match collecting.check_deadline(&mut self.shared.at(now), is_addition) {
            Some(Overdue::Enough) => self.close_round(now),
            Some(Overdue::Extended) => self.announce(now),
            Some(Overdue::TooFew) => {
                let Phase::Collecting(collecting) = self.phase.end() else { return };
                collecting.abandon(&mut self.shared.at(now), &mut self.run);
                self.uploads.clear();
                self.gather_and_announce(now);
            }
            None => {}
        }
    }

    pub(super) fn close_if_complete(&mut self, now: Duration) {
        if self.phase.collecting().is_some_and(Collecting::is_complete) {
            self.close_round(now);
        }
    }

    fn close_round(&mut self, now: Duration) {
        let Phase::Collecting(collecting) = self.phase.end() else { return };
        self.uploads.clear();
        let phase = collecting.close(&mut self.shared.at(now), &mut self.run);
        self.enter(now, phase);
    }

    /// What comes after a closed round. Nobody works on one that counts for nothing.
    pub(super) fn enter(&mut self, now: Duration, phase: Phase) {
        self.phase = phase;
        if self.phase.is_gathering() {
            self.announce(now);
        }
    }

    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let ctx = &mut self.shared.at(now);
        match gathering::next(ctx, &mut self.run, &self.announcements, &self.downloads) {
            Next::Open(collecting) => {
                // While the run rested it offered the inference head.
                self.downloads.offer(&self.run.model);
                let (round, expected) = (collecting.announcement().round, collecting.record().expected());
                self.phase = Phase::Collecting(collecting);
                self.announce(now);
                self.shared.out.report(Event::RoundOpened { round, expected });
            }
            // A run that rests goes on resting: its heads are to be used meanwhile.
            Next::Lacking if self.phase.is_resting() => {}
            Next::Lacking => self.phase = Phase::Gathering,
            Next::Unusable(fault) => {
                self.phase = Phase::Gathering;
                self.shared.out.report(Event::RoundUnusable { round: self.run.next_round, fault });
            }
            Next::Rest => self.rest(now),
        }
    }

    /// After a round: opens the next one, or tells that there is none for now, so that nobody works on the last one.
    pub(super) fn gather_and_announce(&mut self, now: Duration) {
        self.gather(now);
        if self.phase.is_gathering() {
            self.announce(now);
        }
    }

    fn rest(&mut self, now: Duration) {
        let was_resting = self.phase.is_resting();
        self.phase = Phase::Resting;
        let Shared { config, devices, out } = &mut self.shared;
        self.run.rest(now, config, &devices.registry);
        if !was_resting {
            let is_over = self.run.is_over(config);
            if is_over {
                out.durable(Durable::FinishRun(self.run.id));
            }
            self.downloads.offer_for_use(&self.run.model);
            self.announce(now);
            self.shared.out.report(if is_over { Event::Finished } else { Event::Rested });
        }
    }

    /// While the run rests: when it looks at news of few samples.
    pub(super) fn news_at(&self) -> Option<Duration> {
        let may_look = self.phase.is_resting() && self.connection.is_up();
        self.run.news_at(&self.shared.config).filter(|_| may_look)
    }

    /// Tells all devices what is going on.
    pub(super) fn announce(&mut self, now: Duration) {
        let Shared { config, out, .. } = &mut self.shared;
        let announcement = self.announcements.current(&self.phase, config, &self.run, &self.downloads);
        self.announcements.publish(now, announcement, out);
    }

    /// Tells one device, which asks for what is over.
    pub(super) fn announce_to(&mut self, now: Duration, index: DeviceIndex) {
        let mut ctx = self.shared.at(now);
        let announcement = self.announcements.current(&self.phase, ctx.config, &self.run, &self.downloads);
        announcement.into_iter().for_each(|told| ctx.send(index, ToDevice::RoundAnnouncement(told)));
    }

    /// Says once more what is going on. As long as devices are lacking that is a roll call: some may be there and not be
    /// known to be. A run that rests looks whether there is something to do after all.
    pub(super) fn announce_again(&mut self, now: Duration) {
        if self.connection.is_up() && self.announcements.again_at().is_some_and(|at| at <= now) {
            match self.phase {
                Phase::Gathering => self.call_roll(),
                // A device that did not answer may be asked again by now.
                Phase::Resting => self.gather(now),
                Phase::Collecting(_) | Phase::Sifting(_) | Phase::Committing(_) => {}
            }
            self.announce(now);
        }
    }

    /// The next announcement makes every device say hello.
    pub(super) fn call_roll(&mut self) {
        self.announcements.call_roll();
        self.shared.devices.watchlist.roll_is_called();
    }
}
