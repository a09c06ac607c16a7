//! `edge-client status`: everything about a device at a glance, without touching anything.

use core::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use grapevine_edge_client::config::ValidConfig;
use grapevine_edge_client::device;
use grapevine_edge_client::predict::Figures;
use grapevine_edge_client::store::{Store, StoreError};
use grapevine_host::sentence::sentence;
use grapevine_host::{files, memory};
use grapevine_protocol::{DeviceId, Digest, FleetId};
use serde::Serialize;

use super::histogram::{Style, histogram};
use super::ingested::Aside;
use super::intake::Intakes;
use super::liveness::{self, Liveness, Phase, SILENCE_SECONDS};
use super::setup::{LOCAL_RUN, Setup, store_path};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client status
  edge-client status --json | jq .running.resident_bytes
  edge-client status --json | jq -r '.store.by_class[] | [.class, .samples] | @csv'

The bars fill the terminal; they are plain ASCII where the locale has nothing else.
Reads only, also beside `edge-client run`. Exit code 1 if a person must look at something: the device was stopped
or killed, the broker cannot be reached, refuses it or hangs up, nobody answers, the aggregator refuses it, another device
uses its name, or the store cannot be used. Each is said in a sentence.";

/// Of a store that its writer did not close.
const INTERRUPTED: &str = "the last `edge-client` that wrote the store was killed or lost its power; \
                           nothing stored is lost, start it again (`edge-client run`)";
/// What every complaint about a full disk says.
const FULL: &str = "the disk is full";
/// With less room on its disk a device can store nothing for certain.
const LEAST_FREE_BYTES: u64 = 64 << 10;
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
    /// What was left aside of each source that is still there.
    passed_over: Vec<OfSource>,
    /// Of this command itself.
    resident_bytes: Option<u64>,
    problems: Vec<String>,
}

/// What the last look at a source left aside.
#[derive(Serialize)]
struct OfSource {
    source: String,
    passed_over: Vec<Aside>,
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
    /// Most samples, by number and bytes.
    capacity: u32,
    /// Most samples of one class; absent if it has no bound of its own.
    capacity_per_class: Option<u32>,
    by_class: Vec<OfClass>,
    /// The largest class over the smallest that has samples; absent without samples.
    imbalance_ratio: Option<f64>,
    classes_without_samples: usize,
    newest_head: Option<Origin>,
    pending_update: Option<Pending>,
}

#[derive(Serialize)]
struct OfClass {
    class: String,
    samples: u32,
    /// Of all samples, 0 to 1.
    share: f64,
}

/// An update that waits for its receipt.
#[derive(Serialize)]
struct Pending {
    #[serde(flatten)]
    origin: Origin,
    bytes: usize,
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
            // The clock may have been set since: a lock tells more than a time.
            let is_held = liveness::is_running(&config.state).unwrap_or(seen_seconds_ago <= SILENCE_SECONDS);
            let alive = liveness.state != Phase::Stopped && is_held;
            Running { alive, seen_seconds_ago, liveness }
        });
        let intakes = Intakes::read(&config.state);
        problems.extend(intakes.problems());
        if !problems.iter().any(|problem: &String| problem.contains(FULL)) {
            problems.extend(full_disk(&config.state));
        }
        let of_source = |(source, of): (&str, &_)| OfSource { source: source.to_owned(), passed_over: Aside::all(of) };
        let mut status = Self {
            device: config.device.to_string(),
            fleet: config.fleet.to_string(),
            broker: config.broker.to_string(),
            extractor: None,
            state: config.state.clone(),
            store: None,
            running,
            passed_over: intakes.sources().map(of_source).collect(),
            resident_bytes: None,
            problems: Vec::new(),
        };
        let (fleet, device) = (config.fleet.clone(), config.device.clone());
        match Setup::load(config) {
            Ok(setup) => {
                status.extractor = Some(Extractor {
                    name: setup.manifest.name.clone(),
                    sha256: setup.manifest.sha256.clone(),
                    features: setup.shape.features(),
                });
                match setup.read_store().and_then(|store| Ok((Contents::of(&store, &setup)?, store.is_interrupted()))) {
                    Ok((contents, is_interrupted)) => {
                        status.store = Some(contents);
                        if is_interrupted {
                            problems.push(INTERRUPTED.into());
                            // Only a process that is gone leaves a store like this, however recent its last word.
                            status.running.iter_mut().for_each(|running| running.alive = false);
                        }
                    }
                    Err(StoreError::Missing { .. }) => {}
                    Err(error) => problems.push(sentence(&error)),
                }
            }
            Err(error) => problems.push(sentence(error.as_ref())),
        }
        // That the last one was killed is said already.
        if let Some(running) =
            status.running.as_ref().filter(|_| !problems.iter().any(|problem| problem == INTERRUPTED))
        {
            problems.extend(running.problems(&fleet, &device));
        }
        status.problems = problems;
        status.resident_bytes = memory::resident_bytes();
        status
    }
}

/// What a person must do before anything can be stored.
fn full_disk(state: &Path) -> Option<String> {
    let left = files::free_bytes(state).filter(|&left| left < LEAST_FREE_BYTES)?;
    let state = state.display();
    Some(format!("{FULL}: {state} has {left} bytes left; free some space, then the device goes on by itself"))
}

