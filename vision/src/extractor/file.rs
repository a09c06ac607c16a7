//! An ONNX file, read with care: its size, its parts and the sizes of its tensors are checked before the runtime
//! sees any of it.
//!
//! Two bytes of a protobuf file can ask for a structure of two hundred. So the parts are counted on the wire first;
//! only then are they parsed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::*;

use super::{ExtractorError, one_line};
use crate::manifest::MAX_EXTRACTOR_BYTES;

/// Most parts of a model besides its weights: nodes, names, attributes, dimensions. Large models have ten thousand.
const MAX_PARTS: usize = 1 << 19;
/// Bytes of what is not looked into that count as one part.
const BYTES_PER_PART: usize = 8;
/// Most graphs inside each other.
const MAX_NESTING: usize = 8;
/// Most numbers in any tensor of the model, one image at a time.
pub(super) const MAX_TENSOR_NUMBERS: usize = 1 << 26;
/// Most operations: the runtime looks at each of them for each other one. Large models have two thousand.
const MAX_NODES: usize = 16_384;
/// Largest entry of a window's size, stride, dilation or padding.
const MAX_WINDOW_SIDE: i64 = 4_096;
/// Most numbers in one window of a convolution or a pooling.
const MAX_WINDOW: i64 = 1 << 20;

/// Reads a model file and parses it, within the limits.
pub(super) fn read(path: &Path) -> Result<ModelProto, ExtractorError> {
    parse(&read_bytes(path)?, path)
}

/// The bytes of a regular file within [`MAX_EXTRACTOR_BYTES`].
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, ExtractorError> {
    let read_error = |source| ExtractorError::Read { path: path.to_owned(), source };
    // Asked before the file is opened: opening a pipe would wait for its other end.
    let metadata = fs::metadata(path).map_err(read_error)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { io::ErrorKind::IsADirectory } else { io::ErrorKind::InvalidInput };
        return Err(read_error(kind.into()));
    }
    if metadata.len() > MAX_EXTRACTOR_BYTES {
        return Err(ExtractorError::TooLarge { path: path.to_owned() });
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(path).and_then(|file| file.take(MAX_EXTRACTOR_BYTES).read_to_end(&mut bytes)).map_err(read_error)?;
    Ok(bytes)
}

/// Parses the bytes of a model. `path` is for messages alone.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<ModelProto, ExtractorError> {
    let not_onnx = |reason: String| ExtractorError::NotOnnx { path: path.to_owned(), reason };
    if bytes.is_empty() {
        return Err(not_onnx("it is empty".into()));
    }
    let parts = count_parts(bytes, Message::Model, 0).map_err(|reason| not_onnx(reason.to_owned()))?;
    if parts > MAX_PARTS {
        return Err(not_onnx(format!("it has more than {MAX_PARTS} parts besides its weights")));
    }
    let model = onnx().proto_model_for_read(&mut &*bytes).map_err(|error| not_onnx(one_line(&error)))?;
    let Some(graph) = &model.graph else { return Err(not_onnx("it holds no graph".into())) };
    if model.ir_version <= 0 || graph.node.is_empty() || graph.output.is_empty() {
        return Err(not_onnx("its graph is empty".into()));
    }
    check_graph(graph, path)?;
    Ok(model)
}

/// The messages of the format that are looked into.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

/// What a field of bytes holds.
enum Content {
    /// A message to look into.
    Inner(Message),
    /// Weights, as many bytes in memory as in the file.
    Weights,
    /// Names, dimensions, documentation: counted by their length.
    Parts,
}

impl Message {
    fn content(self, field: u64) -> Content {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Content::Inner(Self::Graph),
            (Self::Graph, 1) => Content::Inner(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Content::Inner(Self::Tensor),
            (Self::Node, 5) => Content::Inner(Self::Attribute),
            (Self::Tensor, 4 | 9 | 10) => Content::Weights,
            (Self::Model | Self::Graph | Self::Node | Self::Attribute | Self::Tensor, _) => Content::Parts,
        }
    }
}

/// How many parts a message has, or why its bytes are none.
fn count_parts(mut bytes: &[u8], message: Message, graphs: usize) -> Result<usize, &'static str> {
    const CUT: &str = "it ends in the middle of a field";
    let graphs = graphs + usize::from(matches!(message, Message::Graph));
    if graphs > MAX_NESTING {
        return Err("its graphs lie too deep inside each other");
    }
    let mut parts = 0;
    while !bytes.is_empty() && parts <= MAX_PARTS {
        let tag = varint(&mut bytes).ok_or(CUT)?;
        parts += 1;
        let skipped = match tag & 7 {
            0 => varint(&mut bytes).map(|_| 0).ok_or(CUT)?,
            1 => 8,
            2 => {
                let length = varint(&mut bytes).and_then(|length| usize::try_from(length).ok()).ok_or(CUT)?;
                let inner = bytes.get(..length).ok_or(CUT)?;
                parts += match message.content(tag >> 3) {
                    Content::Inner(message) => count_parts(inner, message, graphs)?,
                    Content::Weights => 0,
                    Content::Parts => length / BYTES_PER_PART,
                };
                length
            }
            5 => 4,
            _ => return Err("it is another kind of file"),
        };
        bytes = bytes.get(skipped..).ok_or(CUT)?;
    }
    Ok(parts)
}

