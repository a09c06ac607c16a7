use alloc::vec::Vec;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::method::Method;
use crate::params::Params;
use crate::prototype::Prototypes;
use crate::shape::Shape;
use crate::statistics::{Statistics, Sums};

fn random(rng: &mut ChaCha8Rng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| (rng.random::<f32>() - 0.5) * 2.0 * scale).collect()
}

fn head(rng: &mut ChaCha8Rng, shape: Shape) -> Head {
    Head { weight: random(rng, shape.weights(), 0.3), bias: random(rng, shape.classes(), 0.3) }
}

/// Relative to the norm of the whole tensor.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squared = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let apart = squared(&mut a.iter().zip(b).map(|(x, y)| x - y));
    (apart / squared(&mut a.iter().copied())).sqrt()
}

#[test]
fn both_forms_train_the_same_heads() {
    for seed in 0..40_u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape::new(6, 48).unwrap();
        let count = rng.random_range(1..48 - 6);
        let labels: Vec<u16> = (0..count).map(|_| (rng.random::<f32>().powi(2) * 6.0) as u16).collect();
        let features = random(&mut rng, count * 48, 1.2);
        let samples = Samples::new(shape, &features, &labels).unwrap();
        let heads = Heads { main: head(&mut rng, shape), supplementary: head(&mut rng, shape) };
        let prototypes = Prototypes { by_class: (0..6).map(|class| (class, head(&mut rng, shape))).collect() };
        let means = Statistics::of(&samples, Sums::Means, 1).means();
        let prior = [0.4, 0.3, 0.15, 0.1, 0.05, 0.0];
        let weights = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
        let balanced_with = |balance| LocalObjective { balance, ..LocalObjective::PLAIN };
        let with_loss = |loss| LocalObjective { loss, ..LocalObjective::PLAIN };
        for (method, local) in [
            (Method::FedAvg, LocalObjective::PLAIN),
            (Method::LogitAdjusted, with_loss(Loss::LogitAdjusted(&prior))),
            (Method::FedFocal, with_loss(Loss::Focal(2.0))),
            (Method::RatioLoss, with_loss(Loss::Weighted(&weights))),
            (Method::RedGrape, LocalObjective::PLAIN),
            (Method::RedGrape, balanced_with(Balance::Prototypes(&prototypes))),
            (Method::RedGrapeNoPrototypes, balanced_with(Balance::Local)),
            (Method::RedGrapeNoSupplementary, balanced_with(Balance::Prototypes(&prototypes))),
            (Method::RedGrapeLive, balanced_with(Balance::Means(&means))),
        ] {
            let params = Params { lambda: 0.5, rich_samples: 3, batch: 8, ..Params::defaults(method, 6) };
            let params = params.check().unwrap().training();
            let mut plan = Plan::draw(&labels, 6, &params, ChaCha8Rng::seed_from_u64(seed));
            let balanced = plan.balanced().to_vec();
            let set = || BalancedSet::new(&samples, local.balance, &balanced, &params);
            assert!(Dual::is_quicker(&samples, set().as_ref(), &params));
            let mut dual = Dual::new(samples, heads.clone(), set(), local.loss, params);
            let mut primal = Primal::new(samples, heads.clone(), set(), local, params);
            plan.for_each_batch(|batch| {
                dual.step(batch);
                primal.step(batch);
            });
            let (dual, primal) = (dual.into_heads(), primal.heads);
            for (name, a, b) in [
                ("main weight", &primal.main.weight, &dual.main.weight),
                ("main bias", &primal.main.bias, &dual.main.bias),
                ("supplementary weight", &primal.supplementary.weight, &dual.supplementary.weight),
                ("supplementary bias", &primal.supplementary.bias, &dual.supplementary.bias),
            ] {
                let apart = distance(a, b);
                assert!(apart < 1e-4, "seed {seed}, {count} samples, {method}: {name} is {apart:e} apart");
            }
        }
    }
}

#[test]
fn training_that_is_ended_early_took_no_further_step() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let shape = Shape::new(3, 8).unwrap();
    let labels: Vec<u16> = (0..20).map(|at| at % 3).collect();
    let features = random(&mut rng, 20 * 8, 1.0);
    let samples = Samples::new(shape, &features, &labels).unwrap();
    let params = Params { batch: 8, epochs: 4, ..Params::defaults(Method::FedAvg, 3) }.check().unwrap().training();
    let train = |steps: usize| {
        let mut plan = Plan::draw(&labels, 3, &params, ChaCha8Rng::seed_from_u64(2));
        let mut training =
            LocalTraining::new(samples, Heads::zeros(shape), LocalObjective::PLAIN, plan.balanced(), params);
        let mut asked = 0;
        let ended = training.run_while(&mut plan, &mut || {
            asked += 1;
            asked <= steps
        });
        (ended, asked, training.into_heads())
    };
    // Three mini-batches an epoch.
    let (ended, asked, whole) = train(12);
    assert_eq!((ended, asked), (true, 12));
    let (ended, asked, part) = train(11);
    assert_eq!((ended, asked), (false, 12));
    assert_ne!(whole, part);
    assert_eq!(train(0).2, Heads::zeros(shape));
}
