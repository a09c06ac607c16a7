//! The loop: what comes is handed to the machine, what the machine wants is done, what must be durable is so first.

mod link;
mod surroundings;

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use crossbeam_channel::Receiver;
use grapevine_host::clock::unix_ms;
use grapevine_host::sentence::sentence;
use grapevine_host::service::Heartbeat;
use grapevine_host::transport::{Event as Link, Transport};
use grapevine_host::{Shutdown, cpu};
use grapevine_protocol::{DeviceId, RoundAnnouncement};

use super::echo::Echo;
use super::executor::Executor;
use super::requests::Request;
use super::schedule::StatusSchedule;
use super::troubles::Troubles;
use super::versions::Versions;
use super::{Observer, ServeError, ServeOptions, ServePhase, ServeReport, ServeStatus, TurnedAwayDevice, requests};
use crate::round::{Coordinator, RoundStatus, TurnedAway, Untaken};
use crate::store::{Ledger, StoreError};
use surroundings::{Figures, Surroundings};

/// Bytes of messages that are handed to the machine before what it wants is done: updates that arrive together become
/// durable together, and no more of them are in memory than this.
const BATCH_BYTES: usize = 512 * 1024;
/// Pause before an announcement for which there was no room is tried again.
const ANNOUNCEMENT_AGAIN: Duration = Duration::from_millis(20);
/// Pause before a full disk is tried again.
const DISK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked for requests of other processes.
const REQUESTS_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Shell<'a> {
    options: &'a ServeOptions,
    /// Where other processes leave requests.
    state: &'a Path,
    ledger: Box<dyn Ledger + Send>,
    transport: Transport,
    coordinator: Coordinator,
    observer: &'a mut dyn Observer,
    started: Instant,
    executor: Executor,
    /// While the disk is full, no message is taken in; when the write is tried again.
    full_until: Option<Duration>,
    /// An announcement for which the transport had no room.
    unsent: Option<RoundAnnouncement>,
    figures: Figures,
    /// How far the open round was before time went on: what is told when it ends without a merge.
    before: Option<RoundStatus>,
    /// When it is looked for requests next.
    requests_at: Duration,
    heartbeat: Heartbeat,
    schedule: StatusSchedule,
    echo: Echo,
    troubles: Troubles,
    versions: Versions,
}

