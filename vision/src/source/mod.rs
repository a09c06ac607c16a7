//! Labelled data as it lies on a disk: folders, tables, archives and arrays, told apart by looking.
//!
//! Whatever the kind, it is listed once when it is opened (names, classes, counts) and then visited one image or one row
//! at a time, so memory does not grow with their number. Archives are read through and never unpacked to disk. All of it
//! is untrusted: paths stay inside their folder, sizes have limits (`limits`), and what is wrong is one sentence that
//! names the file, the member or the row.
//!
//! Read [`Source::open`] and [`ImageSource::visit`] first.

mod archive;
mod cifar;
mod directory;
mod error;
mod features;
mod folder;
mod idx;
mod limits;
mod mark;
mod names;
mod npy;
pub mod passed_over;
mod stream;
mod table;

use core::fmt;
use core::ops::ControlFlow;
use core::str::FromStr;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use grapevine_host::clock::unix_ms;
use sha2::{Digest as _, Sha256};

pub use error::{EntryError, SourceError};
pub use features::{FeatureSource, Features, Row};
pub use folder::read_image;
pub use limits::{MAX_CLASSES, MAX_EXPANSION, MAX_FOLDER_DEPTH, MAX_TABLE_ROW_BYTES};
pub use mark::Mark;
pub use names::{is_hidden, is_image_name, printable};

use crate::source::passed_over::PassedOver;
use stream::Magic;

/// SHA-256 of an image's content.
pub type Digest = [u8; 32];

/// Labelled data of either kind. It holds no open file and can be shared between threads.
#[derive(Debug)]
pub enum Source {
    /// Images that an extractor has yet to turn into features.
    Images(ImageSource),
    /// Features that somebody extracted already.
    Features(FeatureSource),
}

/// A part of a data set. Data without parts are all [`Split::Train`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// To learn from: `train/`.
    Train,
    /// To choose hyper-parameters on: `val/`, `valid/` or `validation/`.
    Validation,
    /// To measure on: `test/`.
    Test,
}

/// Images under classes.
#[derive(Debug)]
pub struct ImageSource {
    name: String,
    classes: Vec<String>,
    counts: Counts,
    passed_over: PassedOver,
    images: Box<dyn Images>,
}

/// One image of a source, which need not be read if it is known.
#[derive(Debug)]
pub struct Item {
    /// As [`Entry::name`].
    pub name: String,
    /// As [`Entry::class`].
    pub class: u16,
    /// The file's path and state, if the image is a file of its own.
    pub mark: Option<Mark>,
    /// What it holds.
    pub found: Found,
}

/// What an image of a source holds.
#[derive(Debug)]
pub enum Found {
    /// As [`Entry::content`].
    Content(Result<Content, EntryError>),
    /// It was not read, because this is known to be its content.
    Known(Digest),
}

/// One image of a source, or why it is none.
#[derive(Debug)]
pub struct Entry {
    /// For people, one line: the file, the archive's member, or the file and the record (`train.bin#17`).
    pub name: String,
    /// Index into [`ImageSource::classes`].
    pub class: u16,
    /// What an error says concerns this image alone; the next may be fine.
    pub content: Result<Content, EntryError>,
}

/// An image as its source holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes of an image file, whatever they turn out to be.
    Encoded(Vec<u8>),
    /// Pixels without a file format around them.
    Pixels(Pixels),
}

