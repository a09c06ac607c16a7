//! The shipped programs, killed at random moments and started again, over and over: run after run must end with the
//! heads of a run in which nothing happens, and nobody lends a hand.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use grapevine_models::Method;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

use crate::broker::Broker;
use crate::fleet::{self, DEVICES};
use crate::programs::{PATIENCE, Running, Workplace, now};

/// The methods of the runs, in turn: with and without sums first, with and without prototypes.
const METHODS: [Method; 4] = [Method::RedGrape, Method::RedGrapeLive, Method::LogitAdjusted, Method::RedGrapePlus];
const AGGREGATOR: &str = "aggregator";
const SERVE: [&str; 2] = ["serve", "-v"];
const RUN: [&str; 2] = ["run", "-v"];

/// What is to be done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Kills {
    /// Kills of the aggregator.
    pub aggregator: u32,
    /// Kills of devices.
    pub devices: u32,
    /// Rounds of training of every run.
    pub rounds: usize,
    /// Decides victims and moments.
    pub seed: u64,
}

/// One kill.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// Its number, from 1 on.
    pub number: u32,
    /// The run that it fell into, from 1 on.
    pub run: usize,
    /// The program.
    pub victim: String,
    /// How long after the kill before it.
    pub after_ms: u64,
    /// What the victim had said last.
    pub after_saying: String,
}

/// What came of it. Every run ended with the right heads, or there would be no report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was done.
    #[serde(flatten)]
    pub kills: Kills,
    /// The broker.
    pub broker: &'static str,
    /// Runs, each with the heads of a run in which nothing happens after every round.
    pub runs: usize,
    /// Kills of the aggregator by what it had said last.
    pub aggregator_moments: BTreeMap<String, u32>,
    /// Kills of devices by what they had said last.
    pub device_moments: BTreeMap<String, u32>,
    /// Of all runs with kills.
    pub seconds: f64,
}

/// Kills as often as it is asked for, and tells each kill.
pub fn kill(kills: Kills, tell: &mut dyn FnMut(&Kill)) -> Report {
    let broker = Broker::start();
    let mut killer = Killer::new(kills, broker.address().to_string());
    let needed = METHODS.len().min((kills.aggregator + kills.devices) as usize);
    let quiet: Vec<Quiet> = METHODS[..needed].iter().map(|&method| killer.quiet(method)).collect();
    let (began, mut runs) = (now(), 0);
    while killer.left != [0, 0] {
        let (method, quiet) = (METHODS[runs % METHODS.len()], &quiet[runs % METHODS.len()]);
        runs += 1;
        let learned = killer.run(runs, method, quiet.span, tell);
        assert_eq!(learned, quiet.learned, "seed {}, run {runs}, {method}: the kills changed the heads", kills.seed);
    }
    let moments = |is_aggregator: bool| {
        let mut moments = BTreeMap::new();
        for kill in killer.done.iter().filter(|kill| (kill.victim == AGGREGATOR) == is_aggregator) {
            *moments.entry(kill.after_saying.clone()).or_insert(0) += 1;
        }
        moments
    };
    Report {
        kills,
        broker: broker.name(),
        runs,
        aggregator_moments: moments(true),
        device_moments: moments(false),
        seconds: (now() - began).as_secs_f64(),
    }
}

/// The heads after every round, and the one that every device ended with.
#[derive(Debug, PartialEq, Eq)]
struct Learned {
    heads: Vec<Value>,
    newest: BTreeSet<String>,
}

/// A run in which nothing happens.
struct Quiet {
    learned: Learned,
    /// From the start of the aggregator to the third round or so: the moments of kills are spread over as much.
    span: Duration,
}

struct Killer {
    kills: Kills,
    rng: ChaCha8Rng,
    address: String,
    devices: Vec<Workplace>,
    running: Vec<Running>,
    /// Kills of the aggregator and of devices that are still to be done.
    left: [u32; 2],
    done: Vec<Kill>,
}

impl Killer {
    fn new(kills: Kills, address: String) -> Self {
        let devices: Vec<Workplace> = (0..DEVICES).map(|number| fleet::device(number, &address)).collect();
        let running = devices.iter().map(|device| device.start("edge-client", &RUN)).collect();
        let rng = ChaCha8Rng::seed_from_u64(kills.seed);
        Self { kills, rng, address, devices, running, left: [kills.aggregator, kills.devices], done: Vec::new() }
    }