impl<'a> Shell<'a> {
    pub(super) fn new(
        options: &'a ServeOptions,
        (state, ledger): (&'a Path, Box<dyn Ledger + Send>),
        transport: Transport,
        coordinator: Coordinator,
        observer: &'a mut dyn Observer,
        started: Instant,
    ) -> Self {
        Self {
            options,
            state,
            ledger,
            transport,
            coordinator,
            observer,
            started,
            executor: Executor::new(options.kept_heads),
            full_until: None,
            unsent: None,
            figures: Figures::default(),
            before: None,
            requests_at: Duration::ZERO,
            heartbeat: options.service.heartbeat(),
            schedule: StatusSchedule::new(options.until_finished),
            echo: Echo::new(options.fleet.clone(), options.incarnation),
            troubles: Troubles::default(),
            versions: Versions::default(),
        }
    }

    pub(super) fn serve(mut self, link: Receiver<Link>, shutdown: &Shutdown) -> Result<ServeReport, ServeError> {
        self.options.service.ready();
        while !shutdown.is_requested() {
            self.act()?;
            let now = self.now();
            if self.schedule.status_is_due(now) {
                self.check_deaf_device(now);
                self.write_registry()?;
                self.observer.status(&self.status());
            }
            if self.schedule.leave_at().is_some_and(|at| at <= now) {
                break;
            }
            let beat_at = self.heartbeat.beat(now, self.transport.is_alive());
            let next = self.next_timeout(now);
            let wait = beat_at.map_or(next, |at| at.min(next)).saturating_sub(now);
            crossbeam_channel::select! {
                recv(link) -> event => match event {
                    Ok(event) => self.handle_batch(event, &link),
                    // Its thread is gone.
                    Err(_) => return Err(ServeError::Panicked),
                },
                recv(shutdown.receiver()) -> _ => break,
                default(wait) => {}
            }
            self.handle_timeout();
        }
        self.options.service.stopping();
        self.write_registry()?;
        self.observer.status(&ServeStatus { phase: ServePhase::Stopped, connected: false, ..self.status() });
        let traffic = self.transport.traffic();
        // Nobody listens any more: a connection that waits to hand over a message goes on and can say goodbye.
        drop(link);
        self.transport.close();
        Ok(ServeReport { traffic, cpu: cpu::thread_cpu().unwrap_or_default() })
    }

    fn next_timeout(&self, now: Duration) -> Duration {
        let again = self.unsent.is_some().then_some(now + ANNOUNCEMENT_AGAIN);
        let work = match self.full_until {
            Some(again_at) => Some(again_at),
            None => Some(self.coordinator.poll_timeout().map_or(self.requests_at, |at| at.min(self.requests_at))),
        };
        [work, self.schedule.leave_at(), again, self.echo.poll_timeout()]
            .into_iter()
            .flatten()
            .fold(self.schedule.status_at(), Ord::min)
    }

    fn handle_timeout(&mut self) {
        let now = self.now();
        if let Some(announcement) = self.unsent.take() {
            self.split().3.publish_announcement(announcement);
        }
        self.check_echo(now);
        if self.full_until.is_some() {
            return;
        }
        self.before = self.coordinator.open_round();
        self.coordinator.handle_timeout(now);
        if self.requests_at <= now {
            self.requests_at = now + REQUESTS_EVERY;
            for (request, device) in requests::asked(self.state) {
                match request {
                    Request::Release => self.coordinator.handle_release(&device),
                    Request::Forget => self.coordinator.handle_forget(&device),
                };
                requests::done(self.state, request, &device);
            }
        }
    }

    /// Whatever else has come already is taken along.
    fn handle_batch(&mut self, first: Link, link: &Receiver<Link>) {
        let mut bytes = 0;
        for event in core::iter::once(first).chain(link.try_iter()) {
            bytes += if let Link::Message { payload, .. } = &event { payload.len() } else { 0 };
            self.handle_link(event);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
    }

    /// Does what the machine wants, as far as the disk has room.
    fn act(&mut self) -> Result<(), ServeError> {
        if self.full_until.is_some_and(|again_at| again_at > self.now()) {
            return Ok(());
        }
        if self.full_until.take().is_some() {
            let (executor, machine, ledger, mut surroundings) = self.split();
            let done = executor.retry(machine, ledger, &mut surroundings);
            if self.after_writing(done, true)? {
                return Ok(());
            }
            self.go_on();
        }
        let (executor, machine, ledger, mut surroundings) = self.split();
        let done = executor.run(machine, ledger, &mut surroundings);
        self.after_writing(done, false).map(drop)
    }

    /// There is room again: every device has to come again, as after a lost connection.
    fn go_on(&mut self) {
        tracing::info!("there is room on the disk again; the round goes on");
        if self.schedule.is_connected() {
            let now = self.now();
            self.coordinator.handle_connected(now);
        }
    }

    /// Writes down what is new about devices; once per round, with every status and at the end, not per message.
    fn write_registry(&mut self) -> Result<(), ServeError> {
        if self.full_until.is_some() {
            return Ok(());
        }
        let (executor, machine, ledger, mut surroundings) = self.split();
        let done = executor.write_registry(machine, ledger, &mut surroundings);
        self.after_writing(done, false).map(drop)
    }

    /// If the disk is full, no message is taken in and no time runs until there is room: devices say again what they said.
    /// Says whether it is full.
    fn after_writing(&mut self, done: Result<(), StoreError>, was_full: bool) -> Result<bool, ServeError> {
        let Err(error) = done else { return Ok(false) };
        if !error.is_full() {
            return Err(error.into());
        }
        let now = self.now();
        if !was_full {
            let cause = sentence(&error);
            tracing::error!(
                "the disk is full: the round stops, nothing is lost, it goes on when there is room ({cause})"
            );
            self.coordinator.handle_disconnected(now);
        }
        self.full_until = Some(now + DISK_AGAIN);
        Ok(true)
    }

    fn split(&mut self) -> (&mut Executor, &mut Coordinator, &mut (dyn Ledger + Send + 'static), Surroundings<'_>) {
        let surroundings = Surroundings {
            options: self.options,
            transport: &self.transport,
            observer: self.observer,
            started: self.started,
            unsent: &mut self.unsent,
            figures: &mut self.figures,
            schedule: &mut self.schedule,
            versions: &self.versions,
            before: self.before,
        };
        (&mut self.executor, &mut self.coordinator, &mut *self.ledger, surroundings)
    }

    fn status(&self) -> ServeStatus {
        let phase = match self.coordinator.open_round() {
            Some(RoundStatus { round, accepted, expected, chosen, extensions, deadline }) => {
                let closes_in = deadline.saturating_sub(self.now());
                ServePhase::Collecting { round, accepted, expected, chosen, extensions, closes_in }
            }
            None if self.coordinator.is_finished() => ServePhase::Finished,
            None if self.coordinator.is_resting() => ServePhase::Resting,
            None => ServePhase::Waiting,
        };
        ServeStatus {
            run: self.coordinator.run(),
            phase,
            connected: self.schedule.is_connected(),
            present: self.coordinator.present(),
            waiting: self.coordinator.waiting(),
            turned_away: self.turned_away(),
            troubles: self.troubles.sentences().into_iter().chain(self.untaken()).collect(),
            disk_full: self.full_until.is_some(),
            traffic: self.transport.traffic(),
        }
    }

    /// Why samples that devices hold are not taken in, and what to do.
    fn untaken(&self) -> Option<String> {
        Some(match self.coordinator.untaken(self.now())? {
            Untaken::RoundsDone { devices } => format!(
                "{devices} devices hold samples that the run does not know, and all rounds are done; give more `rounds`, or begin a \
                 new run with `aggregator serve --new-run`"
            ),
            Untaken::NoAnswer { devices } => format!(
                "{devices} devices hold samples that the run does not know, and did not answer when they were asked; they are \
                 asked again later, their logs may say more"
            ),
            Untaken::TooFewDevices { devices, able, needed } => format!(
                "{devices} devices hold samples that the run does not know, and a round needs {needed} devices with samples where \
                 {able} are there; start more, or lower `min_devices`"
            ),
        })
    }

    fn turned_away(&self) -> Vec<TurnedAwayDevice> {
        let (wall_clock, now) = (unix_ms(), self.now());
        let at = |moment: Duration| {
            let ago = now.saturating_sub(moment).as_millis();
            wall_clock.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
        };
        let device = |(device, known): (&DeviceId, &TurnedAway)| TurnedAwayDevice {
            device: device.clone(),
            reason: known.reason,
            advice: self.versions.advice(device, known.reason),
            since_ms: at(known.since),
            seen_ms: at(known.seen),
        };
        self.coordinator.turned_away().map(device).collect()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
