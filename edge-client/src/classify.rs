//! Classifies images with a head, an extractor and nothing else.

use std::path::Path;

use grapevine_models::evaluate::largest;
use grapevine_models::{Head, HeadError, Shape, ShapeError};

use crate::extractor::{Extractor, ExtractorError};
use crate::image_input::{ImageError, ImageInput};

/// An extractor with a head behind it.
#[derive(Debug)]
pub struct Classifier {
    extractor: Extractor,
    input: ImageInput,
    head: Head,
    classes: Vec<String>,
}

/// How likely an image is of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the class.
    pub label: u16,
    /// Name of the class.
    pub class: String,
    /// From 0 to 1; those of one image add up to 1.
    pub probability: f64,
}

/// Why an extractor and a head are not a classifier.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClassifierError {
    /// No shape of a fleet.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A head of another shape, or an unusable one.
    #[error("the head does not fit the extractor and the class list: {0}; run `edge-client run` to get a new one")]
    Head(#[from] HeadError),
}

/// Why an image was not classified.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// Not an image this device can use.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The extractor failed on it.
    #[error(transparent)]
    Extractor(#[from] ExtractorError),
}

impl Classifier {
    /// A classifier, if the three parts fit one another.
    pub fn new(extractor: Extractor, head: Head, classes: Vec<String>) -> Result<Self, ClassifierError> {
        head.check(Shape::new(classes.len(), extractor.features())?)?;
        let input = ImageInput::new(&extractor.manifest().input);
        Ok(Self { extractor, input, head, classes })
    }

    /// Every class with its probability, the likeliest first; among equals the lowest label first.
    pub fn classify(&self, path: &Path) -> Result<Vec<Prediction>, ClassifyError> {
        let features = self.extractor.extract(&self.input.load(path)?)?;
        let mut logits = vec![0.0; self.classes.len()];
        self.head.logits(&features, &mut logits);
        let mut predictions: Vec<Prediction> = (0_u16..)
            .zip(softmax(&logits).into_iter().zip(&self.classes))
            .map(|(label, (probability, class))| Prediction { label, class: class.clone(), probability })
            .collect();
        predictions.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Ok(predictions)
    }
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
    use grapevine_models::manifest::Manifest;
    use image::GrayImage;

    use super::*;

    fn extractor() -> Extractor {
        let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx");
        let manifest: Manifest = toml::from_str(&std::fs::read_to_string(onnx.join("digits.toml")).unwrap()).unwrap();
        Extractor::load(&manifest, &onnx.join(&manifest.file)).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grey.png");
        GrayImage::from_pixel(8, 8, image::Luma([90])).save(&path).unwrap();
        let shape = Shape::new(3, 64).unwrap();
        let mut head = Head::zeros(shape);
        head.bias[2] = 1.0;
        let classifier = Classifier::new(extractor(), head, names(&["a", "b", "c"])).unwrap();
        let predictions = classifier.classify(&path).unwrap();
        let order: Vec<u16> = predictions.iter().map(|prediction| prediction.label).collect();
        assert_eq!(order, [2, 0, 1]);
        assert_eq!(predictions[0].class, "c");
        assert!((predictions[0].probability - 0.576).abs() < 1e-3, "{predictions:?}");
        assert!(matches!(classifier.classify(&folder.path().join("none.png")), Err(ClassifyError::Image(_))));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let head = || Head::zeros(Shape::new(3, 64).unwrap());
        let error = Classifier::new(extractor(), head(), names(&["a", "b"])).unwrap_err();
        assert!(matches!(error, ClassifierError::Head(HeadError::Length { .. })), "{error}");
        assert!(Classifier::new(extractor(), head(), names(&["a"])).is_err());
        let broken = Head { bias: vec![f32::NAN; 3], ..head() };
        assert_eq!(
            Classifier::new(extractor(), broken, names(&["a", "b", "c"])).unwrap_err(),
            ClassifierError::Head(HeadError::NotFinite)
        );
    }
}
