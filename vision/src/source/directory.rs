//! Folders of images: class folders or a table, whole or in `train`, `val` and `test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use grapevine_host::class_list::canonical;

use super::error::SourceError;
use super::folder::{ClassFolder, class_folders};
use super::limits::MAX_CLASSES;
use super::table::{TABLE_FILE, Table};
use super::{
    Counts, Images, Split, Surveyed, Visit, class_index, is_hidden, is_image_name, leave_out_unlabelled, means_splits,
    printable,
};
use crate::source::passed_over::PassedOver;

/// A folder's images by split.
#[derive(Debug)]
struct Directory {
    index: BTreeMap<String, u16>,
    parts: BTreeMap<Split, Part>,
}

#[derive(Debug)]
enum Part {
    Folders(Vec<ClassFolder>),
    Table(Table),
}

/// Looks at a folder; `known` are the classes that somebody expects.
pub(super) fn survey(path: &Path, known: &[String]) -> Result<Surveyed, SourceError> {
    let splits = split_folders(path, known)?;
    let mut passed_over = PassedOver::default();
    let mut open = |path: &Path| Part::open(path, &mut passed_over);
    let parts = if splits.is_empty() {
        BTreeMap::from([(Split::Train, open(path)?)])
    } else {
        splits.into_iter().map(|(split, path)| Ok((split, open(&path)?))).collect::<Result<_, SourceError>>()?
    };
    Directory::survey(path, parts, passed_over)
}

/// A table that was named itself.
pub(super) fn survey_table(path: &Path) -> Result<Surveyed, SourceError> {
    let parts = BTreeMap::from([(Split::Train, Part::Table(Table::open(path)?))]);
    Directory::survey(path, parts, PassedOver::default())
}

/// The folders of splits: there is one for training, and what lies in it are folders or a table and not images.
fn split_folders(path: &Path, known: &[String]) -> Result<BTreeMap<Split, PathBuf>, SourceError> {
    let mut splits = BTreeMap::new();
    if path.join(TABLE_FILE).is_file() {
        return Ok(splits);
    }
    for folder in folders(path)? {
        let split = folder.file_name().and_then(|name| name.to_str()).and_then(Split::of_name);
        if let Some(split) = split {
            splits.entry(split).or_insert(folder);
        }
    }
    match splits.get(&Split::Train) {
        Some(train) if holds_classes(train)? && are_meant(path, known)? => Ok(splits),
        Some(_) | None => Ok(BTreeMap::new()),
    }
}

/// Whether the folders below `path` are splits, although one of them may bear the name of a class.
fn are_meant(path: &Path, known: &[String]) -> Result<bool, SourceError> {
    let name = |path: &PathBuf| path.file_name().map(|name| canonical(&printable(Path::new(name)))).unwrap_or_default();
    let mut inner = BTreeMap::new();
    for folder in folders(path)? {
        // A folder that cannot be listed holds nothing that is known.
        let names = folders(&folder).unwrap_or_default();
        inner.insert(name(&folder), names.iter().map(name).collect::<BTreeSet<_>>());
    }
    Ok(means_splits(&inner, known))
}

/// The folders right below a folder, but for hidden ones.
fn folders(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).map_err(|source| SourceError::list(path, source))? {
        let entry = entry.map_err(|source| SourceError::list(path, source))?;
        if !is_hidden(&entry.file_name()) && entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn holds_classes(path: &Path) -> Result<bool, SourceError> {
    if path.join(TABLE_FILE).is_file() {
        return Ok(true);
    }
    let mut has_folder = false;
    for entry in fs::read_dir(path).map_err(|source| SourceError::list(path, source))? {
        let entry = entry.map_err(|source| SourceError::list(path, source))?;
        if is_image_name(Path::new(&entry.file_name())) {
            return Ok(false);
        }
        has_folder |= !is_hidden(&entry.file_name()) && entry.path().is_dir();
    }
    Ok(has_folder)
}

impl Directory {
    fn survey(path: &Path, parts: BTreeMap<Split, Part>, mut passed_over: PassedOver) -> Result<Surveyed, SourceError> {
        let names = parts.values().map(Part::classes).collect::<Result<Vec<_>, _>>()?;
        let index = class_index(names.into_iter().flatten());
        if index.len() > MAX_CLASSES {
            return Err(SourceError::TooManyClasses { path: path.to_owned() });
        }
        let counts = parts.iter().map(|(&split, part)| Ok((split, part.count(&index, &mut passed_over)?)));
        let mut counts = counts.collect::<Result<Counts, SourceError>>()?;
        leave_out_unlabelled(&mut counts, |split| matches!(parts.get(&split), Some(Part::Folders(_))));
        let classes = index.keys().cloned().collect();
        Ok(Surveyed { classes, counts, passed_over, images: Box::new(Self { index, parts }) })
    }
}

impl Images for Directory {
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError> {
        let number = |class: &str| self.index.get(class).copied();
        match self.parts.get(&split) {
            None => {}
            Some(Part::Table(table)) => drop(table.visit(&number, visit)?),
            Some(Part::Folders(folders)) => {
                for folder in folders {
                    let wanted = number(&folder.class).filter(|&class| visit.wants(class));
                    if let Some(class) = wanted
                        && folder.visit(class, visit)?.is_break()
                    {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Part {
    fn open(path: &Path, passed_over: &mut PassedOver) -> Result<Self, SourceError> {
        let table = path.join(TABLE_FILE);
        if table.is_file() {
            return Ok(Self::Table(Table::open(&table)?));
        }
        Ok(Self::Folders(class_folders(path, passed_over)?))
    }

    fn classes(&self) -> Result<Vec<String>, SourceError> {
        match self {
            Self::Table(table) => Ok(table.classes()?.into_iter().collect()),
            Self::Folders(folders) => Ok(folders.iter().map(|folder| folder.class.clone()).collect()),
        }
    }

    /// Images per class of `index`.
    fn count(&self, index: &BTreeMap<String, u16>, passed_over: &mut PassedOver) -> Result<Vec<u64>, SourceError> {
        let mut counts = vec![0; index.len()];
        match self {
            Self::Table(table) => table.count(&|class| index.get(class).copied(), &mut counts)?,
            Self::Folders(folders) => {
                for folder in folders {
                    if let Some(&class) = index.get(&folder.class) {
                        counts[usize::from(class)] += folder.count(passed_over)?;
                    }
                }
            }
        }
        Ok(counts)
    }
}
