//! Random streams that depend on a seed, a round and a name alone, and what is counted of labels.

use alloc::vec;
use alloc::vec::Vec;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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

/// FNV-1a, to spread device names over streams; nothing rests on its strength.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
