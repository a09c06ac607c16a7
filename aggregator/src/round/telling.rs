//! The announcement: what the fleet is doing, told to all when it changes, and again to whoever may have missed it.
//!
//! A broker keeps the newest announcement for devices that come, but it drops messages from full queues, and a device that
//! missed one waits in silence. So who shows that it lives in the past is told at once, and all are told now and then.

use core::time::Duration;

use grapevine_models::Request;
use grapevine_protocol::{BlobRef, Incarnation, RoundAnnouncement, RoundId, Task, ToDevice};

use super::action::Tell;
use super::device_index::DeviceIndex;
use super::{Content, Coordinator, Phase};

/// Between two announcements that say the same: 50 bytes a minute for an idle device.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(300);

impl Coordinator {
    /// Tells all devices what is going on. In the middle of a merge there is nothing to say: its heads are told as soon
    /// as they are durable, and those before are on their way out.
    pub(super) fn tell(&mut self, now: Duration) {
        self.told_at = Some(now);
        if !matches!(self.phase, Phase::Sifting(_) | Phase::Committing(_)) {
            let announcement = self.announcement();
            self.actions.tell(Tell::Everybody(announcement));
        }
    }

    /// Tells one device, which asks for what is over.
    pub(super) fn tell_one(&mut self, index: DeviceIndex) {
        if !matches!(self.phase, Phase::Sifting(_) | Phase::Committing(_)) {
            let announcement = self.announcement();
            self.send(index, ToDevice::RoundAnnouncement(announcement));
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

    /// The next announcement makes every device say hello.
    pub(super) fn call_roll(&mut self) {
        self.incarnation = Incarnation(self.incarnation.0.wrapping_add(1));
        self.watchlist.roll_is_called();
    }

    /// The start that the newest announcement names: that of this aggregator, counted on with each roll call.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The announcement of what the fleet is doing now.
    pub(super) fn announcement(&self) -> RoundAnnouncement {
        match &self.phase {
            Phase::Collecting(collecting) => {
                let announcement = collecting.announcement.clone();
                let cut = |blob: Option<BlobRef>| blob.map(|blob| self.serving.cut(blob));
                RoundAnnouncement {
                    heads: cut(announcement.heads),
                    side_information: cut(announcement.side_information),
                    ..announcement
                }
            }
            Phase::Gathering | Phase::Sifting(_) | Phase::Committing(_) => self.announcement_of(Task::Wait, 0),
            Phase::Resting => self.announcement_of(Task::Rest, u64::MAX),
        }
    }

    pub(super) fn announcement_of(&self, task: Task, selection_threshold: u64) -> RoundAnnouncement {
        let reference = |content: Option<&Content>| content.map(|content| self.serving.cut(content.blob));
        let model = &self.progress.model;
        let trains = task.request().is_some_and(Request::is_training);
        RoundAnnouncement {
            incarnation: self.incarnation,
            run: self.run,
            round: RoundId(self.progress.next_round),
            task,
            shape: self.config.shape,
            params: self.config.params,
            encoding: self.config.encoding,
            heads: match task {
                Task::Rest => reference(model.for_use()),
                // Statistics are of the samples alone.
                Task::Round(request) if !request.is_training() => None,
                Task::Round(_) | Task::Wait => reference(model.heads.as_ref()),
            },
            side_information: reference(model.side_information.as_ref()).filter(|_| trains),
            seed: self.config.seed,
            selection_threshold,
            only: Vec::new(),
            closes_in_ms: u32::try_from(self.config.deadline.as_millis()).unwrap_or(u32::MAX),
        }
    }
}
