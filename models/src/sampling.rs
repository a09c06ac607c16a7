//! What is drawn at random on a device: the balanced samples and the order of the mini-batches.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::params::ValidParams;

/// Samples per class, `[C]`.
pub fn class_counts(labels: &[u16], classes: usize) -> Vec<u32> {
    let mut counts = vec![0; classes];
    for &label in labels {
        counts[usize::from(label)] += 1;
    }
    counts
}

/// The random stream of one device in one round: depends on nothing else, so a round can be replayed.
pub fn stream(seed: u64, round: u32, device: &[u8]) -> ChaCha8Rng {
    let mut key = [0_u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..12].copy_from_slice(&round.to_le_bytes());
    key[16..24].copy_from_slice(&fingerprint(device).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// One draw from the standard normal distribution (Box and Muller), the same on every machine.
pub(crate) fn standard_normal(rng: &mut impl Rng) -> f32 {
    // In (0, 1]: the logarithm is finite.
    let uniform = |bits: u32| (f64::from(bits) + 1.0) / (f64::from(u32::MAX) + 1.0);
    let (radius, angle) = (uniform(rng.next_u32()), uniform(rng.next_u32()));
    (libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(core::f64::consts::TAU * angle)) as f32
}

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
    pub fn draw(labels: &[u16], classes: usize, params: &ValidParams, mut rng: ChaCha8Rng) -> Self {
        let rich = usize::from(params.rich_samples);
        let mut of_class: Vec<Vec<u32>> = vec![Vec::new(); classes];
        if params.method.has_balanced_step() {
            for (index, &label) in (0_u32..).zip(labels) {
                of_class[usize::from(label)].push(index);
            }
        }
        let mut balanced = Vec::new();
        for members in of_class.iter_mut().filter(|members| members.len() >= rich) {
            balanced.extend_from_slice(members.partial_shuffle(&mut rng, rich).0);
        }
        let order = (0_u32..).take(labels.len()).collect();
        Self { balanced, order, epochs: params.epochs, batch: usize::from(params.batch), rng }
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

/// FNV-1a, to spread device names over streams; nothing rests on its strength.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
