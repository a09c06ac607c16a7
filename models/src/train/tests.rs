use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::params::{Params, Sums};
use crate::prototype::Prototypes;
use crate::shape::Shape;
use crate::statistics::Statistics;

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
        for (method, balance) in [
            (Method::FedAvg, Balance::Nothing),
            (Method::LogitAdjusted, Balance::Nothing),
            (Method::RedGrape, Balance::Nothing),
            (Method::RedGrape, Balance::Prototypes(&prototypes)),
            (Method::RedGrapeNoPrototypes, Balance::Local),
            (Method::RedGrapeNoSupplementary, Balance::Prototypes(&prototypes)),
            (Method::RedGrapeLive, Balance::Means(&means)),
        ] {
            let params = Params { lambda: 0.5, rich_samples: 3, batch: 8, ..Params::defaults(method, 6) };
            let params = params.check().unwrap();
            let mut plan = Plan::draw(&labels, 6, &params, ChaCha8Rng::seed_from_u64(seed));
            let balanced = plan.balanced().to_vec();
            let adjustment = if method == Method::LogitAdjusted { log_prior(&prior) } else { vec![0.0; 6] };
            let set = || method.balances().then(|| BalancedSet::new(&samples, balance, &balanced, &params)).flatten();
            assert!(Dual::is_quicker(&samples, set().as_ref(), &params));
            let mut dual = Dual::new(samples, heads.clone(), set(), adjustment.clone(), params);
            let mut primal = Primal::new(samples, heads.clone(), set(), adjustment, params);
            plan.for_each_batch(|batch| {
                dual.step(batch);
                primal.step(batch);
            });
            let (dual, primal) = (dual.heads(), primal.heads);
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
