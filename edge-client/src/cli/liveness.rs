//! `status.json`: what `run` tells `status`, written at every change and every half a minute.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use grapevine_edge_client::predict::{Figures, Outgoing};
use grapevine_edge_client::session::Event;
use grapevine_host::{clock, cpu, files, memory};
use serde::{Deserialize, Serialize};

/// A process that wrote no status for longer is gone where its lock tells nothing, or else hangs.
pub(super) const SILENCE_SECONDS: u64 = 90;

const FILE: &str = "status.json";
/// Locked as long as a `run` lives: a kill lets go of it at once, whatever the last status says.
const LOCK: &str = "run.lock";
/// Between two files when nothing changes.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// Least time between two files: fast rounds must not wear the disk.
const REST: Duration = Duration::from_secs(1);

/// What a running `edge-client run` is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Without a connection to the broker.
    Connecting,
    /// Connected; the aggregator has not said that it knows this device.
    Connected,
    /// Known to the aggregator, without work.
    Waiting,
    /// Working on a round.
    Working,
    /// The fleet has nothing to learn for now.
    Resting,
    /// Ended in good order.
    Stopped,
}

/// The file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Liveness {
    pub(super) pid: u32,
    pub(super) state: Phase,
    /// The round of the newest work.
    pub(super) round: Option<u32>,
    /// Why the aggregator refused this device or its update last, until it is welcome again.
    pub(super) refused: Option<String>,
    /// Why there is no connection to the broker, while there is none.
    #[serde(default)]
    pub(super) unreachable: Option<String>,
    /// What the broker seems to have against this device, until it is over.
    #[serde(default)]
    pub(super) trouble: Option<String>,
    /// Whether nobody has answered for long although the broker is there.
    #[serde(default)]
    pub(super) unanswered: bool,
    /// Whether the run was over when this device stopped.
    #[serde(default)]
    pub(super) finished: bool,
    /// Whether a person must do something before the aggregator takes this device.
    #[serde(default)]
    pub(super) needs_a_person: bool,
    /// Why work pauses to spare the device, if it does.
    #[serde(default)]
    pub(super) paused: Option<String>,
    /// Updates with a receipt since the start.
    pub(super) delivered: u32,
    /// What arrived and did not belong, by reason, since the start.
    #[serde(default)]
    pub(super) ignored: BTreeMap<String, u64>,
    /// What became of the images of the watched folder; absent if none is watched.
    #[serde(default)]
    pub(super) predictions: Option<Figures>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) peak_bytes: Option<u64>,
    /// Processor time since the start.
    pub(super) cpu_ms: Option<u64>,
    /// Seconds since 1970.
    pub(super) started: u64,
    /// Seconds since 1970.
    pub(super) seen: u64,
}

/// Writes the file on a thread of its own, so that a slow disk holds up no message.
pub(super) struct StatusWriter {
    liveness: Liveness,
    changes: Sender<Liveness>,
    thread: JoinHandle<()>,
    /// None where the file system knows no locks.
    _lock: Option<File>,
}

