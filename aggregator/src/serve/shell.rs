//! The loop: what comes is handed to the machine, what the machine wants is done, what must be durable is so first.

mod link;

use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use crossbeam_channel::Receiver;
use grapevine_host::clock::unix_ms;
use grapevine_host::sentence::sentence;
use grapevine_host::service::Heartbeat;
use grapevine_host::transport::{Event as Link, PublishError, Transport};
use grapevine_host::{Shutdown, cpu};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{BlockHeader, DeviceId, Notice, Refusal, ToDevice, encode, topics};

use super::echo::Echo;
use super::pace::Pace;
use super::requests::Request;
use super::told::log;
use super::troubles::Troubles;
use super::{
    Observer, ServeError, ServeOptions, ServePhase, ServeReport, ServeStatus, TurnedAwayDevice, ledger, requests,
};
use crate::round::{AcceptedUpdate, Action, Coordinator, Event, RoundOutcome, RoundStatus, TurnedAway, Untaken};
use crate::store::{Store, StoreError};

/// Bytes of messages that are handed to the machine before what it wants is done: updates that arrive together become
/// durable together, and no more of them are in memory than this.
const BATCH_BYTES: usize = 512 * 1024;
/// Pause before a notice for which there was no room is tried again.
const NOTICE_AGAIN: Duration = Duration::from_millis(20);
/// Pause before a full disk is tried again.
const DISK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked for requests of other processes.
const REQUESTS_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Shell<'a> {
    options: &'a ServeOptions,
    store: Store,
    transport: Transport,
    coordinator: Coordinator,
    observer: &'a mut dyn Observer,
    started: Instant,
    /// Updates to be stored together.
    updates: Vec<AcceptedUpdate>,
    /// What found no room on the disk, and when it is tried again.
    stalled: Option<(Work, Duration)>,
    /// From a full disk on until there is room: nothing is heard.
    is_deaf: bool,
    /// A notice for which the transport had no room.
    unsent: Option<Notice>,
    /// Refusals not yet in the ledger.
    counted: BTreeMap<Refusal, u64>,
    /// Refusals since the last merge.
    refused: u64,
    /// When the newest round was opened or resumed.
    opened_at: Duration,
    /// How far the open round was before time went on: what is told when it ends without a merge.
    before: Option<RoundStatus>,
    /// When it is looked for requests next.
    requests_at: Duration,
    heartbeat: Heartbeat,
    pace: Pace,
    echo: Echo,
    troubles: Troubles,
}

/// One thing to do; done again as a whole where the disk had no room for it.
enum Work {
    Action(Action),
    Updates(Vec<AcceptedUpdate>),
    /// A merged round, with what was measured.
    Commit(RoundOutcome, Option<serde_json::Value>),
    Books,
}

impl<'a> Shell<'a> {
    pub(super) fn new(
        options: &'a ServeOptions,
        store: Store,
        transport: Transport,
        coordinator: Coordinator,
        observer: &'a mut dyn Observer,
        started: Instant,
    ) -> Self {
        Self {
            options,
            store,
            transport,
            coordinator,
            observer,
            started,
            updates: Vec::new(),
            stalled: None,
            is_deaf: false,
            unsent: None,
            counted: BTreeMap::new(),
            refused: 0,
            opened_at: Duration::ZERO,
            before: None,
            requests_at: Duration::ZERO,
            heartbeat: options.service.heartbeat(),
            pace: Pace::new(options.until_finished),
            echo: Echo::new(options.fleet.clone(), options.boot),
            troubles: Troubles::default(),
        }
    }

