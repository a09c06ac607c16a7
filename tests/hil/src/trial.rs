//! What is done with one board, phase by phase, and what must come of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use core::time::Duration;
use serde_json::Value;

use crate::board::{self, Answering, Board, Limits, Surroundings};
use crate::digits;
use crate::fleet::{FLEET, Fleet, ROUNDS, Tools, json};
use crate::inventory::Entry;
use crate::progress::Progress;
use crate::report::{BoardReport, Phase, UpdateAtCut};
use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit, now};

/// The round in which the power goes; the first is 0.
const CUT_ROUND: u32 = 1;
/// Rounds of `edge-client train` that are measured.
const MEASURED_ROUNDS: &str = "3";

/// What one board's trial needs.
pub(crate) struct Plan {
    /// The board.
    pub(crate) entry: Entry,
    /// Its program.
    pub(crate) program: PathBuf,
    /// Images on it; the companion has as many others.
    pub(crate) images: usize,
    /// What runs on this machine.
    pub(crate) tools: Tools,
    /// Where the board's files and logs go, and what it is made of.
    pub(crate) surroundings: Surroundings,
}

type Step<'a> = fn(&mut Trial<'a>) -> Result<String, Trouble>;

/// Runs every phase up to the first that fails. Nothing that it started is left when it returns.
pub(crate) fn run(plan: &Plan, progress: Progress) -> BoardReport {
    let name = &plan.entry.name;
    let mut trial = Trial::new(plan);
    for (phase, step) in Trial::PHASES {
        progress.say(name, &format!("{phase} ..."));
        let began = now();
        let result = step(&mut trial);
        let seconds = (now() - began).as_secs_f64();
        let failure = match result {
            Ok(outcome) => {
                progress.say(name, &format!("{phase}: {outcome} ({seconds:.1} s)"));
                None
            }
            Err(trouble) => {
                progress.say(name, &format!("{phase} FAILED after {seconds:.1} s: {trouble}"));
                Some(trouble.into())
            }
        };
        let has_failed = failure.is_some();
        trial.report.phases.push(Phase { name: phase, seconds, failure });
        if has_failed {
            return trial.report;
        }
    }
    trial.report.passed = true;
    trial.report
}

struct Trial<'a> {
    plan: &'a Plan,
    limits: Limits,
    interruption: &'a Interruption,
    board: Box<dyn Board>,
    fleet: Option<Fleet>,
    client: Option<Answering>,
    /// The board's undelivered update when its power went.
    pending: Option<Value>,
    report: BoardReport,
}

