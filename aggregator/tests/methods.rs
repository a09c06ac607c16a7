//! Every method through the machine of rounds, with and without a restart after every round.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use core::time::Duration;
use std::sync::Arc;

use grapevine_aggregator::round::{
    Action, Auxiliary, Coordinator, Model, Participants, Progress, Quarantine, Registry, RoundConfig, Select,
};
use grapevine_models::{Heads, Method, Params, Samples, Shape, Start, Statistics, UpdateContent, stream, train_round};
use grapevine_protocol::{
    AidBody, BlobRef, BootId, DeviceId, Digest, Encoding, HeadsBody, Hello, Labels, Notice, Offer, RunId, Task,
    ToAggregator, Update, block,
};

const RUN: RunId = RunId(5);
const DEVICES: u16 = 3;

fn shape() -> Shape {
    Shape::new(3, 2).unwrap()
}

/// Mostly the class of its own number, and a few of the others.
fn samples_of(device: u16) -> (Vec<f32>, Vec<u16>) {
    let labels: Vec<u16> = (0..30).map(|at| if at % 5 == 0 { (device + at / 5) % 3 } else { device }).collect();
    let centre = |label: u16| [[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]][usize::from(label)];
    let scatter = |at: u16| f32::from(at % 7) * 0.05 - 0.15;
    let features = (0..).zip(&labels).flat_map(|(at, label)| centre(*label).map(|value| value + scatter(at))).collect();
    (features, labels)
}

fn config(params: Params) -> RoundConfig {
    let (features, labels) = samples_of(0);
    RoundConfig {
        shape: shape(),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: params.check().unwrap(),
        rounds: 4,
        min_devices: usize::from(DEVICES),
        select: Select::default(),
        participants: Participants::All,
        over_select: 0.0,
        quorum: 1.0,
        deadline: Duration::from_secs(60),
        extensions: 0,
        quarantine: Quarantine::default(),
        encoding: Encoding::F16,
        seed: 9,
        upload_bytes: 1 << 20,
        auxiliary: params.method.auxiliary().map(|_| Arc::new(Auxiliary { features, labels })),
    }
}

/// The answer of a device that got this model with this notice.
fn answer(device: u16, notice: &Notice, model: &Model) -> Vec<u8> {
    let (features, labels) = samples_of(device);
    let samples = Samples::new(shape(), &features, &labels).unwrap();
    let content = match notice.task {
        Task::Statistics { extent } => UpdateContent::Statistics(Statistics::of(&samples, extent, 1)),
        Task::Train | Task::Wait | Task::Finished => {
            assert_eq!(notice.heads, model.heads.as_ref().map(|content| content.blob));
            let heads = model.heads.as_ref().map(|heads| HeadsBody::decode(&heads.bytes, shape()).unwrap().0);
            let aid = model.aid.as_ref().map(|aid| AidBody::decode(&aid.bytes, shape()).unwrap().0);
            let rng = stream(notice.seed, notice.round.0, &device.to_le_bytes());
            train_round(samples, heads, aid.as_ref(), notice.params.check().unwrap(), rng).unwrap()
        }
    };
    Update { samples: labels.len() as u32, content }.encode(shape(), notice.encoding)
}

fn name(device: u16) -> DeviceId {
    format!("device-{device}").parse().unwrap()
}

fn say(coordinator: &mut Coordinator, device: u16, message: ToAggregator, block: &[u8]) {
    coordinator.handle_message(Duration::ZERO, &name(device), message, block);
}

fn greet(coordinator: &mut Coordinator) {
    for device in 0..DEVICES {
        let hello = Hello {
            boot: BootId(u64::from(device)),
            extractor: Digest([1; 32]),
            classes: Digest([2; 32]),
            shape: shape(),
            samples: 30,
            labels: Labels::default(),
        };
        say(coordinator, device, ToAggregator::Hello(hello), &[]);
    }
}

