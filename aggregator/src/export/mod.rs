//! Joins a frozen extractor and a trained head into one ONNX file that any runtime can run.
//!
//! The extractor's bytes are kept as they are; nodes and weights are appended to its graph and its outputs are replaced
//! by `logits [1, C]` and `probabilities [1, C]`. The standardisation `(P(x) - mean) / std / sqrt(d / 16)` is folded
//! into the head, so one matrix product remains. What comes before the model (decode, resize, normalise) is written
//! into the file's metadata under `grapevine.*`.

use grapevine_models::{Head, HeadError, Shape, ShapeError};
use grapevine_protocol::Digest;
use grapevine_vision::manifest::{MAX_EXTRACTOR_BYTES, Manifest, ManifestError};

mod onnx;
mod wire;

use onnx::{Axis, Output, graph, model};
use wire::{Malformed, Value, all_bytes, fields, last_varint, put_bytes};

/// What every metadata key begins with.
const METADATA_PREFIX: &str = "grapevine.";
/// `Gemm` takes a bias of one axis since then.
const OLDEST_OPSET: u64 = 7;
/// Initializers need not be inputs since then.
const OLDEST_IR_VERSION: u64 = 4;
/// Rounding of a folded logit above which the mean is subtracted in a node of its own.
const FOLDING_TOLERANCE: f64 = 1e-5;

/// Why no file was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file is too large to join.
    #[error("the extractor has {0} bytes; at most {max} are joined", max = MAX_EXTRACTOR_BYTES)]
    TooLarge(usize),
    /// The manifest cannot be used.
    #[error("the extractor's manifest is not usable")]
    Manifest(#[from] ManifestError),
    /// The file is not the one the manifest describes.
    #[error(
        "the extractor's SHA-256 is {found}, its manifest says {expected}; use the file and manifest of this fleet"
    )]
    Digest {
        /// What the manifest says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// Classes or features out of range.
    #[error("the head's shape is not usable")]
    Shape(#[from] ShapeError),
    /// The head does not fit the classes and the extractor.
    #[error("the head does not fit the class list and the extractor; export with the configuration of its run")]
    Head(#[from] HeadError),
    /// The file is not ONNX.
    #[error("the extractor is not an ONNX model; check the file")]
    NotOnnx,
    /// A graph without an opset, or with too old a one.
    #[error(
        "the extractor uses IR version {ir_version} and opset {opset}; export it again with opset {OLDEST_OPSET} or up"
    )]
    TooOld {
        /// `ir_version`, 0 if absent.
        ir_version: u64,
        /// Version of the standard operators, 0 if absent.
        opset: u64,
    },
    /// Weights beside the file.
    #[error("the extractor keeps weights in other files; save it as one file first")]
    ExternalData,
    /// The manifest names another output.
    #[error("the extractor has no output `{expected}`, only {found:?}; correct `output.name` in its manifest")]
    NoOutput {
        /// What the manifest says.
        expected: String,
        /// What the graph has.
        found: Vec<String>,
    },
    /// The output is not what the manifest says.
    #[error("the extractor's output is not an f32 tensor of {expected} features for one image; correct the manifest")]
    OutputShape {
        /// What the manifest says.
        expected: usize,
    },
    /// A folded number left the range of f32.
    #[error("a standard deviation in the manifest is too close to zero for the head; make the manifest again")]
    NotFinite,
}

/// One ONNX model that goes from the extractor's input to `logits [1, C]` and `probabilities [1, C]`; `round` is where
/// the head is from. Both outputs get another name if the extractor uses theirs; `grapevine.outputs` has the names.
///
/// # Errors
/// If the manifest or the extractor cannot be used, or they do not belong together. If the head does not fit the
/// extractor and the classes.
pub fn join(
    extractor_onnx: &[u8],
    manifest: &Manifest,
    head: &Head,
    classes: &[String],
    round: u32,
) -> Result<Vec<u8>, ExportError> {
    check_extractor(extractor_onnx, manifest)?;
    let shape = Shape::new(classes.len(), manifest.output.features)?;
    head.check(shape)?;
    let features = features_output(extractor_onnx, manifest)?;
    let folded = fold(head, manifest)?;
    let names = Names::unused_in(extractor_onnx);
    let tail = tail(&folded, &names, &features, shape);
    let mut joined = Vec::with_capacity(extractor_onnx.len() + 4 * shape.parameters() + 4096);
    for field in fields(extractor_onnx) {
        let field = field?;
        match (field.number, field.value) {
            (model::GRAPH, Value::Bytes(graph)) => put_bytes(&mut joined, model::GRAPH, &splice(graph, &tail)?),
            (model::METADATA, Value::Bytes(entry)) if is_ours(entry)? => {}
            (_, Value::Varint(_) | Value::Bytes(_) | Value::Fixed) => joined.extend_from_slice(field.raw),
        }
    }
    for (key, value) in metadata(manifest, classes, round, &names) {
        put_bytes(&mut joined, model::METADATA, &onnx::entry(&format!("{METADATA_PREFIX}{key}"), &value));
    }
    Ok(joined)
}

