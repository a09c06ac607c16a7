//! The shipped programs for thousands of short rounds: what they take of memory and disk must not grow.

use core::time::Duration;
use grapevine_host::files::folder_bytes;
use grapevine_host::memory;
use grapevine_models::Method;
use serde::Serialize;

use crate::broker::Broker;
use crate::fleet;
use crate::programs::{PATIENCE, Running, Workplace, now};

/// What is to be done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Soak {
    /// Rounds of training.
    pub rounds: usize,
    /// Rounds after which everything is as large as it is going to be.
    pub warm_up: usize,
    /// Devices of the fleet.
    pub devices: usize,
}

/// What a program takes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Taken {
    /// Most bytes in memory at the end of a round.
    pub resident_bytes: u64,
    /// Bytes of the files in its state folder.
    pub state_bytes: u64,
}

/// The aggregator and the device that takes most.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Rounds that were merged.
    pub merged: usize,
    /// The aggregator.
    pub aggregator: Taken,
    /// The largest of the devices.
    pub device: Taken,
    /// Of a round, on average since the sample before.
    pub seconds_per_round: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was done.
    #[serde(flatten)]
    pub soak: Soak,
    /// The broker.
    pub broker: &'static str,
    /// After the warm-up.
    pub warm: Sample,
    /// At the end.
    pub last: Sample,
    /// By how much the aggregator's memory grew in between.
    pub aggregator_growth_bytes: i64,
    /// By how much a device's did.
    pub device_growth_bytes: i64,
}

/// Samples that are told of a run.
const SAMPLES: usize = 20;

/// Runs all rounds, and tells how things stand now and then.
pub fn soak(soak: Soak, tell: &mut dyn FnMut(&Sample)) -> Report {
    let broker = Broker::start();
    let address = broker.address().to_string();
    let aggregator = fleet::aggregator(Some(&address), soak.devices, soak.rounds, Method::FedAvg);
    let devices: Vec<Workplace> = (0..soak.devices).map(|number| fleet::device(number, &address)).collect();
    let mut serving = aggregator.start("aggregator", &["serve", "--until-finished"]);
    let running: Vec<Running> =
        devices.iter().map(|device| device.start("edge-client", &["run", "--until-finished"])).collect();
    let (mut began, mut since) = (now(), 0);
    let mut sample = Sample::default();
    let mut warm = None;
    for merged in 1..=soak.rounds {
        assert!(serving.line_until("round merged", now() + PATIENCE).is_some(), "round {merged} is never merged");
        serving.forget_lines();
        let resident = |id| memory::resident_bytes_of(id).expect("a running program on Linux");
        if merged < soak.rounds {
            let of_aggregator = &mut sample.aggregator.resident_bytes;
            *of_aggregator = resident(serving.id()).max(*of_aggregator);
            let of_device = &mut sample.device.resident_bytes;
            *of_device = running.iter().map(|device| resident(device.id())).fold(*of_device, Ord::max);
        }
        if merged == soak.warm_up || merged == soak.rounds || merged % soak.rounds.div_ceil(SAMPLES) == 0 {
            sample.merged = merged;
            sample.aggregator.state_bytes = folder_bytes(&aggregator.path("state"));
            sample.device.state_bytes =
                devices.iter().map(|device| folder_bytes(&device.path("state"))).max().unwrap_or(0);
            sample.seconds_per_round = per_round(now() - began, merged - since);
            tell(&sample);
            if merged >= soak.warm_up {
                warm.get_or_insert(sample);
            }
            if merged < soak.rounds {
                (began, since, sample) = (now(), merged, Sample::default());
            }
        }
    }
    for program in running.into_iter().chain([serving]) {
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
    let warm = warm.expect("the warm-up ends");
    let growth = |of: fn(&Sample) -> &Taken| of(&sample).resident_bytes as i64 - of(&warm).resident_bytes as i64;
    Report {
        soak,
        broker: broker.name(),
        warm,
        last: sample,
        aggregator_growth_bytes: growth(|sample| &sample.aggregator),
        device_growth_bytes: growth(|sample| &sample.device),
    }
}

fn per_round(time: Duration, rounds: usize) -> f64 {
    time.as_secs_f64() / rounds.max(1) as f64
}
