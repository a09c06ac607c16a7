//! A round's buffers are made when it starts: no mini-batch allocates, whatever the method and the form of training.
//!
//! One test: the allocator counts for the whole program.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use core::hint::black_box;

use grapevine_models::{
    Balance, Head, Heads, LocalObjective, LocalTraining, Loss, Method, Params, Plan, Prototypes, Samples, Shape,
    Statistics, Sums, stream,
};
use peak_alloc::PeakAlloc;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The test harness may allocate meanwhile, but hardly in every one of so many rounds.
const TRIES: usize = 5;

#[test]
fn no_batch_allocates() {
    assert!(peak_of(|| drop(black_box(Box::new(0_u8)))) > 0, "one byte is seen");
    // Fewer samples than features, and more: coefficients are trained, or the heads themselves.
    for (features, samples) in [(96, 70), (48, 150)] {
        let shape = Shape::new(12, features).unwrap();
        for method in Method::ALL.into_iter().filter(|method| !method.is_one_shot()) {
            let least = (0..TRIES).map(|_| allocated_by_batches(shape, samples, method)).min();
            assert_eq!(least, Some(0), "bytes allocated by the batches of {method}, {samples} samples of {features}");
        }
    }
}

/// Bytes held by the batches of a round, at their most.
fn allocated_by_batches(shape: Shape, count: usize, method: Method) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut random = |count: usize| (0..count).map(|_| rng.random::<f32>() - 0.5).collect::<Vec<f32>>();
    let features = random(count * shape.features());
    let labels: Vec<u16> = (0..count).map(|i| (i * i % shape.classes()) as u16).collect();
    let samples = Samples::new(shape, &features, &labels).unwrap();
    let mut head = || Head { weight: random(shape.weights()), bias: random(shape.classes()) };
    let heads = Heads { main: head(), supplementary: head() };
    let prototypes = Prototypes { by_class: (0..shape.classes() as u16).map(|class| (class, head())).collect() };
    let means = Statistics::of(&samples, Sums::Means, 1).means();
    let balance = if method.sends_prototypes() {
        Balance::Prototypes(&prototypes)
    } else if method == Method::RedGrapeLive {
        Balance::Means(&means)
    } else {
        Balance::Local
    };
    let weights = vec![1.0 / shape.classes() as f32; shape.classes()];
    let losses = [
        (Method::LogitAdjusted, Loss::LogitAdjusted(&weights)),
        (Method::FedFocal, Loss::Focal(2.0)),
        (Method::RatioLoss, Loss::Weighted(&weights)),
    ];
    let loss = losses.into_iter().find(|(of, _)| *of == method).map_or(Loss::CrossEntropy, |(_, loss)| loss);
    let proximal = if method == Method::FedProx { 0.1 } else { 0.0 };
    let local = LocalObjective { loss, proximal, balance, correction: None };
    let params = Params { batch: 32, ..Params::defaults(method, shape.classes()) }.check().unwrap();
    let mut plan = Plan::draw(&labels, shape.classes(), &params.training(), stream(1, 1, b"device"));
    let balanced = plan.balanced().to_vec();
    let mut training = LocalTraining::new(samples, heads, local, &balanced, params.training());
    let bytes = peak_of(|| training.run(&mut plan));
    assert!(training.into_heads().main.weight.iter().all(|value| value.is_finite()));
    bytes
}

/// The most bytes held at one time by `work`, beyond what was held before.
fn peak_of(work: impl FnOnce()) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    work();
    ALLOCATOR.peak_usage().saturating_sub(before)
}
