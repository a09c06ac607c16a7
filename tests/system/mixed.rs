//! Fleets with a device of another architecture. What it trains must be what a device of this one would, bit for bit;
//! what it extracts may differ by what the runtime of extractors sums in another order.

use std::ffi::OsString;
use std::fs;

use grapevine_models::Method;
use serde::Serialize;
use serde_json::Value;

use crate::broker::Broker;
use crate::fleet::{self, DEVICES};
use crate::programs::{Running, Workplace, now};

/// With and without sums first, with and without prototypes.
const METHODS: [Method; 4] = [Method::FedAvg, Method::RedGrape, Method::RedGrapeLive, Method::RedGrapePlus];

/// One method's runs.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The method.
    pub method: String,
    /// Merges of a run.
    pub rounds: usize,
    /// Of them, those with the same heads, bit for bit, where the other device trains on features extracted here.
    pub equal_when_training: usize,
    /// The same, where it extracts them, too.
    pub equal_when_extracting: usize,
    /// The largest difference between the last heads then, as a part of the largest weight.
    pub difference: f64,
    /// Of the run whose devices are all of this architecture.
    pub own_seconds: f64,
    /// Of the run with the other device doing everything.
    pub mixed_seconds: f64,
}

/// What the first device of a fleet does with the other program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Training,
    Everything,
}

/// What a run ended with.
struct Run {
    /// The digests of the heads after every round.
    digests: Vec<Value>,
    /// The last head, `[class][feature]` and the bias behind it.
    last: Vec<f64>,
    seconds: f64,
}

/// Runs every method with three devices of this architecture, and again with one of them replaced by `other`, a program
/// with its first arguments: it trains and sends, and at last it takes in its own images and extracts their features, too.
pub fn compare(other: &[OsString], rounds: usize, tell: &mut dyn FnMut(&Outcome)) -> Vec<Outcome> {
    let outcome = |method: Method| {
        let [own, training, everything] =
            [Part::Nothing, Part::Training, Part::Everything].map(|part| run(other, part, rounds, method));
        let equal = |run: &Run| own.digests.iter().zip(&run.digests).filter(|(own, other)| own == other).count();
        let outcome = Outcome {
            method: method.name().to_owned(),
            rounds: own.digests.len(),
            equal_when_training: equal(&training),
            equal_when_extracting: equal(&everything),
            difference: difference(&own.last, &everything.last),
            own_seconds: own.seconds,
            mixed_seconds: everything.seconds,
        };
        tell(&outcome);
        outcome
    };
    METHODS.into_iter().map(outcome).collect()
}

fn run(other: &[OsString], part: Part, rounds: usize, method: Method) -> Run {
    let began = now();
    let broker = Broker::start();
    let address = broker.address().to_string();
    let aggregator = fleet::aggregator(Some(&address), DEVICES, rounds, method);
    let mut serving = aggregator.start("aggregator", &["serve", "--until-finished"]);
    serving.line("connected to the broker");
    let device = |number| {
        let place = Workplace::default();
        match part {
            Part::Training if number == 0 => fleet::device_in(place, number, &address).with_device(other),
            Part::Everything if number == 0 => fleet::device_in(place.with_device(other), number, &address),
            Part::Nothing | Part::Training | Part::Everything => fleet::device_in(place, number, &address),
        }
    };
    let devices: Vec<Workplace> = (0..DEVICES).map(device).collect();
    let running: Vec<Running> =
        devices.iter().map(|device| device.start("edge-client", &["run", "--until-finished"])).collect();
    for program in running.into_iter().chain([serving]) {
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
    let digests = fleet::rounds(&aggregator).iter().map(|round| round["heads"].clone()).collect();
    Run { digests, last: last_head(&aggregator), seconds: (now() - began).as_secs_f64() }
}

fn last_head(aggregator: &Workplace) -> Vec<f64> {
    aggregator.succeed("aggregator", &["export", "--output", "model.onnx", "--head-json", "head.json"]);
    let text = fs::read(aggregator.path("head.json")).expect("`export` wrote it");
    let head: Value = serde_json::from_slice(&text).expect("`export` writes JSON");
    let numbers = |row: &Value| row.as_array().expect("a row of numbers").iter().filter_map(Value::as_f64).collect();
    let rows = head["weight"].as_array().expect("a row for each class");
    rows.iter().chain([&head["bias"]]).flat_map::<Vec<f64>, _>(numbers).collect()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "heads of one fleet have one shape");
    let largest = a.iter().fold(0.0, |largest: f64, weight| largest.max(weight.abs()));
    a.iter().zip(b).fold(0.0, |largest: f64, (a, b)| largest.max((a - b).abs())) / largest
}
