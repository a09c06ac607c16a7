//! `scaffold`: federated averaging whose devices take off how far they drift from the fleet.
//!
//! Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, algorithm 1 with
//! option II. A device steps along `g - c_i + c` (equation 3): its own control variate `c_i` estimates its gradient, the
//! fleet's `c` that of all. After its `K` steps from `x` to `y` the new one is `c_i - c + (x - y) / (K * learning_rate)`
//! (equation 4, option II), and the aggregator adds the changes to `c` (equation 5).
//!
//! Adapted: devices count by their samples, in the heads and in `c`, as for every method here; so `c` is always
//! the weighted mean of the `c_i` that were merged, over the devices that ever took part: the share `|S| / N` of equation 5
//! with samples in the place of devices. With momentum `m`, `K` becomes the sum of `(1 - m^j) / (1 - m)` over the steps.
//!
//! A `c_i` belongs to the device and its change to the aggregator, and messages are lost between them. Every `c_i` has a
//! version, and a change says which two versions it lies between; the aggregator knows the version that it has of each
//! device and adds no change twice. A device sends the same change again until a receipt confirms it. Where both disagree
//! after all, because a disk forgot what was told, or the aggregator gave up a round whose updates it had confirmed, the change is
//! left out and the device's version taken over: `c` is then off by that one change.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::iter;

use super::{Contribution, Definition, DeviceTask, Responded, RoundResponses};
use crate::exchange::Request;
use crate::fields::{
    FieldError, FieldReader, FieldWriter, Fields, OfMethod, Readers, read_as, read_by_device, write_by_device,
};
use crate::fleet::{FleetModel, RoundResult};
use crate::head::{Head, HeadError, Heads};
use crate::hyper_parameters::HyperParameter;
use crate::limits::{MAX_DEVICES, MAX_PARAMETER_VALUE, MAX_SAMPLES};
use crate::method::Method;
use crate::shape::Shape;
use crate::side_information::{SideInformation, SideInformationView};
use crate::train::{LocalObjective, LocalTraining, Plan, TrainingConfig};

/// The paper's experiments take 1.
const SERVER_LEARNING_RATE: HyperParameter = HyperParameter::number(
    "server_learning_rate",
    1.0,
    (0.0, 10.0),
    "how much of the devices' mean step the aggregator takes",
);

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg whose devices correct their steps by how their gradient differs from the fleet's",
    source: "Karimireddy et al., ICML 2020",
    params: &[SERVER_LEARNING_RATE],
    // With momentum or clipping a device's steps are not the sum of its gradients.
    defaults: |params, _| {
        params.momentum = 0.0;
        params.clip = 1_000.0;
    },
    training: Request::OfMethod(Method::Scaffold),
    readers: Readers {
        server_state: Some(read_as::<State>),
        side_information: Some(read_as::<ControlVariate>),
        response: Some(read_as::<Answer>),
        device_state: Some(read_as::<DeviceVariate>),
    },
    respond,
    contribute,
    conclude,
    ..Definition::PLAIN
};

/// What devices get: the fleet's control variate `c`.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlVariate {
    /// Which start of the run it belongs to, see [`start_of`]: variates of another one mean nothing.
    pub start: u32,
    /// `c`.
    pub variate: Head,
}

/// What a device keeps: its control variate `c_i`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceVariate {
    /// See [`ControlVariate::start`].
    pub start: u32,
    /// Counts up with every change; no variate is version 0.
    pub version: u32,
    /// Samples with which it counts.
    pub samples: u32,
    /// `c_i`.
    pub variate: Head,
    /// The newest change as it was sent, from the version before.
    pub change: Head,
}

/// What a device responds.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The head after local training, `y`.
    pub main: Head,
    /// The version of the variate that the change begins at.
    pub since: u32,
    /// The change of the variate, in units of its samples: `c_i` less the one before times the share of samples then.
    pub change: Head,
}

/// What the aggregator keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// See [`ControlVariate::start`].
    pub start: u32,
    /// `c`, the mean over all devices below.
    pub variate: Head,
    /// What `c` holds of each device.
    pub devices: BTreeMap<String, Held>,
}

/// What `c` holds of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Version of its variate.
    pub version: u32,
    /// Samples with which it counts.
    pub samples: u32,
}

