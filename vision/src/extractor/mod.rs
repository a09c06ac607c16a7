//! The frozen extractor: an ONNX file becomes a function from image tensors to feature vectors.
//!
//! This file and its folder are the only ones that name tract. A model file is untrusted input: whatever it holds,
//! loading gives an extractor or one sentence, and no other file is read on its behalf. Read [`Extractor`] first; the
//! way of a file is `file` (bytes, checked), `graph` (one image in, one output out, shapes known), then the plan here.
//! What a file asks of memory and time shows only while it is loaded: programs call [`trial::Trier::vet`] before.

#[cfg(target_arch = "x86_64")]
mod conv;
mod file;
mod graph;
pub mod inspect;
pub mod trial;

use core::fmt::Display;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::manifest::{MAX_EXTRACTOR_BYTES, Manifest};
use grapevine_models::limits::MAX_FEATURE_VALUE;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use graph::Wanted;

/// What the runtime says in a panic when it gets no memory for a tensor.
const NO_MEMORY: &str = "failed to allocate";
/// Most characters of a reason that is passed on.
const MAX_REASON_CHARS: usize = 300;

/// A loaded extractor. It can be shared between threads; each call runs on the thread that makes it. A clone shares the
/// weights.
#[derive(Clone, Debug)]
pub struct Extractor {
    runner: Runner,
    manifest: Manifest,
}

/// Why an extractor cannot be loaded or an image not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractorError {
    /// The file cannot be read.
    #[error("cannot read the extractor {path}: {source}; check the path")]
    Read {
        /// The ONNX file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is over [`MAX_EXTRACTOR_BYTES`].
    #[error("the extractor {path} is larger than {limit} bytes; use a smaller model", limit = MAX_EXTRACTOR_BYTES)]
    TooLarge {
        /// The ONNX file.
        path: PathBuf,
    },
    /// Not ONNX at all, or cut short.
    #[error("{path} is not an ONNX model ({reason}); copy it again from where it was made, or export it again")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights outside the file: nothing else is read on a model's behalf.
    #[error("the extractor {path} keeps its weights in {file}; save it as one ONNX file, weights included")]
    ExternalData {
        /// The ONNX file.
        path: PathBuf,
        /// Where the weights are said to be.
        file: String,
    },
    /// The model has another number of inputs or the manifest another shape than the model.
    #[error("the extractor {path} does not take what its manifest says ({reason}); correct `[input]` in the manifest")]
    Input {
        /// The ONNX file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// The same of a model without a manifest.
    #[error(
        "{path} takes no image ({reason}); give what the file leaves open (such as `--size 224x224`, `--layout NHWC`), \
         or export the model with one f32 input of one image"
    )]
    InputAlone {
        /// The ONNX file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// The output is missing or of another shape.
    #[error("the extractor {path} does not give what its manifest says ({reason}); correct `[output]` in the manifest")]
    Output {
        /// The ONNX file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// The same of a model without a manifest.
    #[error(
        "{path} gives no features ({reason}); name another output (`--output`), or export the model up to its pooled \
         features"
    )]
    OutputAlone {
        /// The ONNX file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// An operation or a shape this device cannot run.
    #[error("the extractor {path} cannot run here ({reason}); export it with fixed shapes and plain operations")]
    Unsupported {
        /// The ONNX file.
        path: PathBuf,
        /// What the runtime said.
        reason: String,
    },
    /// More memory than this process may take.
    #[error(
        "the extractor {path} takes more memory than it may; use a smaller one, or export it again with fixed shapes and \
         plain operations"
    )]
    Memory {
        /// The ONNX file.
        path: PathBuf,
    },
    /// An image tensor of another length.
    #[error("an image of {received} numbers was given to an extractor of {expected}; prepare it with its manifest")]
    ImageLength {
        /// Numbers in the input tensor.
        expected: usize,
        /// Numbers received.
        received: usize,
    },
    /// The runtime failed on an image.
    #[error(
        "the extractor failed on an image ({reason}); export it again for inference, with fixed shapes and plain operations"
    )]
    Run {
        /// What the runtime said.
        reason: String,
    },
    /// The model itself gives a NaN or an infinity.
    #[error("the extractor gave {value} as feature {feature}, which is no number; train or export it again")]
    NotFinite {
        /// Which feature.
        feature: usize,
        /// What the model gave.
        value: f32,
    },
    /// An absurd feature.
    #[error(
        "the extractor gave {value} as feature {feature}; features must be finite and at most {limit} in size: \
         check the means and deviations in the manifest",
        limit = MAX_FEATURE_VALUE
    )]
    FeatureValue {
        /// Which feature.
        feature: usize,
        /// Its standardised value.
        value: f32,
    },
}

impl Extractor {
    /// Loads the ONNX file of a manifest that was checked. The digest is the caller's business.
    ///
    /// # Errors
    /// If the file cannot be read, is no ONNX model, does not fit the manifest, or holds a model that cannot run here.
    pub fn load(manifest: &Manifest, onnx: &Path) -> Result<Self, ExtractorError> {
        Self::contained(manifest, onnx, || file::read(onnx))
    }