impl StatusWriter {
    /// Writes the first file at once and fails if it cannot be written. The figures of `outgoing` are in every file.
    pub(super) fn start(state: &Path, outgoing: Option<Arc<Outgoing>>) -> anyhow::Result<Self> {
        let path = state.join(FILE);
        let liveness = Liveness {
            pid: process::id(),
            state: Phase::Connecting,
            round: None,
            refused: None,
            unreachable: None,
            trouble: None,
            unanswered: false,
            finished: false,
            needs_a_person: false,
            paused: None,
            delivered: 0,
            ignored: BTreeMap::new(),
            predictions: None,
            resident_bytes: None,
            peak_bytes: None,
            cpu_ms: None,
            started: seconds_now(),
            seen: 0,
        };
        // Nobody else holds it for more than a moment: whoever runs has the store to itself. It is there before the file
        // that says that a program runs, or a kill between the two would leave that unrefuted.
        let lock = File::create(state.join(LOCK)).ok().filter(|lock| lock.lock().is_ok());
        let file = StatusFile { path, outgoing };
        file.write(&liveness)?;
        let (changes, receiver) = unbounded();
        let first = liveness.clone();
        let thread = thread::Builder::new()
            .name("status".into())
            .stack_size(256 * 1024)
            .spawn(move || file.follow(first, &receiver))
            .context("cannot start a thread; the system is out of memory or of threads")?;
        Ok(Self { liveness, changes, thread, _lock: lock })
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, event: &Event) {
        let shown = |of: &Liveness| {
            let why = [&of.refused, &of.paused, &of.unreachable, &of.trouble].map(Clone::clone);
            (of.state, of.round, of.delivered, of.unanswered, why)
        };
        let before = shown(&self.liveness);
        self.liveness.note(event);
        if before != shown(&self.liveness) {
            // The thread ends only when this side does.
            let _ = self.changes.send(self.liveness.clone());
        }
    }

    /// What is going on, in a line for people.
    pub(super) fn line(&self) -> String {
        self.liveness.line()
    }

    /// Says that the process ends in good order.
    pub(super) fn stop(mut self) {
        self.liveness.finished = self.liveness.state == Phase::Resting;
        self.liveness.state = Phase::Stopped;
        let _ = self.changes.send(self.liveness);
        drop(self.changes);
        if self.thread.join().is_err() {
            tracing::debug!("the last status was not written");
        }
    }
}

impl Phase {
    /// For people.
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Connecting => "no connection to the broker, trying",
            Self::Connected => "connected, the aggregator has not answered",
            Self::Waiting => "waiting for a round",
            Self::Working => "working",
            Self::Resting => "the fleet rests: it has nothing new to learn",
            Self::Stopped => "stopped",
        }
    }
}

impl Liveness {
    /// What is going on, in a line for people.
    pub(super) fn line(&self) -> String {
        let paused = self.paused.as_ref().map(|why| format!(", work pauses: {why}")).unwrap_or_default();
        let is_refused = self.state == Phase::Connected && self.refused.is_some();
        let doing = if is_refused { "connected, refused by the aggregator" } else { self.state.doing() };
        format!("{doing}{paused}")
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected => {
                self.state = Phase::Connected;
                self.unreachable = None;
            }
            Event::Disconnected => self.state = Phase::Connecting,
            Event::Unreachable(why) => self.unreachable = Some(why.clone()),
            Event::Trouble(why) => self.trouble = Some(why.clone()),
            Event::Recovered => self.trouble = None,
            Event::Unanswered => self.unanswered = true,
            Event::Welcome => {
                self.state = Phase::Waiting;
                self.refused = None;
                (self.unanswered, self.needs_a_person) = (false, false);
            }
            Event::Refused(reason) => {
                self.unanswered = false;
                self.needs_a_person = reason.needs_a_person();
                self.refused = Some(format!("{reason}: {}", reason.advice()));
                if self.state == Phase::Working {
                    self.state = Phase::Waiting;
                }
            }
            Event::RoundBegan(round) => {
                self.state = Phase::Working;
                self.round = Some(round.0);
            }
            Event::Delivered(_) => {
                self.state = Phase::Waiting;
                self.delivered += 1;
            }
            Event::Outdated(_) => self.state = Phase::Waiting,
            Event::Rests(_) => self.state = Phase::Resting,
            Event::GoesOn => {
                if self.state == Phase::Resting {
                    self.state = Phase::Waiting;
                }
            }
            Event::Ignored(reason) => *self.ignored.entry(reason.name().into()).or_default() += 1,
            Event::Paused(why) => self.paused = Some(why.clone()),
            Event::Resumed => self.paused = None,
            Event::NewHeads(_) | Event::Unusable(_) => {}
        }
    }
}

