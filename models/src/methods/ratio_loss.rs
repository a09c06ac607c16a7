//! `ratio-loss`: class weights that the aggregator reads off the head's gradients.
//!
//! Wang et al., "Addressing Class Imbalance in Federated Learning", AAAI 2021 (arXiv 2008.06217), and the authors' code.
//! The aggregator holds a small balanced auxiliary set and takes the head's gradient on each class of it. Where a class
//! moves its own output much and the others move it little, training does not outweigh what the others do, so the class
//! is in the minority. The ratio `R_c` of the class's own movement to the mean movement by the others gives it the weight
//! `alpha + beta R_c` in the devices' next cross-entropy; `alpha` 1, `beta` 0.1, `R` at most 5000.
//!
//! Adapted: the authors sum over the weights of a hidden layer that one class moves most. Those have inputs above zero;
//! standardised features have both signs, so the sums cancel and the ratio is noise. Here the weight that is compared is
//! the bias of the class's output, whose input is one for every sample: `R_c = (1 - p_c) / p_c`, the one mean over the
//! class's samples, the other over the other classes. The movement is one gradient at the merged head (the authors train
//! a copy of the model on each class).

use alloc::vec::Vec;

use super::{Definition, RoundResponses};
use crate::fleet::RoundResult;
use crate::head::Head;
use crate::hyper_parameters::HyperParameter;
use crate::limits::MAX_CLASS_WEIGHT;
use crate::params::ValidParams;
use crate::prototype::Prototypes;
use crate::samples::Samples;
use crate::side_information::{SideInformation, SideInformationView};
use crate::train::{LocalObjective, Loss};

const ALPHA: HyperParameter = HyperParameter::number("alpha", 1.0, (0.0, 100.0), "weight of a class whose ratio is 0");
const BETA: HyperParameter =
    HyperParameter::number("beta", 0.1, (0.0, 10.0), "how much a class's ratio adds to its weight");
/// Samples of each class in the paper's auxiliary set.
const AUXILIARY: u16 = 32;
/// Where a ratio stops.
const MOST: f64 = 5_000.0;

pub(super) const DEFINITION: Definition = Definition {
    summary: "fedavg with class weights that the aggregator reads off the head's gradients on a small balanced set of its \
              own",
    source: "Wang et al., AAAI 2021",
    params: &[ALPHA, BETA],
    auxiliary: Some(AUXILIARY),
    local,
    conclude,
    ..Definition::PLAIN
};

/// Plain cross-entropy in the first round, when nothing was measured yet.
fn local<'a>(_: &ValidParams, side_information: Option<SideInformationView<'a>>, _: bool) -> LocalObjective<'a> {
    let weights = side_information.and_then(SideInformationView::weights);
    LocalObjective { loss: weights.map_or(Loss::CrossEntropy, Loss::Weighted), ..LocalObjective::PLAIN }
}

fn conclude(responses: RoundResponses<'_>) -> RoundResult {
    let [alpha, beta, ..] = responses.conditions.params.method_params.map(f64::from);
    let auxiliary = responses.conditions.auxiliary;
    let merged = responses.plain();
    let (Some(heads), Some(auxiliary)) = (&merged.heads, auxiliary) else { return merged };
    let weight = |ratio: f64| ((alpha + beta * ratio) as f32).min(MAX_CLASS_WEIGHT);
    let weights = ratios(&heads.main, &auxiliary).into_iter().map(weight).collect();
    RoundResult { side_information: Some(SideInformation::Weights(weights)), ..merged }
}

/// `R_c` of every class, `[C]`; 0 for a class of which the auxiliary set has no sample.
fn ratios(main: &Head, auxiliary: &Samples<'_>) -> Vec<f64> {
    let gradients = Prototypes::of(main, auxiliary, 1).by_class;
    let others = gradients.len().max(2) - 1;
    let ratio = |class: usize| {
        let moves = |by: &Head| f64::from(by.bias[class]);
        let Some(own) = gradients.get(&(class as u16)).map(moves) else { return 0.0 };
        let all: f64 = gradients.values().map(moves).sum();
        let ratio = own.abs() * others as f64 / (all - own).abs();
        if ratio.is_nan() { 0.0 } else { ratio.min(MOST) }
    };
    (0..main.bias.len()).map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::shape::Shape;

    #[test]
    fn a_class_that_the_head_seldom_names_has_a_larger_ratio() {
        let shape = Shape::new(3, 1).unwrap();
        let samples = Samples::new(shape, &[0.3, -0.2, 0.1], &[0, 1, 2]).unwrap();
        let even = Head { weight: vec![0.0; 3], bias: vec![0.0; 3] };
        for ratio in ratios(&even, &samples) {
            assert!((ratio - 2.0).abs() < 1e-6, "{ratio}");
        }
        let long_tailed = ratios(&Head { bias: vec![2.0, 0.0, -2.0], ..even }, &samples);
        assert!(long_tailed[0] < 0.5 && long_tailed[1] > 2.0 && long_tailed[2] > long_tailed[1], "{long_tailed:?}");
    }

    #[test]
    fn an_incomplete_or_useless_auxiliary_set_gives_numbers() {
        let shape = Shape::new(3, 2).unwrap();
        let head = Head { weight: vec![0.5; 6], bias: vec![0.0; 3] };
        let two = Samples::new(shape, &[0.0; 4], &[0, 2]).unwrap();
        assert_eq!(ratios(&head, &two), [2.0, 0.0, 2.0]);
        let nothing = Samples::new(shape, &[], &[]).unwrap();
        assert_eq!(ratios(&head, &nothing), [0.0; 3]);
        // Nobody moves an output that never speaks; alone, a class is outweighed by nothing.
        let silent = Head { bias: vec![3.0e4, -3.0e4, 0.0], ..head };
        assert_eq!(ratios(&silent, &Samples::new(shape, &[0.0; 6], &[0, 1, 2]).unwrap()), [0.0, MOST, MOST]);
        assert_eq!(ratios(&silent, &Samples::new(shape, &[0.0; 2], &[1]).unwrap()), [0.0, MOST, 0.0]);
    }
}
