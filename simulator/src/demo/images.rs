//! A demo on images of a person's own: features from the cache, a long tail of the training part, one store per device.

use std::path::Path;
use std::sync::Arc;

use grapevine_edge_client::store::StoreIdentity;
use grapevine_host::Shutdown;
use grapevine_models::Shape;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::dataset::{DataError, Prepared, counts_of, device_folder, filled};
use super::{DemoOptions, Progress};
use crate::data::images::{FeatureCache, ImageData, ImageProgress, Loaded};
use crate::data::long_tail::long_tail;
use crate::data::partition::partition;
use crate::data::synthetic::SampleSet;
use crate::extractor::FrozenExtractor;

/// Where images are and what becomes of them.
pub(super) struct Images<'a> {
    pub(super) path: &'a Path,
    pub(super) extractor: &'a FrozenExtractor,
    pub(super) cache: &'a FeatureCache,
}

/// Fills one store per device and makes the held-out set.
pub(super) fn prepare(
    options: &DemoOptions,
    images: &Images<'_>,
    folder: &Path,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, DataError> {
    let Images { path, extractor, cache } = images;
    let mut reading = |step: ImageProgress| progress(&Progress::Reading(step));
    let data = ImageData::open(path, &mut reading, shutdown)?;
    let shape = Shape::new(data.class_names.len(), extractor.manifest().output.features)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let kept = long_tail(data.train.labels(), shape.classes(), options.imbalance_ratio, &mut rng)?;
    let train = data.train.features(&kept, extractor, cache, &mut reading, shutdown)?;
    let all: Vec<u32> = (0..data.test.len() as u32).collect();
    let test = data.test.features(&all, extractor, cache, &mut reading, shutdown)?;
    let labels = &train.samples.labels;
    let dealt = partition(labels, shape.classes(), options.devices, options.alpha, options.partition, &mut rng)?;
    let identity = StoreIdentity { extractor: extractor.digest().0, classes: data.class_names.clone(), shape };
    let mut stores = Vec::new();
    for (number, mine) in dealt.iter().enumerate() {
        if shutdown.is_requested() {
            break;
        }
        let device = device_folder(folder, number)?;
        let (samples, digests) = part(&train, mine, shape.features());
        stores.push(Arc::new(filled(&device, &identity, &samples, &digests)?));
        progress(&Progress::Preparing { done: number + 1, devices: options.devices });
    }
    Ok(Prepared {
        name: format!("{}, extractor {}", data.name, extractor.manifest().name),
        shape,
        extractor: extractor.digest(),
        stores,
        device_class_counts: counts_of(&dealt, labels, shape.classes()),
        notes: notes(&data, &train, &test),
        class_names: data.class_names,
        test: test.samples,
    })
}

/// One device's samples and what they came from.
fn part(train: &Loaded, mine: &[u32], features: usize) -> (SampleSet, Vec<[u8; 32]>) {
    let rows = mine.iter().flat_map(|&at| &train.samples.features[at as usize * features..][..features]);
    let samples = SampleSet {
        features: rows.copied().collect(),
        labels: mine.iter().map(|&at| train.samples.labels[at as usize]).collect(),
    };
    (samples, mine.iter().map(|&at| train.digests[at as usize]).collect())
}

fn notes(data: &ImageData, train: &Loaded, test: &Loaded) -> Vec<String> {
    let mut notes = Vec::new();
    if data.held_out {
        notes.push(
            "The data set has no test part: a fifth of each class of it was held out, before the long tail.".to_owned(),
        );
    }
    if data.duplicates > 0 {
        notes.push(format!("{} images are there twice and count once.", data.duplicates));
    }
    let unreadable = data.unreadable.len() + train.unreadable.len() + test.unreadable.len();
    if unreadable > 0 {
        notes.push(format!("{unreadable} images could not be used and were left out."));
    }
    notes
}
