//! Properties of the mathematics, checked on random fleets.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use grapevine_models::{
    Balance, DeviceWeight, Head, HeadSum, Heads, LocalObjective, LocalTraining, Means, Method, Params, Plan,
    PrototypeSum, Prototypes, Samples, Shape, Statistics, Sums, evaluate, oneshot, stream,
};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Case {
    shape: Shape,
    features: Vec<f32>,
    labels: Vec<u16>,
    heads: Heads,
    rng: ChaCha8Rng,
}

impl Case {
    fn new(seed: u64, classes: usize, features: usize, samples: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape::new(classes, features).unwrap();
        let labels = (0..samples).map(|_| (rng.random::<f32>().powi(2) * classes as f32) as u16).collect();
        let heads = Heads { main: random_head(&mut rng, shape, 0.4), supplementary: random_head(&mut rng, shape, 0.2) };
        Self { shape, features: random(&mut rng, samples * features, 1.5), labels, heads, rng }
    }

    fn samples(&self) -> Samples<'_> {
        Samples::new(self.shape, &self.features, &self.labels).unwrap()
    }

    fn train(&self, balance: Balance<'_>, params: Params) -> Heads {
        let params = params.check().unwrap();
        let mut plan = Plan::draw(&self.labels, self.shape.classes(), &params.training(), stream(7, 1, b"device"));
        let balanced = plan.balanced().to_vec();
        let mut training = LocalTraining::new(
            self.samples(),
            self.heads.clone(),
            LocalObjective { balance, ..LocalObjective::PLAIN },
            &balanced,
            params.training(),
        );
        training.run(&mut plan);
        training.into_heads()
    }
}

