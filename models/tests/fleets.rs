//! Whole runs of every method on small and degenerate fleets.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use grapevine_models::{
    Answer, Conditions, DeviceState, FleetModel, Head, Heads, Init, Method, Params, Received, Request, Response,
    RoundSum, Run, RunConfig, Samples, Shape, SideInformation, ValidParams, climb, respond, scaffold, stream,
};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Features and labels of one device.
type Device = (Vec<f32>, Vec<u16>);

struct Fleet {
    shape: Shape,
    devices: Vec<Device>,
    rng: ChaCha8Rng,
}

impl Fleet {
    /// Class `c` lies at `c` on a circle; the last class is held by nobody.
    fn new(seed: u64, sizes: &[usize]) -> Self {
        let shape = Shape::new(4, 3).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let device = |size: &usize| {
            let labels: Vec<u16> = (0..*size).map(|_| (rng.random::<f32>().powi(2) * 3.0) as u16).collect();
            let mut row = |label: &u16| {
                let (sin, cos) = (f32::from(*label) * 2.0).sin_cos();
                [2.0 * sin + rng.random::<f32>() - 0.5, 2.0 * cos + rng.random::<f32>() - 0.5, 1.0]
            };
            (labels.iter().flat_map(&mut row).collect(), labels)
        };
        let devices = sizes.iter().map(device).collect();
        Self { shape, devices, rng }
    }

    fn samples(&self, device: usize) -> Samples<'_> {
        let (features, labels) = &self.devices[device];
        Samples::new(self.shape, features, labels).unwrap()
    }

    /// A run from its first step to its last; `shuffled` lets the answers arrive in another order.
    fn run(&mut self, params: ValidParams, rounds: u32, shuffled: bool) -> Vec<FleetModel> {
        let mut rng = self.rng.clone();
        self.run_with(params, rounds, |_, mut all| {
            if shuffled {
                all.shuffle(&mut rng);
            }
            all
        })
    }

    /// A run in which `answering` says, after so many rounds of training, who of all devices answers, in order.
    fn run_with(
        &mut self,
        params: ValidParams,
        rounds: u32,
        mut answering: impl FnMut(u32, Vec<usize>) -> Vec<usize>,
    ) -> Vec<FleetModel> {
        let auxiliary = Some(self.samples(0));
        let mut run =
            Run::new(RunConfig { shape: self.shape, params, seed: 7, rounds, auxiliary }, FleetModel::default());
        let (mut models, mut kept) = (Vec::new(), vec![None; self.devices.len()]);
        while let Some(request) = run.next_request() {
            let mut sum = run.open_round(request);
            for device in answering(run.trained(), (0..self.devices.len()).collect()) {
                let (samples, rng) = (self.samples(device), stream(7, models.len() as u32, &[device as u8]));
                let FleetModel { heads, side_information, .. } = run.model();
                let received = Received {
                    heads: heads.clone(),
                    side_information: side_information.as_ref().map(SideInformation::view),
                    device_state: kept[device].as_ref(),
                };
                let Answer { response, device_state } = respond(request, samples, received, &params, rng).unwrap();
                let confirmed = device_state.map(|value| DeviceState { value, is_confirmed: true });
                kept[device] = confirmed.or(kept[device].take());
                sum.add(&device.to_string(), &response, samples.labels().len() as u32).unwrap();
            }
            run.close_round(sum);
            models.push(run.model().clone());
        }
        models
    }
}

/// The method's defaults, with less to do for the aggregator.
fn quick(method: Method) -> Params {
    let mut params = Params { batch: 8, epochs: 2, rich_samples: 3, ..Params::defaults(method, 4) };
    for (name, value) in [("features_per_class", 5.0), ("match_steps", 3.0), ("retrain_epochs", 5.0)] {
        // Only one method has them.
        params = params.with(name.parse().unwrap(), value).unwrap_or(params);
    }
    params
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_method_ends_with_a_usable_head(
        seed: u64, sizes in prop::collection::vec(1_usize..25, 1..4), zero: bool, start in 0..4, tau in -1.0_f32..1.0
    ) {
        let mut fleet = Fleet::new(seed, &sizes);
        if zero {
            fleet.devices.iter_mut().for_each(|(features, _)| features.fill(0.0));
        }
        for method in Method::ALL {
            let start = [Init::Zeros, Init::Ncm, Init::Lda, Init::Posterior][start as usize];
            for params in [quick(method), Params { init: start, tau, averaged: true, ..quick(method) }] {
                let models = fleet.run(params.check().unwrap(), 3, false);
                let last = models.last().unwrap();
                prop_assert!(last.inference_head().is_some_and(|head| head.check(fleet.shape).is_ok()), "{}", method);
                prop_assert!(last.heads.as_ref().is_some_and(|heads| heads.check(fleet.shape).is_ok()), "{}", method);
            }
        }
    }

    #[test]
    fn the_order_of_arrival_changes_nothing(seed: u64, sizes in prop::collection::vec(1_usize..25, 2..5)) {
        for method in Method::ALL {
            let params = Params { averaged: true, tau: 0.5, ..quick(method) }.check().unwrap();
            let in_order = Fleet::new(seed, &sizes).run(params, 3, false);
            prop_assert_eq!(in_order, Fleet::new(seed, &sizes).run(params, 3, true), "{}", method);
        }
    }
}

