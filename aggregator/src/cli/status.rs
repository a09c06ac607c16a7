//! `aggregator status`: everything about a fleet at a glance, without touching anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use grapevine_aggregator::store::{Records, RoundPhase, is_in_use};
use grapevine_host::clock::unix_ms;
use grapevine_host::files::folder_bytes;
use serde::Serialize;

use super::devices::is_present;
use super::gaps::Gaps;
use super::ledger::{Ledger, ROUND_COLUMNS, RoundSummary};
use super::live::{self, Live, Phase, RefusedDevice, WaitingFor};
use super::show::{ago, bytes, facts, some_of, table};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator status
  watch aggregator status
  aggregator status --json | jq .process.resident_bytes

Reads only, also beside `aggregator serve`. Exit code 1 if a person must look at something: nobody serves a run that is
not over, the broker refuses the aggregator or drops its messages, another aggregator serves the same fleet, the disk is
full, the newest round was abandoned, or devices are refused or quarantined. Each is said in a sentence.";

/// The note of a round that changed nothing because nothing was left to change.
const UNCHANGED: &str = "unchanged";
/// With so few devices one of them may well hold most samples.
const FEW_DEVICES: usize = 3;
/// Rounds that are shown.
const NEWEST: usize = 5;
/// A serving process that said nothing for so long does not go on.
const SILENCE_MS: u64 = 120_000;
/// A refused device counts as long as it said hello within this time.
const REFUSED_MS: u64 = 600_000;
/// Refused devices that are said, each in a sentence.
const MOST_REFUSED: usize = 5;

/// Show the run, the open round, the devices, and what the serving process takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print all of it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    fleet: String,
    run: Run,
    /// Whether a process serves from this folder now.
    serving: bool,
    phase: Phase,
    /// The open round.
    open_round: Option<RoundSummary>,
    /// What the newest head cannot tell.
    gaps: Option<Gaps>,
    /// The newest rounds, oldest first.
    rounds: Vec<RoundSummary>,
    rounds_merged: usize,
    rounds_abandoned: usize,
    devices: Devices,
    refusals: BTreeMap<String, u64>,
    /// What the serving process told last.
    process: Option<Live>,
    state: PathBuf,
    state_bytes: u64,
    /// What a person must look at, a sentence each.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Run {
    /// 16 hexadecimal digits.
    run: String,
    method: String,
    classes: u64,
    features: u64,
    seed: u64,
    created_ms: u64,
}

#[derive(Serialize)]
struct Devices {
    known: usize,
    present: usize,
    /// Their names.
    quarantined: Vec<String>,
    samples: u64,
    bytes_received: u64,
    /// A device that says it holds more samples than all others together, where there are several others.
    outweighing: Option<String>,
}

pub(super) fn status(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let config = common.configuration()?;
    let now_ms = unix_ms();
    let status = Status::read(&config.state, &config.classes, now_ms)?;
    let answer = Answer::of(&status, arguments.json, |status| render(status, now_ms))?;
    Ok(Answer { code: u8::from(!status.problems.is_empty()), complaints: status.problems, ..answer })
}

impl Status {
    fn read(state: &Path, classes: &[String], now_ms: u64) -> anyhow::Result<Self> {
        let serving = is_in_use(state);
        let ledger = Ledger::open(state)?;
        let run_name = ledger.run_name();
        let process = live::read(state).filter(|live| live.run == run_name);
        let count = |phase| ledger.rounds.iter().filter(|round| round.phase == phase).count();
        let newest = ledger.rounds.len().saturating_sub(NEWEST);
        let open_round = ledger.open_round().map(Ledger::summary);
        let mut status = Self {
            fleet: ledger.run.fleet.clone(),
            phase: phase(&ledger, process.as_ref().filter(|_| serving), serving),
            open_round,
            gaps: ledger.gaps(classes)?,
            rounds: ledger.rounds[newest..].iter().map(Ledger::summary).collect(),
            rounds_merged: count(RoundPhase::Merged),
            rounds_abandoned: count(RoundPhase::Abandoned),
            devices: devices(&*ledger.store, process.as_ref().filter(|_| serving), serving)?,
            refusals: ledger.store.refusals()?,
            run: Run {
                run: run_name,
                method: ledger.setting("/params/method").unwrap_or("unknown").to_owned(),
                classes: ledger.number("/shape/classes"),
                features: ledger.number("/shape/features"),
                seed: ledger.run.seed,
                created_ms: ledger.run.created_ms,
            },
            serving,
            process,
            state: state.to_owned(),
            state_bytes: folder_bytes(state),
            problems: Vec::new(),
        };
        status.problems = problems(&status, now_ms);
        Ok(status)
    }
}

