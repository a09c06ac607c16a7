//! Features that somebody extracted already go into the store as they are: all rows of a split, or none.

use core::ops::ControlFlow;
use std::path::{Path, absolute};

use sha2::{Digest as _, Sha256};

use super::sightings::{Sightings, Verdict};
use super::{Conflict, IngestError, Progress, Report, check_split};
use crate::store::{Digest, Intake, NewLabel, Sample, Store};
use grapevine_vision::source::{FeatureSource, Split};

/// Rows of one commit.
const COMMIT_ROWS: usize = 1_024;
/// Fewer samples say little about how long features are.
const LEAST_SAMPLES: usize = 20;
/// Mean squared length of features that are standardised as a manifest says: `d` times `1 / (d / 16)`.
const STANDARD_LENGTH: f64 = 16.0;
/// Between two sets of images the mean squared length varies; beyond this factor it is another scale.
const MOST_FACTOR: f64 = 2.5;

/// Refuses features that do not fit a store of `width` features and these classes; `path` is where they are from.
///
/// # Errors
/// If the split is not there, or the shape or a label does not fit.
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

/// Stores every new row of a split, one commit after another, once all rows were read and found usable. A row is told
/// from others by its numbers.
///
/// # Errors
/// If the features do not fit, or a row cannot be used: then nothing was stored. If the store fails:
/// [`IngestError::Partial`] says what was stored before.
pub fn ingest_features(
    path: &Path,
    source: &FeatureSource,
    split: Split,
    classes: &[String],
    store: &Store,
    progress: &dyn Fn(Progress),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Report, IngestError> {
    check_features(path, source, split, classes, store.shape().features())?;
    let total = source.labels(split).len();
    let length = mean_length(source, split)?;
    let own = store.mean_square(LEAST_SAMPLES)?;
    let mut report = Report { warnings: other_scale(length, own).into_iter().collect(), ..Report::default() };
    let origin = absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rows = Rows { classes, origin: origin.to_string_lossy().into_owned(), ..Rows::default() };
    let mut failed = Ok(());
    progress(Progress { done: 0, total });
    let read = source.visit(split, &mut |row| {
        rows.rows.push((row.index, row.label, row.features.to_vec()));
        if rows.rows.len() < COMMIT_ROWS {
            return ControlFlow::Continue(());
        }
        failed = rows.commit(store, &mut report);
        progress(Progress { done: report.images, total });
        report.stopped = stop();
        if failed.is_err() || report.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let outcome = read.map_err(IngestError::from).and(failed).and_then(|()| rows.commit(store, &mut report));
    match outcome {
        Ok(()) => Ok(report),
        Err(error) => Err(error.after(report)),
    }
}

/// Reads every row, which refuses those that cannot be used; gives the mean of the squared lengths.
fn mean_length(source: &FeatureSource, split: Split) -> Result<f64, IngestError> {
    let (mut sum, mut rows) = (0.0, 0_u32);
    source.visit(split, &mut |row| {
        sum += row.features.iter().map(|&feature| f64::from(feature).powi(2)).sum::<f64>();
        rows += 1;
        ControlFlow::Continue(())
    })?;
    Ok(sum / f64::from(rows.max(1)))
}

/// What to say of features that are much longer or shorter than the device's own.
fn other_scale(length: f64, own: Option<f64>) -> Option<String> {
    let (expected, whose) = match own.filter(|&own| own > 0.0) {
        Some(own) => (own, "this device's own"),
        None => (STANDARD_LENGTH, "those of the extractor"),
    };
    let factor = length / expected;
    if (MOST_FACTOR.recip()..=MOST_FACTOR).contains(&factor) {
        return None;
    }
    Some(format!(
        "the features have a mean squared length of {length:.1}, but {whose} have {expected:.1}: they are on {:.2} \
         times the scale, so heads trained on both fit neither; standardise them as the extractor's manifest says, \
         (raw - mean) / std / sqrt(features / 16), `edge-client forget --source` them and ingest them again",
        factor.sqrt()
    ))
}

#[derive(Default)]
struct Rows<'a> {
    classes: &'a [String],
    /// The file.
    origin: String,
    /// Place, label and features.
    rows: Vec<(usize, u16, Vec<f32>)>,
    sightings: Sightings,
}

impl Rows<'_> {
    fn commit(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let rows = core::mem::take(&mut self.rows);
        let names: Vec<String> = rows.iter().map(|(index, ..)| format!("{}/row {index}", self.origin)).collect();
        let mut samples = Vec::with_capacity(rows.len());
        let (mut withdrawn, mut restored) = (Vec::new(), Vec::new());
        for ((_, label, features), name) in rows.iter().zip(&names) {
            let digest = digest(features);
            let shown = name.rsplit('/').next().unwrap_or_default();
            match self.sightings.see(&digest, *label, store.label_of(&digest)?, shown) {
                Verdict::First => samples.push((Sample { label: *label, digest, features }, name.as_str())),
                Verdict::Same => report.duplicates += 1,
                Verdict::Conflict { first, first_label, before, is_new } => {
                    let class = |label: u16| self.classes.get(usize::from(label)).cloned().unwrap_or_default();
                    let first = first.unwrap_or_else(|| "another row".to_owned());
                    let images = [(first, class(first_label)), (shown.to_owned(), class(*label))];
                    report.note_conflict(Conflict { images, kept: before.map(class) });
                    match before {
                        Some(label) if is_new => restored.push(NewLabel { digest, label, origin: String::new() }),
                        None if is_new => withdrawn.push(digest),
                        Some(_) | None => {}
                    }
                }
            }
        }
        let intake = Intake { samples, forgotten: &withdrawn, ..Intake::default() };
        let inserted = store.take_in(&intake)?;
        let restored = store.take_in(&Intake { labels: &restored, ..Intake::default() })?;
        report.images += rows.len();
        report.added = (report.added + inserted.added).saturating_sub(inserted.forgotten);
        report.duplicates += inserted.duplicates;
        report.relabelled = (report.relabelled + inserted.relabelled).saturating_sub(restored.relabelled);
        report.evicted += inserted.evicted;
        report.left_out += inserted.refused;
        Ok(())
    }
}

fn digest(features: &[f32]) -> Digest {
    let mut hasher = Sha256::new();
    features.iter().for_each(|feature| hasher.update(feature.to_le_bytes()));
    hasher.finalize().into()
}
