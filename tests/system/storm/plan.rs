//! What a seed decides before anything happens: the fleet, the run, the weather and the faults.

use core::time::Duration;
use std::sync::Arc;

use grapevine_aggregator::round::{Auxiliary, Participants, Quarantine, RoundConfig, Select};
use grapevine_models::{Init, Method, Params, Shape};
use grapevine_protocol::{AttributeValue, Attributes, Digest, Encoding, Refusal};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stimulus::{Fault, Forgery, Part};

/// What the network does to messages, each as a share of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Never arrive.
    pub loss: f64,
    /// Arrive a second time, some of them much later.
    pub duplication: f64,
    /// Are overtaken by later ones.
    pub reordering: f64,
}

impl Weather {
    /// Everything arrives once and in order.
    pub const CALM: Self = Self { loss: 0.0, duplication: 0.0, reordering: 0.0 };
    /// What the storm is judged by.
    pub const STORM: Self = Self { loss: 0.3, duplication: 0.3, reordering: 0.3 };
}

/// Everything that is fixed before the first step.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What all of it, and everything that follows, comes from.
    pub seed: u64,
    /// The run.
    pub round: RoundConfig,
    /// Samples that each device holds when it starts; one that holds none gets its samples later.
    pub samples: Vec<u16>,
    /// What each device says about itself, by turns from start to start; nothing for those beyond the end.
    pub labels: Vec<[Attributes; 2]>,
    /// Until [`Plan::calm_at`]; everything arrives after that.
    pub weather: Weather,
    /// Faults, each at its time.
    pub faults: Vec<(Duration, Fault)>,
    /// When the network and all parts are healed.
    pub calm_at: Duration,
    /// Longest that a device works on a round.
    pub longest_work: Duration,
    /// Merged rounds whose heads stay on the aggregator's disk.
    pub kept_heads: u32,
    /// The aggregator's disk acknowledges a write before it is durable. Nothing can stand that, so it must be found out.
    pub disk_lies: bool,
}

/// Longest time of bad weather.
const LONGEST_STORM_S: u64 = 240;
/// One seed of so many has blobs of several blocks: they cost most of the time.
const LARGE_ONE_OF: u32 = 16;

/// Between them they use every kind of update, side information and server state.
const METHODS: [Method; 11] = [
    Method::FedAvg,
    Method::FedAvg,
    Method::Climb,
    Method::Creff,
    Method::LogitAdjusted,
    Method::RatioLoss,
    Method::RedGrape,
    Method::RedGrapeLive,
    Method::RedGrapePlus,
    Method::Lda,
    Method::Scaffold,
];

/// Methods whose blobs grow with the head alone.
const LARGE_METHODS: [Method; 2] = [Method::FedAvg, Method::RedGrapeLive];

impl Plan {
    /// The plan of a seed under this weather.
    pub fn of(seed: u64, weather: Weather) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let devices = rng.random_range(2..=6_usize);
        let is_large = rng.random_ratio(1, LARGE_ONE_OF);
        let mut round = round(&mut rng, devices, is_large);
        let mut samples: Vec<u16> = (0..devices).map(|_| rng.random_range(3..16)).collect();
        if devices > round.min_devices && rng.random_ratio(1, 4) {
            samples[0] = 0;
        }
        let calm_at = Duration::from_secs(rng.random_range(30..LONGEST_STORM_S));
        let faults = faults(&mut rng, devices as u32, calm_at);
        let labels = labels(&mut rng, &mut round, &samples);
        // A fleet that never is in time never comes to an end.
        let longest_work = round.deadline.mul_f64(rng.random_range(0.01..0.7));
        let kept_heads = rng.random_range(1..4);
        Self { seed, round, samples, labels, weather, faults, calm_at, longest_work, kept_heads, disk_lies: false }
    }

    /// A fleet on which nothing ever fails.
    pub fn calm(seed: u64, devices: usize, shape: Shape, rounds: u32) -> Self {
        let params = Params { epochs: 1, batch: 8, ..Params::defaults(Method::FedAvg, shape.classes()) };
        let round = RoundConfig {
            min_devices: devices,
            rounds: Some(rounds),
            quorum: 1.0,
            deadline: Duration::from_secs(600),
            ..config(shape, params, seed)
        };
        Self {
            seed,
            round,
            samples: vec![8; devices],
            labels: Vec::new(),
            weather: Weather::CALM,
            faults: Vec::new(),
            calm_at: Duration::ZERO,
            longest_work: Duration::from_secs(1),
            kept_heads: 10,
            disk_lies: false,
        }
    }
}