/// What the file is written with.
struct StatusFile {
    path: PathBuf,
    outgoing: Option<Arc<Outgoing>>,
}

impl StatusFile {
    /// Writes the file, with the figures of this moment.
    fn write(&self, liveness: &Liveness) -> Result<(), files::WriteError> {
        let now = Liveness {
            predictions: self.outgoing.as_ref().map(|outgoing| outgoing.figures()),
            resident_bytes: memory::resident_bytes(),
            peak_bytes: memory::peak_bytes(),
            cpu_ms: cpu::process_cpu().map(|cpu| cpu.as_millis() as u64),
            seen: seconds_now(),
            ..liveness.clone()
        };
        let bytes = serde_json::to_vec_pretty(&now).expect("numbers and texts are JSON");
        match files::write_private(&self.path, &bytes) {
            // A full disk has no room for a second file, but the first one has its place.
            Err(error) if error.is_full() => files::overwrite(&self.path, &bytes).map_err(|_| error),
            written => written,
        }
    }

    fn follow(&self, mut newest: Liveness, changes: &Receiver<Liveness>) {
        loop {
            let ended = match changes.recv_timeout(WRITE_EVERY) {
                Ok(change) => {
                    newest = change;
                    let (last, ended) = rest(changes);
                    newest = last.unwrap_or(newest);
                    ended
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = self.write(&newest) {
                tracing::debug!("the status was not written: {error}");
            }
            if ended {
                return;
            }
        }
    }
}

/// Whether a `run` lives with this state folder; `None` where that cannot be told from its lock.
pub(super) fn is_running(state: &Path) -> Option<bool> {
    // A shared lock of a moment: no reader is in another's way.
    match File::open(state.join(LOCK)).ok()?.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

/// What the last `run` with this state folder told, if there was one.
pub(super) fn read(state: &Path) -> Option<Liveness> {
    files::read_json(&state.join(FILE))
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> u64 {
    clock::unix_ms() / 1_000
}

/// Collects changes for a while; gives the last one, and whether the other side is gone.
fn rest(changes: &Receiver<Liveness>) -> (Option<Liveness>, bool) {
    let mut last = None;
    let deadline = instant_now() + REST;
    loop {
        match changes.recv_deadline(deadline) {
            Ok(change) => last = Some(change),
            Err(RecvTimeoutError::Timeout) => return (last, false),
            Err(RecvTimeoutError::Disconnected) => return (last, true),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "paces the writing of a file; nothing is decided with it")]
fn instant_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use grapevine_protocol::{Refusal, RoundId};

    use super::*;

    #[test]
    fn the_last_status_is_on_disk_when_the_writer_stops() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_none());
        assert_eq!(is_running(folder.path()), None);
        let mut writer = StatusWriter::start(folder.path(), None).unwrap();
        let first = read(folder.path()).unwrap();
        assert_eq!((first.pid, first.state, first.round), (process::id(), Phase::Connecting, None));
        for event in [Event::Connected, Event::Welcome, Event::RoundBegan(RoundId(7)), Event::Delivered(RoundId(7))] {
            writer.note(&event);
        }
        writer.note(&Event::Connected);
        writer.note(&Event::Refused(Refusal::Classes));
        assert_eq!(writer.line(), "connected, refused by the aggregator");
        writer.note(&Event::Welcome);
        writer.note(&Event::Refused(Refusal::Classes));
        assert_eq!(writer.liveness.state, Phase::Waiting);
        assert_eq!(is_running(folder.path()), Some(true));
        writer.stop();
        assert_eq!(is_running(folder.path()), Some(false));
        let last = read(folder.path()).unwrap();
        assert_eq!((last.state, last.round, last.delivered), (Phase::Stopped, Some(7), 1));
        assert!(last.refused.unwrap().starts_with("classes: set `classes`"));
        assert!(last.seen >= first.seen && last.started == first.started);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"{").unwrap();
        assert!(read(folder.path()).is_none());
    }
}