/// Takes a number of variable length off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Refuses what the runtime takes on trust.
fn check_graph(graph: &GraphProto, path: &Path) -> Result<(), ExtractorError> {
    let not_onnx = |reason: String| ExtractorError::NotOnnx { path: path.to_owned(), reason };
    for tensor in &graph.initializer {
        check_tensor(tensor, path)?;
    }
    if graph.node.len() > MAX_NODES {
        let reason = format!("it has {} operations, the limit is {MAX_NODES}", graph.node.len());
        return Err(ExtractorError::Unsupported { path: path.to_owned(), reason });
    }
    for node in &graph.node {
        check_node(node, path)?;
        for attribute in &node.attribute {
            check_attribute(attribute, path)?;
        }
    }
    // It looks outputs up without asking whether they exist.
    let made = graph.node.iter().flat_map(|node| &node.output);
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    let known: BTreeSet<&String> = made.chain(given).collect();
    match graph.output.iter().find(|output| !known.contains(&output.name)) {
        Some(output) => Err(not_onnx(format!("nothing makes its output `{}`", one_line(&output.name)))),
        None => Ok(()),
    }
}

/// Refuses what the format forbids and the runtime computes at any cost.
fn check_node(node: &NodeProto, path: &Path) -> Result<(), ExtractorError> {
    let numbers = |name: &str| {
        let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
        attribute.map(|attribute| attribute.ints.as_slice()).unwrap_or_default()
    };
    let fault = match node.op_type.as_str() {
        "AveragePool" | "MaxPool" | "LpPool" => {
            let window = numbers("kernel_shape");
            let fits = |(pad, side): (&i64, &i64)| pad < side;
            let pads = numbers("pads");
            (!pads.iter().zip(window.iter().cycle()).all(fits)).then_some(("pads", pads))
        }
        "Transpose" => {
            let axes = numbers("perm");
            let each: BTreeSet<&i64> = axes.iter().collect();
            (each.len() < axes.len()).then_some(("perm", axes))
        }
        _ => None,
    };
    match fault {
        Some((name, numbers)) => {
            let reason = one_line(&format!("`{name}` of its {} {} is {numbers:?}", node.op_type, node.name));
            Err(ExtractorError::Unsupported { path: path.to_owned(), reason })
        }
        None => Ok(()),
    }
}

fn check_attribute(attribute: &AttributeProto, path: &Path) -> Result<(), ExtractorError> {
    let windows = ["kernel_shape", "strides", "dilations", "pads", "output_padding"];
    if windows.contains(&attribute.name.as_str()) {
        let fits = |entry: &i64| (-MAX_WINDOW_SIDE..=MAX_WINDOW_SIDE).contains(entry);
        let volume = attribute.ints.iter().try_fold(1_i64, |volume, &side| volume.checked_mul(side.max(1)));
        let is_window = attribute.name == "kernel_shape";
        if !attribute.ints.iter().all(fits) || is_window && volume.is_none_or(|volume| volume > MAX_WINDOW) {
            let reason = format!("`{}` is {}", attribute.name, one_line(&format!("{:?}", attribute.ints)));
            return Err(ExtractorError::Unsupported { path: path.to_owned(), reason });
        }
    }
    attribute.t.iter().chain(&attribute.tensors).try_for_each(|tensor| check_tensor(tensor, path))?;
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| check_graph(graph, path))
}

/// A tensor's dimensions must be those of its numbers, and the numbers must be in this file.
fn check_tensor(tensor: &TensorProto, path: &Path) -> Result<(), ExtractorError> {
    let name = one_line(&tensor.name);
    if !tensor.external_data.is_empty() || tensor.data_location.unwrap_or(0) != 0 {
        let location = tensor.external_data.iter().find(|entry| entry.key == "location");
        let file = location.map_or_else(|| "another file".to_owned(), |entry| one_line(&entry.value));
        return Err(ExtractorError::ExternalData { path: path.to_owned(), file });
    }
    let wrong = |reason: String| ExtractorError::NotOnnx { path: path.to_owned(), reason };
    let mut sides = tensor.dims.iter().map(|&side| usize::try_from(side).ok());
    let numbers = sides.try_fold(1_usize, |numbers, side| numbers.checked_mul(side?));
    let Some(numbers) = numbers.filter(|&numbers| numbers <= MAX_TENSOR_NUMBERS) else {
        return Err(wrong(format!("its tensor `{name}` has the impossible shape {}", one_line(&Sides(&tensor.dims)))));
    };
    if tensor.raw_data.is_empty() {
        return Ok(());
    }
    let expected = DataType::try_from(tensor.data_type).ok().and_then(bytes_of).map(|bytes| bytes * numbers);
    if expected.is_some_and(|expected| expected != tensor.raw_data.len()) {
        let held = tensor.raw_data.len();
        return Err(wrong(format!("its tensor `{name}` has {held} bytes where its shape needs another number")));
    }
    Ok(())
}

/// Bytes of one number; `None` where a number has no fixed size of its own.
fn bytes_of(kind: DataType) -> Option<usize> {
    let kind = DatumType::try_from(kind).ok()?;
    (kind.is_number() || kind == DatumType::Bool).then(|| kind.size_of())
}

/// A shape for people.
struct Sides<'a>(&'a [i64]);

impl core::fmt::Display for Sides<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}
