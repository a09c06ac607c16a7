//! A demo on features that were extracted elsewhere: an `.npz` with a training and a test part.

use std::path::Path;

use grapevine_edge_client::store::StoreIdentity;
use grapevine_host::Shutdown;
use grapevine_models::Shape;
use grapevine_protocol::Digest;
use grapevine_vision::manifest::sha256_file;
use grapevine_vision::source::{FeatureSource, Features, Source, SourceError, Split};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::dataset::{DataError, Prepared, digest_of};
use super::dealing::{Train, check_classes, few_tests};
use super::{DemoOptions, OWN_IMBALANCE, Progress};
use crate::bench::unusual_spread;
use crate::data::SampleSet;
use crate::data::class_counts;
use crate::data::long_tail::{long_tail, ratio_of, tail_for, told};

/// Fills one store per device and makes the held-out set.
pub(super) fn prepare(
    options: &DemoOptions,
    path: &Path,
    folder: &Path,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, DataError> {
    let source = match Source::open(path)? {
        Source::Features(source) => source,
        Source::Images(_) => return Err(DataError::NoFeatures { path: path.to_owned() }),
    };
    if !source.splits().contains(&Split::Test) {
        return Err(DataError::NoTest { path: path.to_owned() });
    }
    let (all, test) = (load(&source, Split::Train)?, load(&source, Split::Test)?);
    let shape = Shape::new(source.classes(), source.width())?;
    let class_names: Vec<String> = (0..shape.classes()).map(|class| class.to_string()).collect();
    check_classes(&all.labels, &test.labels, &class_names)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let tail = tail_for(&all.labels, shape.classes(), options.imbalance, OWN_IMBALANCE);
    let train = match tail {
        Some(ratio) => all.select(&long_tail(&all.labels, shape.classes(), ratio, &mut rng)?),
        None => all.clone(),
    };
    let digests: Vec<[u8; 32]> = train.iter().map(|(features, _)| digest_of(features)).collect();
    let extractor = sha256_file(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let extractor = Digest::from_hex(&extractor).expect("a digest in hexadecimal");
    let identity = StoreIdentity { extractor: extractor.0, classes: class_names.clone(), shape };
    let dealt = Train { samples: &train, digests: &digests }.deal(
        options,
        &identity,
        folder,
        &mut rng,
        (shutdown, progress),
    )?;
    let counts = |samples: &SampleSet| class_counts(samples.labels.iter().copied(), shape.classes());
    let mut notes = vec![told(&counts(&all), &counts(&train), tail)];
    notes.extend(few_tests(&counts(&test)));
    notes.extend(unusual_spread(train.features.view()).map(|spread| spread + SCALED));
    Ok(Prepared {
        name: source.name(),
        shape,
        class_names,
        extractor,
        stores: dealt.stores,
        imbalance_ratio: tail.unwrap_or_else(|| ratio_of(&counts(&train))),
        device_class_counts: dealt.counts,
        test,
        notes,
    })
}

/// Where to do that.
const SCALED: &str = " Both are options of `fleet bench`.";

fn load(source: &FeatureSource, split: Split) -> Result<SampleSet, SourceError> {
    let Features { features, labels } = source.load(split)?;
    Ok(SampleSet { features, labels })
}