impl From<Malformed> for ExportError {
    fn from(_: Malformed) -> Self {
        Self::NotOnnx
    }
}

/// Names of what is appended, none of them used by the extractor.
struct Names {
    rows: String,
    row_shape: String,
    mean: String,
    centred: String,
    weight: String,
    bias: String,
    logits: String,
    probabilities: String,
}

impl Names {
    fn unused_in(extractor: &[u8]) -> Self {
        let unused = |wanted: &str| {
            let candidates = (0..).map(|n| if n == 0 { wanted.to_owned() } else { format!("{wanted}_{n}") });
            let mut unused = candidates.filter(|name| !is_used(extractor, name));
            unused.next().expect("a file of finite length uses finitely many names")
        };
        Self {
            rows: unused("grapevine_rows"),
            row_shape: unused("grapevine_row_shape"),
            mean: unused("grapevine_mean"),
            centred: unused("grapevine_centred"),
            weight: unused("grapevine_weight"),
            bias: unused("grapevine_bias"),
            logits: unused("logits"),
            probabilities: unused("probabilities"),
        }
    }
}

/// Whether `name` may be a string of the model, at any depth: protobuf writes it after its length. Now and then other
/// bytes look the same, and then a name is passed over that was free.
fn is_used(extractor: &[u8], name: &str) -> bool {
    let length = u8::try_from(name.len()).expect("names are short");
    extractor.windows(name.len() + 1).any(|window| window[0] == length && &window[1..] == name.as_bytes())
}

