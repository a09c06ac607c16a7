//! Image data sets through a frozen extractor: images are listed and hashed first, and only those that are wanted are
//! extracted, each once, ever.
//!
//! Read [`ImageData::open`] first, then [`ImageSet::features`].

mod cache;
mod extracting;

use core::ops::ControlFlow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grapevine_edge_client::store::Digest;
use grapevine_host::Shutdown;
use grapevine_vision::source::{Entry, ImageSource, Source, SourceError, Split};
use half::f16;
use ndarray::Array1;

use super::SampleSet;
use grapevine_vision::frozen::FrozenExtractor;

pub use cache::{CacheError, FeatureCache, MAX_CACHE_BYTES};
pub use extracting::{Image, for_each_image};

/// Part of each class that is set aside where a data set has no held-out split of its own.
pub const HELD_OUT_SHARE: f64 = 0.2;
/// Most images of one split.
pub const MAX_IMAGES: usize = 10_000_000;

/// A data set with a training and a test part that share no image.
#[derive(Debug)]
pub struct ImageData {
    /// The file's or the folder's name.
    pub name: String,
    /// Of both parts; labels are indices into them.
    pub class_names: Vec<String>,
    /// To learn from.
    pub train: ImageSet,
    /// To measure on.
    pub test: ImageSet,
    /// There was no held-out split: a fifth of each class of the training split became the test part.
    pub held_out: bool,
    /// Images that were left out because they are there twice, or in both parts: such an image is for testing.
    pub duplicates: usize,
    /// Images that could not be read, by name, and why.
    pub unreadable: Vec<(String, String)>,
}

/// The images of one part, known by their digests.
#[derive(Clone, Debug)]
pub struct ImageSet {
    source: Arc<ImageSource>,
    split: Split,
    digests: Vec<Digest>,
    labels: Vec<u16>,
}

/// The features of some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Features and labels, in the order in which the images were asked for.
    pub samples: SampleSet,
    /// Per sample, of the image: the key under which a device stores it.
    pub digests: Vec<Digest>,
    /// Per sample, its place among the images that were asked for: those that cannot be used are left out.
    pub positions: Vec<u32>,
    /// Images that were left out, by name, and why.
    pub unreadable: Vec<(String, String)>,
    /// How many samples came from the cache.
    pub cached: usize,
}

/// How far reading a data set has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageProgress {
    /// Images are being listed.
    Listing {
        /// Images so far.
        images: usize,
    },
    /// Images are being extracted.
    Extracting {
        /// Images done.
        done: usize,
        /// Images that were not in the cache.
        total: usize,
    },
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// It cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Features, not images.
    #[error("{} holds features that were extracted already; give images", path.display())]
    NotImages {
        /// The data set.
        path: PathBuf,
    },
    /// Nothing to learn from or nothing to measure on.
    #[error("{} has no image for {part} that can be used{}; add some", path.display(), because(reason))]
    Empty {
        /// The data set.
        path: PathBuf,
        /// `training` or `testing`.
        part: &'static str,
        /// What is wrong with the first image that cannot be used.
        reason: Option<String>,
    },
    /// None of the images that were asked for can be used.
    #[error("not one of {images} images of {name} can be used: {reason}")]
    NothingUsable {
        /// The data set.
        name: String,
        /// Images asked for.
        images: usize,
        /// What is wrong with the first.
        reason: String,
    },
    /// Beyond [`MAX_IMAGES`].
    #[error("{} has more than {limit} images in one split; give a part of it", path.display(), limit = MAX_IMAGES)]
    TooMany {
        /// The data set.
        path: PathBuf,
    },
    /// Ctrl-C. What was extracted until then is in the cache.
    #[error("stopped")]
    Stopped,
}

