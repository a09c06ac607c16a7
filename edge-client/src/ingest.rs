//! Fills the store from a folder of images, `<folder>/<class>/*.png|jpg|jpeg`.
//!
//! Each image is hashed first; one whose content is stored is not extracted again. Every chunk is committed before
//! the next begins, so stopping at any moment keeps what was done.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::extractor::Extractor;
use crate::image_input::{ImageInput, read_image_file};
use crate::store::{Digest, Sample, Store, StoreError, Wanted};

/// Images per commit: enough to keep all cores busy, few enough to lose little and to answer Ctrl-C soon.
const CHUNK_IMAGES: usize = 64;

/// How far an ingest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Images dealt with.
    pub done: usize,
    /// Images found.
    pub total: usize,
}

/// What became of the images of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images found in folders of the class list.
    pub images: usize,
    /// Images stored.
    pub added: u32,
    /// Images whose content was stored already, under any name.
    pub duplicates: u32,
    /// Stored images that gave way to smaller classes or by the draw inside their class.
    pub evicted: u32,
    /// Images left out because the store is full of their class.
    pub left_out: u32,
    /// Files that could not be used, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Folders that are not a class of the list.
    pub unknown_folders: Vec<PathBuf>,
    /// Whether `stop` ended the ingest before the last image.
    pub stopped: bool,
}

/// Why a folder cannot be ingested.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A folder cannot be listed.
    #[error("cannot list {path}: {source}; give a folder that holds one folder of images per class")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No image under any class.
    #[error(
        "no PNG or JPEG image in {path}; put images into one folder per class, such as {path}/{example}/1.png{found}",
        found = unknown_hint(unknown_folders)
    )]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// A class of the list.
        example: String,
        /// Folders that are not a class of the list.
        unknown_folders: Vec<PathBuf>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many images under `folder` are of one of `classes`; refuses a folder that [`ingest`] would refuse.
pub fn count_images(folder: &Path, classes: &[String]) -> Result<usize, IngestError> {
    Ok(images_of(folder, classes)?.0.len())
}

/// Extracts and stores every new image under `folder`, on all cores. `classes` is the store's class list; `progress`
/// is told after each chunk, and `stop` is asked before each.
pub fn ingest(
    folder: &Path,
    classes: &[String],
    input: &ImageInput,
    extractor: &Extractor,
    store: &Store,
    progress: &dyn Fn(Progress),
    stop: &dyn Fn() -> bool,
) -> Result<Report, IngestError> {
    let (images, unknown_folders) = images_of(folder, classes)?;
    let total = images.len();
    let mut report = Report { images: total, unknown_folders, ..Report::default() };
    progress(Progress { done: 0, total });
    for (index, chunk) in images.chunks(CHUNK_IMAGES).enumerate() {
        if stop() {
            report.stopped = true;
            break;
        }
        let outcomes: Vec<Outcome> = chunk.par_iter().map(|image| image.extract(input, extractor, store)).collect();
        keep(chunk, outcomes, store, &mut report)?;
        progress(Progress { done: (index * CHUNK_IMAGES + chunk.len()).min(total), total });
    }
    Ok(report)
}

/// One file and the class of its folder.
struct ImageFile {
    path: PathBuf,
    label: u16,
}

enum Outcome {
    Extracted { label: u16, digest: Digest, features: Vec<f32> },
    Duplicate,
    Full,
    Unreadable(String),
    Failed(StoreError),
}

impl ImageFile {
    fn extract(&self, input: &ImageInput, extractor: &Extractor, store: &Store) -> Outcome {
        let bytes = match read_image_file(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => return Outcome::Unreadable(error.to_string()),
        };
        let digest: Digest = Sha256::digest(&bytes).into();
        match store.wants(self.label, &digest) {
            Ok(Wanted::Yes) => {}
            Ok(Wanted::Duplicate) => return Outcome::Duplicate,
            Ok(Wanted::Full) => return Outcome::Full,
            Err(error) => return Outcome::Failed(error),
        }
        let tensor = match input.decode(&bytes) {
            Ok(tensor) => tensor,
            Err(error) => return Outcome::Unreadable(error.to_string()),
        };
        match extractor.extract(&tensor) {
            Ok(features) => Outcome::Extracted { label: self.label, digest, features },
            Err(error) => Outcome::Unreadable(error.to_string()),
        }
    }
}

fn keep(chunk: &[ImageFile], outcomes: Vec<Outcome>, store: &Store, report: &mut Report) -> Result<(), IngestError> {
    let mut extracted = Vec::with_capacity(chunk.len());
    for (image, outcome) in chunk.iter().zip(outcomes) {
        match outcome {
            Outcome::Extracted { label, digest, features } => extracted.push((label, digest, features)),
            Outcome::Duplicate => report.duplicates += 1,
            Outcome::Full => report.left_out += 1,
            Outcome::Unreadable(reason) => report.unreadable.push((image.path.clone(), reason)),
            Outcome::Failed(error) => return Err(error.into()),
        }
    }
    let samples: Vec<Sample<'_>> =
        extracted.iter().map(|(label, digest, features)| Sample { label: *label, digest: *digest, features }).collect();
    let inserted = store.insert_batch(&samples)?;
    report.added += inserted.added;
    report.duplicates += inserted.duplicates;
    report.evicted += inserted.evicted;
    report.left_out += inserted.refused;
    Ok(())
}

/// As [`find_images`], and at least one image.
fn images_of(folder: &Path, classes: &[String]) -> Result<(Vec<ImageFile>, Vec<PathBuf>), IngestError> {
    let (images, unknown_folders) = find_images(folder, classes)?;
    if images.is_empty() {
        let example = classes.first().cloned().unwrap_or_default();
        return Err(IngestError::NoImages { path: folder.to_owned(), example, unknown_folders });
    }
    Ok((images, unknown_folders))
}

/// The images under the classes' folders by class and name, and the folders of no class.
fn find_images(folder: &Path, classes: &[String]) -> Result<(Vec<ImageFile>, Vec<PathBuf>), IngestError> {
    let (mut images, mut unknown) = (Vec::new(), Vec::new());
    for path in sorted_entries(folder)? {
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let label = (0_u16..).zip(classes).find(|(_, class)| Some(class.as_str()) == name).map(|(label, _)| label);
        let Some(label) = label else {
            unknown.push(path);
            continue;
        };
        let files = sorted_entries(&path)?.into_iter().filter(|path| is_image(path) && path.is_file());
        images.extend(files.map(|path| ImageFile { path, label }));
    }
    Ok((images, unknown))
}

/// By name; hidden ones, such as those of editors and file managers, are passed over.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, IngestError> {
    let folder_error = |source| IngestError::Folder { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(folder_error)? {
        let entry = entry.map_err(folder_error)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn unknown_hint(folders: &[PathBuf]) -> String {
    let names: Vec<_> = folders.iter().take(5).filter_map(|folder| folder.file_name()?.to_str()).collect();
    if names.is_empty() { String::new() } else { format!(" (found folders of no class: {})", names.join(", ")) }
}

#[cfg(test)]
mod tests;
