//! Folders of images: class folders or a table, whole or in `train`, `val` and `test`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::SourceError;
use super::folder::{ClassFolder, class_folders};
use super::limits::MAX_CLASSES;
use super::table::{TABLE_FILE, Table};
use super::{Counts, Images, Split, Surveyed, Visit, class_index, is_hidden, is_image_name, leave_out_unlabelled};

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

/// Looks at a folder.
pub(super) fn survey(path: &Path) -> Result<Surveyed, SourceError> {
    let splits = split_folders(path)?;
    let parts = if splits.is_empty() {
        BTreeMap::from([(Split::Train, Part::open(path)?)])
    } else {
        splits.into_iter().map(|(split, path)| Ok((split, Part::open(&path)?))).collect::<Result<_, SourceError>>()?
    };
    Directory::survey(path, parts)
}

/// A table that was named itself.
pub(super) fn survey_table(path: &Path) -> Result<Surveyed, SourceError> {
    Directory::survey(path, BTreeMap::from([(Split::Train, Part::Table(Table::open(path)?))]))
}

/// The folders of splits: there is one for training, and what lies in it are folders or a table and not images.
fn split_folders(path: &Path) -> Result<BTreeMap<Split, PathBuf>, SourceError> {
    let mut splits = BTreeMap::new();
    if path.join(TABLE_FILE).is_file() {
        return Ok(splits);
    }
    for entry in fs::read_dir(path).map_err(|source| SourceError::list(path, source))? {
        let entry = entry.map_err(|source| SourceError::list(path, source))?;
        let split = entry.file_name().to_str().and_then(Split::of_name);
        if let Some(split) = split.filter(|_| entry.path().is_dir()) {
            splits.entry(split).or_insert_with(|| entry.path());
        }
    }
    match splits.get(&Split::Train) {
        Some(train) if holds_classes(train)? => Ok(splits),
        Some(_) | None => Ok(BTreeMap::new()),
    }
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
    fn survey(path: &Path, parts: BTreeMap<Split, Part>) -> Result<Surveyed, SourceError> {
        let names = parts.values().map(Part::classes).collect::<Result<Vec<_>, _>>()?;
        let index = class_index(names.into_iter().flatten());
        if index.len() > MAX_CLASSES {
            return Err(SourceError::TooManyClasses { path: path.to_owned() });
        }
        let counts = parts.iter().map(|(&split, part)| Ok((split, part.count(&index)?)));
        let mut counts = counts.collect::<Result<Counts, SourceError>>()?;
        leave_out_unlabelled(&mut counts, |split| matches!(parts.get(&split), Some(Part::Folders(_))));
        let classes = index.keys().cloned().collect();
        Ok(Surveyed { classes, counts, images: Box::new(Self { index, parts }) })
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
    fn open(path: &Path) -> Result<Self, SourceError> {
        let table = path.join(TABLE_FILE);
        if table.is_file() { Ok(Self::Table(Table::open(&table)?)) } else { Ok(Self::Folders(class_folders(path)?)) }
    }

    fn classes(&self) -> Result<Vec<String>, SourceError> {
        match self {
            Self::Table(table) => Ok(table.classes()?.into_iter().collect()),
            Self::Folders(folders) => Ok(folders.iter().map(|folder| folder.class.clone()).collect()),
        }
    }

    /// Images per class of `index`.
    fn count(&self, index: &BTreeMap<String, u16>) -> Result<Vec<u64>, SourceError> {
        let mut counts = vec![0; index.len()];
        match self {
            Self::Table(table) => table.count(&|class| index.get(class).copied(), &mut counts)?,
            Self::Folders(folders) => {
                for folder in folders {
                    if let Some(&class) = index.get(&folder.class) {
                        counts[usize::from(class)] += folder.count()?;
                    }
                }
            }
        }
        Ok(counts)
    }
}