impl ImageData {
    /// Lists a data set of any kind that [`Source::open`] knows. `test/` is the test part, else `val/`, else a fifth of
    /// each class.
    ///
    /// # Errors
    /// If the data set cannot be read, holds no images, too many or no usable ones for a part, or a stop is requested.
    pub fn open(
        path: &Path,
        progress: &mut dyn FnMut(ImageProgress),
        shutdown: &Shutdown,
    ) -> Result<Self, ImagesError> {
        let Source::Images(source) = Source::open(path)? else {
            return Err(ImagesError::NotImages { path: path.to_owned() });
        };
        let source = Arc::new(source);
        let mut listing = Listing { path, progress, shutdown, images: 0, unreadable: Vec::new(), duplicates: 0 };
        let mut train = listing.split(&source, Split::Train)?;
        let held_out = [Split::Test, Split::Validation].into_iter().find(|split| source.splits().contains(split));
        let test = match held_out {
            Some(split) => listing.split(&source, split)?,
            None => train.set_aside(HELD_OUT_SHARE),
        };
        let for_testing: BTreeSet<&Digest> = test.digests.iter().collect();
        let before = train.len();
        train.keep(|digest| !for_testing.contains(digest));
        let duplicates = listing.duplicates + before - train.len();
        let unreadable = listing.unreadable;
        for (part, set) in [("training", &train), ("testing", &test)] {
            if set.is_empty() {
                let reason = unreadable.first().map(|(name, reason)| naming(name, reason));
                return Err(ImagesError::Empty { path: path.to_owned(), part, reason });
            }
        }
        Ok(Self {
            name: source.name().to_owned(),
            class_names: source.classes().to_vec(),
            train,
            test,
            held_out: held_out.is_none(),
            duplicates,
            unreadable,
        })
    }

    /// The training images less a `share` of each class, and that share: for choosing hyper-parameters. Indices into
    /// the training part; a class keeps at least one image for training.
    pub fn validation_split(&self, share: f64) -> (Vec<u32>, Vec<u32>) {
        stratified(&self.train.labels, share)
    }
}

impl ImageSet {
    /// Images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// One per image: by class, within a class by digest. So a folder, an archive of it and renamed files give the same
    /// order.
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// The standardised features of the images at `chosen`, from the cache or else extracted, on all cores. They are
    /// rounded to f16, as a device's store holds them.
    ///
    /// # Panics
    /// If an index is not one of [`ImageSet::labels`].
    ///
    /// # Errors
    /// If the source cannot be read, not one of the images can be used, or a stop is requested.
    pub fn features(
        &self,
        chosen: &[u32],
        extractor: &FrozenExtractor,
        cache: &FeatureCache,
        progress: &mut dyn FnMut(ImageProgress),
        shutdown: &Shutdown,
    ) -> Result<Loaded, ImagesError> {
        let d = extractor.manifest().output.features;
        let mut known: BTreeMap<Digest, Option<Vec<f16>>> =
            chosen.iter().map(|&index| (self.digests[index as usize], None)).collect();
        let mut book = cache.book(&extractor.cache_key(), d);
        book.read(|digest, features| {
            if let Some(place) = known.get_mut(digest) {
                *place = Some(features());
            }
        });
        let cached = known.values().flatten().count();
        let missing: BTreeSet<Digest> =
            known.iter().filter(|(_, features)| features.is_none()).map(|(digest, _)| *digest).collect();
        let mut unreadable = Vec::new();
        let total = missing.len();
        if total > 0 {
            progress(ImageProgress::Extracting { done: 0, total });
            let wanted = Wanted { classes: self.classes_of(chosen, &missing), digests: missing };
            let mut done = 0;
            let result = self.extract(wanted, extractor, shutdown, &mut |name, digest, outcome| {
                done += 1;
                match outcome {
                    Ok(features) => {
                        book.add(&digest, &features);
                        known.insert(digest, Some(features));
                    }
                    Err(reason) => unreadable.push((name, reason)),
                }
                progress(ImageProgress::Extracting { done, total });
            });
            // Also what a stop or a broken archive interrupted is kept.
            book.close();
            result?;
        }
        self.collect(d, chosen, &known, unreadable, cached)
    }

    /// Extracts the wanted images in the source's order, each once.
    fn extract(
        &self,
        mut wanted: Wanted,
        extractor: &FrozenExtractor,
        shutdown: &Shutdown,
        take: &mut dyn FnMut(String, Digest, Result<Vec<f16>, String>),
    ) -> Result<(), ImagesError> {
        let classes = wanted.classes.clone();
        for_each_image(
            &self.source,
            self.split,
            &|class| classes.contains(&class),
            &mut |digest| wanted.digests.remove(digest),
            &|image| extractor.extract(&image.content),
            &mut |image, features| {
                let halves = features.map(|features| features.into_iter().map(f16::from_f32).collect());
                take(image.name, image.digest, halves);
                ControlFlow::Continue(())
            },
            shutdown,
        )
    }

    fn classes_of(&self, chosen: &[u32], digests: &BTreeSet<Digest>) -> BTreeSet<u16> {
        let is_missing = |index: &&u32| digests.contains(&self.digests[**index as usize]);
        chosen.iter().filter(is_missing).map(|&index| self.labels[index as usize]).collect()
    }

