//! `climb`: devices with a large loss weigh more.
//!
//! Shen et al., "An Agnostic Approach to Federated Learning with Class Imbalance", ICLR 2022, algorithm 1: the loss of no
//! device shall exceed the mean by more than a tolerance. Each device has a multiplier `l_k >= 0`, which grows by
//! `dual_step * (loss_k - mean loss - tolerance)`, and weighs `1 + l_k - mean l` in the mean of the heads. Multipliers stay
//! below 5, as in the authors' code. Adapted: one primal round for each dual step; devices report the loss at the head
//! they received, so those that do not take part keep their multiplier; a weight is never below zero; samples count as in
//! fedavg.

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::{Answer, Closed, Definition, Setting};
use crate::fleet::{Memory, Merged};
use crate::limits::MAX_DEVICES;
use crate::merge::{DeviceWeight, DeviceWeights};

const DUAL_STEP: Setting = Setting {
    name: "dual_step",
    meaning: "how quickly the weight of a device with a large loss grows",
    default: 0.1,
    least: 0.0,
    most: 100.0,
    whole: false,
    allowed: "0 to 100",
};
const TOLERANCE: Setting = Setting {
    name: "tolerance",
    meaning: "by how much a device's loss may exceed the mean before its weight grows",
    default: 0.1,
    least: 0.0,
    most: 100.0,
    whole: false,
    allowed: "0 to 100",
};
/// Where a multiplier stops.
const MOST: f64 = 5.0;

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg in which devices weigh more whose loss is above the mean",
    source: "Shen et al., ICLR 2022",
    settings: &[DUAL_STEP, TOLERANCE],
    answer: Answer { loss: true, ..Definition::PLAIN.answer },
    weights,
    conclude,
    ..Definition::PLAIN
};

fn weights(memory: &Memory) -> DeviceWeights {
    let multipliers = &memory.devices;
    let mean = mean(multipliers);
    let weight = |multiplier: f32| DeviceWeight::nearest(1.0 + f64::from(multiplier) - mean);
    let by_device = multipliers.iter().map(|(device, multiplier)| (device.clone(), weight(*multiplier)));
    DeviceWeights { by_device: by_device.collect(), others: weight(0.0) }
}

fn conclude(mut closed: Closed<'_>) -> Merged {
    let [dual_step, tolerance, ..] = closed.conditions.params.own.map(f64::from);
    let losses = core::mem::take(&mut closed.losses);
    let mean = mean(&losses);
    let multipliers = &mut closed.known.memory.devices;
    for (device, loss) in losses {
        let before = multipliers.get(&device).copied().unwrap_or(0.0);
        let after = f64::from(before) + dual_step * (f64::from(loss) - mean - tolerance);
        if multipliers.len() < MAX_DEVICES || multipliers.contains_key(&device) {
            multipliers.insert(device, after.clamp(0.0, MOST) as f32);
        }
    }
    closed.plain()
}

/// In the order of the names, whatever the order of arrival.
fn mean(values: &BTreeMap<String, f32>) -> f64 {
    values.values().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64
}