#[test]
fn the_head_in_use_is_the_mean_of_the_last_half() {
    let params = Params { averaged: true, ..quick(Method::FedAvg) }.check().unwrap();
    let models = Fleet::new(1, &[20, 20]).run(params, 5, false);
    let main = |round: usize| &models[round].heads.as_ref().unwrap().main;
    assert_eq!(models[1].inference_head().unwrap(), main(1), "before the last half it is the newest");
    for (last, heads) in [(2, 1.0), (3, 2.0), (4, 3.0)] {
        for at in 0..models[last].inference_head().unwrap().weight.len() {
            let mean = (2..=last).map(|round| f64::from(main(round).weight[at])).sum::<f64>() / heads;
            assert!((f64::from(models[last].inference_head().unwrap().weight[at]) - mean).abs() < 1e-6);
        }
    }
}

#[test]
fn a_run_that_gets_more_rounds_begins_its_mean_anew() {
    let params = Params { averaged: true, ..quick(Method::FedAvg) }.check().unwrap();
    let shape = Shape::new(2, 1).unwrap();
    let mut model = FleetModel::default();
    let mut close = |value: f32, trained: u32, rounds: u32| {
        let mut sum = RoundSum::new(shape, Request::MAIN_HEAD, &params, &model);
        let main = Head { weight: vec![value, -value], bias: vec![0.0, 0.0] };
        let heads = Heads { main, supplementary: Head::zeros(shape) };
        let answer = Response::Heads { heads, prototypes: None, loss: None };
        sum.add("a", &answer, 1).unwrap();
        let conditions = Conditions { params: &params, seed: 0, rounds, trained, auxiliary: None };
        model.update(sum.merge(model.clone(), &conditions));
        model.inference_head().unwrap().weight[0]
    };
    assert_eq!((close(1.0, 0, 4), close(2.0, 1, 4), close(4.0, 2, 4), close(8.0, 3, 4)), (1.0, 2.0, 4.0, 6.0));
    // Ten rounds more: the last half begins with the eighth.
    assert_eq!((close(1.0, 4, 14), close(3.0, 7, 14), close(5.0, 8, 14)), (1.0, 3.0, 4.0));
}

#[test]
fn a_warm_start_is_the_scaled_one_shot_head() {
    for (start, method) in [(Init::Ncm, Method::Ncm), (Init::Lda, Method::Lda)] {
        let mut fleet = Fleet::new(2, &[30, 30]);
        let one_shot = fleet.run(quick(method).check().unwrap(), 1, false)[0].clone();
        let params = Params { init: start, init_scale: 0.25, ..quick(Method::FedAvg) }.check().unwrap();
        let begun = fleet.run(params, 1, false)[0].clone();
        let (whole, begun) = (one_shot.inference_head().unwrap(), begun.inference_head().unwrap());
        let pairs = begun.weight.iter().chain(&begun.bias[..3]).zip(whole.weight.iter().chain(&whole.bias[..3]));
        for (begun, whole) in pairs {
            assert!((begun - 0.25 * whole).abs() <= 1e-5 * whole.abs(), "{begun} of {whole}");
        }
        let least = begun.bias[..3].iter().copied().fold(f32::INFINITY, f32::min);
        assert_eq!(begun.bias[3], least, "a class that nobody shares can still be learned");
    }
}

