//! A device's whole round of training, from the model's bytes to the update's: d 512, C 100, 200 samples, 5 epochs,
//! batch 64, a fleet that sends every prototype.
#![allow(missing_docs, reason = "criterion's macros document nothing")]

use core::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use grapevine_edge_client::session::Job;
use grapevine_edge_client::store::Dataset;
use grapevine_edge_client::work::work;
use grapevine_models::{Head, Heads, Method, Params, Prototypes, Samples, Shape, SideInformation, Statistics, Sums};
use grapevine_protocol::{
    DatasetId, DeviceId, Encoding, Incarnation, RoundAnnouncement, RoundId, RunId, SideInformationBody, Task,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 100;
const FEATURES: usize = 512;
const SAMPLES: usize = 200;

struct Fleet {
    shape: Shape,
    heads: Heads,
    prototypes: Prototypes,
    /// Of the one device.
    dataset: Dataset,
}

impl Fleet {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let shape = Shape::new(CLASSES, FEATURES).expect("within limits");
        let mut random = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| (rng.random::<f32>() - 0.5) * scale).collect()
        };
        let features = random(SAMPLES * FEATURES, 12.0 / (FEATURES as f32).sqrt());
        // A long tail over the classes, as one device of a real fleet sees it.
        let tail = |share: f32| ((share + 0.5).powi(3) * CLASSES as f32) as u16;
        let labels = random(SAMPLES, 1.0).into_iter().map(tail).collect();
        let mut head = || Head { weight: random(shape.weights(), 0.1), bias: random(CLASSES, 0.1) };
        let heads = Heads { main: head(), supplementary: head() };
        let by_class = (0..CLASSES as u16).map(|class| (class, head())).collect();
        let dataset = Dataset { features, labels, id: DatasetId::default(), damaged: 0 };
        Self { shape, heads, prototypes: Prototypes { by_class }, dataset }
    }

    fn side_information(&self, method: Method) -> Option<SideInformation> {
        if method.sends_prototypes() {
            return Some(SideInformation::Prototypes(self.prototypes.clone()));
        }
        let samples = Samples::new(self.shape, &self.dataset.features, &self.dataset.labels).expect("made to fit");
        (method == Method::RedGrapeLive)
            .then(|| SideInformation::Means(Statistics::of(&samples, Sums::Means, 1).means()))
    }

    fn job(&self, method: Method, encoding: Encoding) -> Job {
        let announcement = RoundAnnouncement {
            incarnation: Incarnation(1),
            run: RunId(1),
            round: RoundId(2),
            task: Task::Round(method.training_request()),
            shape: self.shape,
            params: Params::defaults(method, CLASSES).check().expect("defaults are valid"),
            encoding,
            heads: None,
            side_information: None,
            seed: 1,
            selection_threshold: u64::MAX,
            only: Vec::new(),
            closes_in_ms: 60_000,
        };
        let heads = Arc::new(self.heads.clone());
        let side_information = self
            .side_information(method)
            .map(|side_information| SideInformationBody(side_information).encode(Encoding::F32).into());
        Job { announcement, heads: Some(heads), side_information }
    }
}

fn whole_round(criterion: &mut Criterion) {
    let fleet = Fleet::new();
    let device: DeviceId = "device".parse().expect("a valid name");
    for (method, encoding) in [
        (Method::FedAvg, Encoding::F32),
        (Method::RedGrape, Encoding::F32),
        (Method::RedGrape, Encoding::F16),
        (Method::RedGrape, Encoding::Int8),
        (Method::RedGrapeLive, Encoding::F32),
    ] {
        let job = fleet.job(method, encoding);
        criterion.bench_function(&format!("{method} {encoding:?} d512 C100 n200 E5 B64"), |bencher| {
            bencher.iter(|| {
                black_box(work(&job, &device, &fleet.dataset, None, &mut || true)).expect("the round can be trained")
            });
        });
    }
}

criterion_group!(benches, whole_round);
criterion_main!(benches);
