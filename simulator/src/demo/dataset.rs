//! The devices' samples and the held-out set of a demo.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grapevine_edge_client::ingest::{IngestError, ingest};
use grapevine_edge_client::store::{Sample, Store, StoreError, StoreIdentity, StoreLimits};
use grapevine_host::Shutdown;
use grapevine_models::{Shape, ShapeError};
use grapevine_protocol::Digest;
use grapevine_vision::extractor::{Extractor, ExtractorError};
use grapevine_vision::image_input::{ImageError, ImageInput};
use grapevine_vision::manifest::{self, ManifestLoadError};
use grapevine_vision::source::SourceError;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{DIGITS_IMBALANCE, DemoError, DemoOptions, Progress, Source, features, images};
use crate::data::SampleSet;
use crate::data::class_counts;
use crate::data::digits::{self, Digits, FolderError};
use crate::data::images::ImagesError;
use crate::data::long_tail::{LongTailError, long_tail};
use crate::data::partition::{PartitionError, partition};
use crate::data::synthetic::{Synthetic, SyntheticError, SyntheticFleet, SyntheticSpec};

/// The shipped extractor, so that the demo runs from any folder.
const DIGITS_ONNX: &[u8] = include_bytes!("../../../models/onnx/digits.onnx");
const DIGITS_MANIFEST: &[u8] = include_bytes!("../../../models/onnx/digits.toml");
/// Held-out samples per class of synthetic data.
const SYNTHETIC_TEST_PER_CLASS: usize = 20;

/// Everything the federations of a demo share.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) class_names: Vec<String>,
    pub(super) extractor: Digest,
    pub(super) stores: Vec<Arc<Store>>,
    /// Samples of the most frequent class per sample of the rarest, as asked for or as they are.
    pub(super) imbalance_ratio: f64,
    pub(super) device_class_counts: Vec<Vec<u64>>,
    /// Held out, seen by no device.
    pub(super) test: SampleSet,
    /// What people should know about the data.
    pub(super) notes: Vec<String>,
}

impl Prepared {
    /// Training samples of each class over the whole fleet: `[class]`.
    pub(super) fn class_counts(&self) -> Vec<u64> {
        let of_class = |class: usize| self.device_class_counts.iter().map(|device| device[class]).sum();
        (0..self.shape.classes()).map(of_class).collect()
    }
}

