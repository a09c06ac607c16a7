//! Classifies images with the newest head: the extractor is loaded once, and the head may change between two images but
//! never within one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use grapevine_models::evaluate::largest;
use grapevine_models::{Completed, Head, HeadError, Samples, Shape, ShapeError, complete};
use grapevine_protocol::DatasetId;
use serde::{Serialize, Serializer};

use crate::store::{NewestHead, Store, StoreError};
use grapevine_vision::extractor::{Extractor, ExtractorError};
use grapevine_vision::image_input::{DecodeError, ImageInput};
use grapevine_vision::source::{MAX_FOLDER_DEPTH, is_hidden, is_image_name};

/// An extractor and what the classes of its fleet are called.
#[derive(Debug)]
pub struct Classifier {
    extractor: Extractor,
    input: ImageInput,
    classes: Vec<String>,
    shape: Shape,
}

/// A head is trained to tell classes apart, and not to know how often it is right: no probability beyond these is shown.
const SHOWN: (f64, f64) = (0.001, 0.999);
/// The same for people, in percent.
const SHOWN_PERCENT: (f64, f64) = (1.0, 99.0);

/// How likely an image is of a class, as the head has it: not calibrated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Index of the class.
    pub label: u16,
    /// Name of the class.
    pub class: String,
    /// From 0 to 1; those of one image add up to 1. Written with three digits, 0.001 to 0.999.
    #[serde(serialize_with = "written")]
    pub probability: f64,
    /// Samples of this class on this device.
    pub samples: u32,
    /// Whether the fleet's head never learned this class, and it is told apart by this device's own samples alone.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub own: bool,
}

impl Prediction {
    /// The probability as it is shown to people: a percentage with one decimal, or `> 99 %`, or `< 1 %`.
    pub fn percent(&self) -> String {
        let (least, most) = SHOWN_PERCENT;
        match 100.0 * self.probability {
            percent if percent > most => format!("> {most} %"),
            percent if percent < least => format!("< {least} %"),
            percent => format!("{percent:.1} %"),
        }
    }
}

/// The probability as programs get it.
pub(crate) fn written<S: Serializer>(probability: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let (least, most) = SHOWN;
    serializer.serialize_f64((1_000.0 * probability).round().clamp(1_000.0 * least, 1_000.0 * most) / 1_000.0)
}

/// Why an image was not classified.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// Not an image this device can use.
    #[error(transparent)]
    Image(#[from] DecodeError),
    /// The extractor failed on it.
    #[error(transparent)]
    Extractor(#[from] ExtractorError),
    /// A head of zeros.
    #[error(
        "the fleet has learned nothing yet, and this device has no samples of its own; `aggregator status` says what is missing"
    )]
    Blank,
    /// A head of another shape, or an unusable one.
    #[error("the head does not fit the extractor and the class list: {0}; run `edge-client run` to get a new one")]
    Head(#[from] HeadError),
}

impl Classifier {
    /// A classifier for heads of this extractor and this class list.
    ///
    /// # Errors
    /// If there are too few or too many classes, or too many features.
    pub fn new(extractor: Extractor, classes: Vec<String>) -> Result<Self, ShapeError> {
        let shape = Shape::new(classes.len(), extractor.features())?;
        let input = ImageInput::new(&extractor.manifest().input);
        Ok(Self { extractor, input, classes, shape })
    }