fn config(shape: Shape, params: Params, seed: u64) -> RoundConfig {
    RoundConfig {
        shape,
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: params.check().expect("every plan has valid parameters"),
        rounds: Some(1),
        rest_after: 1,
        news_after: Duration::ZERO,
        max_samples: 1_000,
        min_devices: 1,
        select: Select::default(),
        participants: Participants::All,
        over_select: 0.0,
        quorum: 1.0,
        deadline: Duration::from_secs(60),
        extensions: 1,
        quarantine: Quarantine::default(),
        encoding: Encoding::F32,
        seed,
        upload_bytes: 16 << 20,
        auxiliary: None,
    }
}

fn round(rng: &mut ChaCha8Rng, devices: usize, is_large: bool) -> RoundConfig {
    let methods: &[Method] = if is_large { &LARGE_METHODS } else { &METHODS };
    let method = methods[rng.random_range(0..methods.len())];
    let (classes, features) = if is_large {
        (rng.random_range(30..60), rng.random_range(600..900))
    } else {
        (rng.random_range(2..5), rng.random_range(1..6))
    };
    let shape = Shape::new(classes, features).expect("within the limits");
    let params = Params {
        epochs: 1,
        batch: 8,
        averaged: rng.random_bool(0.3),
        tau: if rng.random_bool(0.2) { -0.5 } else { 0.0 },
        init: if rng.random_bool(0.2) && !is_large { Init::Lda } else { Init::Zeros },
        ..Params::defaults(method, classes)
    };
    let params = quick(params);
    let extensions = rng.random_range(0..3);
    let quarantine = match rng.random_bool(0.5) {
        true => Quarantine { after: rng.random_range(1..3), reasons: [Refusal::Content, Refusal::Digest].into() },
        false => Quarantine::default(),
    };
    RoundConfig {
        quarantine,
        auxiliary: method.auxiliary().map(|per_class| Arc::new(auxiliary(shape, per_class))),
        rounds: if rng.random_bool(0.5) { Some(rng.random_range(1..5)) } else { None },
        rest_after: rng.random_range(1..5),
        news_after: Duration::from_secs(rng.random_range(0..40)),
        min_devices: rng.random_range(1..=devices),
        participants: match rng.random_range(0..4) {
            0 => Participants::Share(rng.random_range(0.1..1.0)),
            1 => Participants::Count(rng.random_range(1..=devices)),
            _ => Participants::All,
        },
        over_select: if rng.random_bool(0.5) { 0.5 } else { 0.0 },
        quorum: [0.3, 0.5, 0.8, 1.0][rng.random_range(0..4)],
        deadline: Duration::from_secs(rng.random_range(8..60)),
        extensions,
        encoding: [Encoding::F32, Encoding::F16, Encoding::Int8][rng.random_range(0..3)],
        // One large update at a time, or all of them.
        upload_bytes: if rng.random_bool(0.5) { 1 } else { 16 << 20 },
        ..config(shape, params, rng.next_u64())
    }
}

/// As little of what the aggregator does itself as shows that it does it.
fn quick(mut params: Params) -> Params {
    for (name, value) in [("features_per_class", 3.0), ("match_steps", 2.0), ("retrain_epochs", 2.0)] {
        // Only one method has them.
        params = params.with(name.parse().expect("a hyper-parameter"), value).unwrap_or(params);
    }
    params
}