    pub(super) fn serve(mut self, link: Receiver<Link>, shutdown: &Shutdown) -> Result<ServeReport, ServeError> {
        self.options.service.ready();
        while !shutdown.is_requested() {
            self.act()?;
            let now = self.now();
            if self.pace.status_is_due(now) {
                self.check_deaf_device(now);
                if self.stalled.is_none() {
                    self.attempt(Work::Books)?;
                }
                self.observer.status(&self.status());
            }
            if self.pace.leave_at().is_some_and(|at| at <= now) {
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
        if self.stalled.is_none() {
            self.attempt(Work::Books)?;
        }
        self.observer.status(&ServeStatus { phase: ServePhase::Stopped, connected: false, ..self.status() });
        let traffic = self.transport.traffic();
        // Nobody listens any more: a connection that waits to hand over a message goes on and can say goodbye.
        drop(link);
        self.transport.close();
        Ok(ServeReport { traffic, cpu: cpu::thread_cpu().unwrap_or_default() })
    }

    fn next_timeout(&self, now: Duration) -> Duration {
        let again = self.unsent.is_some().then_some(now + NOTICE_AGAIN);
        let work = match &self.stalled {
            Some((_, again_at)) => Some(*again_at),
            None => Some(self.coordinator.poll_timeout().map_or(self.requests_at, |at| at.min(self.requests_at))),
        };
        [work, self.pace.leave_at(), again, self.echo.poll_timeout()]
            .into_iter()
            .flatten()
            .fold(self.pace.status_at(), Ord::min)
    }

    fn handle_timeout(&mut self) {
        let now = self.now();
        if let Some(notice) = self.unsent.take() {
            self.publish_notice(notice);
        }
        self.check_echo(now);
        if self.is_deaf {
            return;
        }
        self.before = self.coordinator.open_round();
        self.coordinator.handle_timeout(now);
        if self.requests_at <= now {
            self.requests_at = now + REQUESTS_EVERY;
            for (request, device) in requests::asked(self.store.folder()) {
                match request {
                    Request::Release => self.coordinator.handle_release(&device),
                    Request::Forget => self.coordinator.handle_forget(&device),
                };
                requests::done(self.store.folder(), request, &device);
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
        if let Some((work, again_at)) = self.stalled.take() {
            if again_at > self.now() {
                self.stalled = Some((work, again_at));
                return Ok(());
            }
            self.attempt(work)?;
            if self.stalled.is_some() {
                return Ok(());
            }
            self.go_on();
        }
        while let Some(work) = self.next_work() {
            self.attempt(work)?;
            if self.stalled.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// One action, or all updates when there are no other actions.
    fn next_work(&mut self) -> Option<Work> {
        loop {
            match self.coordinator.poll_action() {
                Some(Action::StoreUpdate(update)) => self.updates.push(update),
                Some(Action::Commit(outcome)) => {
                    let in_use = outcome.model.head_in_use(&self.options.round);
                    let metrics = self.observer.merged(&outcome, in_use.as_ref());
                    return Some(Work::Commit(outcome, metrics));
                }
                Some(action) => return Some(Work::Action(action)),
                None if self.updates.is_empty() => return None,
                None => return Some(Work::Updates(core::mem::take(&mut self.updates))),
            }
        }
    }

    /// Does it, or keeps it until there is room on the disk.
    fn attempt(&mut self, work: Work) -> Result<(), ServeError> {
        let done = match &work {
            Work::Action(action) => self.do_action(action),
            Work::Updates(updates) => self.store_updates(updates),
            Work::Commit(outcome, metrics) => self.commit(outcome, metrics.as_ref()),
            Work::Books => self.write_books(),
        };
        match done {
            Err(error) if error.is_full() => {
                self.stall(work, &error);
                Ok(())
            }
            other => other.map_err(ServeError::from),
        }
    }

    /// Nothing is heard and no time runs until there is room: whoever speaks meanwhile speaks again.
    fn stall(&mut self, work: Work, error: &StoreError) {
        if !core::mem::replace(&mut self.is_deaf, true) {
            let cause = sentence(error);
            tracing::error!(
                "the disk is full: the round stops, nothing is lost, it goes on when there is room ({cause})"
            );
            let now = self.now();
            self.coordinator.handle_disconnected(now);
        }
        self.stalled = Some((work, self.now() + DISK_AGAIN));
    }

    /// There is room again: everybody is asked to come again, as after a lost connection.
    fn go_on(&mut self) {
        tracing::info!("there is room on the disk again; the round goes on");
        self.is_deaf = false;
        if self.pace.is_connected() {
            let now = self.now();
            self.coordinator.handle_connected(now);
        }
    }

    fn do_action(&mut self, action: &Action) -> Result<(), StoreError> {
        match action {
            Action::Send(device, message) => {
                self.publish(&topics::down(&self.options.fleet, device), message, &[]);
            }
            Action::PublishBlock(kind, header, block) => self.publish_block(*kind, *header, block),
            Action::PublishNotice(notice) => self.publish_notice(notice.clone()),
            Action::KeepDevice(device) => {
                let now = self.now();
                ledger::keep_device(&mut self.store, &self.coordinator, device, now)?;
            }
            Action::ForgetDevices(devices) => ledger::forget_devices(&mut self.store, devices)?,
            Action::OpenRound { notice, expected, chosen } => {
                ledger::open_round(&mut self.store, notice, *expected, *chosen)?;
                self.opened_at = self.now();
            }
            // They are work of their own.
            Action::StoreUpdate(_) | Action::Commit(_) => {}
            Action::ExtendRound(run, round) => self.store.extend_round(run.0, round.0)?,
            Action::AbandonRound(run, round) => self.store.abandon_round(run.0, round.0, unix_ms())?,
            Action::FinishRun(run) => self.store.finish_run(run.0)?,
            Action::Report(event) => self.hear(event),
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event) {
        if let Event::Refused { reason, .. } = event {
            *self.counted.entry(*reason).or_default() += 1;
            self.refused += 1;
        }
        log(event, self.before);
        self.pace.changed();
        if matches!(event, Event::Finished | Event::Rested) {
            self.pace.finished(self.now());
        }
        self.observer.event(event);
    }

    fn store_updates(&mut self, updates: &[AcceptedUpdate]) -> Result<(), StoreError> {
        let stored = ledger::store_updates(&mut self.store, updates);
        for update in updates {
            match &stored {
                Ok(()) => {
                    let former = ledger::former_statistics(&self.store, &self.coordinator, &update.device)?;
                    let now = self.now();
                    self.coordinator.handle_stored(now, &update.device, update.round, former.as_deref());
                }
                // It is tried again as it is.
                Err(error) if error.is_full() => {}
                Err(_) => self.coordinator.handle_store_failed(&update.device),
            }
        }
        stored
    }

    fn commit(&mut self, outcome: &RoundOutcome, metrics: Option<&serde_json::Value>) -> Result<(), StoreError> {
        ledger::commit(&mut self.store, outcome, metrics)?;
        self.pace.changed();
        tracing::info!(
            round = outcome.round.0,
            updates = outcome.accepted,
            of = outcome.expected,
            chosen = outcome.chosen,
            extensions = outcome.extensions,
            samples = outcome.samples,
            seconds = self.now().saturating_sub(self.opened_at).as_millis() as f64 / 1e3,
            refusals = core::mem::take(&mut self.refused),
            "round merged"
        );
        if let Some(note) = ledger::note(outcome).filter(|_| outcome.held_back.is_some()) {
            tracing::warn!(round = outcome.round.0, "{note}");
        }
        let now = self.now();
        self.coordinator.handle_committed(now);
        // What finds no room here is done after the next round.
        match ledger::forget(&mut self.store, outcome, self.options.kept_heads).and_then(|()| self.write_books()) {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// Writes devices and refusals; done once per round, with every status and at the end, not per message.
    fn write_books(&mut self) -> Result<(), StoreError> {
        let now = self.now();
        ledger::remember_devices(&mut self.store, &mut self.coordinator, now)?;
        ledger::remember_refusals(&mut self.store, &self.counted)?;
        self.counted.clear();
        Ok(())
    }

    fn publish_block(&self, kind: BlobKind, header: BlockHeader, block: &[u8]) {
        let topic = topics::blob(&self.options.fleet, kind);
        self.publish(&topic, &ToDevice::Block(header), block);
    }

    /// A notice nobody can ask for again: one that finds no room is kept until there is some. After a lost connection
    /// the machine gives a new one.
    fn publish_notice(&mut self, notice: Notice) {
        let frame = encode(&ToDevice::Notice(notice.clone()), &[]);
        let result = self.transport.publish(&topics::notice(&self.options.fleet), frame, true);
        self.unsent = matches!(result, Err(PublishError::Full)).then_some(notice);
    }

    /// What cannot go out now is asked for again by whoever misses it.
    fn publish(&self, topic: &str, message: &ToDevice, block: &[u8]) {
        match self.transport.publish(topic, encode(message, block), false) {
            Ok(()) => {}
            Err(error @ (PublishError::Full | PublishError::Disconnected)) => tracing::debug!("{error}"),
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic { .. })) => tracing::error!("{error}"),
        }
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
            connected: self.pace.is_connected(),
            present: self.coordinator.present(),
            waiting: self.coordinator.waiting(),
            turned_away: self.turned_away(),
            troubles: self.troubles.sentences().into_iter().chain(self.untaken()).collect(),
            disk_full: self.is_deaf,
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
            since_ms: at(known.since),
            seen_ms: at(known.seen),
        };
        self.coordinator.turned_away().map(device).collect()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
