//! `climb`: devices with a large loss weigh more.
//!
//! Shen et al., "An Agnostic Approach to Federated Learning with Class Imbalance", ICLR 2022, algorithm 1: the loss of no
//! device shall exceed the mean by more than a tolerance. Each device has a multiplier `l_k >= 0`, which grows by
//! `dual_step * (loss_k - mean loss - tolerance)`, and weighs `1 + l_k - mean l` in the mean of the heads. Multipliers stay
//! below 5, as in the authors' code. Adapted: one primal round for each dual step; devices report the loss at the head
//! they received, so those that do not take part keep their multiplier; a weight is never below zero; samples count as in
//! fedavg.

use crate::exchange::Request;
use alloc::collections::BTreeMap;
use alloc::string::String;

use super::{Definition, RoundResponses};
use crate::fields::{
    FieldError, FieldReader, FieldWriter, Fields, OfMethod, Readers, read_as, read_by_device, write_by_device,
};
use crate::fleet::{RoundResult, ServerState};
use crate::hyper_parameters::HyperParameter;
use crate::limits::MAX_DEVICES;
use crate::merge::{DeviceWeight, DeviceWeights};
use crate::method::Method;
use crate::shape::Shape;

const DUAL_STEP: HyperParameter = HyperParameter::number(
    "dual_step",
    0.1,
    (0.0, 100.0),
    "how quickly the weight of a device with a large loss grows",
);
const TOLERANCE: HyperParameter = HyperParameter::number(
    "tolerance",
    0.1,
    (0.0, 100.0),
    "by how much a device's loss may exceed the mean before its weight grows",
);
/// Where a multiplier stops.
const MOST: f64 = 5.0;

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg in which devices weigh more whose loss is above the mean",
    source: "Shen et al., ICLR 2022",
    params: &[DUAL_STEP, TOLERANCE],
    training: Request::Heads { supplementary: false, prototypes: false, loss: true },
    readers: Readers { server_state: Some(read_as::<State>), ..Readers::NONE },
    weights,
    conclude,
    ..Definition::PLAIN
};

/// What the aggregator keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// `l_k` of every device that ever told its loss, by name.
    pub multipliers: BTreeMap<String, f32>,
}

fn weights(server_state: &ServerState) -> DeviceWeights {
    let Some(State { multipliers }) = server_state.of_method() else { return DeviceWeights::default() };
    let mean = mean(multipliers);
    let weight = |multiplier: f32| DeviceWeight::nearest(1.0 + f64::from(multiplier) - mean);
    let by_device = multipliers.iter().map(|(device, multiplier)| (device.clone(), weight(*multiplier)));
    DeviceWeights { by_device: by_device.collect(), others: weight(0.0) }
}

fn conclude(mut responses: RoundResponses<'_>) -> RoundResult {
    let [dual_step, tolerance, ..] = responses.conditions.params.method_params.map(f64::from);
    let losses = core::mem::take(&mut responses.losses);
    let mean = mean(&losses);
    let mut state: State = responses.known.server_state.of_method().cloned().unwrap_or_default();
    let multipliers = &mut state.multipliers;
    for (device, loss) in losses {
        let before = multipliers.get(&device).copied().unwrap_or(0.0);
        let after = f64::from(before) + dual_step * (f64::from(loss) - mean - tolerance);
        if multipliers.len() < MAX_DEVICES || multipliers.contains_key(&device) {
            multipliers.insert(device, after.clamp(0.0, MOST) as f32);
        }
    }
    responses.known.server_state.of_method = Some(OfMethod::new(Method::Climb, state));
    responses.plain()
}

/// In the order of the names, whatever the order of arrival.
fn mean(values: &BTreeMap<String, f32>) -> f64 {
    values.values().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64
}

impl Fields for State {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        write_by_device(&self.multipliers, to, |multiplier, to| to.numbers(&[*multiplier]));
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        let multiplier = |from: &mut dyn FieldReader| {
            let [multiplier] = from.numbers(1)?[..] else { return Err(FieldError::Short) };
            Ok(multiplier)
        };
        Ok(Self { multipliers: read_by_device(from, multiplier)? })
    }
}