impl<'a> Trial<'a> {
    /// In this order. Each gives a sentence about what came of it.
    const PHASES: [(&'static str, Step<'a>); 8] = [
        ("fleet", Self::start_fleet),
        ("copy", Self::copy),
        ("boot", Self::boot),
        ("feed", Self::feed),
        ("first round", Self::first_round),
        ("power cut", Self::cut_power),
        ("boot again", Self::boot_again),
        ("last rounds", Self::last_rounds),
    ];

    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            limits: Limits { patience: plan.entry.patience },
            interruption: &plan.surroundings.interruption,
            board: board::open(&plan.entry, plan.surroundings.clone()),
            fleet: None,
            client: None,
            pending: None,
            report: BoardReport::new(&plan.entry),
        }
    }

    fn start_fleet(&mut self) -> Result<String, Trouble> {
        let Plan { images, tools, surroundings, .. } = self.plan;
        let fleet = Fleet::start(
            surroundings.folder.join("fleet"),
            tools.clone(),
            *images..2 * images,
            self.interruption.clone(),
        )?;
        let said = format!("broker on 127.0.0.1:{}, aggregator, and a companion with {images} images", fleet.port);
        self.fleet = Some(fleet);
        Ok(said)
    }

    fn copy(&mut self) -> Result<String, Trouble> {
        let Plan { program, images, tools, surroundings, .. } = self.plan;
        let payload = surroundings.folder.join("payload");
        fs::create_dir_all(&payload).map_err(|error| Trouble::file(&payload, "make", &error))?;
        let bytes = copy_file(program, &payload.join("edge-client"))?;
        let model = tools.extractor.with_extension("onnx");
        copy_file(&tools.extractor, &payload.join("digits.toml"))?;
        copy_file(&model, &payload.join("digits.onnx"))?;
        digits::write(&payload.join("images"), 0..*images)?;
        self.report.figures.program_bytes = Some(bytes);
        self.board.load(&payload)?;
        Ok(format!("a program of {bytes} bytes, the extractor and {images} images"))
    }

    fn boot(&mut self) -> Result<String, Trouble> {
        self.board.power_on()?;
        let version = self.succeed("./edge-client --version")?;
        let (broker, name) = (self.board.broker(self.fleet().port), &self.plan.entry.name);
        let classes = digits::class_names();
        self.succeed(&format!(
            "./edge-client init --force --fleet {FLEET} --device {name} --broker {broker} --extractor digits.toml \
             --classes {classes}"
        ))?;
        Ok(format!("answers, runs {version}"))
    }

    fn feed(&mut self) -> Result<String, Trouble> {
        // The peak of a process that has ended is nowhere, so it is read again and again while it is there.
        let said = self.succeed(
            "./edge-client ingest images --json >ingest.json 2>ingest.log & p=$!; \
             while grep VmHWM /proc/$p/status 2>/dev/null; do sleep 0.1; done | tail -n 1; \
             wait $p; code=$?; cat ingest.log ingest.json; exit $code",
        )?;
        let ingested = json(&said)?;
        let (added, seconds) = (ingested["added"].as_u64(), ingested["seconds"].as_f64());
        if added != u64::try_from(self.plan.images).ok() {
            return Err(Trouble::Board(format!("not all images were stored: {ingested}")));
        }
        let ms_per_image = seconds.map(|seconds| seconds * 1e3 / self.plan.images as f64);
        let trained = json(&self.succeed(&format!("./edge-client train --rounds {MEASURED_ROUNDS} --json"))?)?;
        let figures = &mut self.report.figures;
        figures.ms_per_image = ms_per_image;
        figures.ingest_peak_bytes = peak(&said);
        figures.ms_per_local_round = trained["ms_per_round"].as_f64();
        let shown = |value: Option<f64>| value.map_or("?".into(), |value| format!("{value:.1} ms"));
        Ok(format!("{} per image, {} per local round", shown(ms_per_image), shown(figures.ms_per_local_round)))
    }

    fn first_round(&mut self) -> Result<String, Trouble> {
        let (first, cut) = (self.limits.seconds(300), format!("round began round={CUT_ROUND}"));
        self.start_client()?;
        self.hear("the aggregator knows this device", "the aggregator's welcome", first)?;
        self.fleet.as_mut().expect("it was started").start_companion()?;
        self.fleet().hold_companion_after_its_first_update(first)?;
        self.hear(&cut, "the second round", first)?;
        // From here on nobody hears the board, so its update must stay in its outbox.
        self.fleet().hold_aggregator()?;
        Ok("merged with the companion's; the second one is open".into())
    }

    fn cut_power(&mut self) -> Result<String, Trouble> {
        let limit = Limit {
            what: "the second round's update",
            time: self.limits.seconds(300),
            advice: "read the board's console",
        };
        let delivered = format!("update delivered round={CUT_ROUND}");
        let interruption = self.interruption;
        let found = limit.until(interruption, || {
            if self.client.as_ref().is_some_and(|client| client.has_said(&delivered)) {
                return Ok(Some(None));
            }
            let pending = self.status()?["store"]["pending_update"].take();
            Ok((!pending.is_null()).then_some(Some(pending)))
        })?;
        self.board.cut_power()?;
        self.client = None;
        let status = self.fleet().aggregator_says("status")?;
        if status["open_round"]["round"] != CUT_ROUND {
            return Err(Trouble::Disproven(format!("the second round was over before the power went: {status}")));
        }
        let (update, said) = match &found {
            Some(_) => (UpdateAtCut::InTheOutbox, "the update lay in the outbox, undelivered"),
            None => (UpdateAtCut::Delivered, "the update was delivered just before"),
        };
        self.pending = found;
        self.report.figures.update_at_cut = Some(update);
        Ok(format!("in the open second round; {said}"))
    }

    fn boot_again(&mut self) -> Result<String, Trouble> {
        let began = now();
        self.board.power_on()?;
        let booted = now() - began;
        // Only what writes the store repairs it after a cut, so the client starts first. The aggregator still hears
        // nobody, so what was not delivered before the cut must be there.
        let restarted = now();
        self.start_client()?;
        self.hear("connected to the broker", "the connection to the broker", self.limits.seconds(120))?;
        let connected = elapsed(restarted);
        let survived = self.check_disk()?;
        let released = now();
        self.fleet().release_aggregator()?;
        self.hear("the aggregator knows this device", "the aggregator's second welcome", self.limits.seconds(120))?;
        let ready = booted + connected + elapsed(released);
        self.report.figures.boot_ms = Some(milliseconds(booted));
        self.report.figures.boot_to_ready_ms = Some(milliseconds(ready));
        let (booted, ready) = (booted.as_secs_f64(), ready.as_secs_f64());
        Ok(format!("booted in {booted:.1} s, ready after {ready:.1} s; {survived} as before the cut"))
    }

    /// What lay on the board's disk when its power went must be there.
    fn check_disk(&mut self) -> Result<&'static str, Trouble> {
        let mut status = self.status()?;
        let (samples, images) = (status["store"]["samples"].as_u64(), self.plan.images);
        if samples != u64::try_from(images).ok() {
            return Err(Trouble::Disproven(format!("{images} images were stored before the cut, but now: {status}")));
        }
        let pending = status["store"]["pending_update"].take();
        match &self.pending {
            None => Ok("samples"),
            Some(before) if *before == pending => Ok("samples and outbox"),
            Some(before) => {
                let message = format!("the update in the outbox did not survive: {before} before, {pending} now");
                Err(Trouble::Disproven(message))
            }
        }
    }

    fn last_rounds(&mut self) -> Result<String, Trouble> {
        self.fleet().release_companion()?;
        let time = self.limits.seconds(300);
        let limit = Limit { what: "the end of the run", time, advice: "read the board's console and aggregator.log" };
        let client = self.client.take().expect("it was started");
        client.end(&limit, self.interruption)?.success("./edge-client run")?;
        self.fleet.as_mut().expect("it was started").end_companion(time)?;
        self.compare_heads()
    }

    fn compare_heads(&mut self) -> Result<String, Trouble> {
        let status = self.status()?;
        let rounds = self.fleet().aggregator_says("rounds")?;
        let devices = self.fleet().aggregator_says("devices")?;
        let rounds = rounds.as_array().map(Vec::as_slice).unwrap_or_default();
        let is_merged = |round: &&Value| round["phase"] == "merged" && round["updates"] == 2;
        let merged = rounds.iter().filter(is_merged).count();
        let name = self.plan.entry.name.as_str();
        let device = devices.as_array().into_iter().flatten().find(|device| device["device"] == name);
        let device = device.ok_or_else(|| Trouble::Board(format!("the aggregator knows no {name}: {devices}")))?;
        let digest = |value: &Value| value.as_str().map(str::to_owned);
        let head = &status["store"]["newest_head"];
        let figures = &mut self.report.figures;
        figures.run_peak_bytes = status["running"]["peak_bytes"].as_u64();
        figures.bytes_up = device["bytes_up"].as_u64();
        figures.bytes_down = device["bytes_down"].as_u64();
        figures.head = digest(&head["sha256"]);
        figures.fleet_head = rounds.last().and_then(|round| digest(&round["heads"]));
        if u32::try_from(merged) != Ok(ROUNDS) || rounds.len() != merged {
            return Err(Trouble::Disproven(format!("not {ROUNDS} merged rounds of two updates: {rounds:?}")));
        }
        match (&figures.head, &figures.fleet_head) {
            (Some(head), Some(fleet)) if head == fleet => Ok(format!("the board has the fleet's head {}", &head[..16])),
            (head, fleet) => Err(Trouble::Disproven(format!("the board's head is {head:?}, the fleet's {fleet:?}"))),
        }
    }

    fn fleet(&self) -> &Fleet {
        self.fleet.as_ref().expect("the first phase started it")
    }

    fn start_client(&mut self) -> Result<(), Trouble> {
        let run = "GRAPEVINE_MQTT__LONGEST_PAUSE=2s NO_COLOR=1 ./edge-client run --until-finished -v";
        let port = self.fleet().port;
        self.client = Some(self.board.start(&format!("cd {} && {run}", self.board.folder()), Some(port))?);
        Ok(())
    }

    /// Waits until the board's client says so.
    fn hear(&self, part: &str, what: &str, time: Duration) -> Result<(), Trouble> {
        let limit = Limit { what, time, advice: "read the board's console" };
        let client = self.client.as_ref().expect("it was started");
        client.line(part, &limit, self.interruption).map(drop)
    }

    fn status(&mut self) -> Result<Value, Trouble> {
        // Exit code 1 says that a person must look at something, as after a power cut.
        json(&self.succeed("./edge-client status --json || [ $? = 1 ]")?)
    }

    /// What a command on the board says, which must succeed.
    fn succeed(&mut self, command: &str) -> Result<String, Trouble> {
        let advice = "read the board's console";
        let limit = Limit { what: "the end of a command on the board", time: self.limits.seconds(600), advice };
        let whole = format!("cd {} && {{ {command}; }}", self.board.folder());
        self.board.start(&whole, None)?.end(&limit, self.interruption)?.success(command)
    }
}

/// The peak in a line of `/proc/PID/status`.
fn peak(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn copy_file(from: &Path, to: &Path) -> Result<u64, Trouble> {
    fs::copy(from, to).map_err(|error| Trouble::file(from, "copy", &error))
}

fn elapsed(since: Instant) -> Duration {
    now() - since
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_off_the_kernels_line() {
        assert_eq!(peak("VmHWM:\t   12345 kB\n{}"), Some(12345 << 10));
        assert_eq!(peak("{}"), None);
    }
}