fn offer(coordinator: &mut Coordinator, device: u16, notice: &Notice) {
    let content = answer(device, notice, &coordinator.model().clone());
    let blob = BlobRef::of(&content);
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    let offer = Offer { run: RUN, round: notice.round, blob, crc: header.crc };
    say(coordinator, device, ToAggregator::Offer(offer), bytes);
}

/// The model after each round, the last notice, and the model at the end.
fn run(config: &RoundConfig, with_restarts: bool) -> (Vec<Model>, Notice) {
    let mut progress = Progress::default();
    let begin = |progress: &Progress| {
        Coordinator::new(config.clone(), BootId(1), RUN, progress.clone(), Registry::default(), None, Duration::ZERO)
    };
    let mut coordinator = begin(&progress);
    greet(&mut coordinator);
    let (mut models, mut notice) = (Vec::new(), None);
    while let Some(action) = coordinator.poll_action() {
        match action {
            Action::PublishNotice(new) => {
                let is_open = matches!(new.task, Task::Train | Task::Statistics { .. });
                notice = Some(new.clone());
                if is_open {
                    (0..DEVICES).for_each(|device| offer(&mut coordinator, device, &new));
                }
            }
            Action::StoreUpdate(update) => coordinator.handle_stored(&update.device, update.round),
            Action::Commit(outcome) => {
                progress.next_round += 1;
                progress.has_sums |= matches!(outcome.task, Task::Statistics { .. });
                progress.trained += u32::from(outcome.task == Task::Train);
                progress.model = outcome.model.clone();
                models.push(outcome.model);
                if with_restarts {
                    coordinator = begin(&progress);
                    greet(&mut coordinator);
                } else {
                    coordinator.handle_committed(Duration::ZERO);
                }
            }
            Action::Send(..)
            | Action::Report(_)
            | Action::PublishBlock(..)
            | Action::OpenRound { .. }
            | Action::AbandonRound(..)
            | Action::KeepDevice(_)
            | Action::ForgetDevices(_)
            | Action::ExtendRound(..)
            | Action::FinishRun(_) => {}
        }
    }
    assert!(coordinator.is_finished());
    (models, notice.unwrap())
}

#[test]
fn a_restart_after_every_round_changes_no_byte_of_any_method() {
    for method in Method::ALL {
        let mut params = Params { batch: 8, ..Params::defaults(method, 3) };
        params.set_own("features_per_class", 5.0);
        params.set_own("retrain_epochs", 10.0);
        for params in [params, Params { start: Start::Lda, averaged: true, tau: -0.5, ..params }] {
            let config = config(params);
            let (models, notice) = run(&config, false);
            let steps = usize::from(config.params.needs() != grapevine_models::Sums::Nothing)
                + if method.is_one_shot() { 0 } else { 4 };
            assert_eq!(models.len(), steps, "{method}");
            assert_eq!((models.clone(), notice.clone()), run(&config, true), "{method}");
            let last = models.last().unwrap();
            assert_eq!(notice.task, Task::Finished);
            assert_eq!(notice.heads, last.for_use().map(|content| content.blob), "{method}");
            let Heads { main, .. } = HeadsBody::decode(&last.for_use().unwrap().bytes, shape()).unwrap().0;
            assert_eq!(Some(main), last.head_in_use(&config), "{method}");
        }
    }
}

#[test]
fn what_is_in_use_differs_from_what_is_trained_where_the_method_says_so() {
    let last = |params: Params| run(&config(params), false).0.pop().unwrap();
    let plain = last(Params::defaults(Method::FedAvg, 3));
    assert!(plain.in_use.is_none() && plain.memory.is_none());
    for params in [
        Params { averaged: true, ..Params::defaults(Method::FedAvg, 3) },
        Params::defaults(Method::PostHoc, 3),
        Params::defaults(Method::RedGrapePlus, 3),
    ] {
        let model = last(params);
        assert!(model.in_use.is_some() && model.in_use != model.heads && model.memory.is_some(), "{params:?}");
    }
    assert!(last(Params::defaults(Method::Climb, 3)).memory.is_some());
}