fn respond(task: DeviceTask<'_, '_>) -> Result<Option<Responded>, HeadError> {
    let DeviceTask { samples, heads, side_information, device_state, params, rng, goes_on } = task;
    let (shape, count) = (samples.shape(), samples.labels().len() as u32);
    let fleet = side_information.and_then(SideInformationView::of_method).and_then(OfMethod::get::<ControlVariate>);
    let start = fleet.map_or_else(|| start_of(&heads.main), |fleet| fleet.start);
    let kept = device_state.and_then(|kept| Some((kept.value.get::<DeviceVariate>()?, kept.is_confirmed)));
    let kept = kept.filter(|(kept, _)| kept.start == start);
    let fleet = fleet.map_or_else(|| Cow::Owned(Head::zeros(shape)), |fleet| Cow::Borrowed(&fleet.variate));
    let own = kept.map_or_else(|| Cow::Owned(Head::zeros(shape)), |(kept, _)| Cow::Borrowed(&kept.variate));
    let correction = combined(&[(1.0, &fleet), (-1.0, &own)]);

    let config = params.training();
    let received = heads.main.clone();
    let local = LocalObjective { correction: Some(&correction), ..LocalObjective::PLAIN };
    let mut plan = Plan::draw(samples.labels(), shape.classes(), &config, rng);
    let mut training = LocalTraining::new(samples, heads, local, plan.balanced(), config);
    if !training.run_while(&mut plan, goes_on) {
        return Ok(None);
    }
    let main = training.into_heads().main;
    main.check(shape)?;

    let next = match kept {
        // Whether the aggregator has the newest variate is not known: the same change goes out again.
        Some((kept, false)) => kept.clone(),
        Some((_, true)) | None => {
            let share = 1.0 / reach(&config, count);
            let variate = combined(&[(-1.0, &correction), (share, &received), (-share, &main)]);
            let (version, before) = kept.map_or((0, 0), |(kept, _)| (kept.version, kept.samples));
            let change = combined(&[(1.0, &variate), (-f64::from(before) / f64::from(count), &own)]);
            DeviceVariate { start, version: version.saturating_add(1), samples: count, variate, change }
        }
    };
    next.variate.check(shape)?;
    next.change.check(shape)?;
    // A change that goes out again counts with the samples of its time, whatever the device holds now.
    let change = combined(&[(f64::from(next.samples) / f64::from(count), &next.change)]);
    let answer = Answer { main, since: next.version - 1, change };
    Ok(Some((OfMethod::new(Method::Scaffold, answer), OfMethod::new(Method::Scaffold, next))))
}

/// Which start of a run this is: a fingerprint of the head that it begins with, which devices and aggregator both know.
fn start_of(main: &Head) -> u32 {
    let bits = main.weight.iter().chain(&main.bias).flat_map(|value| value.to_bits().to_le_bytes());
    bits.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How far a device goes along a gradient that stays the same.
fn reach(config: &TrainingConfig, samples: u32) -> f64 {
    let steps = u32::from(config.epochs) * samples.div_ceil(u32::from(config.batch));
    let momentum = f64::from(config.momentum);
    let lengths = iter::successors(Some(1.0), |length| Some(1.0 + momentum * length));
    f64::from(config.learning_rate) * lengths.take(steps as usize).sum::<f64>()
}

/// The sum of some heads, each times a factor.
fn combined(heads: &[(f64, &Head)]) -> Head {
    let sum = |of: fn(&Head) -> &[f32], at: usize| {
        heads.iter().map(|(factor, head)| factor * f64::from(of(head)[at])).sum::<f64>() as f32
    };
    let (weights, classes) = heads.first().map_or((0, 0), |(_, head)| (head.weight.len(), head.bias.len()));
    Head {
        weight: (0..weights).map(|at| sum(|head| &head.weight, at)).collect(),
        bias: (0..classes).map(|at| sum(|head| &head.bias, at)).collect(),
    }
}

/// The change counts where it begins at the version that the aggregator has.
fn contribute<'a>(answer: &'a OfMethod, device: &str, known: Option<&OfMethod>) -> Option<Contribution<'a>> {
    let answer: &Answer = answer.get()?;
    let state = known.and_then(OfMethod::get::<State>);
    let held = state.and_then(|state| state.devices.get(device));
    let has = held.map_or(0, |held| held.version);
    let has_room = held.is_some() || state.is_none_or(|state| state.devices.len() < MAX_DEVICES);
    Some(Contribution {
        main: &answer.main,
        change: (has == answer.since && has_room).then_some(&answer.change),
        note: answer.since.saturating_add(1),
    })
}

