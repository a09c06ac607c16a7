//! `status.json`: what a running `aggregator serve` tells `aggregator status`.

use std::path::{Path, PathBuf};
use std::process;

use grapevine_aggregator::round::{Event, RoundOutcome, Waiting};
use grapevine_aggregator::serve::{Observer, ServePhase, ServeStatus, TurnedAwayDevice};
use grapevine_host::clock::unix_ms;
use grapevine_host::{Service, files, memory};
use grapevine_models::Head;
use serde::{Deserialize, Serialize};

use super::gaps::Gaps;

const FILE: &str = "status.json";

/// The file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) pid: u32,
    /// 16 hexadecimal digits.
    pub(super) run: String,
    pub(super) phase: Phase,
    /// The open round.
    pub(super) round: Option<u32>,
    pub(super) updates: usize,
    pub(super) expected: usize,
    /// Devices chosen for the open round.
    pub(super) chosen: usize,
    /// How often the open round was given more time.
    pub(super) extensions: u32,
    /// When the open round closes, milliseconds since 1970.
    pub(super) closes_ms: Option<u64>,
    /// Whether the rounds wait for room on the disk.
    pub(super) disk_full: bool,
    pub(super) broker: String,
    pub(super) connected: bool,
    pub(super) devices_present: usize,
    /// What the next round waits for, while it waits.
    pub(super) waiting: Option<WaitingFor>,
    /// Devices that are refused or told something: the newest ones, by name.
    pub(super) refused_devices: Vec<RefusedDevice>,
    /// What a person must look at, a sentence each.
    pub(super) troubles: Vec<String>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) peak_bytes: Option<u64>,
    /// Milliseconds since 1970.
    pub(super) started_ms: u64,
    /// Milliseconds since 1970.
    pub(super) seen_ms: u64,
}

/// Which devices a round waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WaitingFor {
    /// Devices with samples that must be there.
    pub(super) needed: usize,
    /// Devices with samples that are there.
    pub(super) able: usize,
    /// The first few of them.
    pub(super) first: Vec<String>,
}

/// A device that is refused, or of whose name there are two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefusedDevice {
    pub(super) device: String,
    pub(super) reason: String,
    /// What to do on the device.
    pub(super) advice: String,
    /// Milliseconds since 1970.
    pub(super) since_ms: u64,
    /// When it said hello last, milliseconds since 1970.
    pub(super) seen_ms: u64,
}

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// For enough devices.
    Waiting,
    /// A round is open.
    Collecting,
    /// The number of rounds that was asked for is done.
    Finished,
    /// Nothing new is to be learned for now.
    Resting,
    /// Ended in good order.
    Stopped,
}

/// Writes the file whenever the shell tells its status.
pub(super) struct LiveFile {
    path: PathBuf,
    broker: String,
    started_ms: u64,
    has_failed: bool,
    /// Who hears in a line what the file says.
    service: Service,
    /// Whether the run is over.
    pub(super) is_finished: bool,
    classes: Vec<String>,
    min_samples_to_share: u64,
    /// What was said last of classes that the head never learned.
    gaps: Option<String>,
}

impl LiveFile {
    pub(super) fn new(state: &Path, broker: String, service: Service) -> Self {
        let path = state.join(FILE);
        Self {
            path,
            broker,
            started_ms: unix_ms(),
            has_failed: false,
            service,
            is_finished: false,
            classes: Vec::new(),
            min_samples_to_share: 0,
            gaps: None,
        }
    }

    /// Says of merged heads what they cannot tell.
    pub(super) fn of_classes(self, classes: Vec<String>, min_samples_to_share: u16) -> Self {
        Self { classes, min_samples_to_share: min_samples_to_share.into(), ..self }
    }

    fn content(&self, status: &ServeStatus) -> Live {
        let phase = match status.phase {
            ServePhase::Waiting => Phase::Waiting,
            ServePhase::Collecting { .. } => Phase::Collecting,
            ServePhase::Finished => Phase::Finished,
            ServePhase::Resting => Phase::Resting,
            ServePhase::Stopped => Phase::Stopped,
        };
        let mut live = Live {
            pid: process::id(),
            run: format!("{:016x}", status.run.0),
            phase,
            round: None,
            updates: 0,
            expected: 0,
            chosen: 0,
            extensions: 0,
            closes_ms: None,
            disk_full: status.disk_full,
            broker: self.broker.clone(),
            connected: status.connected,
            devices_present: status.present,
            waiting: status.waiting.as_ref().map(WaitingFor::of),
            refused_devices: status.turned_away.iter().map(RefusedDevice::of).collect(),
            troubles: status.troubles.clone(),
            sent_bytes: status.traffic.sent_bytes,
            received_bytes: status.traffic.received_bytes,
            resident_bytes: memory::resident_bytes(),
            peak_bytes: memory::peak_bytes(),
            started_ms: self.started_ms,
            seen_ms: unix_ms(),
        };
        if let ServePhase::Collecting { round, accepted, expected, chosen, extensions, closes_in } = status.phase {
            (live.round, live.updates, live.expected) = (Some(round.0), accepted, expected);
            (live.chosen, live.extensions) = (chosen, extensions);
            live.closes_ms = Some(live.seen_ms + u64::try_from(closes_in.as_millis()).unwrap_or(u64::MAX / 2));
        }
        live
    }
}

impl Observer for LiveFile {
    fn event(&mut self, event: &Event) {
        self.is_finished |= matches!(event, Event::Finished | Event::Rested);
    }