/// Plain pixels of 8 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: u8,
    /// `[row][column][channel]`.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Looks at what `path` is and lists it:
    /// - a folder of class folders, `<class>/**/*.png` or `.jpg`;
    /// - a table `labels.csv`, or a folder with one: a header with a column `file` (`filename`, `path`, `image`) and a
    ///   column `label` (`class`, `category`), paths relative to the table;
    /// - a folder of such folders named `train` and `test`, `val` or both;
    /// - the binary form of CIFAR-10 and CIFAR-100, as archive or unpacked;
    /// - IDX files of the MNIST family, compressed or not;
    /// - `.tar`, `.tar.gz` or `.tgz` of class folders, with or without `train` and `test`;
    /// - `.npz` with `features` and `labels`, or `train_features`, `train_labels`, `test_features`, `test_labels`.
    ///
    /// # Errors
    /// If it is none of these, or damaged.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::open_for(path, &[])
    }

    /// [`Source::open`] for known classes: a folder `train`, `test` or `val` is one of them if the list says so.
    ///
    /// # Errors
    /// If it is none of these, or damaged.
    pub fn open_for(path: &Path, classes: &[String]) -> Result<Self, SourceError> {
        let metadata = fs::metadata(path).map_err(|source| SourceError::open(path, source))?;
        let surveyed = if metadata.is_dir() {
            survey_folder(path, classes)?
        } else if !metadata.is_file() {
            return Err(SourceError::Unknown { path: path.to_owned() });
        } else {
            match stream::magic(path)? {
                Magic::Zip => return Ok(Self::Features(FeatureSource::open(path)?)),
                Magic::Tar => archive::survey(path, classes)?,
                Magic::Idx => idx::survey_file(path)?,
                Magic::Unknown if names::has_extension(path, &["csv"]) => directory::survey_table(path)?,
                Magic::Unknown => return Err(SourceError::Unknown { path: path.to_owned() }),
            }
        };
        Ok(Self::Images(ImageSource::new(path, surveyed)?))
    }
}

fn survey_folder(path: &Path, known: &[String]) -> Result<Surveyed, SourceError> {
    if let Some(surveyed) = cifar::survey_folder(path)? {
        return Ok(surveyed);
    }
    if let Some(surveyed) = idx::survey_folder(path)? {
        return Ok(surveyed);
    }
    directory::survey(path, known)
}

impl ImageSource {
    fn new(path: &Path, surveyed: Surveyed) -> Result<Self, SourceError> {
        let Surveyed { classes, counts, passed_over, images } = surveyed;
        if counts.values().flatten().all(|&count| count == 0) {
            return Err(SourceError::NoImages { path: path.to_owned(), classes, passed_over });
        }
        let name = path.file_name().map_or_else(|| printable(path), |name| printable(Path::new(name)));
        Ok(Self { name, classes, counts, passed_over, images })
    }

    /// The file's or the folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The classes of all splits together, at most [`MAX_CLASSES`]: in the order of their names, or as the data set
    /// numbers them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The splits that are there, training first. A folder of held-out images that shares no class with the training
    /// split has no labels of use and is left out.
    pub fn splits(&self) -> Vec<Split> {
        self.counts.keys().copied().collect()
    }

    /// Images of a split `[class]`, those included that turn out to be unusable; empty if there is no such split.
    pub fn counts(&self, split: Split) -> &[u64] {
        self.counts.get(&split).map_or(&[], Vec::as_slice)
    }

    /// Files that are no images by their names, that lie in no class, or that cannot be reached.
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Gives `visitor` every image of a split whose class `wants` says yes to, one at a time in the source's order,
    /// until it breaks off. An archive is read through once.
    ///
    /// # Errors
    /// If the source as a whole cannot be read.
    pub fn visit(
        &self,
        split: Split,
        wants: &dyn Fn(u16) -> bool,
        visitor: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), SourceError> {
        self.visit_items(split, wants, &|_, _| None, &mut |Item { name, class, found, .. }| match found {
            Found::Content(content) => visitor(Entry { name, class, content }),
            // Nobody says so above.
            Found::Known(_) => ControlFlow::Continue(()),
        })
    }