/// What a person must look at.
fn problems(status: &Status, now_ms: u64) -> Vec<String> {
    let mut problems = Vec::new();
    if !status.serving && status.phase != Phase::Finished {
        let since = status.process.as_ref().map(|live| format!(" ({})", left(live, now_ms))).unwrap_or_default();
        problems
            .push(format!("nobody serves this fleet{since}; start `aggregator serve`, which goes on where it stopped"));
    }
    if let Some(live) = status.process.as_ref().filter(|_| status.serving) {
        let silent_s = now_ms.saturating_sub(live.seen_ms) / 1_000;
        if silent_s * 1_000 > SILENCE_MS {
            problems.push(format!("the serving process (pid {}) wrote no status for {silent_s} s: it hangs, or the clock was set; see its log", live.pid));
        }
        problems.extend(live.troubles.iter().cloned());
        if live.disk_full {
            let state = status.state.display();
            problems.push(format!("the disk of {state} is full; make room, the round goes on by itself"));
        }
        let recent = |device: &&RefusedDevice| device.seen_ms + REFUSED_MS > now_ms;
        let refused: Vec<&RefusedDevice> = live.refused_devices.iter().filter(recent).collect();
        problems.extend(refused.iter().take(MOST_REFUSED).map(|refused| {
            let RefusedDevice { device, reason, advice, .. } = refused;
            format!("the device {device} is refused ({reason}); on the device: {advice}")
        }));
        if let more @ 1.. = refused.len().saturating_sub(MOST_REFUSED) {
            problems.push(format!("{more} more devices are refused; `aggregator devices` lists them"));
        }
    }
    if matches!(status.phase, Phase::Finished | Phase::Resting) {
        problems.extend(status.gaps.as_ref().and_then(Gaps::sentence));
        let newest = status.rounds.iter().rev().find(|round| round.phase == RoundPhase::Merged);
        problems.extend(newest.and_then(|round| round.note.clone()).filter(|note| note != UNCHANGED));
    }
    problems.extend(status.devices.outweighing.as_ref().map(|device| {
        format!(
            "{device} says that it holds more samples than all other devices together, so the head is mostly its own; look \
             at it with `aggregator devices`, or lower `limits.max_samples`"
        )
    }));
    if let quarantined @ [first, ..] = status.devices.quarantined.as_slice() {
        let count = quarantined.len();
        let devices = if count == 1 { "device is" } else { "devices are" };
        problems.push(format!(
            "{count} {devices} quarantined: {}; `aggregator devices --sort state` says why, and once it is mended \
             `aggregator release {first}` lets a device in again",
            some_of(quarantined)
        ));
    }
    let closed = status.rounds.iter().rev().find(|round| round.phase != RoundPhase::Collecting);
    if let Some(RoundSummary { round, updates, expected, phase: RoundPhase::Abandoned, .. }) = closed {
        problems.push(format!(
            "round {round} was abandoned with {updates} of {expected} updates; `aggregator devices --sort seen` shows who is gone"
        ));
    }
    problems
}

/// A process that serves knows best: the ledger of a run that was over and goes on says so with its next round.
fn phase(ledger: &Ledger, live: Option<&Live>, serving: bool) -> Phase {
    match ledger.open_round() {
        Some(_) => Phase::Collecting,
        None if live.is_some_and(|live| live.phase == Phase::Waiting) => Phase::Waiting,
        None if ledger.run.finished => Phase::Finished,
        None if live.is_some_and(|live| serving && live.phase == Phase::Resting) => Phase::Resting,
        None if serving => Phase::Waiting,
        None => Phase::Stopped,
    }
}

/// The serving process knows who is there; the ledger hears of it once per round.
fn devices(store: &dyn Records, live: Option<&Live>, serving: bool) -> anyhow::Result<Devices> {
    let rows = store.devices()?;
    let present = rows.iter().filter(|row| is_present(row, serving)).count();
    let all: u64 = rows.iter().map(|row| u64::from(row.samples)).sum();
    let outweighing = rows.iter().find(|row| rows.len() > FEW_DEVICES && 2 * u64::from(row.samples) > all);
    Ok(Devices {
        outweighing: outweighing.map(|row| row.device.to_string()),
        known: rows.len(),
        present: live.map_or(present, |live| live.devices_present),
        quarantined: rows.iter().filter(|row| row.quarantined.is_some()).map(|row| row.device.to_string()).collect(),
        samples: all,
        bytes_received: rows.iter().map(|row| row.bytes_up).sum(),
    })
}