/// What the head adds to the graph.
struct Tail {
    nodes: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// A head that takes raw features, after `mean` is subtracted if there is one.
struct Folded {
    weight: Vec<f32>,
    bias: Vec<f32>,
    mean: Option<Vec<f32>>,
}

fn check_extractor(extractor: &[u8], manifest: &Manifest) -> Result<(), ExportError> {
    if extractor.len() as u64 > MAX_EXTRACTOR_BYTES {
        return Err(ExportError::TooLarge(extractor.len()));
    }
    manifest.check()?;
    let found = Digest::of(extractor).to_string();
    if found != manifest.sha256 {
        return Err(ExportError::Digest { expected: manifest.sha256.clone(), found });
    }
    let ir_version = last_varint(extractor, model::IR_VERSION)?.unwrap_or(0);
    let opset = onnx::standard_opset(extractor)?.unwrap_or(0);
    if all_bytes(extractor, model::GRAPH)?.len() != 1 {
        return Err(ExportError::NotOnnx);
    }
    if ir_version < OLDEST_IR_VERSION || opset < OLDEST_OPSET {
        return Err(ExportError::TooOld { ir_version, opset });
    }
    Ok(())
}

/// The output the manifest names, checked as far as the model declares it.
fn features_output(extractor: &[u8], manifest: &Manifest) -> Result<Output, ExportError> {
    let graphs = all_bytes(extractor, model::GRAPH)?;
    let graph = graphs.first().ok_or(ExportError::NotOnnx)?;
    for tensor in all_bytes(graph, graph::INITIALIZER)? {
        if onnx::is_external(tensor)? {
            return Err(ExportError::ExternalData);
        }
    }
    let outputs: Vec<Output> =
        all_bytes(graph, graph::OUTPUT)?.into_iter().map(Output::read).collect::<Result<_, _>>()?;
    let expected = &manifest.output.name;
    let Some(features) = outputs.iter().find(|output| output.name == *expected) else {
        let found = outputs.into_iter().map(|output| output.name).collect();
        return Err(ExportError::NoOutput { expected: expected.clone(), found });
    };
    let count = manifest.output.features;
    let fits = features.shape.as_ref().is_none_or(|axes| {
        let known = axes.iter().try_fold(1_u64, |product, axis| match axis {
            Axis::Size(size) => product.checked_mul(*size),
            Axis::Name(_) | Axis::Unknown => Some(product),
        });
        let all_known = axes.iter().all(|axis| matches!(axis, Axis::Size(_)));
        known.is_some_and(|known| if all_known { known == count as u64 } else { (count as u64).is_multiple_of(known) })
    });
    if !features.is_float || !fits {
        return Err(ExportError::OutputShape { expected: count });
    }
    Ok(features.clone())
}

/// `W ((x - mean) / std / s) + b = W' x + b'`, in f64.
fn fold(head: &Head, manifest: &Manifest) -> Result<Folded, ExportError> {
    let (mean, std) = (&manifest.output.mean, &manifest.output.std);
    let scale = (manifest.output.features as f64 / 16.0).sqrt();
    let mut weight = Vec::with_capacity(head.weight.len());
    let mut bias = Vec::with_capacity(head.bias.len());
    let mut largest: f64 = 0.0;
    for (row, b) in head.weight.chunks_exact(manifest.output.features).zip(&head.bias) {
        let mut shift = 0.0;
        let mut size = 0.0;
        for ((w, mean), std) in row.iter().zip(mean).zip(std) {
            let folded = f64::from(*w) / (f64::from(*std) * scale);
            let moved = folded * f64::from(*mean);
            shift += moved;
            size += moved.abs();
            weight.push(folded as f32);
        }
        bias.push((f64::from(*b) - shift) as f32);
        largest = largest.max(size);
    }
    if weight.iter().chain(&bias).any(|value| !value.is_finite()) {
        return Err(ExportError::NotFinite);
    }
    // `W' x` and `W' mean` nearly cancel. Where they are so large that f32 would lose the difference, x - mean is
    // taken first, as it is on the devices.
    let cancels = largest * f64::from(f32::EPSILON) > FOLDING_TOLERANCE;
    Ok(if cancels {
        Folded { weight, bias: head.bias.clone(), mean: Some(mean.clone()) }
    } else {
        Folded { weight, bias, mean: None }
    })
}

fn tail(folded: &Folded, names: &Names, features: &Output, shape: Shape) -> Tail {
    let (classes, count) = (shape.classes(), shape.features());
    let mut nodes = Vec::new();
    let mut tensors = vec![
        onnx::float_tensor(&names.weight, &[classes, count], &folded.weight),
        onnx::float_tensor(&names.bias, &[classes], &folded.bias),
    ];
    let mut input = features.name.as_str();
    let axes = features.shape.as_deref().unwrap_or_default();
    if axes.len() != 2 || axes[1] != Axis::Size(count as u64) {
        tensors.push(onnx::integer_tensor(&names.row_shape, &[-1, count as i64]));
        nodes.push(onnx::node("Reshape", &[input, &names.row_shape], &names.rows, &[]));
        input = &names.rows;
    }
    if let Some(mean) = &folded.mean {
        tensors.push(onnx::float_tensor(&names.mean, &[count], mean));
        nodes.push(onnx::node("Sub", &[input, &names.mean], &names.centred, &[]));
        input = &names.centred;
    }
    nodes.push(onnx::node("Gemm", &[input, &names.weight, &names.bias], &names.logits, &[("transB", 1)]));
    nodes.push(onnx::node("Softmax", &[&names.logits], &names.probabilities, &[("axis", 1)]));
    let batch = if axes.len() > 1 { axes[0].clone() } else { Axis::Size(1) };
    let axes = [batch, Axis::Size(classes as u64)];
    let outputs = vec![onnx::float_output(&names.logits, &axes), onnx::float_output(&names.probabilities, &axes)];
    Tail { nodes, tensors, outputs }
}

/// The extractor's graph with the tail appended and its outputs replaced.
fn splice(extractor: &[u8], tail: &Tail) -> Result<Vec<u8>, ExportError> {
    let mut joined = Vec::with_capacity(extractor.len() + tail.tensors.iter().map(Vec::len).sum::<usize>() + 1024);
    for field in fields(extractor) {
        let field = field?;
        if field.number != graph::OUTPUT {
            joined.extend_from_slice(field.raw);
        }
    }
    let parts = [(graph::NODE, &tail.nodes), (graph::INITIALIZER, &tail.tensors), (graph::OUTPUT, &tail.outputs)];
    for (number, messages) in parts {
        for message in messages {
            put_bytes(&mut joined, number, message);
        }
    }
    Ok(joined)
}

fn is_ours(entry: &[u8]) -> Result<bool, Malformed> {
    Ok(wire::last_bytes(entry, 1)?.is_some_and(|key| key.starts_with(METADATA_PREFIX.as_bytes())))
}

fn metadata(manifest: &Manifest, classes: &[String], round: u32, names: &Names) -> [(&'static str, String); 7] {
    let input = &manifest.input;
    let normalisation = serde_json::json!({
        "width": input.width, "height": input.height, "channels": input.channels, "layout": input.layout,
        "mean": input.mean, "std": input.std, "formula": "(pixel / 255 - mean) / std",
    });
    [
        ("classes", serde_json::json!(classes).to_string()),
        ("input", normalisation.to_string()),
        ("outputs", serde_json::json!([names.logits, names.probabilities]).to_string()),
        ("extractor", manifest.name.clone()),
        ("extractor_sha256", manifest.sha256.clone()),
        ("extractor_license", manifest.license.clone()),
        ("head_round", round.to_string()),
    ]
}

#[cfg(test)]
mod tests;
