//! Features that were extracted elsewhere: arrays in an `.npz`.

use core::ops::ControlFlow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use grapevine_models::limits::{MAX_FEATURE_VALUE, MAX_FEATURES, MAX_SAMPLES};
use ndarray::{Array2, ArrayView1};
use zip::ZipArchive;

use super::error::SourceError;
use super::limits::{BUFFER_BYTES, MAX_ARRAYS};
use super::npy::Header;
use super::{Split, printable, stream};

/// Features and labels, by split.
#[derive(Debug)]
pub struct FeatureSource {
    path: PathBuf,
    width: usize,
    parts: BTreeMap<Split, Part>,
}

/// All samples of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// `[sample][feature]`, finite, as they are in the file.
    pub features: Array2<f32>,
    /// `[sample]`.
    pub labels: Vec<u16>,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Its place in the split, from 0.
    pub index: usize,
    /// Its class.
    pub label: u16,
    /// `[feature]`, finite.
    pub features: &'a [f32],
}

#[derive(Debug)]
struct Part {
    /// The array of features in the archive.
    array: String,
    labels: Vec<u16>,
}

/// What the arrays of a split are called.
#[derive(Debug, Default)]
struct Found {
    features: Option<String>,
    labels: Option<String>,
}

const EXPECTED: &str = "features and labels, or train_features, train_labels, test_features and test_labels";