    /// Every class with its probability for the bytes of an image file, the likeliest first; among equals the lowest
    /// label first. `samples` are those of this device, per class; 0 where they are not given.
    ///
    /// # Errors
    /// If the image cannot be used, or the head does not fit.
    pub fn classify(
        &self,
        inference_head: &InUse,
        samples: &[u32],
        image: &[u8],
    ) -> Result<Vec<Prediction>, ClassifyError> {
        let InUse { head, own, .. } = inference_head;
        head.check(self.shape)?;
        if head.is_blank() {
            return Err(ClassifyError::Blank);
        }
        let features = self.extractor.extract(&self.input.decode(image)?)?;
        let mut logits = vec![0.0; self.classes.len()];
        head.logits(&features, &mut logits);
        let mut predictions: Vec<Prediction> = (0_u16..)
            .zip(softmax(&logits).into_iter().zip(&self.classes))
            .map(|(label, (probability, class))| Prediction {
                label,
                class: class.clone(),
                probability,
                samples: samples.get(usize::from(label)).copied().unwrap_or(0),
                own: own.contains(&label),
            })
            .collect();
        predictions.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Ok(predictions)
    }
}

/// The newest head of a store, however long somebody goes on asking: each answer is one whole head, the one stored last
/// at that moment, also while `edge-client run` stores others.
#[derive(Debug)]
pub struct LatestHead {
    store: Arc<Store>,
    head: Option<NewestHead>,
    /// What was made of the newest head and these samples.
    inference_head: Option<(DatasetId, InUse)>,
}

/// The head that this device classifies with: the fleet's, with rows of this device's own for classes that the fleet could
/// not learn because no device may share them.
#[derive(Clone, Debug)]
pub struct InUse {
    /// How many rounds went before it.
    pub round: u32,
    /// Its run.
    pub run: u64,
    /// The digest of the fleet's head.
    pub digest: [u8; 32],
    /// To classify with.
    pub head: Head,
    /// Classes whose rows are from this device's own samples.
    pub own: Vec<u16>,
}

impl InUse {
    /// The fleet's head as it is.
    pub fn of(newest: &NewestHead) -> Self {
        let NewestHead { run, round, ref main, digest } = *newest;
        Self { round, run, digest, head: main.clone(), own: Vec::new() }
    }

    /// Classes that neither the fleet nor this device has learned.
    pub fn never_learned(&self) -> impl Iterator<Item = u16> {
        (0..self.head.bias.len()).filter(|class| self.head.is_unlearned(*class)).map(|class| class as u16)
    }
}

impl LatestHead {
    /// Follows the heads of this store.
    pub fn of(store: Arc<Store>) -> Self {
        Self { store, head: None, inference_head: None }
    }

    /// The newest head as of now; `None` before the first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn now(&mut self) -> Result<Option<&NewestHead>, StoreError> {
        let newer = match self.newer() {
            // A writer has come back to a store whose last one was killed: the next look is beside it.
            Err(StoreError::Changed { .. }) => self.newer()?,
            newer => newer?,
        };
        self.head = newer.or_else(|| self.head.take());
        Ok(self.head.as_ref())
    }

    /// The head to classify with, as of now; `None` before the first. Trains rows of this device's own where the fleet's head
    /// lacks classes, once for each head and each set of samples.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn inference_head(&mut self) -> Result<Option<&InUse>, StoreError> {
        let Some(newest) = self.now()? else { return Ok(None) };
        let (digest, newest) = (newest.digest, InUse::of(newest));
        let dataset = match self.store.dataset() {
            // As for a head: the next look is beside the new writer.
            Err(StoreError::Changed { .. }) => self.store.dataset()?,
            dataset => dataset?,
        };
        let is_known = self.inference_head.as_ref().is_some_and(|(of, known)| *of == dataset && known.digest == digest);
        if !is_known {
            let completed = self.completed(newest)?;
            self.inference_head = Some((dataset, completed));
        }
        Ok(self.inference_head.as_ref().map(|(_, inference_head)| inference_head))
    }

    fn completed(&self, fleets: InUse) -> Result<InUse, StoreError> {
        if !fleets.head.is_blank() && fleets.never_learned().next().is_none() {
            return Ok(fleets);
        }
        let dataset = self.store.samples()?;
        // The store checks what it takes in.
        let samples = Samples::new(self.store.shape(), &dataset.features, &dataset.labels).ok();
        let completed = samples.and_then(|samples| complete(&fleets.head, &samples));
        Ok(match completed {
            Some(Completed { head, own }) => InUse { head, own, ..fleets },
            None => fleets,
        })
    }

    /// Samples of each class on this device, as of now.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn samples(&self) -> Result<Vec<u32>, StoreError> {
        match self.store.counts() {
            // As for a head: the next look is beside the new writer.
            Err(StoreError::Changed { .. }) => self.store.counts(),
            counts => counts,
        }
    }

    fn newer(&self) -> Result<Option<NewestHead>, StoreError> {
        match &self.head {
            Some(known) => self.store.newer_head(known),
            None => self.store.newest_head(),
        }
    }
}

