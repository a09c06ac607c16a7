//! A data set that fleets are drawn from: all of it is the same for every seed, but for who holds what.

use std::collections::BTreeMap;
use std::sync::Arc;

use grapevine_models::Shape;
use grapevine_protocol::{Digest, Encoding};
use ndarray::{Array2, ArrayView1, Axis};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::BenchError;
use super::fleet::Fleet;
use crate::data::SampleSet;
use crate::data::class_counts;
use crate::data::long_tail::long_tail;
use crate::data::partition::{Partition, partition};
use crate::data::synthetic::{Synthetic, SyntheticFleet, SyntheticSpec};

/// Held-out samples per class of made-up features.
const SYNTHETIC_TEST_PER_CLASS: usize = 20;

/// How a fleet is drawn from a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Deal {
    pub(super) devices: usize,
    pub(super) partition: Partition,
    pub(super) alpha: f64,
    /// `None` takes the training samples as they are.
    pub(super) imbalance: Option<f64>,
}

/// What fleets are drawn from.
pub(super) struct Pool {
    /// For tables.
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) class_names: Vec<String>,
    /// SHA-256 of what the samples came from, by name.
    pub(super) digests: BTreeMap<String, String>,
    /// What people should know about the data.
    pub(super) notes: Vec<String>,
    pub(super) samples: PoolSamples,
}

pub(super) enum PoolSamples {
    /// Real ones.
    Real(RealSamples),
    /// Made-up ones, drawn for each seed.
    MadeUp { spec: SyntheticSpec, samples_per_device: usize },
}

/// Samples that are there, or those of them that some seed uses.
pub(super) struct RealSamples {
    /// Of all training samples, loaded or not.
    pub(super) labels: Vec<u16>,
    /// The loaded ones.
    pub(super) train: SampleSet,
    /// A digest for each loaded one, by which a device's store would order it.
    pub(super) keys: Vec<[u8; 32]>,
    /// The row in `train` of each training sample, where it is loaded; empty where all are, in order.
    pub(super) rows: BTreeMap<u32, u32>,
    pub(super) test: Arc<SampleSet>,
}

impl Pool {
    /// The fleet of a seed.
    pub(super) fn draw(&self, deal: &Deal, seed: u64) -> Result<Fleet, BenchError> {
        match &self.samples {
            PoolSamples::Real(samples) => samples.draw(self.shape, deal, seed),
            PoolSamples::MadeUp { spec, samples_per_device } => make_up(*spec, *samples_per_device, deal, seed),
        }
    }
}

/// The training samples that a seed's long tail keeps, and the generator to go on with.
pub(super) fn kept(
    labels: &[u16],
    classes: usize,
    imbalance: Option<f64>,
    seed: u64,
) -> Result<(Vec<u32>, ChaCha8Rng), BenchError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let kept = match imbalance {
        Some(ratio) => long_tail(labels, classes, ratio, &mut rng)?,
        None => (0..labels.len() as u32).collect(),
    };
    Ok((kept, rng))
}

impl RealSamples {
    fn draw(&self, shape: Shape, deal: &Deal, seed: u64) -> Result<Fleet, BenchError> {
        let (kept, mut rng) = kept(&self.labels, shape.classes(), deal.imbalance, seed)?;
        let rows: Vec<u32> = if self.rows.is_empty() {
            kept
        } else {
            kept.iter().filter_map(|index| self.rows.get(index).copied()).collect()
        };
        let labels: Vec<u16> = rows.iter().map(|&row| self.train.labels[row as usize]).collect();
        let dealt = partition(&labels, shape.classes(), deal.devices, deal.alpha, deal.partition, &mut rng)?;
        let devices = dealt.par_iter().map(|mine| self.device(mine.iter().map(|&at| rows[at as usize])));
        Ok(Fleet { shape, devices: devices.collect(), test: self.test.clone(), seed })
    }

    /// A device's samples as its store gives them: ordered by label, then digest.
    fn device(&self, rows: impl Iterator<Item = u32>) -> SampleSet {
        let mut rows: Vec<u32> = rows.collect();
        rows.sort_by_key(|&row| (self.train.labels[row as usize], self.keys[row as usize]));
        self.train.select(&rows)
    }
}

fn make_up(spec: SyntheticSpec, samples_per_device: usize, deal: &Deal, seed: u64) -> Result<Fleet, BenchError> {
    let synthetic = Synthetic::generate(
        spec,
        &SyntheticFleet {
            devices: deal.devices,
            samples_per_device,
            imbalance_ratio: deal.imbalance.unwrap_or(1.0),
            partition: deal.partition,
            alpha: deal.alpha,
            seed,
        },
    )?;
    let devices = (0..deal.devices).into_par_iter().map(|number| stored(synthetic.device(number)));
    let test = Arc::new(synthetic.test(SYNTHETIC_TEST_PER_CLASS));
    Ok(Fleet { shape: spec.shape, devices: devices.collect(), test, seed })
}

/// Samples as a device's store gives them back.
fn stored(samples: SampleSet) -> SampleSet {
    let keys = keys(&samples);
    let mut rows: Vec<u32> = (0..samples.labels.len() as u32).collect();
    rows.sort_by_key(|&row| (samples.labels[row as usize], keys[row as usize]));
    let mut ordered = samples.select(&rows);
    halve(&mut ordered.features);
    ordered
}

/// What a device's store would know samples by that are no images.
pub(super) fn keys(samples: &SampleSet) -> Vec<[u8; 32]> {
    let key =
        |row: ArrayView1<'_, f32>| Digest::of(&row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).0;
    samples.features.axis_iter(Axis(0)).into_par_iter().map(key).collect()
}

/// Rounds features to what a device's store keeps of them, f16.
pub(super) fn halve(features: &mut Array2<f32>) {
    features.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| {
        let row = row.as_slice_mut().expect("standard layout");
        let mut bytes = Vec::with_capacity(2 * row.len());
        Encoding::F16.write(row, row.len(), &mut bytes);
        // What is not finite in f16 stays as it is, for the check of all samples to find.
        if let Ok(rounded) = Encoding::F16.read(1, row.len(), &mut &bytes[..]) {
            row.copy_from_slice(&rounded);
        }
    });
}

/// The first class without a sample.
pub(super) fn empty_class(labels: &[u16], classes: usize) -> Option<usize> {
    class_counts(labels.iter().copied(), classes).iter().position(|&count| count == 0)
}