#[test]
fn the_dial_adds_the_log_prior_and_leaves_training_alone() {
    let mut fleet = Fleet::new(3, &[40, 40]);
    let plain = fleet.run(quick(Method::FedAvg).check().unwrap(), 2, false);
    let shifted = fleet.run(quick(Method::PostHoc).check().unwrap(), 2, false);
    let counts = (0..2).fold(vec![0_u32; 4], |mut counts, device| {
        fleet.devices[device].1.iter().for_each(|label| counts[usize::from(*label)] += 1);
        counts
    });
    let total = counts.iter().sum::<u32>() as f32;
    // The sums took a round of their own, so the devices' random choices differ; the heads do not agree, the shift does.
    let last = shifted.last().unwrap();
    let (main, inference_head) = (&last.heads.as_ref().unwrap().main, last.inference_head().unwrap());
    assert_eq!(main.weight, inference_head.weight);
    for (class, (&count, (shifted, bias))) in
        counts.iter().zip(inference_head.bias.iter().zip(&main.bias)).enumerate().take(3)
    {
        let shift = shifted - bias;
        assert!((shift + (count as f32 / total).ln()).abs() < 1e-4, "class {class}: {shift}");
    }
    assert!(plain.last().unwrap().inference_head.is_none());
}

#[test]
fn the_dial_of_redgrape_plus_is_for_the_most_frequent_classes() {
    assert_eq!(
        Method::RedGrapePlus.logit_offset(&[0.1, 0.4, 0.0, 0.3, 0.02, 0.18, 0.0]),
        [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(Method::RedGrapePlus.logit_offset(&[0.5, 0.5]), [1.0, 0.0]);
    let mut fleet = Fleet::new(3, &[40, 40]);
    let of = |fleet: &mut Fleet, tau| {
        let params = Params { tau, ..quick(Method::RedGrapePlus) };
        fleet.run(params.check().unwrap(), 3, false).pop().unwrap().inference_head().unwrap().clone()
    };
    let (plain, turned) = (of(&mut fleet, 0.0), of(&mut fleet, 0.75));
    assert_eq!(plain.weight, turned.weight);
    let shifts: Vec<f32> = turned.bias.iter().zip(&plain.bias).map(|(turned, plain)| turned - plain).collect();
    assert!((shifts[0] - 0.75).abs() < 1e-6 && shifts[1..] == [0.0; 3], "{shifts:?}");
}

/// The mean cross-entropy of both heads' sum on all samples of a fleet.
fn loss(fleet: &Fleet, heads: &Heads) -> f64 {
    let mut logits = [0.0; 4];
    let mut summed = heads.main.clone();
    summed.bias.iter_mut().zip(&heads.supplementary.bias).for_each(|(sum, bias)| *sum += bias);
    let (mut sum, mut count) = (0.0, 0.0);
    for (features, labels) in &fleet.devices {
        for (row, label) in features.chunks(3).zip(labels) {
            summed.logits(row, &mut logits);
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            sum += total.ln() - f64::from(logits[usize::from(*label)]);
            count += 1.0;
        }
    }
    sum / count
}

/// Every fourth label is another, so that the best head is not an infinite one.
fn with_mistakes(mut fleet: Fleet) -> Fleet {
    let labels = fleet.devices.iter_mut().flat_map(|device| &mut device.1);
    labels.step_by(4).for_each(|label| *label = (*label + 1) % 3);
    fleet
}

fn heads_in_use(model: &FleetModel) -> Heads {
    let supplementary = model.heads.as_ref().unwrap().supplementary.clone();
    Heads { main: model.inference_head().unwrap().clone(), supplementary }
}

#[test]
fn where_all_answer_the_fleet_learns_as_one_device_would() {
    let mut many = with_mistakes(Fleet::new(8, &[60, 25, 40]));
    let all = many.devices.iter().fold((Vec::new(), Vec::new()), |(mut features, mut labels), device| {
        features.extend_from_slice(&device.0);
        labels.extend_from_slice(&device.1);
        (features, labels)
    });
    let mut one = Fleet { devices: vec![all], ..Fleet::new(8, &[1]) };
    let params = quick(Method::RedGrapePlus).check().unwrap();
    let (many_models, one_models) = (many.run(params, 8, false), one.run(params, 8, false));
    for (step, (of_many, of_one)) in many_models.iter().zip(&one_models).enumerate() {
        let pairs = heads_in_use(of_many).main.weight.into_iter().zip(heads_in_use(of_one).main.weight);
        pairs.for_each(|(a, b)| assert!((a - b).abs() < 2e-3, "step {step}: {a} and {b}"));
    }
    let losses: Vec<f64> = many_models.iter().map(|model| loss(&many, &heads_in_use(model))).collect();
    assert!(losses[1] < losses[0] && losses[8] < 0.96 * losses[0] && losses[8] < losses[5] + 1e-3, "{losses:?}");
}

#[test]
fn where_some_answer_the_fleet_still_comes_to_what_all_would_have_learned() {
    let mut fleet = with_mistakes(Fleet::new(9, &[30; 12]));
    let params = quick(Method::RedGrapePlus).check().unwrap();
    let all = fleet.run(params, 40, false);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let some = fleet.run_with(params, 40, |trained, mut all| {
        if trained > 0 {
            all.shuffle(&mut rng);
            all.truncate(2);
        }
        all
    });
    let of = |models: &[FleetModel], step: usize| loss(&fleet, &heads_in_use(&models[step]));
    let (start, best, found) = (of(&all, 0), of(&all, 40), of(&some, 40));
    assert!(found < best + 0.1 * (start - best), "from {start} to {found}; {best} is the least");
    let reference_point = |models: &[FleetModel], step: usize| models[step].side_information.clone();
    let at_the_start = Some(SideInformation::ReferencePoint(some[0].heads.as_ref().unwrap().main.clone()));
    assert_eq!(
        (reference_point(&some, 0), reference_point(&some, 1), reference_point(&some, 40)),
        (None, at_the_start.clone(), at_the_start)
    );
}

#[test]
fn everybody_is_asked_until_enough_have_answered_at_the_start() {
    let mut fleet = with_mistakes(Fleet::new(10, &[30; 4]));
    let params = quick(Method::RedGrapePlus).check().unwrap();
    let mut counts = [4, 2, 2, 3, 1].into_iter();
    let models = fleet.run_with(params, 4, |_, mut all| {
        all.truncate(counts.next().unwrap());
        all
    });
    let asks: Vec<bool> =
        models.iter().map(|model| params.method.asks_everybody(model.side_information.is_some())).collect();
    assert_eq!(asks, [true, true, true, false, false]);
    assert_eq!(models[0].heads, models[2].heads);
    assert_ne!(models[2].heads, models[3].heads);
    assert_ne!(models[3].heads, models[4].heads);
}

#[test]
fn devices_with_a_large_loss_weigh_more_under_climb() {
    let mut fleet = Fleet::new(4, &[90, 10]);
    // The second device's labels are wrong: its loss stays high.
    fleet.devices[1].1.iter_mut().for_each(|label| *label = 2 - *label);
    let last = fleet.run(quick(Method::Climb).check().unwrap(), 4, false).pop().unwrap();
    let climb::State { multipliers } = last.server_state.of_method().unwrap();
    assert_eq!(multipliers.len(), 2);
    assert!(multipliers["1"] > 0.0 && multipliers["0"] == 0.0, "{multipliers:?}");
}

#[test]
fn a_change_of_scaffold_that_goes_out_again_counts_with_the_samples_of_its_time() {
    let shape = Shape::new(2, 1).unwrap();
    let params = Params { batch: 8, ..Params::defaults(Method::Scaffold, 2) }.check().unwrap();
    let (features, labels) = ([-1.0, 1.0, -0.5, 0.5, -2.0, 2.0, -1.5, 1.5], [0, 1, 0, 1, 0, 1, 0, 1]);
    let all = Samples::new(shape, &features, &labels).unwrap();
    let answer = |samples: Samples<'_>, device_state: Option<&DeviceState>| {
        let received = Received { device_state, ..Received::default() };
        let answer = respond(params.method.training_request(), samples, received, &params, stream(1, 0, b"a")).unwrap();
        let Response::OfMethod(value) = answer.response else { panic!("{:?}", answer.response) };
        (value.get::<scaffold::Answer>().unwrap().change.clone(), answer.device_state.unwrap())
    };
    let (first, value) = answer(all.part(0..4), None);
    let (again, _) = answer(all, Some(&DeviceState { value: value.clone(), is_confirmed: false }));
    for (first, again) in first.weight.iter().zip(&again.weight) {
        assert!(*first != 0.0 && (4.0 * first - 8.0 * again).abs() < 1e-6, "{first} of 4 samples, {again} of 8");
    }
    let (next, _) = answer(all, Some(&DeviceState { value, is_confirmed: true }));
    assert_ne!(next.weight, again.weight, "once it is confirmed, another one is made");
}