fn render(status: &Status, now_ms: u64) -> String {
    let Run { run, method, classes, features, created_ms, .. } = &status.run;
    let mut lines = vec![
        ("fleet", status.fleet.clone()),
        (
            "run",
            format!("{run}, {method}, {classes} classes of {features} features, begun {}", ago(now_ms, *created_ms)),
        ),
        ("serving", render_serving(status, now_ms)),
        ("now", render_phase(status, now_ms)),
    ];
    let Devices { known, present, quarantined, samples, bytes_received, .. } = &status.devices;
    let sizes = format!("{samples} samples, {} received", bytes(*bytes_received));
    let quarantined = match quarantined.len() {
        0 => String::new(),
        count => format!(", {count} quarantined ({})", some_of(quarantined)),
    };
    lines.push(("devices", format!("{present} present of {known} known{quarantined}, {sizes}")));
    lines.extend(status.gaps.as_ref().and_then(Gaps::sentence).map(|sentence| ("head", sentence)));
    let newest = status.rounds.iter().rev().find(|round| round.phase != RoundPhase::Collecting);
    lines.extend(newest.and_then(|round| round.note.clone()).map(|note| ("note", note)));
    lines.push(("rounds", format!("{} merged, {} abandoned", status.rounds_merged, status.rounds_abandoned)));
    if let Some(Live { resident_bytes: Some(resident), peak_bytes: Some(peak), .. }) = status.process {
        lines.push(("memory", format!("{} (peak {})", bytes(resident), bytes(peak))));
    }
    if let Some(Live { sent_bytes, received_bytes, .. }) = status.process {
        lines.push((
            "traffic",
            format!("{} sent, {} received since the start", bytes(sent_bytes), bytes(received_bytes)),
        ));
    }
    lines.push(("state", format!("{} in {}", bytes(status.state_bytes), status.state.display())));
    let refusals: Vec<String> = status.refusals.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    lines.push(("refused", if refusals.is_empty() { "nothing".into() } else { refusals.join(", ") }));
    let mut text = facts(&lines);
    if !status.rounds.is_empty() {
        text.push('\n');
        text += &table(&ROUND_COLUMNS, &status.rounds.iter().map(RoundSummary::cells).collect::<Vec<_>>());
    }
    text
}

fn render_round(round: &RoundSummary, live: Option<&Live>, now_ms: u64) -> String {
    let RoundSummary { round, task, updates, expected, chosen, extensions, .. } = round;
    let mut text = format!("round {round} ({task}) is open with {updates} of {expected} updates");
    if chosen > expected {
        text += &format!(", {chosen} devices chosen");
    }
    if *extensions > 0 {
        text += &format!(", extended {extensions} times");
    }
    match live {
        Some(Live { closes_ms: Some(closes_ms), .. }) => {
            let seconds = closes_ms.saturating_sub(now_ms) / 1_000;
            text += &format!(
                "; its deadline is in {seconds} s, and it closes earlier if every device that is there has answered"
            );
        }
        Some(Live { closes_ms: None, .. }) => {}
        None => text += "; it goes on with the next `aggregator serve`",
    }
    text
}

/// Which head the fleet uses while it rests, and since when.
fn render_rest(status: &Status, now_ms: u64) -> String {
    match status.rounds.iter().rev().find(|round| round.phase == RoundPhase::Merged) {
        Some(RoundSummary { round, opened_ms, seconds, .. }) => {
            let closed_ms = opened_ms + (1e3 * seconds.unwrap_or(0.0)) as u64;
            format!("resting since round {round} was merged {}; new devices or images wake it", ago(now_ms, closed_ms))
        }
        None => "resting".into(),
    }
}

fn render_serving(status: &Status, now_ms: u64) -> String {
    match (&status.process, status.serving) {
        (Some(live), true) => {
            let broker = if live.connected { "connected to" } else { "no connection to" };
            let started = ago(now_ms, live.started_ms);
            format!(
                "yes (pid {}), {broker} {}, started {started}, seen {}",
                live.pid,
                live.broker,
                ago(now_ms, live.seen_ms)
            )
        }
        (None, true) => "yes, just started".into(),
        (Some(live), false) => format!("no, {}", left(live, now_ms)),
        (None, false) => "no".into(),
    }
}

fn render_phase(status: &Status, now_ms: u64) -> String {
    if let Some(Live { disk_full: true, .. }) = status.process.as_ref().filter(|_| status.serving) {
        return "the disk is full: the round waits for room and loses nothing".into();
    }
    match (status.phase, &status.open_round) {
        (_, Some(round)) => render_round(round, status.process.as_ref().filter(|_| status.serving), now_ms),
        (Phase::Finished, None) => "all rounds are done".into(),
        (Phase::Resting, None) => render_rest(status, now_ms),
        (Phase::Waiting, None) => {
            let waiting = status.process.as_ref().and_then(|live| live.waiting.as_ref());
            waiting.map_or_else(|| "waiting for devices".into(), WaitingFor::sentence)
        }
        (Phase::Collecting | Phase::Stopped, None) => {
            "no rounds, because nobody serves; `aggregator serve` goes on".into()
        }
    }
}

/// How and when the process that served last ended.
fn left(live: &Live, now_ms: u64) -> String {
    let seen = ago(now_ms, live.seen_ms);
    if live.phase == Phase::Stopped { format!("stopped {seen}") } else { format!("killed, last seen {seen}") }
}
