//! What is in a model file, and whether and how fast it runs here.

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::manifest::{Layout, Manifest};
use grapevine_host::memory;
use serde::{Deserialize, Serialize};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

use super::graph::{self, Wanted};
use super::{ExtractorError, Runner, contained, file, one_line};

/// Images that are run before the clock counts.
const WARM_UP: usize = 3;
/// Most time that is spent on timing, unless a single image takes longer.
const MOST_TIME: Duration = Duration::from_secs(2);

/// What is in a model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Bytes of the file.
    pub bytes: u64,
    /// Version of the ONNX format.
    pub ir_version: i64,
    /// Version of the standard operations; `None` if the file does not say.
    pub opset: Option<i64>,
    /// The program that wrote it.
    pub producer: String,
    /// What goes in, weights left out.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// Operations with how often they occur, by name.
    pub operations: BTreeMap<String, u32>,
    /// Operations that cannot run here.
    pub unknown_operations: Vec<String>,
    /// Numbers in all weights.
    pub parameters: u64,
    /// How it runs here.
    pub trial: Option<Trial>,
    /// Why it does not.
    pub failure: Option<String>,
}

/// How a model is to be tried. Without a manifest: what its file leaves open.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Says everything, if there is one.
    pub manifest: Option<&'a Manifest>,
    /// Columns and rows of an input without fixed ones.
    pub side: Option<(u32, u32)>,
    /// Order of the axes, where they do not tell it themselves.
    pub layout: Option<Layout>,
    /// Name of the output; the first, if it is not given.
    pub output: Option<&'a str>,
    /// Most images that are timed.
    pub images: usize,
    /// Called when the model is loaded, before the first image.
    pub loaded: fn(),
}

impl Default for Question<'_> {
    fn default() -> Self {
        Self { manifest: None, side: None, layout: None, output: None, images: 200, loaded: || () }
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its numbers, such as `f32`.
    pub kind: String,
    /// Its sides: a number, a name for any number, or `?`; `None` if the file says nothing.
    pub shape: Option<Vec<Side>>,
}

/// One side of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Side {
    /// Fixed.
    Fixed(i64),
    /// Any, by name; `?` without one.
    Any(String),
}

/// How a model runs here, one image at a time on one thread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Sides of the input it was run with.
    pub input_shape: [usize; 4],
    /// Features it gave, `d`.
    pub features: usize,
    /// Multiply-adds for one image; `None` where an operation does not say.
    pub multiply_adds: Option<u64>,
    /// Time from the file to the first image, in milliseconds.
    pub load_ms: f64,
    /// Median time of one image, in milliseconds.
    pub image_ms: f64,
    /// Images that were timed.
    pub images: usize,
    /// Most memory that reading, loading and running took, in bytes; `None` where the system does not tell. Exact in a
    /// process that did nothing before.
    pub peak_bytes: Option<u64>,
}

/// Reads a model file and tries it: as its manifest says, or else with its own input shape and output. What cannot be
/// read at all is an error; what can be read and not be run is a failure that says why.
///
/// # Errors
/// If the file cannot be read, is too large, is no ONNX model, or holds one beyond the limits or with its weights
/// elsewhere.
pub fn inspect(path: &Path, question: &Question<'_>) -> Result<Inspection, ExtractorError> {
    let before = memory::resident_bytes();
    let bytes = file::read_bytes(path)?;
    let model = contained(path, || file::parse(&bytes, path))?;
    let mut inspection = describe(&model, bytes.len() as u64);
    drop((bytes, model));
    let tried = match question.manifest {
        Some(manifest) => try_out(&Wanted::of(manifest), question, path).and_then(|trial| {
            // What a manifest adds to a model's own shapes is how many features there are.
            super::check_features(trial.features, manifest, path).map(|()| trial)
        }),
        None => guess(&inspection, question, path)
            .and_then(|(shape, output)| try_out(&Wanted::alone(shape, &output), question, path)),
    };
    match tried {
        Ok(trial) => {
            let peak_bytes = memory::peak_bytes().zip(before).map(|(peak, before)| peak.saturating_sub(before));
            inspection.trial = Some(Trial { peak_bytes, ..trial });
        }
        Err(error) => inspection.failure = Some(error.to_string()),
    }
    Ok(inspection)
}

/// Layout and `[channels, rows, columns]` of an input of one image; three or one channels are looked for first in front
/// and then at the end.
pub fn layout_of(shape: [usize; 4], layout: Option<Layout>) -> (Layout, [usize; 3]) {
    let [_, a, b, c] = shape;
    let guessed = if !is_channels(a) && is_channels(c) { Layout::Nhwc } else { Layout::Nchw };
    match layout.unwrap_or(guessed) {
        Layout::Nchw => (Layout::Nchw, [a, b, c]),
        Layout::Nhwc => (Layout::Nhwc, [c, a, b]),
    }
}

fn is_channels(side: usize) -> bool {
    side == 1 || side == 3
}