impl Running {
    /// What a person must look at.
    fn problems(&self, fleet: &FleetId, device: &DeviceId) -> Vec<String> {
        let Liveness { state, refused, unreachable, trouble, unanswered, finished, needs_a_person, .. } =
            &self.liveness;
        if *state == Phase::Stopped && *finished {
            return Vec::new();
        }
        if !self.alive {
            return vec!["this device does not run; start it again (`edge-client run`)".into()];
        }
        let mut problems: Vec<String> = Vec::new();
        if let silent @ SILENCE_SECONDS.. = self.seen_seconds_ago {
            let pid = self.liveness.pid;
            problems.push(format!(
                "the process {pid} wrote no status for {silent} s: it hangs, or the clock was set; see its log"
            ));
        }
        if *state == Phase::Connecting {
            problems.extend(unreachable.iter().map(|why| format!("no connection to the broker: {why}")));
        }
        problems.extend(trouble.clone());
        if *unanswered {
            problems.push(device::unanswered(fleet, device));
        }
        if *needs_a_person {
            problems.extend(refused.iter().map(|why| format!("the aggregator refuses this device: {why}")));
        }
        problems
    }
}

impl Contents {
    fn of(store: &Store, setup: &Setup) -> Result<Self, StoreError> {
        let counts = store.counts()?;
        let origin = |run, round, digest| Origin { run, round, sha256: Digest(digest).to_string() };
        let file = fs::metadata(store_path(&setup.config.state));
        let samples: u32 = counts.iter().sum();
        let (capacity, per_class) = (store.capacity(), store.limits().max_samples_per_class);
        let of_class = |(&samples_of_class, class): (&u32, &String)| OfClass {
            class: class.clone(),
            samples: samples_of_class,
            share: f64::from(samples_of_class) / f64::from(samples.max(1)),
        };
        let present = counts.iter().copied().filter(|&count| count > 0);
        let ratio = |(most, least)| f64::from(most) / f64::from(least);
        Ok(Self {
            file_bytes: file.map(|file| file.len()).unwrap_or_default(),
            samples,
            capacity,
            capacity_per_class: (per_class < capacity).then_some(per_class),
            by_class: counts.iter().zip(&setup.config.classes).map(of_class).collect(),
            imbalance_ratio: present.clone().max().zip(present.min()).map(ratio),
            classes_without_samples: counts.iter().filter(|&&count| count == 0).count(),
            newest_head: store.newest_head()?.map(|newest| origin(newest.run, newest.round, newest.digest)),
            pending_update: store.outbox()?.map(|entry| Pending {
                origin: origin(entry.run, entry.round, entry.digest),
                bytes: entry.bytes.len(),
            }),
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
        let per_class = store.capacity_per_class.map(|most| format!(" and {most} per class")).unwrap_or_default();
        let file = mebibytes(*file_bytes);
        lines.push(("store", format!("{samples} samples of at most {capacity}{per_class}, file of {file}")));
        let newest = store.newest_head.as_ref();
        lines.push(("newest head", newest.map_or("none yet; `edge-client run` gets the fleet's".into(), render_head)));
        lines.push(("pending", store.pending_update.as_ref().map_or("nothing to deliver".into(), render_pending)));
    } else if status.problems.is_empty() {
        lines.push(("store", "none yet; run `edge-client ingest DIR`".into()));
    }
    lines.push(("running", status.running.as_ref().map_or("never ran here".into(), render_running)));
    if let Some(figures) = status.running.as_ref().and_then(|running| running.liveness.predictions) {
        lines.push(("predictions", render_predictions(figures)));
    }
    for OfSource { source, passed_over } in &status.passed_over {
        let sentences = passed_over.iter().map(|aside| ("passed over", format!("in {source}, {}", aside.sentence)));
        lines.extend(sentences);
    }
    if let Some(bytes) = status.resident_bytes {
        lines.push(("this command", format!("{} resident", mebibytes(bytes))));
    }
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:12}  {value}");
    }
    if let Some(store) = &status.store {
        render_classes(store, &mut text);
    }
    text
}

fn render_extractor(extractor: &Extractor) -> String {
    let Extractor { name, sha256, features } = extractor;
    format!("{name}, {features} features, sha256 {}", short(sha256))
}

fn render_head(origin: &Origin) -> String {
    let digest = short(&origin.sha256);
    if origin.run == LOCAL_RUN {
        return format!("made by this device (`train --save`), {digest}");
    }
    let rounds = if origin.round == 1 { "round" } else { "rounds" };
    format!("after {} {rounds} of run {:016x}, {digest}", origin.round, origin.run)
}

fn render_running(running: &Running) -> String {
    let Liveness { pid, state, round, refused, delivered, ignored, resident_bytes, peak_bytes, .. } = &running.liveness;
    let seen = running.seen_seconds_ago;
    let mut line = match (state, running.alive) {
        (Phase::Stopped, _) => format!("no, stopped {seen} s ago"),
        (_, true) => format!("yes (pid {pid}): {}", running.liveness.line()),
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

fn render_predictions(figures: Figures) -> String {
    let Figures { published, waiting, dropped, unusable } = figures;
    let mut line = format!("{published} published, {waiting} waiting");
    for (count, what) in [(dropped, "dropped from a full queue"), (unusable, "images could not be used")] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

fn render_pending(pending: &Pending) -> String {
    let Origin { run, round, sha256 } = &pending.origin;
    let digest = short(sha256);
    format!("an update of {} bytes waits for its receipt: round {round} of run {run:016x}, {digest}", pending.bytes)
}

fn render_classes(store: &Contents, text: &mut String) {
    let by_class: Vec<(&str, u32)> = store.by_class.iter().map(|each| (each.class.as_str(), each.samples)).collect();
    text.push_str(&histogram(&by_class, Style::of_output()));
    if let Some(ratio) = store.imbalance_ratio {
        let _ = write!(text, "imbalance ratio {ratio:.1} (largest class over smallest)");
        match store.classes_without_samples {
            0 => {}
            1 => text.push_str(", 1 class has no samples"),
            several => {
                let _ = write!(text, ", {several} classes have no samples");
            }
        }
        text.push('\n');
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
