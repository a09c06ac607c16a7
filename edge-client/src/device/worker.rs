//! The thread that works: a round's training, whose update it puts into the outbox on disk.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use grapevine_host::{Shutdown, cpu};
use grapevine_protocol::{DeviceId, Digest, RoundId, RunId};

use crate::resources::Throttle;
use crate::session::{Blob, FinishedUpdate, Job};
use crate::store::{OutboxEntry, Store, StoreError};
use crate::work::{WorkError, Worked, work};

/// Stack of the working thread; all large buffers are on the heap.
const STACK_BYTES: usize = 512 * 1024;
/// Longest between two steps of work on any board: one pass over all samples for the fleet's sums.
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// What became of a job.
pub(super) enum Done {
    /// Its update lies in the outbox on disk.
    Update(FinishedUpdate),
    /// It could not be done; why has been told.
    Failed,
    /// It was ended before its end.
    Interrupted,
}

/// The thread, seen from outside. It does one job at a time.
pub(super) struct Worker {
    jobs: Sender<(Job, Shutdown)>,
    done: Receiver<Done>,
    thread: JoinHandle<Duration>,
    /// Ends the newest job.
    stop: Shutdown,
    throttle: Throttle,
    steps: Arc<AtomicU64>,
    progress: Progress,
}

/// Whether a job goes on.
#[derive(Default)]
struct Progress {
    /// The steps of the job that were seen last, and since when there was no other; `None` without a job.
    seen: Option<(u64, Duration)>,
}

impl Progress {
    fn is_well(&mut self, now: Duration, steps: u64, is_paused: bool) -> bool {
        let Some((seen, since)) = &mut self.seen else { return true };
        if *seen != steps || is_paused {
            (*seen, *since) = (steps, now);
        }
        now.saturating_sub(*since) < STEP_LIMIT
    }
}

impl Worker {
    pub(super) fn start(store: Arc<Store>, device: DeviceId, throttle: Throttle) -> io::Result<Self> {
        let (jobs, taken) = bounded(1);
        let (outcomes, done) = bounded(1);
        let steps = Arc::new(AtomicU64::new(0));
        let working = Working { store, device, throttle: throttle.clone(), steps: steps.clone() };
        let thread = thread::Builder::new().name("work".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || working.serve(&taken, &outcomes))?;
        Ok(Self { jobs, done, thread, stop: Shutdown::manual(), throttle, steps, progress: Progress::default() })
    }

    /// Hands over a job; `false` if the thread is gone or has not done the one before.
    pub(super) fn begin(&mut self, now: Duration, job: Job) -> bool {
        self.stop = Shutdown::manual();
        self.progress.seen = Some((self.steps.load(Ordering::Relaxed), now));
        self.jobs.try_send((job, self.stop.clone())).is_ok()
    }

    /// Ends the job at its next step.
    pub(super) fn interrupt(&self) {
        self.stop.request();
    }

    /// Where every job's outcome arrives.
    pub(super) fn done(&self) -> &Receiver<Done> {
        &self.done
    }

    /// A job's outcome was taken.
    pub(super) fn rest(&mut self) {
        self.progress.seen = None;
    }

    /// Whether there is no job, or one that goes on or pauses.
    pub(super) fn is_well(&mut self, now: Duration) -> bool {
        self.progress.is_well(now, self.steps.load(Ordering::Relaxed), self.throttle.pause().is_some())
    }

    /// Lets a job that is under way come to its end until `grace`, then ends it at its next step. One that has none
    /// until `limit` is left behind: what it has not put on disk is done again when its round goes on. Gives the
    /// processor time used.
    pub(super) fn finish(self, grace: Instant, limit: Instant) -> Duration {
        drop(self.jobs);
        let has_ended = |until| loop {
            match self.done.recv_deadline(until) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        };
        if !has_ended(grace) {
            self.stop.request();
            if !has_ended(limit) {
                tracing::info!("the work is left where it is; it is done again when its round goes on");
                return Duration::ZERO;
            }
        }
        self.thread.join().unwrap_or_default()
    }
}

/// The thread, seen from inside.
struct Working {
    store: Arc<Store>,
    device: DeviceId,
    throttle: Throttle,
    steps: Arc<AtomicU64>,
}

impl Working {
    /// Does job after job; gives the processor time used.
    fn serve(self, jobs: &Receiver<(Job, Shutdown)>, done: &Sender<Done>) -> Duration {
        self.throttle.lower_priority();
        for (job, stop) in jobs {
            let outcome = self.throttle.in_turn(|| self.do_job(&job, &stop));
            if done.send(outcome).is_err() {
                break;
            }
        }
        cpu::thread_cpu().unwrap_or_default()
    }

    fn do_job(&self, job: &Job, stop: &Shutdown) -> Done {
        let round = job.announcement.round.0;
        match self.work_and_keep(job, stop) {
            Ok(update) => Done::Update(update),
            Err(Fault::Work(WorkError::Interrupted)) => {
                tracing::info!(round, "work ended before its end");
                Done::Interrupted
            }
            Err(error) => {
                tracing::error!(round, "{error}");
                Done::Failed
            }
        }
    }

    fn work_and_keep(&self, job: &Job, stop: &Shutdown) -> Result<FinishedUpdate, Fault> {
        let mut goes_on = || {
            self.steps.fetch_add(1, Ordering::Relaxed);
            self.throttle.passes(stop)
        };
        let (samples, kept) = (self.store.samples()?, self.store.method_state()?);
        let worked = match work(job, &self.device, &samples, kept.as_ref(), &mut goes_on) {
            Err(error @ WorkError::State(_)) => {
                tracing::warn!("{error}; the round is done without it");
                work(job, &self.device, &samples, None, &mut goes_on)?
            }
            worked => worked?,
        };
        let Worked { update, state } = worked;
        let entry = OutboxEntry {
            run: job.announcement.run.0,
            round: job.announcement.round.0,
            digest: Digest::of(&update).0,
            bytes: update,
        };
        match state {
            Some(state) => self.store.put_outbox_with_state(&entry, &state)?,
            None => self.store.put_outbox(&entry)?,
        }
        Ok(from_entry(entry))
    }
}

/// Why a job could not be done.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What lies in the outbox on disk, as the session knows it.
pub(super) fn from_entry(entry: OutboxEntry) -> FinishedUpdate {
    let blob = Blob::kept(entry.bytes, Digest(entry.digest));
    FinishedUpdate { run: RunId(entry.run), round: RoundId(entry.round), blob }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_steps_is_noticed_and_a_pause_is_not_one() {
        let mut progress = Progress::default();
        assert!(progress.is_well(STEP_LIMIT * 9, 0, false), "there is no job");
        progress.seen = Some((7, STEP_LIMIT));
        assert!(progress.is_well(STEP_LIMIT * 2 - Duration::from_secs(1), 7, false));
        assert!(!progress.is_well(STEP_LIMIT * 2, 7, false));
        assert!(progress.is_well(STEP_LIMIT * 2, 8, false));
        assert!(progress.is_well(STEP_LIMIT * 4, 8, true));
        assert!(progress.is_well(STEP_LIMIT * 5 - Duration::from_secs(1), 8, false));
        assert!(!progress.is_well(STEP_LIMIT * 5, 8, false));
    }
}
