//! A round trained on one machine is, bit for bit, the same round trained on another that has a fused multiply-add.
//!
//! The checksums hold for x86 with AVX2 and for 64-bit ARM alike. Whoever changes the mathematics on purpose takes the
//! new ones from one of them and sees them confirmed by the other.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use grapevine_models::{
    Balance, Head, Heads, LocalObjective, LocalTraining, Loss, Method, Params, Plan, Prototypes, Samples, Shape,
    Statistics, Sums, stream,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Method, features, samples, and the checksum of the trained heads. Fewer samples than features train coefficients.
const ROUNDS: [(Method, usize, usize, u64); 8] = [
    (Method::FedAvg, 96, 70, 0x6649_9f3c_9c1c_8d96),
    (Method::FedAvg, 45, 150, 0x591d_b76d_f97e_c99b),
    (Method::LogitAdjusted, 96, 70, 0x2c09_2706_8303_41b5),
    (Method::LogitAdjusted, 45, 150, 0x563a_c60d_4c99_c88f),
    (Method::RedGrape, 96, 70, 0x6a7b_8525_7182_ccb4),
    (Method::RedGrape, 45, 150, 0x1976_2793_979d_c1ed),
    (Method::RedGrapeLive, 96, 70, 0xe8a2_af98_8607_dfae),
    (Method::RedGrapeLive, 45, 150, 0x8bbd_0840_eeae_51c0),
];

#[test]
fn a_round_is_the_same_bits_on_every_machine_that_fuses() {
    if !fuses() {
        println!("skipped: this build or this processor has no fused multiply-add");
        return;
    }
    let got =
        ROUNDS.map(|(method, features, samples, _)| (method, features, samples, round(method, features, samples)));
    assert_eq!(got, ROUNDS);
}

fn fuses() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = cfg!(feature = "std") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let found = cfg!(target_arch = "aarch64");
    found
}

fn round(method: Method, d: usize, count: usize) -> u64 {
    let shape = Shape::new(11, d).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut random = |count: usize| (0..count).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<f32>>();
    let features = random(count * d);
    let labels: Vec<u16> = (0..count).map(|i| (i * i * i % 11) as u16).collect();
    let samples = Samples::new(shape, &features, &labels).unwrap();
    let mut head = || Head { weight: random(shape.weights()), bias: random(shape.classes()) };
    let heads = Heads { main: head(), supplementary: head() };
    let prototypes = Prototypes::of(&heads.supplementary, &samples, 1);
    let means = Statistics::of(&samples, Sums::Means, 1).means();
    let balance = if method == Method::RedGrape {
        Balance::Prototypes(&prototypes)
    } else if method == Method::RedGrapeLive {
        Balance::Means(&means)
    } else {
        Balance::Nothing
    };
    let prior: Vec<f32> = (1..=11).map(|class| class as f32 / 66.0).collect();
    let loss = if method == Method::LogitAdjusted { Loss::LogitAdjusted(&prior) } else { Loss::CrossEntropy };
    let local = LocalObjective { loss, balance, ..LocalObjective::PLAIN };
    let params = Params { batch: 32, rich_samples: 8, ..Params::defaults(method, 11) }.check().unwrap();
    let mut plan = Plan::draw(&labels, 11, &params.training(), stream(1, 1, b"device"));
    let balanced = plan.balanced().to_vec();
    let mut training = LocalTraining::new(samples, heads, local, &balanced, params.training());
    training.run(&mut plan);
    let Heads { main, supplementary } = training.into_heads();
    let sent = Prototypes::of(&main, &samples, 1);
    let tensors = [main, supplementary].into_iter().chain(sent.by_class.into_values());
    checksum(tensors.flat_map(|head| [head.weight, head.bias].concat()))
}

/// FNV-1a of the bits.
fn checksum(values: impl Iterator<Item = f32>) -> u64 {
    let bytes = values.flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
