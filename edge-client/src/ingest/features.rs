//! Features that somebody extracted already go into the store as they are.

use core::ops::ControlFlow;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{IngestError, Progress, Report, check_split};
use crate::source::{FeatureSource, Split};
use crate::store::{Digest, Sample, Store};

/// Rows of one commit.
const COMMIT_ROWS: usize = 1_024;

/// Refuses features that do not fit a store of `width` features and these classes; `path` is where they are from.
pub fn check_features(
    path: &Path,
    source: &FeatureSource,
    split: Split,
    classes: &[String],
    width: usize,
) -> Result<(), IngestError> {
    check_split(path, split, &source.splits())?;
    if source.width() != width {
        return Err(IngestError::Width { path: path.to_owned(), found: source.width(), expected: width });
    }
    let labels = source.labels(split);
    match labels.iter().position(|&label| usize::from(label) >= classes.len()) {
        None => Ok(()),
        Some(row) => {
            let (label, classes) = (labels[row], classes.len());
            Err(IngestError::Label { path: path.to_owned(), split, row, label, classes })
        }
    }
}

/// Stores every new row of a split, one commit after another. A row is told from others by its numbers.
pub fn ingest_features(
    path: &Path,
    source: &FeatureSource,
    split: Split,
    classes: &[String],
    store: &Store,
    progress: &dyn Fn(Progress),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Report, IngestError> {
    let width = store.shape().features();
    check_features(path, source, split, classes, width)?;
    let total = source.labels(split).len();
    let mut report = Report::default();
    let mut rows = Rows::default();
    let mut failed = Ok(());
    progress(Progress { done: 0, total });
    source.visit(split, &mut |row| {
        rows.features.extend_from_slice(row.features);
        rows.labels.push(row.label);
        if rows.labels.len() < COMMIT_ROWS {
            return ControlFlow::Continue(());
        }
        failed = rows.commit(store, &mut report);
        progress(Progress { done: report.images, total });
        report.stopped = stop();
        if failed.is_err() || report.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed?;
    rows.commit(store, &mut report)?;
    Ok(report)
}

#[derive(Default)]
struct Rows {
    /// `[row][feature]`.
    features: Vec<f32>,
    labels: Vec<u16>,
}

impl Rows {
    fn commit(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let width = store.shape().features();
        let rows = self.features.chunks_exact(width).zip(&self.labels);
        let samples: Vec<Sample<'_>> =
            rows.map(|(features, &label)| Sample { label, digest: digest(features), features }).collect();
        let inserted = store.insert_batch(&samples)?;
        report.images += samples.len();
        report.added += inserted.added;
        report.duplicates += inserted.duplicates;
        report.evicted += inserted.evicted;
        report.left_out += inserted.refused;
        self.features.clear();
        self.labels.clear();
        Ok(())
    }
}

fn digest(features: &[f32]) -> Digest {
    let mut hasher = Sha256::new();
    features.iter().for_each(|feature| hasher.update(feature.to_le_bytes()));
    hasher.finalize().into()
}