impl Case {
    /// The slow and obvious way: gradient descent on the summed head, sample by sample, in double precision.
    fn plain_two_head_training(&self, params: &Params) -> Heads {
        let (classes, d) = (self.shape.classes(), self.shape.features());
        let row = d + 1;
        let flat = |head: &Head| -> Vec<f64> {
            let rows = head.weight.chunks(d).zip(&head.bias);
            rows.flat_map(|(weight, bias)| weight.iter().chain([bias]).map(|value| f64::from(*value))).collect()
        };
        let (mut main, mut other) = (flat(&self.heads.main), flat(&self.heads.supplementary));
        let mut momentum = vec![0.0; classes * row];
        let mut plan = Plan::draw(&self.labels, classes, &params.check().unwrap().training(), stream(7, 1, b"device"));
        plan.for_each_batch(|batch| {
            let mut gradient = vec![0.0; classes * row];
            for &sample in batch {
                let at = sample as usize;
                let features = self.features[at * d..][..d].iter().map(|value| f64::from(*value));
                let input: Vec<f64> = features.chain([1.0]).collect();
                let logit = |class: usize| -> f64 {
                    (0..row).map(|f| (main[class * row + f] + other[class * row + f]) * input[f]).sum()
                };
                let total: f64 = (0..classes).map(|class| logit(class).exp()).sum();
                for class in 0..classes {
                    let hit = f64::from(u8::from(usize::from(self.labels[at]) == class));
                    let error = (logit(class).exp() / total - hit) / batch.len() as f64;
                    (0..row).for_each(|f| gradient[class * row + f] += error * input[f]);
                }
            }
            // Both heads have this gradient, so the norm over all four tensors is that of two.
            let norm = (2.0 * gradient.iter().map(|g| g * g).sum::<f64>()).sqrt();
            let factor = (f64::from(params.clip) / (norm + 1e-6)).min(1.0);
            for (at, gradient) in gradient.iter().enumerate() {
                momentum[at] = f64::from(params.momentum) * momentum[at] + factor * gradient;
                main[at] -= f64::from(params.learning_rate) * momentum[at];
                other[at] -= f64::from(params.learning_rate) * momentum[at];
            }
        });
        let head = |flat: &[f64]| Head {
            weight: flat.chunks(row).flat_map(|row| row[..d].iter().map(|v| *v as f32)).collect(),
            bias: flat.chunks(row).map(|row| row[d] as f32).collect(),
        };
        Heads { main: head(&main), supplementary: head(&other) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_prototype_is_the_finite_difference_gradient(seed: u64, classes in 2_usize..6, d in 1_usize..6) {
        let case = Case::new(seed, classes, d, 12);
        let prototypes = Prototypes::of(&case.heads.main, &case.samples(), 1);
        for (&class, gradient) in &prototypes.by_class {
            for at in 0..case.shape.weights() {
                let numeric = slope(&case, class, |head, by| head.weight[at] += by);
                prop_assert!((numeric - f64::from(gradient.weight[at])).abs() < 2e-3, "weight {at}");
            }
            for at in 0..classes {
                let numeric = slope(&case, class, |head, by| head.bias[at] += by);
                prop_assert!((numeric - f64::from(gradient.bias[at])).abs() < 2e-3, "bias {at}");
            }
        }
    }

    /// One step of a round with learning rate, lambda 1 and no momentum, minus the same step without balance, leaves
    /// the balanced step alone; its norm must be the norm of the local gradient before clipping.
    #[test]
    fn the_balanced_step_has_the_norm_of_the_local_gradient(seed: u64, classes in 2_usize..6, d in 2_usize..8) {
        let mut case = Case::new(seed, classes, d, 16);
        let known = random_prototypes(&mut case);
        let params = Params {
            momentum: 0.0, lambda: 1.0, learning_rate: 1.0, batch: 16, epochs: 1, clip: 1e6, rich_samples: 4,
            ..Params::defaults(Method::RedGrape, classes)
        };
        let with = case.train(Balance::Prototypes(&known), params);
        let without = case.train(Balance::Nothing, params);
        // Without clipping and momentum the supplementary head moved by exactly the local gradient.
        for (balanced, plain, moved, start) in [
            (&with.main.weight, &without.main.weight, &with.supplementary.weight, &case.heads.supplementary.weight),
            (&with.main.bias, &without.main.bias, &with.supplementary.bias, &case.heads.supplementary.bias),
        ] {
            let (balanced, local) = (distance(balanced, plain), distance(moved, start));
            prop_assert!((balanced - local).abs() <= 1e-3 * local + 1e-5, "{balanced} against {local}");
        }
    }

    #[test]
    fn the_first_round_is_plain_two_head_training(seed: u64) {
        let case = Case::new(seed, 4, 5, 40);
        let redgrape = case.train(Balance::Nothing, Params::defaults(Method::RedGrape, 4));
        let without_balance = Params { lambda: 0.0, ..Params::defaults(Method::RedGrape, 4) };
        let known = Prototypes::of(&case.heads.main, &case.samples(), 1);
        prop_assert_eq!(&redgrape, &case.train(Balance::Prototypes(&known), without_balance));
        let expected = case.plain_two_head_training(&Params::defaults(Method::RedGrape, 4));
        for (trained, expected) in [(&redgrape.main, &expected.main), (&redgrape.supplementary, &expected.supplementary)] {
            for (a, b) in trained.weight.iter().chain(&trained.bias).zip(expected.weight.iter().chain(&expected.bias)) {
                prop_assert!((a - b).abs() < 2e-4, "{a} where the slow way gives {b}");
            }
        }
        // Both heads receive the same gradient, so they moved by the same vector.
        for at in 0..case.shape.weights() {
            let main = redgrape.main.weight[at] - case.heads.main.weight[at];
            let supplementary = redgrape.supplementary.weight[at] - case.heads.supplementary.weight[at];
            prop_assert!((main - supplementary).abs() < 1e-5);
        }
    }

    #[test]
    fn with_all_classes_rich_prototypes_are_ignored(seed: u64) {
        let mut case = Case::new(seed, 3, 4, 60);
        case.labels = (0..60).map(|i| i % 3).collect();
        let known = random_prototypes(&mut case);
        let params = Params::defaults(Method::RedGrape, 3);
        prop_assert_eq!(case.train(Balance::Prototypes(&known), params), case.train(Balance::Local, params));
    }

    #[test]
    fn sums_do_not_depend_on_partition_or_order(seed: u64, parts in 1_usize..6) {
        let mut case = Case::new(seed, 4, 6, 50);
        let whole = Statistics::of(&case.samples(), Sums::SecondMoment, 1);
        let mut order: Vec<usize> = (0..50).collect();
        order.shuffle(&mut case.rng);
        let mut total = Statistics::empty(case.shape, Sums::SecondMoment);
        for part in 0..parts {
            let mine: Vec<usize> = order.iter().copied().skip(part).step_by(parts).collect();
            let features: Vec<f32> = mine.iter().flat_map(|&i| case.features[i * 6..i * 6 + 6].to_vec()).collect();
            let labels: Vec<u16> = mine.iter().map(|&i| case.labels[i]).collect();
            let samples = Samples::new(case.shape, &features, &labels).unwrap();
            total.add(&Statistics::of(&samples, Sums::SecondMoment, 1)).unwrap();
        }
        prop_assert_eq!(whole, total);
    }

    #[test]
    fn merging_does_not_depend_on_order_or_grouping(seed: u64, devices in 1_usize..12) {
        let mut case = Case::new(seed, 3, 4, 10);
        let mut updates: Vec<(Heads, u32, Prototypes)> = (0..devices)
            .map(|_| {
                let heads = Heads {
                    main: random_head(&mut case.rng, case.shape, 3.0),
                    supplementary: random_head(&mut case.rng, case.shape, 3.0),
                };
                (heads, 1 + case.rng.next_u32() % 1_000, random_prototypes(&mut case))
            })
            .collect();
        let merge = |updates: &[(Heads, u32, Prototypes)]| {
            let (mut heads, mut prototypes) = (HeadSum::new(case.shape), PrototypeSum::new(case.shape));
            for (update, samples, gradients) in updates {
                heads.add(update, *samples, DeviceWeight::ONE).unwrap();
                prototypes.add(gradients).unwrap();
            }
            let mut merged = Prototypes::default();
            prototypes.merge_into(&mut merged);
            (heads, merged)
        };
        let (in_order, prototypes) = merge(&updates);
        let half = updates.len() / 2;
        let (mut left, right) = (merge(&updates[half..]).0, merge(&updates[..half]).0);
        left.add_sum(&right);
        prop_assert_eq!(left.mean(), in_order.mean());
        updates.shuffle(&mut case.rng);
        prop_assert_eq!(merge(&updates), (in_order, prototypes));
    }

    #[test]
    fn nothing_is_ever_not_a_number(seed: u64, samples in 1_usize..20, zero: bool, method in 0..Method::ALL.len()) {
        let mut case = Case::new(seed, 5, 3, samples);
        if zero {
            case.features.fill(0.0);
            case.heads = Heads::zeros(case.shape);
        }
        // Class 4 is held by nobody, and prototypes of zero norm stand for it.
        case.labels.iter_mut().for_each(|label| *label = (*label).min(3));
        let mut known = random_prototypes(&mut case);
        known.by_class.insert(4, Head::zeros(case.shape));
        let statistics = Statistics::of(&case.samples(), Sums::SecondMoment, 1);
        let means = statistics.means();
        prop_assert!(!means.by_class.contains_key(&4));
        let method = Method::ALL[method];
        let params = Params { lambda: 1.0, rich_samples: 1, ..Params::defaults(method, 5) };
        for balance in [Balance::Nothing, Balance::Local, Balance::Prototypes(&known), Balance::Means(&means)] {
            let heads = case.train(balance, params);
            prop_assert!(heads.check(case.shape).is_ok());
            prop_assert!(Prototypes::of(&heads.main, &case.samples(), 1).check(case.shape).is_ok());
        }
        let closed: [fn(&Statistics) -> Head; 5] = [
            oneshot::ncm,
            |sums| oneshot::lda(sums, 0.1),
            |sums| oneshot::posterior_lda(sums, 0.1),
            |sums| oneshot::ridge(sums, 0.1),
            |sums| oneshot::ridge_plain(sums, 0.1),
        ];
        for head in closed.map(|closed| closed(&statistics)) {
            prop_assert!(head.check(case.shape).is_ok());
            prop_assert!(evaluate::Accuracy::of(&head, &case.samples()).balanced().is_finite());
        }
    }
}

#[test]
fn a_class_below_the_sharing_threshold_leaves_no_trace() {
    let mut case = Case::new(3, 3, 4, 9);
    case.labels = vec![0, 0, 0, 0, 1, 1, 1, 2, 2];
    let shared = Statistics::of(&case.samples(), Sums::SecondMoment, 3);
    assert_eq!(shared.counts(), [4, 3, 0]);
    assert_eq!(Prototypes::of(&case.heads.main, &case.samples(), 4).by_class.into_keys().collect::<Vec<_>>(), [0]);
    assert!(Means::default().by_class.is_empty());
}

#[test]
fn one_shot_heads_separate_separable_classes() {
    let shape = Shape::new(3, 2).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let labels: Vec<u16> = (0..90).map(|i| u16::from(i >= 60) + u16::from(i >= 85)).collect();
    let centres = [[2.0, 0.0], [-2.0, 2.0], [-2.0, -2.0]];
    let features: Vec<f32> =
        labels.iter().flat_map(|&c| centres[usize::from(c)].map(|m: f32| m + rng.random::<f32>() - 0.5)).collect();
    let samples = Samples::new(shape, &features, &labels).unwrap();
    let statistics = Statistics::of(&samples, Sums::SecondMoment, 1);
    for head in [oneshot::ncm(&statistics), oneshot::lda(&statistics, 0.1), oneshot::ridge(&statistics, 0.1)] {
        assert_eq!(evaluate::Accuracy::of(&head, &samples).balanced(), 1.0);
    }
}

fn random(rng: &mut ChaCha8Rng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| (rng.random::<f32>() - 0.5) * 2.0 * scale).collect()
}

fn random_head(rng: &mut ChaCha8Rng, shape: Shape, scale: f32) -> Head {
    Head { weight: random(rng, shape.weights(), scale), bias: random(rng, shape.classes(), scale) }
}

fn random_prototypes(case: &mut Case) -> Prototypes {
    let classes = 0..case.shape.classes() as u16;
    Prototypes { by_class: classes.map(|class| (class, random_head(&mut case.rng, case.shape, 0.5))).collect() }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
}

/// Central difference of the mean cross-entropy of one class, in double precision.
fn slope(case: &Case, class: u16, nudge: impl Fn(&mut Head, f32)) -> f64 {
    const BY: f32 = 1e-2;
    let loss = |by: f32| {
        let mut head = case.heads.main.clone();
        nudge(&mut head, by);
        let mine = case.samples();
        let mut losses = Vec::new();
        for (features, label) in mine.iter().filter(|(_, label)| *label == class) {
            let logits: Vec<f64> = (0..case.shape.classes())
                .map(|c| {
                    let row = &head.weight[c * features.len()..(c + 1) * features.len()];
                    let dot: f64 = row.iter().zip(features).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum();
                    dot + f64::from(head.bias[c])
                })
                .collect();
            let total: f64 = logits.iter().map(|z| z.exp()).sum();
            losses.push(total.ln() - logits[usize::from(label)]);
        }
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    (loss(BY) - loss(-BY)) / (2.0 * f64::from(BY))
}

/// The moment of one sample differs from its mean's square by rounding alone, in one of a thousand cases so that the
/// difference is no covariance.
#[test]
fn rounding_is_not_taken_for_a_covariance() {
    for seed in 0..5000 {
        let case = Case::new(seed, 3, 3, 1);
        let statistics = Statistics::of(&case.samples(), Sums::SecondMoment, 1);
        for head in [oneshot::lda(&statistics, 0.1), oneshot::posterior_lda(&statistics, 0.1)] {
            assert!(head.check(case.shape).is_ok(), "seed {seed}: {head:?}");
        }
    }
}
