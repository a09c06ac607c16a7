//! Features that were extracted elsewhere.

use std::path::Path;
use std::sync::Arc;

use grapevine_models::Shape;
use grapevine_vision::manifest::sha256_file;
use grapevine_vision::source::{FeatureSource, Features, Source, Split};

use super::super::BenchError;
use super::super::pool::{Pool, PoolSamples, RealSamples, empty_class, halve, keys};
use super::standardise::{Scale, unusual_spread};
use crate::data::SampleSet;

pub(super) fn open(path: &Path, standardise: bool) -> Result<Pool, BenchError> {
    let source = match Source::open(path)? {
        Source::Features(source) => source,
        Source::Images(_) => return Err(BenchError::NotFeatures { path: path.to_owned() }),
    };
    if !source.splits().contains(&Split::Test) {
        return Err(BenchError::NoTest { path: path.to_owned() });
    }
    let shape = Shape::new(source.classes(), source.width())?;
    let (mut train, mut test) = (load(&source, Split::Train)?, load(&source, Split::Test)?);
    let last = train.labels.iter().copied().max().unwrap_or(0);
    if let Some(row) = test.labels.iter().position(|&label| label > last) {
        return Err(BenchError::TestLabel { row, label: test.labels[row], last });
    }
    for (part, samples) in [("training", &train), ("test", &test)] {
        if let Some(class) = empty_class(&samples.labels, shape.classes()) {
            return Err(BenchError::EmptyClass { class, part, classes: shape.classes() });
        }
    }
    if standardise {
        let scale = Scale::of(train.features.view());
        scale.apply(&mut train.features);
        scale.apply(&mut test.features);
    }
    let keys = keys(&train);
    halve(&mut train.features);
    let digest = sha256_file(path).map_err(|source| BenchError::Read { path: path.to_owned(), source })?;
    Ok(Pool {
        name: source.name(),
        shape,
        class_names: (0..shape.classes()).map(|class| class.to_string()).collect(),
        digests: [(source.name(), digest)].into(),
        notes: unusual_spread(train.features.view()).into_iter().collect(),
        samples: PoolSamples::Real(RealSamples {
            labels: train.labels.clone(),
            train,
            keys,
            rows: [].into(),
            test: Arc::new(test),
        }),
    })
}

fn load(source: &FeatureSource, split: Split) -> Result<SampleSet, BenchError> {
    let Features { features, labels } = source.load(split)?;
    Ok(SampleSet { features, labels })
}
