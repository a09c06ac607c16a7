//! A table of images and their classes: `labels.csv`.

use core::ops::ControlFlow;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord, Trim};
use grapevine_host::class_list::canonical;

use super::Visit;
use super::error::{EntryError, SourceError};
use super::limits::{BUFFER_BYTES, MAX_CLASSES, MAX_TABLE_ROW_BYTES};

/// The table's name in a folder.
pub(super) const TABLE_FILE: &str = "labels.csv";

const FILE_COLUMNS: [&str; 7] = ["file", "filename", "file_name", "filepath", "path", "image", "image_path"];
const CLASS_COLUMNS: [&str; 5] = ["label", "class", "class_name", "label_name", "category"];

/// A table whose header and rows were looked at.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    file_column: usize,
    class_column: usize,
}

/// One row: an image's path relative to the table, and its class.
struct Row<'a> {
    file: &'a str,
    class: &'a str,
}

impl Table {
    /// Finds the columns.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let mut reader = reader(path)?;
        let header = reader.headers().map_err(|error| csv_error(path, 1, error))?;
        let titles: Vec<String> = header.iter().map(canonical).collect();
        let column =
            |names: &[&str]| titles.iter().position(|title| names.iter().any(|name| title.eq_ignore_ascii_case(name)));
        match (column(&FILE_COLUMNS), column(&CLASS_COLUMNS)) {
            (Some(file_column), Some(class_column)) => Ok(Self { path: path.to_owned(), file_column, class_column }),
            _ => Err(SourceError::whole(
                path,
                format!(
                    "its first line must name a column of files ({}) and one of classes ({})",
                    FILE_COLUMNS.join(", "),
                    CLASS_COLUMNS.join(", ")
                ),
            )),
        }
    }

    /// The names of all classes.
    pub(super) fn classes(&self) -> Result<BTreeSet<String>, SourceError> {
        let mut classes = BTreeSet::new();
        self.each_row(&mut |row| {
            if !classes.contains(row.class) {
                classes.insert(row.class.to_owned());
            }
            if classes.len() > MAX_CLASSES {
                return Err(SourceError::TooManyClasses { path: self.path.clone() });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(classes)
    }

    /// Adds the rows of each class to `counts`; `class` numbers them.
    pub(super) fn count(&self, class: &dyn Fn(&str) -> Option<u16>, counts: &mut [u64]) -> Result<(), SourceError> {
        self.each_row(&mut |row| {
            if let Some(class) = class(row.class) {
                counts[usize::from(class)] += 1;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    pub(super) fn visit(
        &self,
        class: &dyn Fn(&str) -> Option<u16>,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, SourceError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        // A table may be given as a bare name.
        let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let root = shown.canonicalize().map_err(|source| SourceError::open(shown, source))?;
        let mut step = ControlFlow::Continue(());
        self.each_row(&mut |row| {
            if let Some(class) = class(row.class).filter(|&class| visit.wants(class)) {
                let name = super::printable(&folder.join(row.file));
                step = match inside(&root, row.file) {
                    Ok(path) => visit.give_file(name, class, &path),
                    Err(error) => visit.give(name, class, Err(error)),
                };
            }
            Ok(step)
        })?;
        Ok(step)
    }

    fn each_row(
        &self,
        visitor: &mut dyn FnMut(Row<'_>) -> Result<ControlFlow<()>, SourceError>,
    ) -> Result<(), SourceError> {
        let mut reader = reader(&self.path)?;
        let mut record = StringRecord::new();
        // The header was row 1.
        for number in 2_u64.. {
            reader.get_mut().grant();
            if !reader.read_record(&mut record).map_err(|error| csv_error(&self.path, number, error))? {
                break;
            }
            let refuse = |reason: &str| SourceError::part(&self.path, format!("row {number}"), reason);
            let (Some(file), Some(class)) = (record.get(self.file_column), record.get(self.class_column)) else {
                return Err(refuse("it has fewer columns than the first line; add the missing ones"));
            };
            if file.is_empty() || class.is_empty() {
                return Err(refuse("the file or the class is missing; fill it in or remove the row"));
            }
            let class = canonical(class);
            if visitor(Row { file, class: &class })?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// An image's path, which must not lead out of `root`, links included.
fn inside(root: &Path, file: &str) -> Result<PathBuf, EntryError> {
    let file = Path::new(file);
    let stays = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !file.components().all(stays) {
        return Err(EntryError::Outside);
    }
    let path = fs::canonicalize(root.join(file))?;
    if path.starts_with(root) { Ok(path) } else { Err(EntryError::Outside) }
}

fn reader(path: &Path) -> Result<Reader<Rationed>, SourceError> {
    let file = File::open(path).map_err(|source| SourceError::open(path, source))?;
    let mut rationed = Rationed { file, left: 0 };
    rationed.grant();
    let mut builder = ReaderBuilder::new();
    Ok(builder.flexible(true).trim(Trim::All).buffer_capacity(BUFFER_BYTES).from_reader(rationed))
}

/// A file of which only so much can be read between two rows: the table's reader would take any memory for one row.
struct Rationed {
    file: File,
    left: u64,
}

impl Rationed {
    fn grant(&mut self) {
        self.left = MAX_TABLE_ROW_BYTES + BUFFER_BYTES as u64;
    }
}

impl Read for Rationed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("one row is longer than {MAX_TABLE_ROW_BYTES} bytes; is a quotation mark left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let count = (&self.file).take(self.left).read(buffer)?;
        self.left -= count as u64;
        Ok(count)
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and grows")]
fn csv_error(path: &Path, row: u64, error: csv::Error) -> SourceError {
    let reason = match error.into_kind() {
        csv::ErrorKind::Io(error) => error.to_string(),
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8; save the table as UTF-8".to_owned(),
        // The others concern writing, or readers that want rows of one length.
        kind => format!("it cannot be read: {kind:?}"),
    };
    SourceError::part(path, format!("row {row}"), reason)
}