/// Why the demo's data could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The extractor's files.
    #[error(transparent)]
    Manifest(#[from] ManifestLoadError),
    /// The extractor itself.
    #[error(transparent)]
    Extractor(#[from] ExtractorError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A device's images.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// A device's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The images' folders.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The long tail.
    #[error(transparent)]
    LongTail(#[from] LongTailError),
    /// Who holds what.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// A data set of images.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// Features that were extracted elsewhere.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Images where features belong.
    #[error("{} holds no features; give an .npz of features, or images", path.display())]
    NoFeatures {
        /// The data.
        path: PathBuf,
    },
    /// A file that went away.
    #[error("cannot read {}: {source}; check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing to test on.
    #[error("{} has no test samples; add test_features and test_labels", path.display())]
    NoTest {
        /// The file.
        path: PathBuf,
    },
    /// A class that nobody can learn or be tested on.
    #[error("class `{class}` has no {part} sample that can be used; add some, or remove the class")]
    EmptyClass {
        /// Its name.
        class: String,
        /// Training or test.
        part: &'static str,
    },
    /// Synthetic features.
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
    /// Too many classes or features.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A file of the demo's own folder.
    #[error("cannot write {path}: {source}; free some space or set TMPDIR")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Fills one store per device and makes the held-out set.
pub(super) fn prepare(
    options: &DemoOptions,
    folder: &Path,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, DemoError> {
    let prepared = match &options.source {
        Source::Digits => prepare_digits(options, folder, shutdown, progress),
        Source::Synthetic { spec, samples_per_device } => {
            prepare_synthetic(options, *spec, *samples_per_device, folder, shutdown, progress)
        }
        Source::Images { path, extractor, cache } => {
            images::prepare(options, &images::Images { path, extractor, cache }, folder, shutdown, progress)
        }
        Source::Features { path } => features::prepare(options, path, folder, shutdown, progress),
    };
    if shutdown.is_requested() { Err(DemoError::Stopped) } else { Ok(prepared?) }
}

fn prepare_digits(
    options: &DemoOptions,
    folder: &Path,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, DataError> {
    for (name, bytes) in [("digits.onnx", DIGITS_ONNX), ("digits.toml", DIGITS_MANIFEST)] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|source| DataError::Write { path, source })?;
    }
    let (manifest, onnx) = manifest::load(&folder.join("digits.toml"))?;
    let extractor = Extractor::load(&manifest, &onnx)?;
    let input = ImageInput::new(&manifest.input);
    let digits = Digits::load();
    let split = digits.split();
    let class_names = digits::class_names();
    let shape = Shape::new(class_names.len(), manifest.output.features)?;
    let identity = StoreIdentity {
        extractor: Digest::from_hex(&manifest.sha256).expect("the manifest was checked").0,
        classes: class_names.clone(),
        shape,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let pool_labels = digits.labels_of(&split.pool);
    let imbalance_ratio = options.imbalance.unwrap_or(DIGITS_IMBALANCE);
    let kept = long_tail(&pool_labels, shape.classes(), imbalance_ratio, &mut rng)?;
    let labels: Vec<u16> = kept.iter().map(|&index| pool_labels[index as usize]).collect();
    let dealt = partition(&labels, shape.classes(), options.devices, options.alpha, options.partition, &mut rng)?;
    let mut stores = Vec::new();
    for (number, mine) in dealt.iter().enumerate() {
        if shutdown.is_requested() {
            break;
        }
        let device = device_folder(folder, number)?;
        let images: Vec<u32> = mine.iter().map(|&at| split.pool[kept[at as usize] as usize]).collect();
        digits.write_folder(&device.join("images"), &images)?;
        let store = Store::open(&device.join("store.redb"), &identity)?;
        ingest(&device.join("images"), &class_names, &input, &extractor, &store, &|_| (), &|| shutdown.is_requested())?;
        stores.push(Arc::new(store));
        progress(&Progress::Preparing { done: number + 1, devices: options.devices });
    }
    let test = extract_test(&digits, &split.held_out, &folder.join("test"), &input, &extractor)?;
    let device_class_counts = counts_of(&dealt, &labels, shape.classes());
    Ok(Prepared {
        name: "handwritten digits (UCI), 8 x 8 pixels".into(),
        shape,
        class_names,
        extractor: Digest(identity.extractor),
        stores,
        imbalance_ratio,
        device_class_counts,
        test,
        notes: Vec::new(),
    })
}

fn extract_test(
    digits: &Digits,
    held_out: &[u32],
    folder: &Path,
    input: &ImageInput,
    extractor: &Extractor,
) -> Result<SampleSet, DataError> {
    digits.write_folder(folder, held_out)?;
    let features = held_out
        .par_iter()
        .map(|&index| {
            let class = digits.labels[index as usize];
            let image = input.load(&folder.join(class.to_string()).join(format!("{index:04}.png")))?;
            Ok(extractor.extract(&image)?)
        })
        .collect::<Result<Vec<Vec<f32>>, DataError>>()?;
    Ok(SampleSet::of_rows(features.concat(), digits.labels_of(held_out), extractor.features()))
}

fn prepare_synthetic(
    options: &DemoOptions,
    spec: SyntheticSpec,
    samples_per_device: usize,
    folder: &Path,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, DataError> {
    let imbalance_ratio = options.imbalance.unwrap_or(DIGITS_IMBALANCE);
    let synthetic = Synthetic::generate(
        spec,
        &SyntheticFleet {
            devices: options.devices,
            samples_per_device,
            imbalance_ratio,
            partition: options.partition,
            alpha: options.alpha,
            seed: options.seed,
        },
    )?;
    let shape = spec.shape;
    let class_names: Vec<String> = (0..shape.classes()).map(|class| format!("class {class}")).collect();
    let extractor = Digest::of(spec.to_string().as_bytes());
    let identity = StoreIdentity { extractor: extractor.0, classes: class_names.clone(), shape };
    let mut stores = Vec::new();
    for number in 0..options.devices {
        if shutdown.is_requested() {
            break;
        }
        let device = device_folder(folder, number)?;
        let samples = synthetic.device(number);
        let digests: Vec<[u8; 32]> = samples.iter().map(|(features, _)| digest_of(features)).collect();
        stores.push(Arc::new(filled(&device, &identity, &samples, &digests)?));
        progress(&Progress::Preparing { done: number + 1, devices: options.devices });
    }
    Ok(Prepared {
        name: spec.to_string(),
        shape,
        class_names,
        extractor,
        stores,
        imbalance_ratio,
        device_class_counts: synthetic.device_class_counts(),
        test: synthetic.test(SYNTHETIC_TEST_PER_CLASS),
        notes: Vec::new(),
    })
}

/// A device's store with samples whose features are known, `digests` being what they came from.
pub(super) fn filled(
    device: &Path,
    identity: &StoreIdentity,
    samples: &SampleSet,
    digests: &[[u8; 32]],
) -> Result<Store, StoreError> {
    let limits = StoreLimits { max_samples: u32::MAX, max_bytes: u64::MAX, ..StoreLimits::default() };
    let store = Store::open(&device.join("store.redb"), identity)?.with_limits(limits);
    let rows = samples.iter().zip(digests);
    let batch: Vec<Sample<'_>> = rows.map(|((features, label), &digest)| Sample { label, digest, features }).collect();
    store.insert_batch(&batch)?;
    Ok(store)
}

/// What a store knows a sample by that is no image.
pub(super) fn digest_of(features: &[f32]) -> [u8; 32] {
    let bytes: Vec<u8> = features.iter().flat_map(|value| value.to_le_bytes()).collect();
    Digest::of(&bytes).0
}

pub(super) fn device_folder(folder: &Path, number: usize) -> Result<PathBuf, DataError> {
    let path = folder.join(format!("device-{number:04}"));
    std::fs::create_dir_all(&path).map_err(|source| DataError::Write { path: path.clone(), source })?;
    Ok(path)
}

pub(super) fn counts_of(dealt: &[Vec<u32>], labels: &[u16], classes: usize) -> Vec<Vec<u64>> {
    let of_device = |mine: &Vec<u32>| class_counts(mine.iter().map(|&at| labels[at as usize]), classes);
    dealt.iter().map(of_device).collect()
}
