//! `edge-client status`: everything about a device at a glance, without touching anything.

use core::fmt::Write;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use grapevine_edge_client::config::ValidConfig;
use grapevine_edge_client::store::{Store, StoreError};
use grapevine_host::memory;
use grapevine_host::sentence::sentence;
use grapevine_protocol::Digest;
use serde::Serialize;

use super::liveness::{self, Liveness, Phase, SILENCE_SECONDS};
use super::setup::{LOCAL_RUN, Setup, store_path};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client status
  edge-client status --json | jq .running.resident_bytes

Reads only, also beside `edge-client run`. Exit code 1 if something is wrong that a person must look at.";

/// Width of the longest bar, in characters.
const BAR: u32 = 40;
/// Hexadecimal digits of a digest that people are shown.
const SHORT: usize = 12;

/// Show the device, its samples, its newest head, and whether it is running.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print all of it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    device: String,
    fleet: String,
    broker: String,
    extractor: Option<Extractor>,
    state: PathBuf,
    /// Absent before the first `ingest` or `run`.
    store: Option<Contents>,
    /// Absent before the first `run`.
    running: Option<Running>,
    /// Of this command itself.
    resident_bytes: Option<u64>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Extractor {
    name: String,
    sha256: String,
    features: usize,
}

#[derive(Serialize)]
struct Contents {
    file_bytes: u64,
    samples: u32,
    capacity: u32,
    by_class: Vec<OfClass>,
    newest_head: Option<Origin>,
    pending_update: Option<Origin>,
}

#[derive(Serialize)]
struct OfClass {
    class: String,
    samples: u32,
}

/// Where a head or an update comes from.
#[derive(Serialize)]
struct Origin {
    run: u64,
    round: u32,
    sha256: String,
}

#[derive(Serialize)]
struct Running {
    alive: bool,
    seen_seconds_ago: u64,
    #[serde(flatten)]
    liveness: Liveness,
}

pub(super) fn status(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let status = Status::look(common.configuration()?);
    let mut answer = Answer::of(&status, arguments.json, render)?;
    answer.code = u8::from(!status.problems.is_empty());
    answer.complaints = status.problems;
    Ok(answer)
}

impl Status {
    fn look(config: ValidConfig) -> Self {
        let mut problems = Vec::new();
        let running = liveness::read(&config.state).map(|liveness| {
            let seen_seconds_ago = liveness::seconds_now().saturating_sub(liveness.seen);
            let alive = liveness.state != Phase::Stopped && seen_seconds_ago <= SILENCE_SECONDS;
            Running { alive, seen_seconds_ago, liveness }
        });
        let mut status = Self {
            device: config.device.to_string(),
            fleet: config.fleet.to_string(),
            broker: config.broker.to_string(),
            extractor: None,
            state: config.state.clone(),
            store: None,
            running,
            resident_bytes: None,
            problems: Vec::new(),
        };
        match Setup::load(config) {
            Ok(setup) => {
                status.extractor = Some(Extractor {
                    name: setup.manifest.name.clone(),
                    sha256: setup.manifest.sha256.clone(),
                    features: setup.shape.features(),
                });
                match setup.read_store().and_then(|store| Contents::of(&store, &setup)) {
                    Ok(contents) => status.store = Some(contents),
                    Err(StoreError::Missing { .. }) => {}
                    Err(error) => {
                        // Only a process that is gone leaves a store like this, however recent its last word.
                        if let (StoreError::NeedsRepair { .. }, Some(running)) = (&error, &mut status.running) {
                            running.alive = false;
                        }
                        problems.push(sentence(&error));
                    }
                }
            }
            Err(error) => problems.push(sentence(error.as_ref())),
        }
        status.problems = problems;
        status.resident_bytes = memory::resident_bytes();
        status
    }
}

