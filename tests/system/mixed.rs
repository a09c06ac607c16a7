//! Fleets with a device of another architecture: what it contributes must be what a device of this one would.

use std::ffi::OsString;

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
    /// Of them, those with the same heads, bit for bit, in both runs.
    pub equal_rounds: usize,
    /// Of the run whose devices are all of this architecture.
    pub own_seconds: f64,
    /// Of the run with the other device.
    pub mixed_seconds: f64,
}

/// Runs every method with three devices of this architecture, then with one of them replaced by `other`, a program with
/// its first arguments: it takes in its own images, extracts their features, trains, and sends.
pub fn compare(other: &[OsString], rounds: usize, tell: &mut dyn FnMut(&Outcome)) -> Vec<Outcome> {
    let outcome = |method: Method| {
        let began = now();
        let own = heads(&[], rounds, method);
        let between = now();
        let mixed = heads(other, rounds, method);
        let outcome = Outcome {
            method: method.name().to_owned(),
            rounds: own.len(),
            equal_rounds: own.iter().zip(&mixed).filter(|(own, mixed)| own == mixed).count(),
            own_seconds: (between - began).as_secs_f64(),
            mixed_seconds: (now() - between).as_secs_f64(),
        };
        tell(&outcome);
        outcome
    };
    METHODS.into_iter().map(outcome).collect()
}

/// The digests of the heads after every round of one run, in which the first device is `other` if there is one.
fn heads(other: &[OsString], rounds: usize, method: Method) -> Vec<Value> {
    let broker = Broker::start();
    let address = broker.address().to_string();
    let aggregator = fleet::aggregator(Some(&address), DEVICES, rounds, method);
    let mut serving = aggregator.start("aggregator", &["serve", "--until-finished"]);
    serving.line("connected to the broker");
    let place = |number| if number == 0 { Workplace::default().with_device(other) } else { Workplace::default() };
    let devices: Vec<Workplace> =
        (0..DEVICES).map(|number| fleet::device_in(place(number), number, &address)).collect();
    let running: Vec<Running> =
        devices.iter().map(|device| device.start("edge-client", &["run", "--until-finished"])).collect();
    for program in running.into_iter().chain([serving]) {
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
    fleet::rounds(&aggregator).iter().map(|round| round["heads"].clone()).collect()
}
