//! The notice: what the fleet is doing, told to all when it changes, and again to whoever may have missed it.
//!
//! A broker keeps the newest notice for devices that come, but it drops messages from full queues, and a device that
//! missed one waits in silence. So who shows that it lives in the past is told at once, and all are told now and then.

use core::time::Duration;

use grapevine_protocol::{BlobRef, BootId, Notice, RoundId, Task, ToDevice};

use super::action::Tell;
use super::places::Place;
use super::{Content, Coordinator, Phase};

/// Between two notices that say the same: 50 bytes a minute for an idle device.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(300);

impl Coordinator {
    /// Tells all devices what is going on. In the middle of a merge there is nothing to say: its heads are told as soon
    /// as they are durable, and those before are on their way out.
    pub(super) fn tell(&mut self, now: Duration) {
        self.told_at = Some(now);
        if !matches!(self.phase, Phase::Sifting(_) | Phase::Committing(_)) {
            let notice = self.notice();
            self.actions.tell(Tell::Everybody(notice));
        }
    }

    /// Tells one device, which asks for what is over.
    pub(super) fn tell_one(&mut self, place: Place) {
        if !matches!(self.phase, Phase::Sifting(_) | Phase::Committing(_)) {
            let notice = self.notice();
            self.send(place, ToDevice::Notice(notice));
        }
    }

    pub(super) fn tell_again_at(&self) -> Option<Duration> {
        self.told_at.filter(|_| self.gone_at.is_none()).map(|at| at + TELL_AGAIN)
    }

    /// Says once more what is going on. As long as devices are lacking that is a roll call: some may be there and not be
    /// known to be. A run that rests looks whether there is something to do after all.
    pub(super) fn tell_again(&mut self, now: Duration) {
        if self.tell_again_at().is_some_and(|at| at <= now) {
            match self.phase {
                Phase::Gathering => self.call_roll(),
                // A device that did not answer may be asked again by now.
                Phase::Resting => self.gather(now),
                Phase::Collecting(_) | Phase::Sifting(_) | Phase::Committing(_) => {}
            }
            self.tell(now);
        }
    }

    /// The next notice makes every device say hello.
    pub(super) fn call_roll(&mut self) {
        self.boot = BootId(self.boot.0.wrapping_add(1));
        self.watchlist.roll_is_called();
    }

    /// The start that the newest notice names: that of this aggregator, counted on with each roll call.
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// The notice of what the fleet is doing now.
    pub(super) fn notice(&self) -> Notice {
        match &self.phase {
            Phase::Collecting(collecting) => {
                let notice = collecting.notice.clone();
                let cut = |blob: Option<BlobRef>| blob.map(|blob| self.serving.cut(blob));
                Notice { heads: cut(notice.heads), aid: cut(notice.aid), ..notice }
            }
            Phase::Gathering | Phase::Sifting(_) | Phase::Committing(_) => self.notice_of(Task::Wait, 0),
            Phase::Resting => self.notice_of(Task::Rest, u64::MAX),
        }
    }

    pub(super) fn notice_of(&self, task: Task, highest_ticket: u64) -> Notice {
        let reference = |content: Option<&Content>| content.map(|content| self.serving.cut(content.blob));
        let model = &self.progress.model;
        let trains = task == Task::Train;
        Notice {
            boot: self.boot,
            run: self.run,
            round: RoundId(self.progress.next_round),
            task,
            shape: self.config.shape,
            params: *self.config.params,
            encoding: self.config.encoding,
            heads: match task {
                Task::Rest => reference(model.for_use()),
                Task::Train | Task::Wait => reference(model.heads.as_ref()),
                // They are of the samples alone.
                Task::Statistics { .. } => None,
            },
            aid: reference(model.aid.as_ref()).filter(|_| trains),
            seed: self.config.seed,
            highest_ticket,
            only: Vec::new(),
            closes_in_ms: u32::try_from(self.config.deadline.as_millis()).unwrap_or(u32::MAX),
        }
    }
}