    fn merged(&mut self, _: &RoundOutcome, inference_head: Option<&Head>) {
        let sentence =
            inference_head.and_then(|head| Gaps::of(head, &self.classes, self.min_samples_to_share).sentence());
        if let Some(sentence) = sentence.as_ref().filter(|sentence| self.gaps.as_ref() != Some(*sentence)) {
            tracing::warn!("{sentence}");
        }
        self.gaps = sentence;
    }

    fn status(&mut self, status: &ServeStatus) {
        self.service.status(&line(status));
        let bytes = serde_json::to_vec_pretty(&self.content(status)).expect("numbers and texts are JSON");
        let written = match files::write_atomic(&self.path, &bytes) {
            // A full disk has no room for a second file, but the first one has its place; and it must say that it is full.
            Err(error) if error.is_full() => files::overwrite(&self.path, &bytes).map_err(|_| error),
            written => written,
        };
        match written {
            Ok(()) => self.has_failed = false,
            // The rounds go on without it.
            Err(error) if !self.has_failed => {
                tracing::warn!("`aggregator status` will be out of date: {error}");
                self.has_failed = true;
            }
            Err(_) => {}
        }
    }
}

impl WaitingFor {
    fn of(waiting: &Waiting) -> Self {
        let Waiting { needed, able, first } = waiting;
        Self { needed: *needed, able: *able, first: first.iter().map(ToString::to_string).collect() }
    }

    /// Who is there and how many are missing, for people.
    pub(super) fn sentence(&self) -> String {
        let Self { needed, able, first } = self;
        let missing = needed.saturating_sub(*able);
        let more = able.saturating_sub(first.len());
        let names = match (first.len(), more) {
            (0, _) => String::new(),
            (_, 0) => format!(" ({})", first.join(", ")),
            (_, more) => format!(" ({} and {more} more)", first.join(", ")),
        };
        format!("waiting for devices: {able} of {needed} with samples are there{names}, {missing} more must come")
    }
}

impl RefusedDevice {
    fn of(known: &TurnedAwayDevice) -> Self {
        Self {
            device: known.device.to_string(),
            reason: known.reason.to_string(),
            advice: known.advice.clone(),
            since_ms: known.since_ms,
            seen_ms: known.seen_ms,
        }
    }
}

/// What is going on, for people.
fn line(status: &ServeStatus) -> String {
    let doing = match status.phase {
        ServePhase::Collecting { round, accepted, expected, .. } => {
            format!("round {} is open, {accepted} of {expected} updates", round.0)
        }
        ServePhase::Waiting => match &status.waiting {
            Some(waiting) => WaitingFor::of(waiting).sentence(),
            None => "waiting for devices".into(),
        },
        ServePhase::Finished => "all rounds are done".into(),
        ServePhase::Resting => "resting: nothing new is to be learned".into(),
        ServePhase::Stopped => "stopped".into(),
    };
    let broker = if status.connected { "" } else { ", no connection to the broker" };
    let disk = if status.disk_full { ", the disk is full" } else { "" };
    let troubles: String = status.troubles.iter().map(|trouble| format!("; {trouble}")).collect();
    format!("{doing}, {} devices present{broker}{disk}{troubles}", status.present)
}

/// What the last `serve` with this state folder told, if there was one.
pub(super) fn read(state: &Path) -> Option<Live> {
    files::read_json(&state.join(FILE))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use grapevine_host::transport::Traffic;
    use grapevine_protocol::{Refusal, RoundId, RunId};

    use super::*;

    #[test]
    fn what_is_told_is_read_and_a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_none());
        let mut file = LiveFile::new(folder.path(), "mqtt://h:1".into(), Service::default());
        let closes_in = Duration::from_secs(5);
        let phase =
            ServePhase::Collecting { round: RoundId(3), accepted: 1, expected: 4, chosen: 5, extensions: 2, closes_in };
        let traffic = Traffic { sent_bytes: 5, ..Traffic::default() };
        let refused = TurnedAwayDevice {
            device: "camera-9".parse().unwrap(),
            reason: Refusal::Classes,
            advice: "look".into(),
            since_ms: 1,
            seen_ms: 2,
        };
        let waiting = Waiting { needed: 5, able: 3, first: ["a", "b"].map(|name| name.parse().unwrap()).into() };
        let status = ServeStatus {
            run: RunId(0xab),
            phase,
            connected: true,
            present: 4,
            waiting: Some(waiting),
            turned_away: vec![refused],
            troubles: vec!["look".into()],
            disk_full: true,
            traffic,
        };
        file.status(&status);
        let live = read(folder.path()).unwrap();
        assert_eq!((live.phase, live.round, live.updates, live.expected), (Phase::Collecting, Some(3), 1, 4));
        assert_eq!((live.run.as_str(), live.sent_bytes), ("00000000000000ab", 5));
        assert_eq!((live.chosen, live.extensions, live.disk_full), (5, 2, true));
        assert_eq!(live.closes_ms, Some(live.seen_ms + 5_000));
        assert_eq!(
            (live.refused_devices[0].reason.as_str(), live.troubles.as_slice()),
            ("classes", &["look".into()][..])
        );
        assert_eq!(
            live.waiting.unwrap().sentence(),
            "waiting for devices: 3 of 5 with samples are there (a, b and 1 more), 2 more must come"
        );
        std::fs::write(folder.path().join(FILE), b"{").unwrap();
        assert!(read(folder.path()).is_none());
    }
}