    /// As [`ImageSource::visit`]; an image is not read if `known` gives the digest of its content, by the file's mark and
    /// its class.
    ///
    /// # Errors
    /// If the source as a whole cannot be read.
    pub fn visit_items(
        &self,
        split: Split,
        wants: &dyn Fn(u16) -> bool,
        known: &dyn Fn(Mark, u16) -> Option<Digest>,
        visitor: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<(), SourceError> {
        if !self.counts.contains_key(&split) {
            return Ok(());
        }
        self.images.visit(split, &mut Visit { wants, known, visitor })
    }
}

impl Content {
    /// What tells this image from all others, whatever it is called: SHA-256 of the file's bytes, or of the pixels after
    /// a line with their size.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Encoded(bytes) => Sha256::digest(bytes).into(),
            Self::Pixels(Pixels { width, height, channels, bytes }) => Sha256::new()
                .chain_update(format!("pixels {width} {height} {channels}\n"))
                .chain_update(bytes)
                .finalize()
                .into(),
        }
    }

    /// Bytes it holds in memory.
    pub fn len(&self) -> usize {
        match self {
            Self::Encoded(bytes) | Self::Pixels(Pixels { bytes, .. }) => bytes.len(),
        }
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The split that a folder or an array of this name holds.
    fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of_name(text).ok_or_else(|| format!("`{text}` is no split; the splits are train, validation and test"))
    }
}

/// Images per split and class `[class]`.
type Counts = BTreeMap<Split, Vec<u64>>;

/// What is known of images once they are listed.
struct Surveyed {
    classes: Vec<String>,
    counts: Counts,
    passed_over: PassedOver,
    images: Box<dyn Images>,
}

/// One kind of images on disk.
trait Images: fmt::Debug + Send + Sync {
    /// See [`ImageSource::visit`].
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError>;
}

/// Who visits, and which classes.
struct Visit<'a> {
    wants: &'a dyn Fn(u16) -> bool,
    known: &'a dyn Fn(Mark, u16) -> Option<Digest>,
    visitor: &'a mut dyn FnMut(Item) -> ControlFlow<()>,
}

impl Visit<'_> {
    fn wants(&self, class: u16) -> bool {
        (self.wants)(class)
    }

    fn give(&mut self, name: String, class: u16, content: Result<Content, EntryError>) -> ControlFlow<()> {
        (self.visitor)(Item { name, class, mark: None, found: Found::Content(content) })
    }

    /// Gives an image that is a file of its own.
    fn give_file(&mut self, name: String, class: u16, path: &Path) -> ControlFlow<()> {
        let mark = fs::metadata(path).ok().map(|metadata| Mark::of(path, &metadata, unix_ms()));
        let known = mark.and_then(|mark| (self.known)(mark, class));
        let found = known.map_or_else(|| Found::Content(read_image(path)), Found::Known);
        (self.visitor)(Item { name, class, mark, found })
    }
}

/// Whether folders beside one another are the parts of a data set, by the folders in each: one that bears the name of a
/// class is a part only where everything beside it is one, and classes lie in all of them.
fn means_splits(folders: &BTreeMap<String, BTreeSet<String>>, classes: &[String]) -> bool {
    let is_class = |name: &String| classes.contains(name);
    let is_split = |name: &String| Split::of_name(name).is_some();
    let is_plain = !folders.keys().any(|name| is_split(name) && is_class(name));
    is_plain || folders.iter().all(|(name, inner)| is_split(name) && !inner.is_empty() && inner.iter().all(is_class))
}

/// Held-out images whose labels nobody published often lie in one folder of any name. `is_folders` says which splits
/// are folders of classes.
fn leave_out_unlabelled(counts: &mut Counts, is_folders: impl Fn(Split) -> bool) {
    let Some(train) = counts.get(&Split::Train).cloned() else { return };
    let is_labelled = |counts: &[u64]| counts.iter().zip(&train).any(|(&here, &there)| here > 0 && there > 0);
    counts.retain(|&split, counts| split == Split::Train || !is_folders(split) || is_labelled(counts));
}

/// The number of a class among `names`, which are at most [`MAX_CLASSES`].
fn class_index(names: impl IntoIterator<Item = String>) -> BTreeMap<String, u16> {
    let names: BTreeSet<String> = names.into_iter().collect();
    names.into_iter().zip(0..=u16::MAX).collect()
}

#[cfg(test)]
mod tests;
