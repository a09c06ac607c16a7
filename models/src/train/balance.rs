//! What a device balances its main head with, and the locally balanced set of a round.

use alloc::vec;
use alloc::vec::Vec;

use super::config::TrainingConfig;
use crate::head::Head;
use crate::prototype::PrototypeSource;
use crate::samples::Samples;
use crate::sampling::class_counts;
use crate::statistics::Means;

/// What a device balances the main head with.
#[derive(Clone, Copy, Debug)]
pub enum Balance<'a> {
    /// Nothing: the first round of a run, and every method without a balanced step.
    Nothing,
    /// Local samples of the rich classes only: the ablation without prototypes.
    Local,
    /// The fleet's gradient prototypes stand for the classes the device lacks.
    Prototypes(&'a dyn PrototypeSource),
    /// The fleet's class means stand for the classes the device lacks.
    Means(&'a Means),
}

/// The locally balanced set: rows with the weight each has in the balanced gradient, and the constant part that gradient
/// prototypes contribute.
pub(super) struct BalancedSet {
    /// Indices of samples; from the number of samples on, indices into `means`.
    pub(super) members: Vec<u32>,
    /// Class means that stand for missing classes, `[row][feature]`.
    pub(super) means: Vec<f32>,
    pub(super) labels: Vec<u16>,
    pub(super) weights: Vec<f32>,
    /// The mean of the missing classes' prototypes, times their share.
    pub(super) constant: Option<Head>,
}

impl BalancedSet {
    /// `None` where there is nothing to balance with.
    pub(super) fn new(
        samples: &Samples<'_>,
        balance: Balance<'_>,
        balanced: &[u32],
        config: &TrainingConfig,
    ) -> Option<Self> {
        let shape = samples.shape();
        let counts = class_counts(samples.labels(), shape.classes());
        let is_rich = |class: &u16| counts[usize::from(*class)] >= u32::from(config.rich_samples);
        let rich = (0..shape.classes() as u16).filter(is_rich).count();
        let known: Vec<u16> = match balance {
            Balance::Nothing => return None,
            Balance::Local => Vec::new(),
            Balance::Prototypes(prototypes) => prototypes.classes(),
            Balance::Means(means) => means.by_class.keys().copied().collect(),
        };
        let has_source = matches!(balance, Balance::Local) || !known.is_empty();
        let missing: Vec<u16> = known.into_iter().filter(|class| !is_rich(class)).collect();
        if !has_source || (rich == 0 && missing.is_empty()) {
            return None;
        }
        let rich_share = if missing.is_empty() { 1.0 } else { rich as f32 / shape.classes() as f32 };
        let mut set = Self {
            members: balanced.to_vec(),
            means: Vec::new(),
            labels: balanced.iter().map(|&index| samples.labels()[index as usize]).collect(),
            weights: vec![rich_share / balanced.len().max(1) as f32; balanced.len()],
            constant: None,
        };
        match balance {
            Balance::Prototypes(prototypes) if !missing.is_empty() => {
                let mut mean = Head::zeros(shape);
                prototypes.add_to(&mut mean, 1.0 / missing.len() as f32, &missing);
                mean.weight.iter_mut().chain(&mut mean.bias).for_each(|value| *value *= 1.0 - rich_share);
                set.constant = Some(mean);
            }
            Balance::Means(means) => set.add_means(samples, means, &missing, 1.0 - rich_share),
            Balance::Nothing | Balance::Local | Balance::Prototypes(_) => {}
        }
        Some(set)
    }

    fn add_means(&mut self, samples: &Samples<'_>, means: &Means, missing: &[u16], share: f32) {
        for (row, class) in (samples.labels().len() as u32..).zip(missing) {
            self.members.push(row);
            self.means.extend_from_slice(&means.by_class[class]);
            self.labels.push(*class);
            self.weights.push(share / missing.len() as f32);
        }
    }
}