    /// [`Extractor::load`] for the bytes of an ONNX file. `name` is for messages alone.
    ///
    /// # Errors
    /// If the bytes are no ONNX model, do not fit the manifest, or hold a model that cannot run here.
    pub fn from_bytes(manifest: &Manifest, bytes: &[u8], name: &Path) -> Result<Self, ExtractorError> {
        Self::contained(manifest, name, || file::parse(bytes, name))
    }

    /// The standardised features `[d]` of one image tensor, normalised and laid out as the manifest says.
    ///
    /// # Errors
    /// If the tensor is not as long as the model's input, the model fails on it, or a feature is not finite or too
    /// large.
    pub fn extract(&self, image: &[f32]) -> Result<Vec<f32>, ExtractorError> {
        let mut features = finite(self.runner.run(image)?)?;
        self.manifest.standardise(&mut features);
        within(features)
    }

    /// What the model gives for one image tensor, before it is standardised: `[d]`, all finite.
    ///
    /// # Errors
    /// If the tensor is not as long as the model's input, the model fails on it, or a feature is not finite.
    pub fn extract_raw(&self, image: &[f32]) -> Result<Vec<f32>, ExtractorError> {
        finite(self.runner.run(image)?)
    }

    /// Features per image, `d`.
    pub fn features(&self) -> usize {
        self.manifest.output.features
    }

    /// What the extractor was loaded from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn contained(
        manifest: &Manifest,
        path: &Path,
        read: impl FnOnce() -> Result<ModelProto, ExtractorError>,
    ) -> Result<Self, ExtractorError> {
        let wanted = Wanted::of(manifest);
        let runner = contained(path, || Runner::new(graph::typed(read()?, &wanted, path)?, &wanted, path))?;
        check_features(runner.features, manifest, path)?;
        Ok(Self { runner, manifest: manifest.clone() })
    }
}

/// A model that is ready for images.
#[derive(Clone, Debug)]
struct Runner {
    plan: Arc<TypedRunnableModel>,
    input_shape: [usize; 4],
    features: usize,
}

impl Runner {
    fn new(model: TypedModel, wanted: &Wanted<'_>, path: &Path) -> Result<Self, ExtractorError> {
        let features = graph::check(&model, wanted, path)?;
        let plan = model.into_optimized().and_then(TypedModel::into_runnable);
        let unsupported =
            |error: TractError| ExtractorError::Unsupported { path: path.to_owned(), reason: one_line(&error) };
        Ok(Self { plan: plan.map_err(unsupported)?, input_shape: wanted.shape, features })
    }

    /// The output `[d]` for one image tensor, whatever its values.
    fn run(&self, image: &[f32]) -> Result<Vec<f32>, ExtractorError> {
        let expected = self.input_shape.iter().product();
        if image.len() != expected {
            return Err(ExtractorError::ImageLength { expected, received: image.len() });
        }
        // As in `contained`; the plan is not changed by a run, so the next image finds it whole.
        match catch_unwind(AssertUnwindSafe(|| self.outputs(image))) {
            Ok(features) => features.map_err(|error| ExtractorError::Run { reason: one_line(&error) }),
            Err(_) => Err(ExtractorError::Run { reason: "the runtime gave up".into() }),
        }
    }

    fn outputs(&self, image: &[f32]) -> TractResult<Vec<f32>> {
        let input = Tensor::from_shape(&self.input_shape, image)?;
        let outputs = self.plan.run(tvec!(input.into()))?;
        let features = outputs[0].view();
        Ok(features.as_slice::<f32>()?.to_vec())
    }
}

/// Does what may meet any model: the runtime indexes and unwraps while it reads one. What a panic leaves behind is
/// dropped here.
fn contained<T>(path: &Path, work: impl FnOnce() -> Result<T, ExtractorError>) -> Result<T, ExtractorError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let words = words.unwrap_or_default();
        Err(if words.contains(NO_MEMORY) {
            ExtractorError::Memory { path: path.to_owned() }
        } else {
            let reason = one_line(&format!("the runtime gave up while reading it: {words}"));
            ExtractorError::Unsupported { path: path.to_owned(), reason }
        })
    })
}

fn check_features(features: usize, manifest: &Manifest, path: &Path) -> Result<(), ExtractorError> {
    let expected = manifest.output.features;
    if features == expected {
        return Ok(());
    }
    let reason = format!("the model gives {features} features, the manifest says {expected}");
    Err(ExtractorError::Output { path: path.to_owned(), reason })
}

/// Features before they are standardised.
fn finite(features: Vec<f32>) -> Result<Vec<f32>, ExtractorError> {
    match features.iter().position(|value| !value.is_finite()) {
        Some(feature) => Err(ExtractorError::NotFinite { feature, value: features[feature] }),
        None => Ok(features),
    }
}

/// Features that are standardised.
fn within(features: Vec<f32>) -> Result<Vec<f32>, ExtractorError> {
    match features.iter().position(|value| !value.is_finite() || value.abs() > MAX_FEATURE_VALUE) {
        Some(feature) => Err(ExtractorError::FeatureValue { feature, value: features[feature] }),
        None => Ok(features),
    }
}

/// What the runtime says, on one line of bounded length.
fn one_line(error: &impl Display) -> String {
    let text = format!("{error:#}");
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_REASON_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