impl Contents {
    fn of(store: &Store, setup: &Setup) -> Result<Self, StoreError> {
        let counts = store.counts()?;
        let origin = |run, round, digest| Origin { run, round, sha256: Digest(digest).to_string() };
        let file = fs::metadata(store_path(&setup.config.state));
        Ok(Self {
            file_bytes: file.map(|file| file.len()).unwrap_or_default(),
            samples: counts.iter().sum(),
            capacity: store.capacity(),
            by_class: counts
                .into_iter()
                .zip(&setup.config.classes)
                .map(|(samples, class)| OfClass { class: class.clone(), samples })
                .collect(),
            newest_head: store.newest_head()?.map(|newest| origin(newest.run, newest.round, newest.digest)),
            pending_update: store.outbox()?.map(|entry| origin(entry.run, entry.round, entry.digest)),
        })
    }
}

fn render(status: &Status) -> String {
    let mut lines = vec![
        ("device", format!("{} of fleet {}", status.device, status.fleet)),
        ("broker", status.broker.clone()),
        ("extractor", status.extractor.as_ref().map_or("unusable".into(), render_extractor)),
        ("state", status.state.display().to_string()),
    ];
    if let Some(store) = &status.store {
        let Contents { samples, capacity, file_bytes, .. } = store;
        lines.push(("store", format!("{samples} samples of at most {capacity}, file of {}", mebibytes(*file_bytes))));
        let newest = store.newest_head.as_ref();
        lines
            .push(("newest head", newest.map_or("none yet; `edge-client run` gets the fleet's".into(), render_origin)));
        lines.push(("pending", store.pending_update.as_ref().map_or("nothing to deliver".into(), render_origin)));
    } else if status.problems.is_empty() {
        lines.push(("store", "none yet; run `edge-client ingest DIR`".into()));
    }
    lines.push(("running", status.running.as_ref().map_or("never ran here".into(), render_running)));
    if let Some(bytes) = status.resident_bytes {
        lines.push(("this command", format!("{} resident", mebibytes(bytes))));
    }
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:12}  {value}");
    }
    if let Some(store) = &status.store {
        render_histogram(&store.by_class, &mut text);
    }
    text
}

fn render_extractor(extractor: &Extractor) -> String {
    let Extractor { name, sha256, features } = extractor;
    format!("{name}, {features} features, sha256 {}", short(sha256))
}

fn render_origin(origin: &Origin) -> String {
    let digest = short(&origin.sha256);
    if origin.run == LOCAL_RUN {
        return format!("made by this device (`train --save`), {digest}");
    }
    format!("run {:016x}, round {}, {digest}", origin.run, origin.round)
}

fn render_running(running: &Running) -> String {
    let Liveness { pid, state, round, refused, delivered, ignored, resident_bytes, peak_bytes, .. } = &running.liveness;
    let doing = match state {
        Phase::Connecting => "no connection to the broker, trying",
        Phase::Connected => "connected, the aggregator has not answered",
        Phase::Waiting => "waiting for a round",
        Phase::Working => "working",
        Phase::Finished => "the run is over",
        Phase::Stopped => "stopped",
    };
    let seen = running.seen_seconds_ago;
    let mut line = match (state, running.alive) {
        (Phase::Stopped, _) => format!("no, stopped {seen} s ago"),
        (_, true) => format!("yes (pid {pid}): {doing}"),
        (_, false) => format!("no, silent for {seen} s: it was killed or the machine was off"),
    };
    if let Some(round) = round {
        let _ = write!(line, ", last worked on round {round}, {delivered} updates delivered");
    }
    if let (true, Some(resident), Some(peak)) = (running.alive, resident_bytes, peak_bytes) {
        let _ = write!(line, ", {} resident (peak {}), seen {seen} s ago", mebibytes(*resident), mebibytes(*peak));
    }
    if let Some(reason) = refused {
        let _ = write!(line, ", refused: {reason}");
    }
    for (reason, count) in ignored {
        let _ = write!(line, ", ignored {count} ({reason})");
    }
    line
}

fn render_histogram(by_class: &[OfClass], text: &mut String) {
    let width = by_class.iter().map(|each| each.class.chars().count()).max().unwrap_or(0);
    let most = by_class.iter().map(|each| each.samples).max().unwrap_or(0).max(1);
    for OfClass { class, samples } in by_class {
        // A class with any samples shows at least a sliver.
        let length = (u64::from(*samples) * u64::from(BAR)).div_ceil(u64::from(most));
        let bar = "█".repeat(length as usize);
        let _ = writeln!(text, "  {class:width$}  {samples:>6}  {bar}");
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