/// Calls `visitor` with `path` if it is no folder, and else with every PNG and JPEG file below it, folder by folder and
/// by name. Says whether there was any.
///
/// # Errors
/// If a folder cannot be listed.
pub fn visit_images(path: &Path, visitor: &mut dyn FnMut(&Path)) -> io::Result<bool> {
    if !path.is_dir() {
        visitor(path);
        return Ok(true);
    }
    visit_folder(path, 0, visitor)
}

fn visit_folder(folder: &Path, depth: usize, visitor: &mut dyn FnMut(&Path)) -> io::Result<bool> {
    let mut entries: Vec<(PathBuf, bool)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_hidden(&entry.file_name()) {
            // Links to folders are not followed, so there are no loops.
            entries.push((entry.path(), entry.file_type()?.is_dir()));
        }
    }
    entries.sort();
    let mut any = false;
    for (path, is_folder) in entries {
        if is_folder && depth < MAX_FOLDER_DEPTH {
            any |= visit_folder(&path, depth + 1, visitor)?;
        } else if !is_folder && is_image_name(&path) && path.is_file() {
            visitor(&path);
            any = true;
        }
    }
    Ok(any)
}

/// In f64, shifted by the largest logit: nothing overflows, and the sum is at least 1.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let Some(&shift) = logits.get(largest(logits)) else { return Vec::new() };
    let powers: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - f64::from(shift)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::thread;

    use grapevine_vision::manifest::Manifest;
    use image::{GrayImage, ImageFormat, Luma};

    use super::*;
    use crate::store::StoreIdentity;

    fn extractor() -> Extractor {
        let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx");
        let manifest: Manifest = toml::from_str(&fs::read_to_string(onnx.join("digits.toml")).unwrap()).unwrap();
        Extractor::load(&manifest, &onnx.join(&manifest.file)).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn grey_png() -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::from_pixel(8, 8, Luma([90])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn alone(head: &Head) -> InUse {
        InUse::of(&NewestHead { run: 1, round: 0, main: head.clone(), digest: [0; 32] })
    }

    #[test]
    fn probabilities_add_up_and_do_not_overflow() {
        assert_eq!(softmax(&[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(softmax(&[60_000.0, -60_000.0]), [1.0, 0.0]);
        let odd = softmax(&[1.0, 3.0, -2.0]);
        assert!((odd.iter().sum::<f64>() - 1.0).abs() < 1e-15, "{odd:?}");
        assert!(odd[1] > odd[0] && odd[0] > odd[2], "{odd:?}");
    }

    #[test]
    fn the_likeliest_class_comes_first_and_equals_keep_their_order() {
        let mut head = Head::zeros(Shape::new(3, 64).unwrap());
        head.bias[2] = 1.0;
        // The same for every class, so that it is a head that learned something.
        (0..3).for_each(|class| head.weight[class * 64] = 1e-3);
        let classifier = Classifier::new(extractor(), names(&["a", "b", "c"])).unwrap();
        let predictions = classifier.classify(&alone(&head), &[5, 6, 7], &grey_png()).unwrap();
        let order: Vec<u16> = predictions.iter().map(|prediction| prediction.label).collect();
        assert_eq!(order, [2, 0, 1]);
        assert_eq!((predictions[0].class.as_str(), predictions[0].samples), ("c", 7));
        assert!((predictions[0].probability - 0.576).abs() < 1e-3, "{predictions:?}");
        assert!(matches!(classifier.classify(&alone(&head), &[], b"no image"), Err(ClassifyError::Image(_))));
    }

    #[test]
    fn no_probability_is_shown_as_knowledge() {
        let shown = |probability: f64| {
            let prediction = Prediction { label: 0, class: "a".into(), probability, samples: 0, own: false };
            let json = serde_json::to_value(&prediction).unwrap();
            (json["probability"].as_f64().unwrap(), prediction.percent())
        };
        for (probability, number, text) in [
            (0.999_999_999_999_1, 0.999, "> 99 %"),
            (0.99, 0.99, "99.0 %"),
            (0.576_54, 0.577, "57.7 %"),
            (0.01, 0.01, "1.0 %"),
            (1e-13, 0.001, "< 1 %"),
            (0.0, 0.001, "< 1 %"),
        ] {
            assert_eq!(shown(probability), (number, text.to_owned()));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let classifier = Classifier::new(extractor(), names(&["a", "b"])).unwrap();
        let error =
            classifier.classify(&alone(&Head::zeros(Shape::new(3, 64).unwrap())), &[], &grey_png()).unwrap_err();
        assert!(matches!(error, ClassifyError::Head(HeadError::Length { .. })), "{error}");
        let broken = Head { bias: vec![f32::NAN; 2], ..Head::zeros(Shape::new(2, 64).unwrap()) };
        let error = classifier.classify(&alone(&broken), &[], &grey_png()).unwrap_err();
        assert!(matches!(error, ClassifyError::Head(HeadError::NotFinite)), "{error}");
        assert!(Classifier::new(extractor(), names(&["a"])).is_err());
    }

    #[test]
    fn folders_are_looked_through_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.png", "b/1.JPG", "a.jpeg", "c.txt", ".hidden/3.png", "d/.4.png"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        let visited = |path: &Path| {
            let mut paths = Vec::new();
            let any = visit_images(path, &mut |path| paths.push(path.to_owned())).unwrap();
            (any, paths)
        };
        let expected = ["a.jpeg", "b/1.JPG", "b/2.png"].map(|name| folder.path().join(name));
        assert_eq!(visited(folder.path()), (true, expected.to_vec()));
        assert_eq!(visited(&folder.path().join("d")), (false, Vec::new()));
        let text = folder.path().join("c.txt");
        assert_eq!(visited(&text), (true, vec![text.clone()]), "what is named is taken at its word");
    }

    /// Every parameter of head `round` is `round`, so a mixture of two would show.
    #[test]
    fn a_head_is_whole_and_the_newest_while_others_are_stored() {
        const ROUNDS: u32 = 40;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let shape = Shape::new(10, 512).unwrap();
        let classes = (0..10).map(|class| class.to_string()).collect();
        let store = Store::open(&path, &StoreIdentity { extractor: [7; 32], classes, shape }).unwrap();
        let of_round = |round: u32| {
            let main = Head { weight: vec![round as f32; shape.weights()], bias: vec![round as f32; shape.classes()] };
            NewestHead { run: 1, round, main, digest: [round as u8; 32] }
        };
        let (reader, _) = Store::open_read_only(&path).unwrap();
        let mut latest = LatestHead::of(Arc::new(reader));
        assert_eq!(latest.now().unwrap(), None);
        let seen = thread::scope(|scope| {
            let writer = scope.spawn(|| (1..=ROUNDS).for_each(|round| store.put_head(&of_round(round)).unwrap()));
            let mut seen = vec![0];
            while *seen.last().unwrap() < ROUNDS {
                let Some(newest) = latest.now().unwrap() else { continue };
                assert_eq!(*newest, of_round(newest.round));
                seen.push(newest.round);
            }
            writer.join().unwrap();
            seen
        });
        assert!(seen.is_sorted(), "{seen:?}");
    }
}