/// The input shape with everything fixed, and the name of the output.
fn guess(
    inspection: &Inspection,
    question: &Question<'_>,
    path: &Path,
) -> Result<([usize; 4], String), ExtractorError> {
    let input_error = |reason: String| ExtractorError::InputAlone { path: path.to_owned(), reason };
    let [input] = inspection.inputs.as_slice() else {
        return Err(input_error(format!("it has {} inputs, not one", inspection.inputs.len())));
    };
    let shape = input.shape.as_deref().unwrap_or(&[]);
    let [batch, a, b, c] = shape else {
        return Err(input_error(format!(
            "`{}` is no batch of images: it has {} sides, not 4",
            input.name,
            shape.len()
        )));
    };
    let fixed = |side: &Side| match side {
        Side::Fixed(side) => usize::try_from(*side).ok().filter(|side| *side > 0),
        Side::Any(_) => None,
    };
    let (width, height) = question.side.map_or((None, None), |(width, height)| (Some(width), Some(height)));
    let (width, height) = (width.map(|side| side as usize), height.map(|side| side as usize));
    let is_nhwc = fixed(c).is_some_and(is_channels) && !fixed(a).is_some_and(is_channels);
    let layout = question.layout.unwrap_or(if is_nhwc { Layout::Nhwc } else { Layout::Nchw });
    let batch = fixed(batch).or(Some(1));
    let sides = match layout {
        Layout::Nchw => [batch, fixed(a).or(Some(3)), fixed(b).or(height), fixed(c).or(width)],
        Layout::Nhwc => [batch, fixed(a).or(height), fixed(b).or(width), fixed(c).or(Some(3))],
    };
    let [Some(batch), Some(a), Some(b), Some(c)] = sides else {
        return Err(input_error("the size of its images is not fixed".to_owned()));
    };
    let (_, [_, rows, columns]) = layout_of([batch, a, b, c], Some(layout));
    if height.is_some_and(|height| height != rows) || width.is_some_and(|width| width != columns) {
        return Err(input_error(format!("its images have {columns} columns and {rows} rows and no other size")));
    }
    let first = inspection.outputs.first().map(|output| output.name.as_str());
    let output = question.output.or(first).unwrap_or_default().to_owned();
    Ok(([batch, a, b, c], output))
}

/// Loads the model and runs it until the median is known.
fn try_out(wanted: &Wanted<'_>, question: &Question<'_>, path: &Path) -> Result<Trial, ExtractorError> {
    let started = now();
    let (runner, multiply_adds) = contained(path, || {
        let model = graph::typed(file::read(path)?, wanted, path)?;
        let count = graph::multiply_adds(&model);
        Ok((Runner::new(model, wanted, path)?, count))
    })?;
    let load_ms = milliseconds(started.elapsed());
    (question.loaded)();
    let images = question.images;
    let numbers = runner.input_shape.iter().product();
    // Neither all zero nor all equal: processors are quicker or slower on such numbers.
    let image: Vec<f32> = (0..numbers).map(|index: usize| (index * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let mut times = Vec::with_capacity(images);
    let mut spent = Duration::ZERO;
    for number in 0..WARM_UP + images.max(1) {
        let started = now();
        let features = runner.run(&image)?;
        let elapsed = started.elapsed();
        super::finite(features)?;
        spent += elapsed;
        if number >= WARM_UP || spent > MOST_TIME {
            times.push(milliseconds(elapsed));
        }
        if spent > MOST_TIME {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Trial {
        input_shape: runner.input_shape,
        features: runner.features,
        multiply_adds,
        load_ms,
        image_ms: times[times.len() / 2],
        images: times.len(),
        peak_bytes: None,
    })
}

fn describe(model: &ModelProto, bytes: u64) -> Inspection {
    let graph = model.graph.as_ref();
    let standard = model.opset_import.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    let weights: Vec<&TensorProto> = graph.map(weights).unwrap_or_default();
    let is_weight = |port: &&ValueInfoProto| weights.iter().any(|weight| weight.name == port.name);
    let mut operations = BTreeMap::new();
    for node in graph.iter().flat_map(|graph| &graph.node) {
        *operations.entry(one_line(&node.op_type)).or_default() += 1;
    }
    let numbers = |tensor: &&TensorProto| tensor.dims.iter().map(|side| side.unsigned_abs()).product::<u64>();
    Inspection {
        bytes,
        ir_version: model.ir_version,
        opset: standard.map(|set| set.version),
        producer: one_line(&format!("{} {}", model.producer_name, model.producer_version)),
        inputs: graph.iter().flat_map(|graph| &graph.input).filter(|port| !is_weight(port)).map(port).collect(),
        outputs: graph.iter().flat_map(|graph| &graph.output).map(port).collect(),
        operations,
        unknown_operations: graph.map(graph::unknown_operations).unwrap_or_default().into_iter().collect(),
        parameters: weights.iter().map(numbers).sum(),
        trial: None,
        failure: None,
    }
}

/// Initializers and constants.
fn weights(graph: &GraphProto) -> Vec<&TensorProto> {
    let constants = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    graph.initializer.iter().chain(constants).collect()
}

fn port(info: &ValueInfoProto) -> Port {
    let tensor =
        info.r#type.as_ref().and_then(|kind| kind.value.as_ref()).map(|type_proto::Value::TensorType(kind)| kind);
    let side = |side: &tract_onnx::pb::tensor_shape_proto::Dimension| match &side.value {
        Some(dimension::Value::DimValue(side)) => Side::Fixed(*side),
        Some(dimension::Value::DimParam(name)) => Side::Any(one_line(name)),
        None => Side::Any("?".to_owned()),
    };
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    Port {
        name: one_line(&info.name),
        kind: tensor.map_or_else(|| "unknown".to_owned(), |tensor| kind_name(tensor.elem_type)),
        shape: shape.map(|shape| shape.dim.iter().map(side).collect()),
    }
}

fn kind_name(kind: i32) -> String {
    match DataType::try_from(kind) {
        Ok(DataType::Float) => "f32".to_owned(),
        Ok(DataType::Float16) => "f16".to_owned(),
        Ok(DataType::Double) => "f64".to_owned(),
        Ok(other) => other.as_str_name().to_lowercase(),
        Err(_) => "unknown".to_owned(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[allow(clippy::disallowed_methods, reason = "measures the machine it runs on")]
fn now() -> Instant {
    Instant::now()
}