    fn collect(
        &self,
        width: usize,
        chosen: &[u32],
        known: &BTreeMap<Digest, Option<Vec<f16>>>,
        mut unreadable: Vec<(String, String)>,
        cached: usize,
    ) -> Result<Loaded, ImagesError> {
        let mut samples = SampleSet::empty(width);
        let (mut digests, mut positions) = (Vec::new(), Vec::new());
        let mut gone = 0;
        for (position, &index) in (0_u32..).zip(chosen) {
            let digest = self.digests[index as usize];
            let Some(Some(features)) = known.get(&digest) else {
                gone += 1;
                continue;
            };
            let features: Array1<f32> = features.iter().map(|value| value.to_f32()).collect();
            samples.push(features.view(), self.labels[index as usize]);
            digests.push(digest);
            positions.push(position);
        }
        if gone > unreadable.len() {
            let name = format!("{} more", gone - unreadable.len());
            unreadable.push((name, "the data set changed while it was read".to_owned()));
        }
        if samples.labels.is_empty() && !chosen.is_empty() {
            let reason = unreadable.first().map_or_else(String::new, |(name, reason)| naming(name, reason));
            let name = self.source.name().to_owned();
            return Err(ImagesError::NothingUsable { name, images: chosen.len(), reason });
        }
        Ok(Loaded { samples, digests, positions, unreadable, cached })
    }

    /// Takes a share of each class out of this set.
    fn set_aside(&mut self, share: f64) -> Self {
        let (kept, aside) = stratified(&self.labels, share);
        let (kept, aside) = (self.at(&kept), self.at(&aside));
        *self = kept;
        aside
    }

    fn at(&self, indices: &[u32]) -> Self {
        Self {
            source: self.source.clone(),
            split: self.split,
            digests: indices.iter().map(|&index| self.digests[index as usize]).collect(),
            labels: indices.iter().map(|&index| self.labels[index as usize]).collect(),
        }
    }

    fn keep(&mut self, wants: impl Fn(&Digest) -> bool) {
        let kept: Vec<u32> = (0..self.len() as u32).filter(|&index| wants(&self.digests[index as usize])).collect();
        if kept.len() < self.len() {
            *self = self.at(&kept);
        }
    }
}

/// What is to be extracted.
struct Wanted {
    classes: BTreeSet<u16>,
    digests: BTreeSet<Digest>,
}

/// Lists splits.
struct Listing<'a> {
    path: &'a Path,
    progress: &'a mut dyn FnMut(ImageProgress),
    shutdown: &'a Shutdown,
    images: usize,
    unreadable: Vec<(String, String)>,
    duplicates: usize,
}

impl Listing<'_> {
    fn split(&mut self, source: &Arc<ImageSource>, split: Split) -> Result<ImageSet, ImagesError> {
        let mut images: Vec<(u16, Digest)> = Vec::new();
        source.visit(split, &|_| true, &mut |Entry { name, class, content }| {
            match content {
                Ok(content) => images.push((class, content.digest())),
                Err(error) => self.unreadable.push((name, error.to_string())),
            }
            self.images += 1;
            (self.progress)(ImageProgress::Listing { images: self.images });
            let is_enough = self.shutdown.is_requested() || images.len() > MAX_IMAGES;
            if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if self.shutdown.is_requested() {
            return Err(ImagesError::Stopped);
        }
        if images.len() > MAX_IMAGES {
            return Err(ImagesError::TooMany { path: self.path.to_owned() });
        }
        images.sort_unstable();
        let found = images.len();
        // The same image under two classes stays with the first.
        let mut seen = BTreeSet::new();
        images.retain(|(_, digest)| seen.insert(*digest));
        self.duplicates += found - images.len();
        let (labels, digests) = images.into_iter().unzip();
        Ok(ImageSet { source: source.clone(), split, digests, labels })
    }
}

/// Indices of what stays and of what is set aside: the first `share` of each class, rounded, but never the last image
/// of a class.
pub(crate) fn stratified(labels: &[u16], share: f64) -> (Vec<u32>, Vec<u32>) {
    let mut by_class: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for (index, &label) in (0..).zip(labels) {
        by_class.entry(label).or_default().push(index);
    }
    let (mut kept, mut aside) = (Vec::new(), Vec::new());
    for indices in by_class.values() {
        let count = (indices.len() as f64 * share).round() as usize;
        let (first, rest) = indices.split_at(count.min(indices.len() - 1));
        aside.extend(first);
        kept.extend(rest);
    }
    (kept, aside)
}

fn naming(name: &str, reason: &str) -> String {
    if reason.contains(name) { reason.to_owned() } else { format!("{name}: {reason}") }
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

#[cfg(test)]
mod tests;