/// In some fleets only devices on mains take part, and one of them is moved to a battery and back with every start.
fn labels(rng: &mut ChaCha8Rng, round: &mut RoundConfig, samples: &[u16]) -> Vec<[Attributes; 2]> {
    let mains = |is_on| {
        let mut labels = Attributes::default();
        labels.insert("mains", AttributeValue::Flag(is_on)).expect("a name and a flag");
        labels
    };
    // The last ones have samples from the start, and stay where they are.
    let steady = samples.len().div_ceil(2);
    if !rng.random_ratio(1, 4) || samples[samples.len() - steady..].contains(&0) {
        return Vec::new();
    }
    round.select = "mains".parse().expect("an expression");
    round.min_devices = round.min_devices.min(steady);
    let label = |number| match (number + steady >= samples.len(), rng.random_ratio(1, 2)) {
        (true, _) => [true, true],
        (false, true) => [true, false],
        (false, false) => [false, false],
    };
    (0..samples.len()).map(label).map(|turns| turns.map(mains)).collect()
}

/// The aggregator's own samples: so many of each class.
fn auxiliary(shape: Shape, per_class: u16) -> Auxiliary {
    let labels: Vec<u16> = (0..shape.classes() as u16 * per_class).map(|index| index / per_class).collect();
    let feature = |row: usize, at: usize| ((row * 3 + at * 7) % 5) as f32 / 5.0;
    let features = (0..labels.len()).flat_map(|row| (0..shape.features()).map(move |at| feature(row, at)));
    Auxiliary { features: features.collect(), labels }
}

fn faults(rng: &mut ChaCha8Rng, devices: u32, calm_at: Duration) -> Vec<(Duration, Fault)> {
    let end = calm_at.as_millis() as u64;
    let mean_pause = rng.random_range(3_000..40_000);
    let mut at = 0;
    let mut faults = Vec::new();
    loop {
        at += rng.random_range(0..2 * mean_pause);
        if at >= end {
            return faults;
        }
        faults.push((Duration::from_millis(at), fault(rng, devices)));
    }
}

fn fault(rng: &mut ChaCha8Rng, devices: u32) -> Fault {
    let part = match rng.random_range(0..=devices) {
        0 => Part::Aggregator,
        device => Part::Device(device - 1),
    };
    // Mostly moments, now and then as long as a coffee break.
    let longest = if rng.random_ratio(1, 8) { 120_000 } else { 6_000 };
    let pause = Duration::from_millis(rng.random_range(0..longest));
    let device = rng.random_range(0..devices);
    match rng.random_range(0..20) {
        0 | 1 => Fault::Kill { part, down: pause },
        2..=4 => Fault::CutPower { part, writes: rng.random_range(1..6), down: pause },
        5 => match part {
            Part::Device(device) => Fault::Stop { device, down: pause },
            Part::Aggregator => Fault::Kill { part, down: pause },
        },
        6..=8 => Fault::CutLink { part, away: pause },
        9 => Fault::Noise(part),
        10 | 11 => {
            let forgery = Forgery::ALL[rng.random_range(0..Forgery::ALL.len())];
            Fault::Forge { device, forgery }
        }
        12 | 15 | 16 => Fault::Forge { device, forgery: Forgery::BadUpdate },
        17 => Fault::ChangeSamples { device },
        18 => Fault::FillDisk { full: pause },
        13 if rng.random_bool(0.3) => Fault::Deafen { device },
        13 => Fault::Release { device },
        14 => {
            let every = Duration::from_millis(rng.random_range(5_000..15_000));
            Fault::Flap { times: rng.random_range(2..12), every }
        }
        _ => Fault::StopBroker { down: pause, forgets: rng.random_bool(0.5) },
    }
}
