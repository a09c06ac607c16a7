//! A frozen extractor ready for use: manifest, preparation of images and model together. Read [`FrozenExtractor`] first.

use std::path::{Path, PathBuf};

use crate::extractor::{Extractor, ExtractorError};
use crate::image_input::ImageInput;
use crate::manifest::{self, Manifest, ManifestLoadError};
use crate::source::Content;
use grapevine_protocol::Digest;

/// The shipped extractor, so that the programs run from any folder.
const SHIPPED_MANIFEST: &str = include_str!("../../models/onnx/general.toml");
const SHIPPED_ONNX: &[u8] = include_bytes!("../../models/onnx/general.onnx");
/// Part of the key of cached features: changes with every change of decoding, resizing and normalising.
const PREPARATION: &str = "preparation 2";

/// An extractor with its manifest, ready for images. It can be shared between threads.
#[derive(Debug)]
pub struct FrozenExtractor {
    extractor: Extractor,
    input: ImageInput,
    digest: Digest,
}

/// Why an extractor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrozenExtractorError {
    /// An ONNX file alone.
    #[error(
        "{} has no manifest {} beside it; make one with `fleet extractor manifest {} --images PATH`",
        onnx.display(), manifest.display(), onnx.display()
    )]
    NoManifest {
        /// The ONNX file.
        onnx: PathBuf,
        /// What is missing.
        manifest: PathBuf,
    },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestLoadError),
    /// The ONNX file.
    #[error(transparent)]
    Extractor(#[from] ExtractorError),
}

impl FrozenExtractor {
    /// From a manifest, or from an ONNX file with its manifest beside it.
    ///
    /// # Errors
    /// If one of the two files is missing or cannot be read, or the manifest or the model cannot be used.
    pub fn open(path: &Path) -> Result<Self, FrozenExtractorError> {
        let manifest_path = manifest::beside(path);
        if manifest_path != path && path.exists() && !manifest_path.exists() {
            return Err(FrozenExtractorError::NoManifest { onnx: path.to_owned(), manifest: manifest_path });
        }
        let (manifest, onnx) = manifest::load(&manifest_path)?;
        Ok(Self::new(Extractor::load(&manifest, &onnx)?))
    }

    /// The one for photographs that is compiled into the program.
    ///
    /// # Errors
    /// If its manifest or its model cannot be used here.
    pub fn shipped() -> Result<Self, FrozenExtractorError> {
        let manifest = manifest::parse(SHIPPED_MANIFEST, Path::new("general.toml"))?;
        Ok(Self::new(Extractor::from_bytes(&manifest, SHIPPED_ONNX, Path::new(&manifest.file))?))
    }

    /// The shipped one, unless a path is given.
    ///
    /// # Errors
    /// If a file is missing or cannot be read, or the manifest or the model cannot be used.
    pub fn shipped_or(path: Option<&Path>) -> Result<Self, FrozenExtractorError> {
        path.map_or_else(Self::shipped, Self::open)
    }

    /// Around a model that was loaded.
    pub fn new(extractor: Extractor) -> Self {
        let manifest = extractor.manifest();
        let digest = Digest::from_hex(&manifest.sha256).expect("a loaded extractor's manifest was checked");
        Self { input: ImageInput::new(&manifest.input), digest, extractor }
    }

    /// What it was loaded from.
    pub fn manifest(&self) -> &Manifest {
        self.extractor.manifest()
    }

    /// Of the ONNX file: its identity in a fleet.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The model alone.
    pub fn model(&self) -> &Extractor {
        &self.extractor
    }

    /// How images become tensors for it.
    pub fn input(&self) -> &ImageInput {
        &self.input
    }

    /// The standardised features of one image, or one sentence.
    ///
    /// # Errors
    /// If the image cannot be decoded, or the extractor fails on it.
    pub fn extract(&self, image: &Content) -> Result<Vec<f32>, String> {
        let tensor = self.input.prepare(image).map_err(|error| error.to_string())?;
        self.extractor.extract(&tensor).map_err(|error| error.to_string())
    }

    /// Tells features from those of any other model, normalisation or preparation.
    pub fn cache_key(&self) -> [u8; 32] {
        let Manifest { sha256, input, output, .. } = self.manifest();
        let parts = serde_json::to_string(&(PREPARATION, sha256, input, output));
        Digest::of(parts.expect("numbers, names and lists of them are JSON").as_bytes()).0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_shipped_extractor_is_the_one_of_its_manifest() {
        let shipped = FrozenExtractor::shipped().unwrap();
        assert_eq!(Digest::of(SHIPPED_ONNX), shipped.digest());
        assert_eq!(shipped.model().features(), shipped.manifest().output.features);
    }

    #[test]
    fn a_model_alone_says_how_to_make_a_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let onnx = folder.path().join("alone.onnx");
        fs::write(&onnx, SHIPPED_ONNX).unwrap();
        let error = FrozenExtractor::open(&onnx).unwrap_err().to_string();
        assert!(error.contains("alone.toml") && error.contains("fleet extractor manifest"), "{error}");
        let missing = FrozenExtractor::open(&folder.path().join("none.onnx")).unwrap_err();
        assert!(matches!(missing, FrozenExtractorError::Manifest(_)), "{missing}");
    }

    #[test]
    fn the_key_of_cached_features_changes_with_anything_that_changes_features() {
        let key = |change: fn(&mut Manifest)| {
            let mut manifest = manifest::parse(SHIPPED_MANIFEST, Path::new("general.toml")).unwrap();
            change(&mut manifest);
            FrozenExtractor::new(Extractor::from_bytes(&manifest, SHIPPED_ONNX, Path::new("general.onnx")).unwrap())
                .cache_key()
        };
        let same = key(|_| ());
        assert_eq!(same, key(|manifest| manifest.license.push('.')));
        assert_ne!(same, key(|manifest| manifest.sha256 = "0".repeat(64)));
        assert_ne!(same, key(|manifest| manifest.input.mean[1] += 0.1));
        assert_ne!(same, key(|manifest| manifest.output.std[7] *= 2.0));
    }
}
