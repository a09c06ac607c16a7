//! Images through an extractor: those that some seed's long tail keeps, each extracted once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use grapevine_host::Shutdown;
use grapevine_models::Shape;
use grapevine_protocol::Digest;

use super::super::pool::{Pool, PoolSamples, RealSamples, empty_class, kept};
use super::super::{BenchError, BenchOptions, Progress};
use super::Cache;
use crate::data::images::{FeatureCache, ImageData, ImageProgress};
use grapevine_vision::frozen::FrozenExtractor;

/// Most images whose names are told where they cannot be used.
const MOST_NAMED: usize = 3;

pub(super) fn open(
    path: &Path,
    extractor: Option<&Path>,
    cache: &Cache,
    options: &BenchOptions,
    progress: &mut dyn FnMut(&Progress),
    shutdown: &Shutdown,
) -> Result<Pool, BenchError> {
    let extractor = FrozenExtractor::shipped_or(extractor)?;
    let cache = match cache {
        Cache::Usual => FeatureCache::open(None)?,
        Cache::Folder(folder) => FeatureCache::open(Some(folder))?,
        Cache::Nowhere => FeatureCache::none(),
    };
    let mut tell = |step: ImageProgress| progress(&Progress::Images(step));
    let data = ImageData::open(path, &mut tell, shutdown)?;
    let shape = Shape::new(data.class_names.len(), extractor.manifest().output.features)?;
    for (part, set) in [("training", &data.train), ("test", &data.test)] {
        if let Some(class) = empty_class(set.labels(), shape.classes()) {
            return Err(BenchError::EmptyClass { class, part, classes: shape.classes() });
        }
    }
    let mut chosen: BTreeSet<u32> = BTreeSet::new();
    for &seed in &options.seeds {
        chosen.extend(kept(data.train.labels(), shape.classes(), options.imbalance, seed)?.0);
    }
    let chosen: Vec<u32> = chosen.into_iter().collect();
    let everything: Vec<u32> = (0..data.test.len() as u32).collect();
    let train = data.train.features(&chosen, &extractor, &cache, &mut tell, shutdown)?;
    let test = data.test.features(&everything, &extractor, &cache, &mut tell, shutdown)?;
    let rows = train.positions.iter().map(|&at| chosen[at as usize]).zip(0..).collect();
    let manifest = extractor.manifest();
    let unreadable = data.unreadable.iter().chain(&train.unreadable).chain(&test.unreadable);
    Ok(Pool {
        name: format!("{}, features by {}", data.name, manifest.name),
        shape,
        class_names: data.class_names.clone(),
        digests: [
            (manifest.file.clone(), manifest.sha256.clone()),
            (data.name.clone(), content_digest(&train.digests, &test.digests)),
        ]
        .into(),
        notes: notes(&data, unreadable),
        samples: PoolSamples::Real(RealSamples {
            labels: data.train.labels().to_vec(),
            train: train.samples,
            keys: train.digests,
            rows,
            test: Arc::new(test.samples),
        }),
    })
}

/// One digest for all images, whatever they are called and wherever they lie.
fn content_digest(train: &[[u8; 32]], test: &[[u8; 32]]) -> String {
    Digest::of(&[train.concat(), test.concat()].concat()).to_string()
}

fn notes<'a>(data: &ImageData, unreadable: impl Iterator<Item = &'a (String, String)>) -> Vec<String> {
    let mut notes = Vec::new();
    if data.held_out {
        notes.push("The data have no test split: a fifth of each class was set aside for testing.".to_owned());
    }
    if data.duplicates > 0 {
        notes.push(format!("{} images are there twice and count once.", data.duplicates));
    }
    let unreadable: Vec<&(String, String)> = unreadable.collect();
    if !unreadable.is_empty() {
        let named = unreadable.iter().take(MOST_NAMED).map(|(name, reason)| format!("{name} ({reason})"));
        let more = if unreadable.len() > MOST_NAMED { ", ..." } else { "" };
        let named = named.collect::<Vec<_>>().join(", ");
        notes.push(format!("{} images cannot be used and are left out: {named}{more}.", unreadable.len()));
    }
    notes
}
