//! From a parsed model to a graph with one image in, one row of features out, and every shape known.

use std::collections::BTreeSet;
use std::path::Path;

use crate::manifest::{Input, Layout, Manifest};
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::floats::FloatPrecisionTranslator;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::optim::Optimizer;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

#[cfg(target_arch = "x86_64")]
use super::conv;
use super::file::MAX_TENSOR_NUMBERS;
use super::{ExtractorError, one_line};

/// Most multiply-adds for one image: minutes on a small board.
const MAX_MULTIPLY_ADDS: u64 = 100_000_000_000;

/// What a model must take and give.
pub(super) struct Wanted<'a> {
    /// One image: its four sides in the model's layout.
    pub(super) shape: [usize; 4],
    /// Name of the output.
    pub(super) output: &'a str,
    /// Whether a manifest says so, or the model itself.
    has_manifest: bool,
}

impl<'a> Wanted<'a> {
    /// As the manifest says.
    pub(super) fn of(manifest: &'a Manifest) -> Self {
        Self { shape: shape_of(&manifest.input), output: &manifest.output.name, has_manifest: true }
    }

    /// Without a manifest.
    pub(super) fn alone(shape: [usize; 4], output: &'a str) -> Self {
        Self { shape, output, has_manifest: false }
    }

    fn input_error(&self, path: &Path, reason: String) -> ExtractorError {
        let path = path.to_owned();
        if self.has_manifest {
            ExtractorError::Input { path, reason }
        } else {
            ExtractorError::InputAlone { path, reason }
        }
    }

    fn output_error(&self, path: &Path, reason: String) -> ExtractorError {
        let path = path.to_owned();
        if self.has_manifest {
            ExtractorError::Output { path, reason }
        } else {
            ExtractorError::OutputAlone { path, reason }
        }
    }
}

/// The sides of one image in the layout of a manifest.
fn shape_of(input: &Input) -> [usize; 4] {
    let (width, height, channels) = (input.width as usize, input.height as usize, input.channels as usize);
    match input.layout {
        Layout::Nchw => [1, channels, height, width],
        Layout::Nhwc => [1, height, width, channels],
    }
}

/// The model with its input fixed to one image and everything but the wanted output left out.
pub(super) fn typed(model: ModelProto, wanted: &Wanted<'_>, path: &Path) -> Result<TypedModel, ExtractorError> {
    let unsupported = |reason: String| ExtractorError::Unsupported { path: path.to_owned(), reason };
    let unknown = model.graph.as_ref().map(unknown_operations).unwrap_or_default();
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        return Err(unsupported(one_line(&format!("the runtime does not know {names}"))));
    }
    // The file's notes on inner shapes still speak of a batch of any size. And without a folder to resolve them in,
    // references to other files are refused.
    let parsed = onnx().with_ignore_value_info(true).model_for_proto_model(&model);
    drop(model);
    let mut graph = parsed.map_err(|error| unsupported(one_line(&error)))?;
    fix_input(&mut graph, wanted, path)?;
    choose_output(&mut graph, wanted, path)?;
    graph.analyse(false).map_err(|error| unsupported(one_line(&error)))?;
    graph.into_typed().and_then(simplified).map_err(|error| unsupported(one_line(&error)))
}

/// Constants worked out, f16 turned into f32, what does nothing left out, and convolutions in this program's own form
/// where that is quicker.
fn simplified(mut model: TypedModel) -> TractResult<TypedModel> {
    Optimizer::prop_consts().optimize(&mut model)?;
    if computes_in_f16(&model) {
        // Few processors compute in f16, and the runtime's stand-in takes thousands of times as long.
        model.transform(&FloatPrecisionTranslator::new(f16::datum_type(), f32::datum_type()))?;
    }
    replaced(model)
}

/// Whether anything but a stored weight is in f16.
fn computes_in_f16(model: &TypedModel) -> bool {
    let is_f16 = |node: &TypedNode| node.outputs.iter().any(|output| output.fact.datum_type == f16::datum_type());
    model.nodes().iter().any(|node| !node.op_is::<Const>() && is_f16(node))
}

#[cfg(target_arch = "x86_64")]
fn replaced(mut model: TypedModel) -> TractResult<TypedModel> {
    conv::replace_strided(&mut model)?;
    let mut model = model.into_decluttered()?;
    conv::replace(&mut model)?;
    Ok(model)
}

#[cfg(not(target_arch = "x86_64"))]
fn replaced(model: TypedModel) -> TractResult<TypedModel> {
    model.into_decluttered()
}

