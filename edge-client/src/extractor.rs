//! The frozen extractor: an ONNX file becomes a function from image tensors to feature vectors.
//!
//! This is the only file that names tract. A model file is untrusted input: whatever it holds, loading gives an
//! extractor or one sentence, and no other file is read on its behalf.

use core::fmt::Display;
use core::panic::AssertUnwindSafe;
use std::fs::File;
use std::io::Read;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use grapevine_models::limits::MAX_FEATURE_VALUE;
use grapevine_models::manifest::{Layout, Manifest};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

/// Largest ONNX file, in bytes.
pub const MAX_MODEL_BYTES: u64 = 256 << 20;
/// Most numbers in any tensor of the model, one image at a time.
const MAX_TENSOR_NUMBERS: usize = 1 << 26;
/// Most characters of a reason that is passed on.
const MAX_REASON_CHARS: usize = 300;

/// A loaded extractor. It can be shared between threads; each call runs on the thread that makes it.
#[derive(Debug)]
pub struct Extractor {
    plan: Arc<TypedRunnableModel>,
    manifest: Manifest,
    input_shape: [usize; 4],
}

/// Why an extractor cannot be loaded or an image not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractorError {
    /// The file cannot be read.
    #[error("cannot read the extractor {path}: {source}; check the path in the configuration")]
    Read {
        /// The ONNX file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is over [`MAX_MODEL_BYTES`].
    #[error("the extractor {path} is larger than {limit} bytes; use a smaller model", limit = MAX_MODEL_BYTES)]
    TooLarge {
        /// The ONNX file.
        path: PathBuf,
    },
    /// Not ONNX at all, or cut short.
    #[error("{path} is not an ONNX model ({reason}); copy it again and compare `sha256sum` with its manifest")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model has another number of inputs or the manifest another shape than the model.
    #[error("the extractor {path} does not take what its manifest says ({reason}); correct `[input]` in the manifest")]
    Input {
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
    /// An operation or a shape this device cannot run.
    #[error("the extractor {path} cannot run here ({reason}); export it with fixed shapes and plain operations")]
    Unsupported {
        /// The ONNX file.
        path: PathBuf,
        /// What the runtime said.
        reason: String,
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
    #[error("the extractor failed on an image ({reason}); run `edge-client doctor`")]
    Run {
        /// What the runtime said.
        reason: String,
    },
    /// A NaN, an infinity or an absurd feature.
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
    pub fn load(manifest: &Manifest, onnx: &Path) -> Result<Self, ExtractorError> {
        // Model files are untrusted and tract indexes and unwraps while it reads them. What a panic leaves behind
        // is dropped here.
        let built = catch_unwind(AssertUnwindSafe(|| build(manifest, onnx)));
        let reason = || "the runtime gave up while reading it".to_owned();
        built.unwrap_or_else(|_| Err(ExtractorError::Unsupported { path: onnx.to_owned(), reason: reason() }))
    }

    /// The standardised features `[d]` of one image tensor, normalised and laid out as the manifest says.
    pub fn extract(&self, image: &[f32]) -> Result<Vec<f32>, ExtractorError> {
        let expected = self.input_shape.iter().product();
        if image.len() != expected {
            return Err(ExtractorError::ImageLength { expected, received: image.len() });
        }
        // As in `load`; the plan is not changed by a run, so the next image finds it whole.
        let run = catch_unwind(AssertUnwindSafe(|| self.run(image)));
        let mut features = match run {
            Ok(features) => features.map_err(|error| ExtractorError::Run { reason: one_line(&error) })?,
            Err(_) => return Err(ExtractorError::Run { reason: "the runtime gave up".into() }),
        };
        self.manifest.standardise(&mut features);
        match features.iter().position(|value| !value.is_finite() || value.abs() > MAX_FEATURE_VALUE) {
            Some(feature) => Err(ExtractorError::FeatureValue { feature, value: features[feature] }),
            None => Ok(features),
        }
    }

    /// Features per image, `d`.
    pub fn features(&self) -> usize {
        self.manifest.output.features
    }

    /// What the extractor was loaded from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn run(&self, image: &[f32]) -> TractResult<Vec<f32>> {
        let input = Tensor::from_shape(&self.input_shape, image)?;
        let outputs = self.plan.run(tvec!(input.into()))?;
        let features = outputs[0].view();
        Ok(features.as_slice::<f32>()?.to_vec())
    }
}

fn build(manifest: &Manifest, path: &Path) -> Result<Extractor, ExtractorError> {
    let model = read_model(path)?;
    let unsupported =
        |error: TractError| ExtractorError::Unsupported { path: path.to_owned(), reason: one_line(&error) };
    // The file's notes on inner shapes still speak of a batch of any size. And without a folder to resolve them in,
    // references to other files are refused.
    let mut model = onnx().with_ignore_value_info(true).model_for_proto_model(&model).map_err(unsupported)?;
    let input_shape = fix_input(manifest, &mut model, path)?;
    choose_output(manifest, &mut model, path)?;
    model.analyse(false).map_err(unsupported)?;
    let model = model.into_typed().map_err(unsupported)?;
    check_shapes(manifest, &model, path)?;
    let plan = model.into_optimized().and_then(TypedModel::into_runnable).map_err(unsupported)?;
    Ok(Extractor { plan, manifest: manifest.clone(), input_shape })
}

fn read_model(path: &Path) -> Result<ModelProto, ExtractorError> {
    let read_error = |source| ExtractorError::Read { path: path.to_owned(), source };
    let not_onnx = |reason: String| ExtractorError::NotOnnx { path: path.to_owned(), reason };
    let file = File::open(path).map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if metadata.len() > MAX_MODEL_BYTES {
        return Err(ExtractorError::TooLarge { path: path.to_owned() });
    }
    if metadata.len() == 0 {
        return Err(not_onnx("it is empty".into()));
    }
    let model = onnx().proto_model_for_read(&mut file.take(MAX_MODEL_BYTES));
    let model = model.map_err(|error| not_onnx(one_line(&error)))?;
    let Some(graph) = &model.graph else { return Err(not_onnx("it holds no graph".into())) };
    if model.ir_version <= 0 || graph.node.is_empty() || graph.output.is_empty() {
        return Err(not_onnx("its graph is empty".into()));
    }
    // tract looks outputs up without asking whether they exist.
    let made = graph.node.iter().flat_map(|node| &node.output);
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    let known: Vec<&String> = made.chain(given).collect();
    match graph.output.iter().find(|output| !known.contains(&&output.name)) {
        Some(output) => Err(not_onnx(format!("nothing makes its output `{}`", output.name))),
        None => Ok(model),
    }
}

/// Fixes the one input to one image: a batch of unknown size runs several times slower.
fn fix_input(manifest: &Manifest, model: &mut InferenceModel, path: &Path) -> Result<[usize; 4], ExtractorError> {
    let input_error = |reason: String| ExtractorError::Input { path: path.to_owned(), reason };
    if model.inputs.len() != 1 {
        return Err(input_error(format!("it has {} inputs, not one", model.inputs.len())));
    }
    let input = &manifest.input;
    let (width, height, channels) = (input.width as usize, input.height as usize, input.channels as usize);
    let shape = match input.layout {
        Layout::Nchw => [1, channels, height, width],
        Layout::Nhwc => [1, height, width, channels],
    };
    let fact = InferenceFact::from(f32::fact(shape));
    let declared = model.input_fact(0).map_err(|error| input_error(one_line(&error)))?;
    let sides = declared.shape.dims().map(|side| side.concretize().and_then(|side| side.to_usize().ok()));
    // A side without a fixed number takes any; a shape without a fixed rank has none to compare.
    let sides_fit = sides.zip(shape).all(|(declared, side)| declared.is_none_or(|declared| declared == side));
    let rank_fits = declared.shape.rank().concretize().is_none_or(|rank| rank == shape.len() as i64);
    if !sides_fit || !rank_fits || declared.datum_type.unify(&fact.datum_type).is_err() {
        return Err(input_error(format!("the model takes {declared:?}, the manifest says {shape:?} in f32")));
    }
    model.set_input_fact(0, fact).map_err(|error| input_error(one_line(&error)))?;
    Ok(shape)
}

fn choose_output(manifest: &Manifest, model: &mut InferenceModel, path: &Path) -> Result<(), ExtractorError> {
    let name = &manifest.output.name;
    let label = |outlet: &OutletId| model.outlet_label(*outlet).unwrap_or("(unnamed)").to_owned();
    let labels: Vec<String> = model.outputs.iter().map(label).collect();
    let Some(position) = labels.iter().position(|label| label == name) else {
        let reason = format!("it has no output `{name}`, only {labels:?}");
        return Err(ExtractorError::Output { path: path.to_owned(), reason });
    };
    model.outputs = vec![model.outputs[position]];
    Ok(())
}

/// Refuses tensors of unknown or absurd size, and an output other than `[1, d]` in f32.
fn check_shapes(manifest: &Manifest, model: &TypedModel, path: &Path) -> Result<(), ExtractorError> {
    for node in model.nodes() {
        for output in &node.outputs {
            let numbers = output
                .fact
                .shape
                .as_concrete()
                .and_then(|shape| shape.iter().try_fold(1_usize, |numbers, &side| numbers.checked_mul(side)));
            if numbers.is_none_or(|numbers| numbers > MAX_TENSOR_NUMBERS) {
                let reason = format!("`{}` gives {:?}, of unknown size or too large", node.name, output.fact);
                return Err(ExtractorError::Unsupported { path: path.to_owned(), reason: one_line(&reason) });
            }
        }
    }
    let output_error = |reason: String| ExtractorError::Output { path: path.to_owned(), reason };
    let fact = model.output_fact(0).map_err(|error| output_error(one_line(&error)))?;
    let expected = [1, manifest.output.features];
    if fact.shape.as_concrete() == Some(expected.as_slice()) && fact.datum_type == f32::datum_type() {
        return Ok(());
    }
    Err(output_error(format!("the model gives {fact:?}, the manifest says {expected:?} in f32")))
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