    fn new_aggregator(&self, method: Method) -> Workplace {
        fleet::aggregator(Some(&self.address), DEVICES, self.kills.rounds, method)
    }

    fn quiet(&self, method: Method) -> Quiet {
        let place = self.new_aggregator(method);
        let began = now();
        let mut serving = place.start(AGGREGATOR, &SERVE);
        serving.line("round merged");
        let first = now() - began;
        serving.line(OVER);
        let each = (now() - began - first) / self.kills.rounds as u32;
        let learned = self.learned(&place);
        Quiet { learned, span: first + 2 * each }
    }

    /// One run with kills until it is over or none is left.
    fn run(&mut self, run: usize, method: Method, span: Duration, tell: &mut dyn FnMut(&Kill)) -> Learned {
        let place = self.new_aggregator(method);
        let mut serving = place.start(AGGREGATOR, &SERVE);
        let mut last = now();
        loop {
            let wait = if self.left == [0, 0] { PATIENCE } else { span.mul_f64(self.rng.random::<f64>()) };
            if serving.line_until(OVER, last + wait).is_some() {
                return self.learned(&place);
            }
            assert_ne!(self.left, [0, 0], "seed {}, run {run}, {method}: it does not end", self.kills.seed);
            let (victim, after_saying) = self.kill_one(&place, &mut serving);
            let moment = now();
            let after_ms = (moment - core::mem::replace(&mut last, moment)).as_millis() as u64;
            self.done.push(Kill { number: self.done.len() as u32 + 1, run, victim, after_ms, after_saying });
            tell(self.done.last().expect("one was just done"));
        }
    }

    /// Kills one program as a power cut would and starts it again; gives its name and what it had said last.
    fn kill_one(&mut self, place: &Workplace, serving: &mut Running) -> (String, String) {
        let [aggregator, devices] = &mut self.left;
        // In proportion to what is left to be done.
        let is_aggregator = self.rng.random_range(0..*aggregator + *devices) < *aggregator;
        let number = self.rng.random_range(0..DEVICES);
        let (left, name, running) = match is_aggregator {
            true => (aggregator, AGGREGATOR.to_owned(), serving),
            false => (devices, fleet::name(number), &mut self.running[number]),
        };
        *left -= 1;
        running.kill();
        let after_saying = running.last_line().map_or("nothing".into(), said);
        *running = match is_aggregator {
            true => place.start(AGGREGATOR, &SERVE),
            false => self.devices[number].start("edge-client", &RUN),
        };
        (name, after_saying)
    }

    /// What the fleet has learned in a run that is over, as soon as every device has its heads.
    fn learned(&self, place: &Workplace) -> Learned {
        let status = place.status(AGGREGATOR);
        let run = status["run"]["run"].as_str().and_then(|run| u64::from_str_radix(run, 16).ok()).expect("a run");
        let rounds = fleet::rounds(place);
        for round in &rounds {
            let whole = (Value::from("merged"), Value::from(DEVICES));
            assert_eq!((&round["phase"], &round["updates"]), (&whole.0, &whole.1), "{round}");
        }
        let deadline = now() + PATIENCE;
        let newest = self.devices.iter().map(|device| {
            loop {
                let status = device.status("edge-client");
                let newest = &status["store"]["newest_head"];
                if (&newest["run"], &newest["round"]) == (&run.into(), &rounds.len().into()) {
                    break newest["sha256"].clone();
                }
                assert!(now() < deadline, "a device never got the last heads of run {run}: {status}");
            }
        });
        let newest: BTreeSet<String> = newest.map(|digest| digest.to_string()).collect();
        assert_eq!(newest.len(), 1, "the devices ended with different heads");
        Learned { heads: rounds.iter().map(|round| round["heads"].clone()).collect(), newest }
    }
}

/// What an aggregator says when its run is over.
const OVER: &str = "all rounds are done";

/// The words of a line of the log, without its time, its place and its figures.
fn said(line: &str) -> String {
    let message = line.split_once(": ").map_or(line, |(_, message)| message);
    let words: Vec<&str> = message.split_whitespace().take_while(|word| !word.contains('=')).collect();
    words.join(" ")
}