/// Refuses tensors of unknown or absurd size, absurd work, and an output other than one row of features in f32; gives
/// their number.
pub(super) fn check(model: &TypedModel, wanted: &Wanted<'_>, path: &Path) -> Result<usize, ExtractorError> {
    let unsupported = |reason: String| ExtractorError::Unsupported { path: path.to_owned(), reason };
    for node in model.nodes() {
        for output in &node.outputs {
            let numbers = output
                .fact
                .shape
                .as_concrete()
                .and_then(|shape| shape.iter().try_fold(1_usize, |numbers, &side| numbers.checked_mul(side)));
            if numbers.is_none_or(|numbers| numbers > MAX_TENSOR_NUMBERS) {
                let reason = format!("`{}` gives {:?}, of unknown size or too large", node.name, output.fact);
                return Err(unsupported(one_line(&reason)));
            }
        }
    }
    match multiply_adds(model) {
        Some(count) if count > MAX_MULTIPLY_ADDS => {
            return Err(unsupported(format!(
                "one image takes {count} multiply-adds, the limit is {MAX_MULTIPLY_ADDS}"
            )));
        }
        Some(_) | None => {}
    }
    let output_error = |reason: String| wanted.output_error(path, reason);
    let fact = model.output_fact(0).map_err(|error| output_error(one_line(&error)))?;
    let features = fact.shape.as_concrete().and_then(features_of);
    match features.filter(|_| fact.datum_type == f32::datum_type()) {
        Some(features) => Ok(features),
        None => {
            let shape = one_line(&format!("{fact:?}"));
            Err(output_error(format!("the output is {shape}, and must be one row of features: [1, d] in f32")))
        }
    }
}

/// The one side of an output that is not 1, such as `d` in `[1, d]` and in `[1, d, 1, 1]`; `None` if there are several.
fn features_of(shape: &[usize]) -> Option<usize> {
    let mut sides = shape.iter().filter(|&&side| side != 1);
    let features = sides.next().copied().unwrap_or(1);
    (features > 0 && sides.next().is_none() && !shape.is_empty()).then_some(features)
}

/// Multiply-adds for one image; `None` where an operation does not say.
pub(super) fn multiply_adds(model: &TypedModel) -> Option<u64> {
    let mut count = 0_u64;
    for node in model.nodes() {
        let facts: TVec<&TypedFact> =
            node.inputs.iter().map(|input| model.outlet_fact(*input)).collect::<TractResult<_>>().ok()?;
        for (cost, times) in node.op.cost(&facts).ok()? {
            if let Cost::FMA(_) = cost {
                count = count.checked_add(u64::try_from(times.to_i64().ok()?).ok()?)?;
            }
        }
    }
    Some(count)
}

/// Operations that the runtime has no implementation of, in the graph and in the graphs inside it.
pub(super) fn unknown_operations(graph: &GraphProto) -> BTreeSet<String> {
    let known = onnx().op_register;
    let mut unknown = BTreeSet::new();
    let mut graphs = vec![graph];
    while let Some(graph) = graphs.pop() {
        for node in &graph.node {
            if !known.0.contains_key(&node.op_type) {
                unknown.insert(node.op_type.clone());
            }
            graphs.extend(node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)));
        }
    }
    unknown
}

/// Fixes the one input to one image: a batch of unknown size runs several times slower.
fn fix_input(model: &mut InferenceModel, wanted: &Wanted<'_>, path: &Path) -> Result<(), ExtractorError> {
    let shape = wanted.shape;
    let input_error = |reason: String| wanted.input_error(path, reason);
    if model.inputs.len() != 1 {
        return Err(input_error(format!("it has {} inputs, not one", model.inputs.len())));
    }
    let fact = InferenceFact::from(f32::fact(shape));
    let declared = model.input_fact(0).map_err(|error| input_error(one_line(&error)))?;
    let sides = declared.shape.dims().map(|side| side.concretize().and_then(|side| side.to_usize().ok()));
    // A side without a fixed number takes any; a shape without a fixed rank has none to compare.
    let sides_fit = sides.zip(shape).all(|(declared, side)| declared.is_none_or(|declared| declared == side));
    let rank_fits = declared.shape.rank().concretize().is_none_or(|rank| rank == shape.len() as i64);
    if !sides_fit || !rank_fits || declared.datum_type.unify(&fact.datum_type).is_err() {
        let takes = one_line(&format!("{declared:?}"));
        return Err(input_error(format!("it takes {takes}, and an image is {shape:?} in f32")));
    }
    model.set_input_fact(0, fact).map_err(|error| input_error(one_line(&error)))
}

fn choose_output(model: &mut InferenceModel, wanted: &Wanted<'_>, path: &Path) -> Result<(), ExtractorError> {
    let name = wanted.output;
    let label = |outlet: &OutletId| model.outlet_label(*outlet).unwrap_or("(unnamed)").to_owned();
    let labels: Vec<String> = model.outputs.iter().map(label).collect();
    let Some(position) = labels.iter().position(|label| label == name) else {
        let reason = one_line(&format!("it has no output `{name}`, only {labels:?}"));
        return Err(wanted.output_error(path, reason));
    };
    model.outputs = vec![model.outputs[position]];
    Ok(())
}
