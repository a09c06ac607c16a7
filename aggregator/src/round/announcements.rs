//! The announcement: what the fleet is doing, told to all when it changes, and again to whoever may have missed it.
//!
//! A broker keeps the newest announcement for devices that come, but it drops messages from full queues, and a device that
//! missed one waits in silence. So who shows that it lives in the past is told at once, and all are told now and then.

use core::time::Duration;

use grapevine_models::Request;
use grapevine_protocol::{BlobRef, Incarnation, RoundAnnouncement, Task};

use super::action::{Actions, Tell};
use super::downloads::Downloads;
use super::phase::Phase;
use super::run::RunState;
use super::{Content, RoundConfig};

/// Between two announcements that say the same: 50 bytes a minute for an idle device.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(300);

/// Which announcement was the newest.
pub(super) struct Announcements {
    /// The start that it names: that of this aggregator, counted on with each roll call.
    incarnation: Incarnation,
    told_at: Option<Duration>,
}

impl Announcements {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, told_at: None }
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The next announcement names another start, so every device says hello.
    pub(super) fn call_roll(&mut self) {
        self.incarnation = Incarnation(self.incarnation.0.wrapping_add(1));
    }

    /// When to say once more what is going on.
    pub(super) fn again_at(&self) -> Option<Duration> {
        self.told_at.map(|at| at + TELL_AGAIN)
    }

    /// Tells all devices, if there is anything to say.
    pub(super) fn publish(&mut self, now: Duration, announcement: Option<RoundAnnouncement>, out: &mut Actions) {
        self.told_at = Some(now);
        announcement.into_iter().for_each(|announcement| out.tell(Tell::Everybody(announcement)));
    }

    /// What the fleet is doing now. In the middle of a merge there is nothing to say: its heads are told as soon as they are
    /// durable, and those before are on their way out.
    #[must_use]
    pub(super) fn current(
        &self,
        phase: &Phase,
        config: &RoundConfig,
        run: &RunState,
        downloads: &Downloads,
    ) -> Option<RoundAnnouncement> {
        match phase {
            Phase::Collecting(collecting) => {
                let announcement = collecting.announcement().clone();
                let cut = |blob: Option<BlobRef>| blob.map(|blob| downloads.cut(blob));
                let (heads, side_information) = (cut(announcement.heads), cut(announcement.side_information));
                Some(RoundAnnouncement { heads, side_information, ..announcement })
            }
            Phase::Gathering => Some(self.draft(Task::Wait, 0, config, run, downloads)),
            Phase::Resting => Some(self.draft(Task::Rest, u64::MAX, config, run, downloads)),
            Phase::Sifting(_) | Phase::Committing(_) => None,
        }
    }

    /// The announcement of this task, for the devices up to this threshold.
    #[must_use]
    pub(super) fn draft(
        &self,
        task: Task,
        selection_threshold: u64,
        config: &RoundConfig,
        run: &RunState,
        downloads: &Downloads,
    ) -> RoundAnnouncement {
        let reference = |content: Option<&Content>| content.map(|content| downloads.cut(content.blob));
        let model = &run.model;
        let trains = task.request().is_some_and(Request::is_training);
        RoundAnnouncement {
            incarnation: self.incarnation,
            run: run.id,
            round: run.next_round,
            task,
            shape: config.shape,
            params: config.params,
            encoding: config.encoding,
            heads: match task {
                Task::Rest => reference(model.for_use()),
                // Statistics are of the samples alone.
                Task::Round(request) if !request.is_training() => None,
                Task::Round(_) | Task::Wait => reference(model.heads.as_ref()),
            },
            side_information: reference(model.side_information.as_ref()).filter(|_| trains),
            seed: config.seed,
            selection_threshold,
            only: Vec::new(),
            closes_in_ms: u32::try_from(config.deadline.as_millis()).unwrap_or(u32::MAX),
        }
    }
}
