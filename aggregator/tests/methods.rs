//! Every method through the machine of rounds, with and without a restart after every round.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use grapevine_aggregator::round::{
    AcceptedUpdate, Action, Auxiliary, Contribution, Coordinator, Durable, Model, Participants, Progress, Quarantine,
    Registry, RoundConfig, RoundOutcome, Select, Tell,
};
use grapevine_models::evaluate::Accuracy;
use grapevine_models::{
    Answer, DeviceState, Heads, Init, Method, Params, Received, Samples, Shape, SideInformation, respond, stream,
};
use grapevine_protocol::{
    Attributes, BlobRef, DatasetId, DeviceId, Digest, Encoding, HeadsBody, Hello, Incarnation, Offer,
    RoundAnnouncement, RunId, SideInformationBody, Task, ToAggregator, Update, block, is_selected,
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
    let scatter = |at: u16, feature: u16| f32::from((at + device) * (3 + 2 * feature) % 7) * 0.3 - 0.9;
    let row = |(at, label): (u16, &u16)| {
        let [x, y] = centre(*label);
        [x + scatter(at, 0), y + scatter(at, 1)]
    };
    let features = (0..).zip(&labels).flat_map(row).collect();
    (features, labels)
}

fn config(params: Params) -> RoundConfig {
    let (features, labels) = samples_of(0);
    RoundConfig {
        shape: shape(),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: params.check().unwrap(),
        rounds: Some(4),
        rest_after: 50,
        news_after: Duration::ZERO,
        max_samples: 100_000,
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

/// The answer of a device that got this model with this announcement, and what it keeps from then on.
fn answer(
    device: u16,
    announcement: &RoundAnnouncement,
    model: &Model,
    device_state: &mut Option<DeviceState>,
) -> Vec<u8> {
    let (features, labels) = samples_of(device);
    let samples = Samples::new(shape(), &features, &labels).unwrap();
    let request = announcement.task.request().unwrap();
    if request.is_training() {
        assert_eq!(announcement.heads, model.heads.as_ref().map(|content| content.blob));
    }
    let heads = model.heads.as_ref().map(|heads| HeadsBody::decode(&heads.bytes, shape()).unwrap().0);
    let side_information = model.side_information.as_ref();
    let side_information =
        side_information.map(|content| SideInformationBody::decode(&content.bytes, shape()).unwrap().0);
    let rng = stream(announcement.seed, announcement.round.0, &device.to_le_bytes());
    let received = Received {
        heads,
        side_information: side_information.as_ref().map(SideInformation::view),
        device_state: device_state.as_ref(),
    };
    let Answer { response, device_state: kept } =
        respond(request, samples, received, &announcement.params, rng).unwrap();
    *device_state = kept.map(|value| DeviceState { value, is_confirmed: true }).or(device_state.take());
    Update { samples: labels.len() as u32, dataset: DatasetId(1), response }.encode(shape(), announcement.encoding)
}

fn name(device: u16) -> DeviceId {
    format!("device-{device}").parse().unwrap()
}

fn say(coordinator: &mut Coordinator, device: u16, message: ToAggregator, block: &[u8]) {
    coordinator.handle_message(Duration::ZERO, &name(device), message, block);
}

fn greet(coordinator: &mut Coordinator, devices: core::ops::Range<u16>) {
    for device in devices {
        let hello = Hello {
            incarnation: Incarnation(u64::from(device)),
            extractor: Digest([1; 32]),
            classes: Digest([2; 32]),
            shape: shape(),
            samples: 30,
            dataset: DatasetId(1),
            attributes: Attributes::default(),
        };
        say(coordinator, device, ToAggregator::Hello(hello), &[]);
    }
}

fn offer(
    coordinator: &mut Coordinator,
    device: u16,
    announcement: &RoundAnnouncement,
    device_state: &mut Option<DeviceState>,
) {
    let content = answer(device, announcement, &coordinator.model().clone(), device_state);
    let blob = BlobRef::of(&content);
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    let offer = Offer { run: RUN, round: announcement.round, blob, crc: header.crc };
    say(coordinator, device, ToAggregator::Offer(offer), bytes);
}

/// A fleet on one machine whose ledger is never wrong.
struct Fleet<'a> {
    config: &'a RoundConfig,
    coordinator: Coordinator,
    progress: Progress,
    with_restarts: bool,
    /// Who is there.
    devices: core::ops::Range<u16>,
    /// The newest update of statistics of each device that was merged.
    statistics: BTreeMap<DeviceId, Vec<u8>>,
    /// What devices told of their samples, as far as it was merged.
    contributions: BTreeMap<DeviceId, Contribution>,
    /// Updates of the open round.
    open: Vec<AcceptedUpdate>,
    models: Vec<Model>,
    /// What the method keeps on each device.
    kept: Vec<Option<DeviceState>>,
    announcement: Option<RoundAnnouncement>,
}

impl<'a> Fleet<'a> {
    fn new(config: &'a RoundConfig, devices: core::ops::Range<u16>, with_restarts: bool) -> Self {
        let progress = Progress::default();
        Self {
            coordinator: begin(config, &progress),
            config,
            progress,
            with_restarts,
            devices,
            statistics: BTreeMap::new(),
            contributions: BTreeMap::new(),
            open: Vec::new(),
            models: Vec::new(),
            kept: vec![None; usize::from(DEVICES)],
            announcement: None,
        }
    }

    /// Until nothing is left to do.
    fn run(&mut self) {
        greet(&mut self.coordinator, self.devices.clone());
        while let Some(action) = self.coordinator.poll_action() {
            match action {
                Action::Tell(Tell::Everybody(new)) => self.answer_all(new),
                Action::Durable(Durable::StoreUpdate(update)) => {
                    let former = self.statistics.get(&update.device).filter(|_| self.coordinator.replaces_statistics());
                    let former = former.map(Vec::as_slice);
                    self.coordinator.handle_stored(Duration::ZERO, &update.device, update.round, former);
                    self.open.push(update);
                }
                Action::Durable(Durable::Commit(outcome)) => self.commit(*outcome),
                Action::Durable(_) | Action::Tell(_) => {}
            }
        }
        assert!(self.coordinator.is_resting());
    }

    fn answer_all(&mut self, announcement: RoundAnnouncement) {
        if announcement.task.request().is_some() {
            let asked = self.devices.clone().filter(|device| is_selected(&announcement, &name(*device)));
            asked.for_each(|device| {
                offer(&mut self.coordinator, device, &announcement, &mut self.kept[usize::from(device)]);
            });
        }
        self.announcement = Some(announcement);
    }

    fn commit(&mut self, outcome: RoundOutcome) {
        for update in core::mem::take(&mut self.open) {
            if outcome.takes_in {
                self.contributions.insert(update.device.clone(), update.contribution);
            }
            if !outcome.request.is_training() {
                self.statistics.insert(update.device, update.content);
            }
        }
        self.progress.next_round += 1;
        self.progress.counters = outcome.counters;
        self.progress.model = outcome.model.clone();
        self.models.push(outcome.model);
        if self.with_restarts {
            self.coordinator = begin(self.config, &self.progress);
            for (device, contribution) in &self.contributions {
                self.coordinator.handle_contribution(device, *contribution);
            }
            greet(&mut self.coordinator, self.devices.clone());
        } else {
            self.coordinator.handle_committed(Duration::ZERO);
        }
    }

    /// The share of the right ones among all devices' samples.
    fn accuracy(&self) -> f64 {
        let head = self.coordinator.model().inference_head(self.config).unwrap();
        let all: Vec<(Vec<f32>, Vec<u16>)> = (0..DEVICES).map(samples_of).collect();
        let features: Vec<f32> = all.iter().flat_map(|(features, _)| features.clone()).collect();
        let labels: Vec<u16> = all.iter().flat_map(|(_, labels)| labels.clone()).collect();
        Accuracy::of(&head, &Samples::new(shape(), &features, &labels).unwrap()).balanced()
    }
}

fn begin(config: &RoundConfig, progress: &Progress) -> Coordinator {
    Coordinator::new(config.clone(), Incarnation(1), RUN, progress.clone(), Registry::default(), None, Duration::ZERO)
}

/// The model after each round, the last announcement, and the model at the end.
fn run(config: &RoundConfig, with_restarts: bool) -> (Vec<Model>, RoundAnnouncement) {
    let mut fleet = Fleet::new(config, 0..DEVICES, with_restarts);
    fleet.run();
    assert!(fleet.coordinator.is_finished());
    (fleet.models, fleet.announcement.unwrap())
}

#[test]
fn a_device_that_comes_late_counts_as_much_as_one_from_the_start() {
    for method in Method::ALL {
        let mut params = Params { batch: 8, ..Params::defaults(method, 3) };
        params = params.with("features_per_class".parse().unwrap(), 5.0).unwrap_or(params);
        params = params.with("retrain_epochs".parse().unwrap(), 10.0).unwrap_or(params);
        for start in [params.init, Init::Lda] {
            let params = Params { init: start, ..params };
            let config = RoundConfig { rounds: None, rest_after: 40, min_devices: 1, ..config(params) };
            let mut whole = Fleet::new(&config, 0..DEVICES, false);
            whole.run();
            // The last device holds nearly all samples of the last class.
            let mut late = Fleet::new(&config, 0..DEVICES - 1, false);
            late.run();
            let before = late.accuracy();
            late.devices = 0..DEVICES;
            late.run();
            assert!(late.accuracy() + 0.01 >= whole.accuracy(), "{method} from {start:?}: {} before", before);
            if method.sends_gradient() || method.is_one_shot() {
                let used = |fleet: &Fleet<'_>| fleet.coordinator.model().for_use().unwrap().blob;
                assert_eq!(used(&late), used(&whole), "{method}: to the bit what it would be");
            }
        }
    }
}

#[test]
fn a_restart_after_every_round_changes_no_byte_of_any_method() {
    for method in Method::ALL {
        let mut params = Params { batch: 8, ..Params::defaults(method, 3) };
        params = params.with("features_per_class".parse().unwrap(), 5.0).unwrap_or(params);
        params = params.with("retrain_epochs".parse().unwrap(), 10.0).unwrap_or(params);
        for params in [params, Params { init: Init::Lda, averaged: true, tau: -0.5, ..params }] {
            let config = config(params);
            let (models, announcement) = run(&config, false);
            let steps = usize::from(config.params.needs() != grapevine_models::Sums::Nothing)
                + if method.is_one_shot() { 0 } else { 4 };
            assert_eq!(models.len(), steps, "{method}");
            assert_eq!((models.clone(), announcement.clone()), run(&config, true), "{method}");
            let last = models.last().unwrap();
            assert_eq!(announcement.task, Task::Rest);
            assert_eq!(announcement.heads, last.for_use().map(|content| content.blob), "{method}");
            let Heads { main, .. } = HeadsBody::decode(&last.for_use().unwrap().bytes, shape()).unwrap().0;
            assert_eq!(Some(main), last.inference_head(&config), "{method}");
        }
    }
}

#[test]
fn what_is_in_use_differs_from_what_is_trained_where_the_method_says_so() {
    let last = |params: Params| run(&config(params), false).0.pop().unwrap();
    let plain = last(Params::defaults(Method::FedAvg, 3));
    assert!(plain.inference_head.is_none() && plain.server_state.is_none());
    for params in [
        Params { averaged: true, ..Params::defaults(Method::FedAvg, 3) },
        Params::defaults(Method::PostHoc, 3),
        Params::defaults(Method::RedGrapePlus, 3),
    ] {
        let model = last(params);
        assert!(
            model.inference_head.is_some() && model.inference_head != model.heads && model.server_state.is_some(),
            "{params:?}"
        );
    }
    assert!(last(Params::defaults(Method::Climb, 3)).server_state.is_some());
}
