//! What is drawn at random on a device: the balanced samples and the order of the mini-batches.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::config::TrainingConfig;

/// One device's random choices for one round.
pub struct Plan {
    balanced: Vec<u32>,
    order: Vec<u32>,
    epochs: u16,
    batch: usize,
    rng: ChaCha8Rng,
}

impl Plan {
    /// Draws `rich_samples` samples of every class that has as many, once for the round.
    pub fn draw(labels: &[u16], classes: usize, config: &TrainingConfig, mut rng: ChaCha8Rng) -> Self {
        let rich = usize::from(config.rich_samples);
        let mut of_class: Vec<Vec<u32>> = vec![Vec::new(); classes];
        if config.balanced {
            for (index, &label) in (0_u32..).zip(labels) {
                of_class[usize::from(label)].push(index);
            }
        }
        let mut balanced = Vec::new();
        for members in of_class.iter_mut().filter(|members| members.len() >= rich) {
            balanced.extend_from_slice(members.partial_shuffle(&mut rng, rich).0);
        }
        let order = (0_u32..).take(labels.len()).collect();
        Self { balanced, order, epochs: config.epochs, batch: usize::from(config.batch), rng }
    }

    /// Indices of the balanced samples.
    pub fn balanced(&self) -> &[u32] {
        &self.balanced
    }

    /// Calls `step` with every mini-batch of every epoch, shuffled anew each epoch.
    pub fn for_each_batch(&mut self, mut step: impl FnMut(&[u32])) {
        // Nothing breaks it.
        let _ended = self.try_for_each_batch(|batch| {
            step(batch);
            ControlFlow::Continue(())
        });
    }

    /// As [`for_each_batch`](Self::for_each_batch), until `step` breaks.
    pub fn try_for_each_batch(&mut self, mut step: impl FnMut(&[u32]) -> ControlFlow<()>) -> ControlFlow<()> {
        for _ in 0..self.epochs {
            self.order.shuffle(&mut self.rng);
            self.order.chunks(self.batch).try_for_each(&mut step)?;
        }
        ControlFlow::Continue(())
    }
}