impl FeatureSource {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let mut archive = open_archive(path)?;
        let mut parts = BTreeMap::new();
        let mut width = None;
        for (split, found) in find(path, &archive)? {
            let (array, labels) = match (found.features, found.labels) {
                (Some(features), Some(labels)) => (features, labels),
                (Some(array), None) | (None, Some(array)) => {
                    let reason = format!("features and labels come in pairs; the arrays are called {EXPECTED}");
                    return Err(SourceError::part(path, array, reason));
                }
                (None, None) => continue,
            };
            let labels = read_labels(path, &mut archive, &labels)?;
            let here = features_width(path, &mut archive, &array, labels.len())?;
            if let Some(width) = width.filter(|&width| width != here) {
                let reason = format!("its samples have {here} features, those of another split {width}");
                return Err(SourceError::part(path, array, reason));
            }
            width = Some(here);
            parts.insert(split, Part { array, labels });
        }
        match width {
            Some(width) => Ok(Self { path: path.to_owned(), width, parts }),
            None => Err(SourceError::whole(path, format!("it has no arrays called {EXPECTED}{}", others(&archive)))),
        }
    }

    /// The file's name.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(|| printable(&self.path), |name| printable(Path::new(name)))
    }

    /// One more than the largest label of all splits.
    pub fn classes(&self) -> usize {
        let labels = self.parts.values().flat_map(|part| &part.labels);
        labels.max().map_or(0, |&label| usize::from(label) + 1)
    }

    /// Features per sample.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The splits that are there, training first.
    pub fn splits(&self) -> Vec<Split> {
        self.parts.keys().copied().collect()
    }

    /// The labels of a split `[sample]`; empty if there is no such split.
    pub fn labels(&self, split: Split) -> &[u16] {
        self.parts.get(&split).map_or(&[], |part| &part.labels)
    }

    /// All samples of a split at once.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or was replaced meanwhile, or a feature is not finite or too large.
    pub fn load(&self, split: Split) -> Result<Features, SourceError> {
        let labels = self.labels(split).to_vec();
        let mut features = Array2::zeros((labels.len(), self.width));
        self.visit(split, &mut |row| {
            features.row_mut(row.index).assign(&ArrayView1::from(row.features));
            ControlFlow::Continue(())
        })?;
        Ok(Features { features, labels })
    }

    /// Gives `visitor` every sample of a split, one at a time in the file's order, until it breaks off.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged or was replaced meanwhile, or a feature is not finite or too large.
    pub fn visit(&self, split: Split, visitor: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>) -> Result<(), SourceError> {
        let Some(Part { array, labels }) = self.parts.get(&split) else { return Ok(()) };
        let mut archive = open_archive(&self.path)?;
        let mut features = vec![0.0; self.width];
        read_array(&self.path, &mut archive, array, &mut |header, reader| {
            check_width(&header, labels.len())
                .and_then(|width| if width == self.width { Ok(()) } else { Err("it was replaced meanwhile".into()) })
                .map_err(|reason| SourceError::part(&self.path, array, reason))?;
            let mut bytes = vec![0; self.width * header.number.bytes()];
            for (index, &label) in labels.iter().enumerate() {
                reader.read_exact(&mut bytes).map_err(|error| SourceError::reading(&self.path, Some(array), &error))?;
                for (feature, bytes) in features.iter_mut().zip(bytes.chunks_exact(header.number.bytes())) {
                    *feature = header.number.float(bytes);
                }
                self.check(array, index, &features)?;
                if visitor(Row { index, label, features: &features }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn check(&self, array: &str, row: usize, features: &[f32]) -> Result<(), SourceError> {
        let fits = |value: &f32| value.is_finite() && value.abs() <= MAX_FEATURE_VALUE;
        match features.iter().position(|value| !fits(value)) {
            None => Ok(()),
            Some(feature) => {
                let value = features[feature];
                let part = format!("{array}, row {row}");
                let reason = format!(
                    "feature {feature} is {value}; features are finite and at most {MAX_FEATURE_VALUE} in size"
                );
                Err(SourceError::part(&self.path, part, reason))
            }
        }
    }
}

type Arrays = ZipArchive<BufReader<File>>;

fn open_archive(path: &Path) -> Result<Arrays, SourceError> {
    let file = File::open(path).map_err(|source| SourceError::open(path, source))?;
    let archive = ZipArchive::new(BufReader::with_capacity(BUFFER_BYTES, file));
    archive.map_err(|error| SourceError::damaged(path, None, error))
}

/// The arrays with a meaning, by split.
fn find(path: &Path, archive: &Arrays) -> Result<BTreeMap<Split, Found>, SourceError> {
    if archive.len() > MAX_ARRAYS {
        let reason = format!("it holds {} files; an .npz of features has two to six arrays", archive.len());
        return Err(SourceError::whole(path, reason));
    }
    let mut all: BTreeMap<Split, Found> = BTreeMap::new();
    for name in names(archive) {
        let Some(array) = name.strip_suffix(".npy") else { continue };
        let (split, what) = match array.rsplit_once('_') {
            Some((split, what)) => (Split::of_name(split), what),
            None => (Some(Split::Train), array),
        };
        let Some(split) = split else { continue };
        let found = all.entry(split).or_default();
        let place = match what {
            "features" => &mut found.features,
            "labels" => &mut found.labels,
            _ => continue,
        };
        if place.replace(array.to_owned()).is_some() {
            return Err(SourceError::part(
                path,
                array,
                format!("there are several arrays for the {split} split; keep one"),
            ));
        }
    }
    Ok(all)
}

fn names(archive: &Arrays) -> impl Iterator<Item = String> {
    archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()))
}

fn others(archive: &Arrays) -> String {
    let arrays: Vec<String> = names(archive).take(5).map(|name| printable(Path::new(&name))).collect();
    if arrays.is_empty() { String::new() } else { format!(" (found: {})", arrays.join(", ")) }
}

fn read_labels(path: &Path, archive: &mut Arrays, array: &str) -> Result<Vec<u16>, SourceError> {
    let mut labels = Vec::new();
    read_array(path, archive, array, &mut |header, reader| {
        let count = labels_count(&header).map_err(|reason| SourceError::part(path, array, reason))?;
        let mut bytes = vec![0; header.number.bytes()];
        for index in 0..count {
            reader.read_exact(&mut bytes).map_err(|error| SourceError::reading(path, Some(array), &error))?;
            let Some(label) = header.number.label(&bytes) else {
                let reason = "the label is negative or over 65535; labels number the classes from 0";
                return Err(SourceError::part(path, format!("{array}, row {index}"), reason));
            };
            labels.push(label);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(labels)
}

fn features_width(path: &Path, archive: &mut Arrays, array: &str, samples: usize) -> Result<usize, SourceError> {
    let mut width = 0;
    read_array(path, archive, array, &mut |header, _| {
        width = check_width(&header, samples).map_err(|reason| SourceError::part(path, array, reason))?;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(width)
}

fn labels_count(header: &Header) -> Result<u64, String> {
    match header.shape.as_slice() {
        &[count] | &[count, 1] if header.number.is_integer() && count <= u64::from(MAX_SAMPLES) => Ok(count),
        shape => {
            Err(format!("labels are one integer per sample, at most {MAX_SAMPLES}; this array has shape {shape:?}"))
        }
    }
}

fn check_width(header: &Header, samples: usize) -> Result<usize, String> {
    let &[rows, width] = header.shape.as_slice() else {
        return Err(format!("features have the shape [samples, features]; this array has {:?}", header.shape));
    };
    if header.number.is_integer() {
        return Err("features are floats; save them as float32".to_owned());
    }
    if rows != samples as u64 {
        return Err(format!("it has {rows} rows for {samples} labels; save both from the same samples"));
    }
    if !(1..=MAX_FEATURES as u64).contains(&width) {
        return Err(format!("it has {width} features per sample; 1 to {MAX_FEATURES} are possible"));
    }
    if header.fortran_order {
        return Err("its columns lie one after another; save it with np.ascontiguousarray".to_owned());
    }
    Ok(width as usize)
}

/// Takes an array's header and its numbers.
type Reading<'a> = dyn FnMut(Header, &mut dyn Read) -> Result<ControlFlow<()>, SourceError> + 'a;

/// Calls `reading` with an array's header and its numbers. Unless it breaks off, the array must end there and fit its
/// checksum.
fn read_array(path: &Path, archive: &mut Arrays, array: &str, reading: &mut Reading<'_>) -> Result<(), SourceError> {
    let member =
        archive.by_name(&format!("{array}.npy")).map_err(|error| SourceError::damaged(path, Some(array), error))?;
    let packed_bytes = member.compressed_size();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream::bounded(member, packed_bytes));
    let header = Header::read(&mut reader).map_err(|reason| SourceError::part(path, array, reason))?;
    if reading(header, &mut reader)?.is_break() {
        return Ok(());
    }
    match stream::fill(&mut reader, &mut [0]).map_err(|error| SourceError::reading(path, Some(array), &error))? {
        0 => Ok(()),
        _ => Err(SourceError::damaged(path, Some(array), "it is longer than its header says")),
    }
}