fn conclude(responses: RoundResponses<'_>) -> RoundResult {
    let RoundResponses { heads: mean, change, notes, known, conditions, .. } = responses;
    let FleetModel { heads: before, mut server_state, .. } = known;
    let Some(mean) = mean else { return RoundResult { server_state, ..RoundResult::default() } };
    let zeros =
        || Head { weight: alloc::vec![0.0; mean.main.weight.len()], bias: alloc::vec![0.0; mean.main.bias.len()] };
    let before = before.map_or_else(zeros, |heads| heads.main);
    let State { start, variate, mut devices } = server_state.of_method().cloned().unwrap_or_else(|| State {
        start: start_of(&before),
        variate: zeros(),
        devices: BTreeMap::new(),
    });

    let samples = |devices: &BTreeMap<String, Held>| devices.values().map(|held| f64::from(held.samples)).sum::<f64>();
    let held_before = samples(&devices);
    for (device, note) in notes {
        let held = devices.get(&device).copied();
        // A device that there is no room for trains with the others and has no part in `c`.
        if held.is_some() || devices.len() < MAX_DEVICES {
            let samples = if note.counts { note.samples } else { held.map_or(0, |held| held.samples) };
            devices.insert(device, Held { version: note.note, samples });
        }
    }
    let held_now = samples(&devices).max(1.0);
    let variate = match &change {
        Some((change, samples)) => {
            combined(&[(held_before / held_now, &variate), (*samples as f64 / held_now, change)])
        }
        None => variate,
    };
    let variate = within(variate);

    let [rate, ..] = conditions.params.method_params.map(f64::from);
    let main = within(combined(&[(1.0 - rate, &before), (rate, &mean.main)]));
    let fleet = ControlVariate { start, variate: variate.clone() };
    server_state.of_method = Some(OfMethod::new(Method::Scaffold, State { start, variate, devices }));
    RoundResult {
        heads: Some(Heads { main, ..mean }),
        side_information: Some(SideInformation::OfMethod(OfMethod::new(Method::Scaffold, fleet))),
        server_state,
        ..RoundResult::default()
    }
}

/// With every entry within what a device accepts.
fn within(mut head: Head) -> Head {
    let values = head.weight.iter_mut().chain(&mut head.bias);
    values.for_each(|value| *value = value.clamp(-MAX_PARAMETER_VALUE, MAX_PARAMETER_VALUE));
    head
}

impl Fields for ControlVariate {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        to.count(self.start);
        to.exact_head(&self.variate);
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        Ok(Self { start: from.count(u32::MAX)?, variate: from.exact_head()? })
    }
}

impl Fields for Answer {
    const FORMAT: u32 = 1;

    /// The change goes exactly: what the aggregator adds and what the device keeps must not drift apart.
    fn write(&self, to: &mut dyn FieldWriter) {
        to.count(self.since);
        to.head(&self.main);
        to.exact_head(&self.change);
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        Ok(Self { since: from.count(u32::MAX - 1)?, main: from.head()?, change: from.exact_head()? })
    }
}

impl Fields for DeviceVariate {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        [self.start, self.version, self.samples].into_iter().for_each(|count| to.count(count));
        to.exact_head(&self.variate);
        to.exact_head(&self.change);
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        let (start, version) = (from.count(u32::MAX)?, from.count(u32::MAX)?);
        if version == 0 {
            return Err(FieldError::Impossible("version"));
        }
        let samples = from.count(MAX_SAMPLES)?;
        Ok(Self { start, version, samples, variate: from.exact_head()?, change: from.exact_head()? })
    }
}

impl Fields for State {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        to.count(self.start);
        to.exact_head(&self.variate);
        write_by_device(&self.devices, to, |held, to| {
            to.count(held.version);
            to.count(held.samples);
        });
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        let (start, variate) = (from.count(u32::MAX)?, from.exact_head()?);
        let devices = read_by_device(from, |from| {
            Ok(Held { version: from.count(u32::MAX)?, samples: from.count(MAX_SAMPLES)? })
        })?;
        Ok(Self { start, variate, devices })
    }
}
