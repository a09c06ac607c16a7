//! A demo on images of a person's own: features from the cache, a long tail of the training part, one store per device.

use std::path::Path;

use grapevine_edge_client::store::StoreIdentity;
use grapevine_host::Shutdown;
use grapevine_models::Shape;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::dataset::{DataError, Prepared};
use super::dealing::{Train, check_classes, few_tests};
use super::{DemoOptions, OWN_IMBALANCE, Progress};
use crate::data::class_counts;
use crate::data::images::{FeatureCache, ImageData, ImageProgress, Loaded};
use crate::data::long_tail::{long_tail, ratio_of, tail_for, told};
use grapevine_vision::frozen::FrozenExtractor;

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
    let tail = tail_for(data.train.labels(), shape.classes(), options.imbalance, OWN_IMBALANCE);
    check_classes(data.train.labels(), data.test.labels(), &data.class_names)?;
    let kept = match tail {
        Some(ratio) => long_tail(data.train.labels(), shape.classes(), ratio, &mut rng)?,
        None => (0..data.train.len() as u32).collect(),
    };
    let train = data.train.features(&kept, extractor, cache, &mut reading, shutdown)?;
    let all: Vec<u32> = (0..data.test.len() as u32).collect();
    let test = data.test.features(&all, extractor, cache, &mut reading, shutdown)?;
    // Again, without the images that cannot be used.
    check_classes(&train.samples.labels, &test.samples.labels, &data.class_names)?;
    let identity = StoreIdentity { extractor: extractor.digest().0, classes: data.class_names.clone(), shape };
    let mine = Train { samples: &train.samples, digests: &train.digests };
    let dealt = mine.deal(options, &identity, folder, &mut rng, (shutdown, progress))?;
    let counts = |labels: &[u16]| class_counts(labels.iter().copied(), shape.classes());
    let (before, after) = (counts(data.train.labels()), counts(&train.samples.labels));
    let mut notes = vec![told(&before, &after, tail)];
    notes.extend(about(&data, &train, &test));
    notes.extend(few_tests(&counts(&test.samples.labels)));
    Ok(Prepared {
        name: format!("{}, extractor {}", data.name, extractor.manifest().name),
        shape,
        extractor: extractor.digest(),
        stores: dealt.stores,
        imbalance_ratio: tail.unwrap_or_else(|| ratio_of(&after)),
        device_class_counts: dealt.counts,
        notes,
        class_names: data.class_names,
        test: test.samples,
    })
}

fn about(data: &ImageData, train: &Loaded, test: &Loaded) -> Vec<String> {
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
