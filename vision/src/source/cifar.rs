//! CIFAR's binary form: records of one or two labels and 32 x 32 pixels, one plane for each colour.
//!
//! <https://www.cs.toronto.edu/~kriz/cifar.html>. CIFAR-100 is read with its 100 fine classes.

use core::ops::ControlFlow;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use grapevine_host::class_list;

use super::error::SourceError;
use super::limits::MAX_NAMES_BYTES;
use super::{Content, Counts, Images, Pixels, Split, Surveyed, Visit, stream};
use crate::source::passed_over::PassedOver;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
/// The folders in the published archives.
const FOLDERS: [&str; 2] = ["cifar-10-batches-bin", "cifar-100-binary"];
const LABELS: usize = 1 << 8;

/// What a file of records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    split: Split,
    /// Bytes before the pixels; the last one is the label.
    label_bytes: usize,
}

/// What was found so far, in a folder or an archive.
#[derive(Debug, Default)]
pub(super) struct Cifar {
    names: Option<Vec<String>>,
    /// Records per label.
    counts: BTreeMap<Split, Vec<u64>>,
}

#[derive(Debug)]
struct Files {
    batches: Vec<(PathBuf, Batch)>,
}

/// Looks at a folder; `None` if it holds no such files.
pub(super) fn survey_folder(path: &Path) -> Result<Option<Surveyed>, SourceError> {
    let inner = FOLDERS.iter().map(|name| path.join(name)).find(|inner| inner.is_dir());
    let folder = inner.unwrap_or_else(|| path.to_owned());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|source| SourceError::list(&folder, source))? {
        let entry = entry.map_err(|source| SourceError::list(&folder, source))?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| Batch::of(name).is_some() || is_names(name)) {
            files.push((entry.path(), name.to_owned()));
        }
    }
    files.sort();
    let mut found = Cifar::default();
    for (path, name) in &files {
        found.survey(&folder, name, &mut *stream::open(path)?)?;
    }
    let batches = files.into_iter().filter_map(|(path, name)| Some((path, Batch::of(&name)?))).collect();
    let images = Box::new(Files { batches });
    Ok(found.finish(&folder)?.map(|(classes, counts)| Surveyed {
        classes,
        counts,
        passed_over: PassedOver::default(),
        images,
    }))
}

impl Images for Files {
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError> {
        for (path, batch) in self.batches.iter().filter(|(_, batch)| batch.split == split) {
            let name = path.file_name().map_or_else(String::new, |name| super::printable(Path::new(name)));
            let folder = path.parent().unwrap_or(path);
            if batch.visit(folder, &name, &mut *stream::open(path)?, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Cifar {
    /// Takes a file in, if it is one of CIFAR's, and says whether it was. `name` is what it is called in `path`.
    pub(super) fn survey(&mut self, path: &Path, name: &str, reader: &mut dyn Read) -> Result<bool, SourceError> {
        let file_name = name.rsplit('/').next().unwrap_or_default();
        if is_names(file_name) {
            let mut text = String::new();
            let read = reader.take(MAX_NAMES_BYTES).read_to_string(&mut text);
            read.map_err(|error| SourceError::reading(path, Some(name), &error))?;
            self.names = Some(class_list::lines(&text));
            return Ok(true);
        }
        let Some(batch) = Batch::of(file_name) else { return Ok(false) };
        let counts = self.counts.entry(batch.split).or_insert_with(|| vec![0; LABELS]);
        // Never breaks off.
        let _ = batch.each_record(path, name, reader, &mut |_, record| {
            counts[usize::from(batch.label(record))] += 1;
            ControlFlow::Continue(())
        })?;
        Ok(true)
    }

    /// Classes and counts; `None` if there was no batch.
    pub(super) fn finish(self, path: &Path) -> Result<Option<(Vec<String>, Counts)>, SourceError> {
        if self.counts.is_empty() {
            return Ok(None);
        }
        let Some(classes) = self.names.filter(|names| (1..=LABELS).contains(&names.len())) else {
            let reason = "the file with the names of its classes is missing (batches.meta.txt or fine_label_names.txt)";
            return Err(SourceError::whole(path, reason));
        };
        let mut counts = self.counts;
        for counts in counts.values_mut() {
            if let Some(label) = (classes.len()..counts.len()).find(|&label| counts[label] > 0) {
                let reason = format!("a record has label {label}, but there are {} classes", classes.len());
                return Err(SourceError::damaged(path, None, reason));
            }
            counts.truncate(classes.len());
        }
        Ok(Some((classes, counts)))
    }
}

impl Batch {
    /// By the names in the published archives.
    pub(super) fn of(file_name: &str) -> Option<Self> {
        let number = file_name.strip_prefix("data_batch_").and_then(|rest| rest.strip_suffix(".bin"));
        let (split, label_bytes) = match (file_name, number) {
            (_, Some("1" | "2" | "3" | "4" | "5")) => (Split::Train, 1),
            ("test_batch.bin", _) => (Split::Test, 1),
            ("train.bin", _) => (Split::Train, 2),
            ("test.bin", _) => (Split::Test, 2),
            _ => return None,
        };
        Some(Self { split, label_bytes })
    }

    pub(super) fn split(self) -> Split {
        self.split
    }

    /// Gives every record of a file. `name` is what the file is called in the entries' names.
    pub(super) fn visit(
        self,
        path: &Path,
        name: &str,
        reader: &mut dyn Read,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, SourceError> {
        self.each_record(path, name, reader, &mut |number, record| {
            let class = u16::from(self.label(record));
            if !visit.wants(class) {
                return ControlFlow::Continue(());
            }
            let bytes = interleaved(&record[self.label_bytes..]);
            let pixels = Pixels { width: SIDE as u32, height: SIDE as u32, channels: 3, bytes };
            visit.give(format!("{name}#{number}"), class, Ok(Content::Pixels(pixels)))
        })
    }

    fn label(self, record: &[u8]) -> u8 {
        record[self.label_bytes - 1]
    }

    fn each_record(
        self,
        path: &Path,
        name: &str,
        reader: &mut dyn Read,
        visitor: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, SourceError> {
        let mut record = vec![0; self.label_bytes + 3 * PLANE];
        for number in 0.. {
            let part = || format!("{name}#{number}");
            let length =
                stream::fill(reader, &mut record).map_err(|error| SourceError::reading(path, Some(&part()), &error))?;
            if length == 0 {
                break;
            }
            if length < record.len() {
                return Err(SourceError::damaged(path, Some(&part()), "the last record is cut short"));
            }
            if visitor(number, &record).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn is_names(file_name: &str) -> bool {
    ["batches.meta.txt", "fine_label_names.txt"].contains(&file_name)
}

fn interleaved(planes: &[u8]) -> Vec<u8> {
    let [red, green, blue] = [0, 1, 2].map(|plane| &planes[plane * PLANE..][..PLANE]);
    red.iter().zip(green).zip(blue).flat_map(|((&red, &green), &blue)| [red, green, blue]).collect()
}
