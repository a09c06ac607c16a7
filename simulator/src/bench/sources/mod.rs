//! Where samples come from: one file per kind.

mod digits;
mod features;
mod images;
mod standardise;

use std::path::PathBuf;

use grapevine_host::Shutdown;

use super::pool::{Pool, PoolSamples};
use super::{BenchError, BenchOptions, Progress};
use crate::data::is_npz;
use crate::data::synthetic::SyntheticSpec;

pub(crate) use standardise::unusual_spread;

/// Where the samples of a bench come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The shipped handwritten digits, through the shipped extractor for them.
    Digits,
    /// Random class clusters in feature space.
    Synthetic {
        /// Features and classes.
        spec: SyntheticSpec,
        /// Mean number of samples per device.
        samples_per_device: usize,
    },
    /// Features in an `.npz`, or images of any kind.
    Files {
        /// The file or folder.
        path: PathBuf,
        /// For an `.npz`: whether features are brought to the scale that the learning rates assume, by the training
        /// features' own mean and spread.
        standardise: bool,
        /// For images: the extractor's manifest or ONNX file; `None` for the shipped one.
        extractor: Option<PathBuf>,
        /// For images: where their features are kept.
        cache: Cache,
    },
}

/// Where the features of images are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// In the user's cache folder.
    #[default]
    Usual,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// Opens the source and reads what the seeds need of it.
pub(super) fn open(
    options: &BenchOptions,
    progress: &mut dyn FnMut(&Progress),
    shutdown: &Shutdown,
) -> Result<Pool, BenchError> {
    match &options.source {
        Source::Digits => digits::open(),
        Source::Synthetic { spec, samples_per_device } => Ok(made_up(*spec, *samples_per_device)),
        Source::Files { path, standardise, extractor, cache } => {
            let is_npz = is_npz(path).map_err(|source| BenchError::Read { path: path.clone(), source })?;
            match (is_npz, extractor) {
                (true, Some(_)) => Err(BenchError::Extracted { path: path.clone() }),
                (true, None) => features::open(path, *standardise),
                (false, _) if *standardise => Err(BenchError::NotFeatures { path: path.clone() }),
                (false, extractor) => images::open(path, extractor.as_deref(), cache, options, progress, shutdown),
            }
        }
    }
}

fn made_up(spec: SyntheticSpec, samples_per_device: usize) -> Pool {
    Pool {
        name: spec.to_string(),
        shape: spec.shape,
        class_names: (0..spec.shape.classes()).map(|class| format!("class {class}")).collect(),
        digests: [].into(),
        notes: Vec::new(),
        samples: PoolSamples::MadeUp { spec, samples_per_device },
    }
}
