//! The few ONNX messages a head is made of, and the facts read from an extractor. Numbers are those of `onnx.proto`.

use super::wire::{Malformed, all_bytes, last_bytes, last_varint, put_bytes, put_varint};

/// Fields of `ModelProto`.
pub(super) mod model {
    pub(in super::super) const IR_VERSION: u32 = 1;
    pub(in super::super) const GRAPH: u32 = 7;
    pub(in super::super) const OPSET_IMPORT: u32 = 8;
    pub(in super::super) const METADATA: u32 = 14;
}

/// Fields of `GraphProto`.
pub(super) mod graph {
    pub(in super::super) const NODE: u32 = 1;
    pub(in super::super) const INITIALIZER: u32 = 5;
    pub(in super::super) const OUTPUT: u32 = 12;
}

const FLOAT: u64 = 1;
const INT64: u64 = 7;
const ATTRIBUTE_INT: u64 = 2;
const EXTERNAL_DATA: u64 = 1;

/// One axis of a tensor, as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Size(u64),
    Name(String),
    Unknown,
}

/// A declared output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) is_float: bool,
    /// `None` where the model does not say.
    pub(super) shape: Option<Vec<Axis>>,
}

impl Output {
    /// Reads a `ValueInfoProto`.
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let name = text(last_bytes(message, 1)?)?;
        let tensor = last_bytes(message, 2)?.map(|kind| last_bytes(kind, 1)).transpose()?.flatten();
        let Some(tensor) = tensor else {
            return Ok(Self { name, is_float: false, shape: None });
        };
        let is_float = last_varint(tensor, 1)? == Some(FLOAT);
        let shape = last_bytes(tensor, 2)?
            .map(|shape| -> Result<Vec<Axis>, Malformed> { all_bytes(shape, 1)?.into_iter().map(read_axis).collect() });
        Ok(Self { name, is_float, shape: shape.transpose()? })
    }
}

/// The version of the standard operators a model imports.
pub(super) fn standard_opset(model: &[u8]) -> Result<Option<u64>, Malformed> {
    for import in all_bytes(model, model::OPSET_IMPORT)? {
        let domain = text(last_bytes(import, 1)?)?;
        if domain.is_empty() || domain == "ai.onnx" {
            return last_varint(import, 2);
        }
    }
    Ok(None)
}

/// Whether a `TensorProto` keeps its numbers in another file.
pub(super) fn is_external(tensor: &[u8]) -> Result<bool, Malformed> {
    Ok(last_varint(tensor, 14)? == Some(EXTERNAL_DATA))
}

/// A `NodeProto` of a standard operator with integer attributes.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Vec<u8> {
    let mut node = Vec::new();
    for input in inputs {
        put_bytes(&mut node, 1, input.as_bytes());
    }
    put_bytes(&mut node, 2, output.as_bytes());
    put_bytes(&mut node, 3, output.as_bytes());
    put_bytes(&mut node, 4, operator.as_bytes());
    for (name, value) in attributes {
        let mut attribute = Vec::new();
        put_bytes(&mut attribute, 1, name.as_bytes());
        put_varint(&mut attribute, 3, *value);
        put_varint(&mut attribute, 20, ATTRIBUTE_INT);
        put_bytes(&mut node, 5, &attribute);
    }
    node
}

/// A `TensorProto` of f32.
pub(super) fn float_tensor(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, shape, FLOAT, &raw)
}

/// A `TensorProto` of i64 with one axis.
pub(super) fn integer_tensor(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, &[values.len()], INT64, &raw)
}

/// A `ValueInfoProto` of an f32 tensor.
pub(super) fn float_output(name: &str, shape: &[Axis]) -> Vec<u8> {
    let mut axes = Vec::new();
    for axis in shape {
        let mut message = Vec::new();
        match axis {
            Axis::Size(size) => put_varint(&mut message, 1, *size),
            Axis::Name(name) => put_bytes(&mut message, 2, name.as_bytes()),
            Axis::Unknown => {}
        }
        put_bytes(&mut axes, 1, &message);
    }
    let mut tensor = Vec::new();
    put_varint(&mut tensor, 1, FLOAT);
    put_bytes(&mut tensor, 2, &axes);
    let mut kind = Vec::new();
    put_bytes(&mut kind, 1, &tensor);
    let mut output = Vec::new();
    put_bytes(&mut output, 1, name.as_bytes());
    put_bytes(&mut output, 2, &kind);
    output
}

/// A `StringStringEntryProto`.
pub(super) fn entry(key: &str, value: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, key.as_bytes());
    put_bytes(&mut entry, 2, value.as_bytes());
    entry
}

fn tensor(name: &str, shape: &[usize], kind: u64, raw: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::with_capacity(raw.len() + name.len() + 32);
    for size in shape {
        put_varint(&mut tensor, 1, *size as u64);
    }
    put_varint(&mut tensor, 2, kind);
    put_bytes(&mut tensor, 8, name.as_bytes());
    put_bytes(&mut tensor, 9, raw);
    tensor
}

fn read_axis(message: &[u8]) -> Result<Axis, Malformed> {
    if let Some(size) = last_varint(message, 1)? {
        return Ok(Axis::Size(size));
    }
    Ok(match last_bytes(message, 2)? {
        Some(name) => Axis::Name(text(Some(name))?),
        None => Axis::Unknown,
    })
}

fn text(bytes: Option<&[u8]>) -> Result<String, Malformed> {
    core::str::from_utf8(bytes.unwrap_or_default()).map(str::to_owned).map_err(|_| Malformed)
}
