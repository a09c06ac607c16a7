//! One device's local round at a size where it matters: d 512, C 100, 200 samples, 5 epochs, batch 64.
//! Prints GFLOP/s beside what a large product of matrixmultiply reaches on one core. The operations counted are those of the
//! textbook form; the dual form needs fewer, so the figure may lie above the ceiling.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::std_instead_of_core,
    reason = "a benchmark may fail loudly and say what it saw"
)]

use core::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use grapevine_models::{
    Balance, Head, Heads, LocalObjective, LocalTraining, Method, Params, Plan, Prototypes, Samples, Shape, Statistics,
    Sums, stream,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 100;
const FEATURES: usize = 512;
const SAMPLES: usize = 200;

struct Device {
    shape: Shape,
    features: Vec<f32>,
    labels: Vec<u16>,
}

impl Device {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let scale = 4.0 / (FEATURES as f32).sqrt();
        // A long tail over the classes, as one device of a real fleet sees it.
        let labels = (0..SAMPLES).map(|_| (rng.random::<f32>().powi(3) * CLASSES as f32) as u16).collect();
        let features = (0..SAMPLES * FEATURES).map(|_| (rng.random::<f32>() - 0.5) * 3.0 * scale).collect();
        Self { shape: Shape::new(CLASSES, FEATURES).expect("within limits"), features, labels }
    }

    fn samples(&self) -> Samples<'_> {
        Samples::new(self.shape, &self.features, &self.labels).expect("made to fit")
    }

    fn round(&self, params: Params, balance: Balance<'_>, heads: &Heads) -> Heads {
        let params = params.check().expect("defaults are valid");
        let mut plan = Plan::draw(&self.labels, CLASSES, &params.training(), stream(1, 1, b"device"));
        let balanced = plan.balanced().to_vec();
        let mut training = LocalTraining::new(
            self.samples(),
            heads.clone(),
            LocalObjective { balance, ..LocalObjective::PLAIN },
            &balanced,
            params.training(),
        );
        training.run(&mut plan);
        training.into_heads()
    }

    /// Floating-point operations of the matrix products of one round in the textbook form.
    fn flops(&self, params: Params, balanced_rows: usize) -> f64 {
        let product = 2.0 * (CLASSES * FEATURES) as f64;
        let epochs = f64::from(params.epochs);
        let steps = epochs * (SAMPLES as f64 / f64::from(params.batch)).ceil();
        2.0 * product * (epochs * SAMPLES as f64 + steps * balanced_rows as f64)
    }
}

fn local_round(criterion: &mut Criterion) {
    let device = Device::new();
    let heads = Heads::zeros(device.shape);
    let statistics = Statistics::of(&device.samples(), Sums::Means, 1);
    let means = statistics.means();
    let mut prototypes = Prototypes::of(&heads.main, &device.samples(), 1);
    for class in 0..CLASSES as u16 {
        prototypes.by_class.entry(class).or_insert_with(|| Head::zeros(device.shape));
    }
    let cases = [
        (Method::FedAvg, Balance::Nothing),
        (Method::RedGrape, Balance::Prototypes(&prototypes)),
        (Method::RedGrapeLive, Balance::Means(&means)),
    ];
    for (method, balance) in cases {
        let params = Params::defaults(method, CLASSES);
        criterion.bench_function(&format!("{method} d512 C100 n200 E5 B64"), |bencher| {
            bencher.iter(|| black_box(device.round(params, balance, &heads)));
        });
        let rows = match balance {
            Balance::Nothing | Balance::Local => 0,
            Balance::Prototypes(_) => balanced_rows(&device, params),
            Balance::Means(_) => balanced_rows(&device, params) + missing(&device, params),
        };
        let seconds = shortest(|| device.round(params, balance, &heads));
        let gflops = device.flops(params, rows) / seconds / 1e9;
        println!("{method}: {:.2} ms, {gflops:.1} GFLOP/s of the textbook form, {rows} balanced rows", seconds * 1e3);
    }
    criterion.bench_function("prototypes of one device", |bencher| {
        bencher.iter(|| black_box(Prototypes::of(&heads.main, &device.samples(), 1)));
    });
    println!("matrixmultiply, 512 x 512 x 512: {:.1} GFLOP/s", sgemm_peak());
}

fn balanced_rows(device: &Device, params: Params) -> usize {
    let params = params.check().expect("defaults are valid");
    Plan::draw(&device.labels, CLASSES, &params.training(), stream(1, 1, b"device")).balanced().len()
}

fn missing(device: &Device, params: Params) -> usize {
    let counts = grapevine_models::class_counts(&device.labels, CLASSES);
    counts.iter().filter(|&&count| count > 0 && count < u32::from(params.rich_samples)).count()
}

fn sgemm_peak() -> f64 {
    let a = ndarray::Array2::<f32>::from_elem((512, 512), 0.5);
    let mut c = ndarray::Array2::<f32>::zeros((512, 512));
    let seconds = shortest(|| ndarray::linalg::general_mat_mul(1.0, &a, &a, 0.0, &mut c));
    2.0 * 512.0_f64.powi(3) / seconds / 1e9
}

#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn shortest<T>(mut work: impl FnMut() -> T) -> f64 {
    let once = |work: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64()
    };
    (0..50).map(|_| once(&mut work)).fold(f64::INFINITY, f64::min)
}

criterion_group!(benches, local_round);
criterion_main!(benches);
