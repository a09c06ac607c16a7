//! Convolutions in wide vectors, on processors on which they beat the runtime's own: x86 with AVX2, or better AVX-512.
//!
//! The runtime turns a convolution into a matrix product and gathers its operands anew for every panel. Here a tile of
//! the output stays in registers and the image is read where it lies: sixteen channels of a few pixels at a time, input
//! by input and tap by tap of the window. What does not fit (groups, dilation, other layouts) is left to the runtime.

use core::iter;
use std::sync::Arc;

use fearless_simd::prelude::*;
use fearless_simd::x86::{Avx2, Avx512};
use fearless_simd::{Level, Simd, f32x16};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::math::Max;
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::file::MAX_TENSOR_NUMBERS;

/// Channels of one block of outputs.
const WIDE: usize = 16;
/// Pixels of one tile in AVX2: with them, twelve of the sixteen registers hold sums.
const AVX2_PIXELS: usize = 6;
/// Pixels of one tile in AVX-512: with them and three blocks, 24 of the 32 registers hold sums.
const AVX512_PIXELS: usize = 8;
const MOST_PIXELS: usize = if AVX2_PIXELS > AVX512_PIXELS { AVX2_PIXELS } else { AVX512_PIXELS };
/// Columns that a window may have.
const WIDTHS: [usize; 4] = [1, 3, 5, 7];

/// A convolution of one image, `[1][inputs][rows][columns]` to `[1][outputs][rows][columns]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Direct {
    inputs: usize,
    outputs: usize,
    /// Rows and columns of the image.
    size: [usize; 2],
    /// Rows and columns with a border of zeros, and those of the border in front.
    bordered: [usize; 2],
    before: [usize; 2],
    window: [usize; 2],
    /// Rows and columns of the output.
    out: [usize; 2],
    /// Where the window of each pixel of the output begins in a plane of the bordered image. The last one is there as
    /// often again as it takes to fill the last tile.
    corners: Arc<[usize]>,
    /// Whether negative outputs become zero.
    rectify: bool,
    /// `[block of outputs][input][row of the window][column of the window][WIDE]`.
    weights: Arc<Tensor>,
    /// `[block of outputs][WIDE]`.
    bias: Arc<Tensor>,
}

/// Replaces what the runtime would otherwise take apart: windows of one with a stride become pixels thrown away, axis by
/// axis, and a matrix product. To be called before the model is decluttered.
pub(super) fn replace_strided(model: &mut TypedModel) -> TractResult<()> {
    replace_where(model, |convolution| {
        let pool = &convolution.pool_spec;
        pool.kernel_shape.iter().all(|&side| side == 1) && (0..pool.rank()).any(|axis| pool.stride(axis) > 1)
    })
}

/// Replaces all others, together with a rectification that follows.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    replace_where(model, |_| true)?;
    let direct = model.nodes().iter().filter(|node| node.op_is::<Direct>()).map(|node| node.id);
    for id in direct.collect::<Vec<usize>>() {
        if let Some(patch) = rectified(model, id)? {
            patch.apply(model)?;
        }
    }
    model.compact()
}

fn replace_where(model: &mut TypedModel, wants: impl Fn(&Conv) -> bool) -> TractResult<()> {
    if Vectors::best().is_none() {
        return Ok(());
    }
    let fits = |node: &&TypedNode| node.op_as::<Conv>().is_some_and(&wants);
    for id in model.nodes().iter().filter(fits).map(|node| node.id).collect::<Vec<usize>>() {
        let node = model.node(id);
        let Some(direct) = Direct::of(model, node)? else { continue };
        let mut patch = TypedModelPatch::new("direct convolution");
        let image = patch.tap_model(model, node.inputs[0])?;
        let output = patch.wire_node(format!("{}.direct", node.name), direct, &[image])?[0];
        patch.shunt_outside(model, OutletId::new(id, 0), output)?;
        patch.apply(model)?;
    }
    model.compact()
}

/// The convolution of node `id` and the rectification behind it in one, if nothing else wants what is between them.
fn rectified(model: &TypedModel, id: usize) -> TractResult<Option<TypedModelPatch>> {
    let (node, next) = (model.node(id), model.single_succ(id)?);
    let Some((direct, next)) = node.op_as::<Direct>().zip(next) else { return Ok(None) };
    let is_max = next.op_as::<TypedBinOp>().is_some_and(|operation| operation.0.is::<Max>());
    let bound = next.inputs.iter().find(|input| input.node != id);
    let Some(bound) = bound.filter(|_| is_max) else { return Ok(None) };
    let is_zero = match &model.outlet_fact(*bound)?.konst {
        Some(bound) if bound.len() == 1 && bound.datum_type() == f32::datum_type() => {
            bound.view().as_slice::<f32>()? == [0.0]
        }
        Some(_) | None => false,
    };
    if !is_zero || next.outputs[0].fact.shape != node.outputs[0].fact.shape {
        return Ok(None);
    }
    let direct = Direct { rectify: true, ..direct.clone() };
    let mut patch = TypedModelPatch::new("rectified convolution");
    let image = patch.tap_model(model, node.inputs[0])?;
    let output = patch.wire_node(format!("{}.rectified", node.name), direct, &[image])?[0];
    patch.shunt_outside(model, OutletId::new(next.id, 0), output)?;
    Ok(Some(patch))
}

/// The vectors of this processor that beat the runtime.
#[derive(Clone, Copy, Debug)]
enum Vectors {
    Avx2(Avx2),
    Avx512(Avx512),
}

impl Vectors {
    fn best() -> Option<Self> {
        let level = Level::try_detect()?;
        level.as_avx512().map(Self::Avx512).or_else(|| level.as_avx2().map(Self::Avx2))
    }
}

impl Direct {
    /// `None` for what is left to the runtime.
    fn of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<Self>> {
        let Some(Conv { pool_spec: pool, kernel_fmt, group: 1, q_params: None }) = node.op_as::<Conv>() else {
            return Ok(None);
        };
        let facts = model.node_input_facts(node.id)?;
        let [image, kernel, bias] = facts.as_slice() else { return Ok(None) };
        let shapes = (image.shape.as_concrete(), node.outputs[0].fact.shape.as_concrete());
        let (Some(&[1, inputs, rows, columns]), Some(&[1, outputs, out_rows, out_columns])) = shapes else {
            return Ok(None);
        };
        let (Some(kernel), Some(bias)) = (&kernel.konst, &bias.konst) else { return Ok(None) };
        let is_plain = pool.data_format == DataFormat::NCHW
            && *kernel_fmt == KernelFormat::OIHW
            && (pool.dilation(0), pool.dilation(1)) == (1, 1)
            && WIDTHS.contains(&pool.kernel_shape[1])
            && facts.iter().all(|fact| fact.datum_type == f32::datum_type());
        let padding = pool.computed_padding(&[rows, columns]);
        let before = [padding[0].pad_before, padding[1].pad_before];
        let window = [pool.kernel_shape[0], pool.kernel_shape[1]];
        let (size, out) = ([rows, columns], [out_rows, out_columns]);
        let bordered = [0, 1].map(|axis| {
            let reach = out[axis].saturating_sub(1) * pool.stride(axis) + window[axis];
            reach.max(size[axis] + before[axis])
        });
        let numbers = inputs.saturating_mul(bordered[0]).saturating_mul(bordered[1]);
        let is_empty = [inputs, outputs, rows, columns, out_rows, out_columns, window[0]].contains(&0);
        if !is_plain || is_empty || numbers > MAX_TENSOR_NUMBERS {
            return Ok(None);
        }
        let corner = |row: usize, column: usize| row * pool.stride(0) * bordered[1] + column * pool.stride(1);
        let all = (0..out_rows).flat_map(|row| (0..out_columns).map(move |column| corner(row, column)));
        let filling = iter::repeat_n(corner(out_rows - 1, out_columns - 1), MOST_PIXELS - 1);
        let corners = all.chain(filling).collect();
        let weights = packed(kernel.view().as_slice::<f32>()?, outputs, inputs * window[0] * window[1])?;
        let bias = match *bias.view().as_slice::<f32>()? {
            [one] => packed(&vec![one; outputs], outputs, 1)?,
            ref several => packed(several, outputs, 1)?,
        };
        Ok(Some(Self { inputs, outputs, size, bordered, before, window, out, corners, rectify: false, weights, bias }))
    }

    /// The image with zeros around it, in `room` if there are any.
    fn with_border<'a>(&self, image: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
        if self.bordered == self.size {
            return image;
        }
        let ([rows, columns], [_, width]) = (self.size, self.bordered);
        let plane = self.bordered[0] * width;
        room.resize(self.inputs * plane, 0.0);
        for (to, from) in room.chunks_exact_mut(plane).zip(image.chunks_exact(rows * columns)) {
            let lines = to.chunks_exact_mut(width).skip(self.before[0]);
            for (to, from) in lines.zip(from.chunks_exact(columns)) {
                to[self.before[1]..self.before[1] + columns].copy_from_slice(from);
            }
        }
        room
    }

    /// The convolution of an image `[input][row][column]` into `output [output][pixel]`.
    fn run(&self, vectors: Vectors, image: &[f32], output: &mut [f32]) -> TractResult<()> {
        let mut bordered = Vec::new();
        let image = self.with_border(image, &mut bordered);
        let (weights, bias) = (self.weights.view(), self.bias.view());
        let (weights, _) = weights.as_slice::<f32>()?.as_chunks();
        let (bias, _) = bias.as_slice::<f32>()?.as_chunks();
        let work = Work { convolution: self, image, weights, bias };
        match vectors {
            Vectors::Avx2(avx2) => avx2.vectorize(
                #[inline(always)]
                || work.run::<_, AVX2_PIXELS, 1>(avx2, output),
            ),
            Vectors::Avx512(avx512) => avx512.vectorize(
                #[inline(always)]
                || work.run::<_, AVX512_PIXELS, 3>(avx512, output),
            ),
        }
        Ok(())
    }
}

/// What a convolution is made of. Each function is compiled for the vectors of its caller.
#[derive(Clone, Copy)]
struct Work<'a> {
    convolution: &'a Direct,
    /// `[input][row][column]`, bordered.
    image: &'a [f32],
    /// `[block of outputs][input][row of the window][column of the window][WIDE]`.
    weights: &'a [[f32; WIDE]],
    /// `[block of outputs][WIDE]`.
    bias: &'a [[f32; WIDE]],
}

impl Work<'_> {
    /// Everything, in tiles of `P` pixels and `B` blocks.
    #[inline(always)]
    fn run<S: Simd, const P: usize, const B: usize>(self, simd: S, output: &mut [f32]) {
        match self.convolution.window[1] {
            1 => self.run_wide::<S, 1, P, B>(simd, output),
            3 => self.run_wide::<S, 3, P, B>(simd, output),
            5 => self.run_wide::<S, 5, P, B>(simd, output),
            7 => self.run_wide::<S, 7, P, B>(simd, output),
            _ => unreachable!("other widths are left to the runtime"),
        }
    }

    /// With windows of `W` columns. Blocks that are left over when they are taken by `B` go one by one.
    #[inline(always)]
    fn run_wide<S: Simd, const W: usize, const P: usize, const B: usize>(self, simd: S, output: &mut [f32]) {
        let Self { convolution: &Direct { inputs, window, out, .. }, weights, bias, .. } = self;
        let (taps, pixels) = (inputs * window[0] * W, out[0] * out[1]);
        let together = bias.len() / B * B;
        let (first, rest) = output.split_at_mut(output.len().min(together * WIDE * pixels));
        self.run_blocks::<S, W, P, B>(simd, first);
        let rest_of_it = Self { weights: &weights[together * taps..], bias: &bias[together..], ..self };
        rest_of_it.run_blocks::<S, W, P, 1>(simd, rest);
    }

    /// As many blocks as there are, always `B` of them together.
    #[inline(always)]
    fn run_blocks<S: Simd, const W: usize, const P: usize, const B: usize>(self, simd: S, output: &mut [f32]) {
        let Self { convolution: Direct { inputs, window, out, corners, .. }, weights, bias, .. } = self;
        let (lines, pixels) = (inputs * window[0], out[0] * out[1]);
        let (weights, _) = weights.as_chunks::<W>();
        let (bias, _) = bias.as_chunks::<B>();
        let groups = weights.chunks_exact(lines * B).zip(bias).zip(output.chunks_mut(B * WIDE * pixels));
        for ((weights, bias), output) in groups {
            for pixel in (0..pixels).step_by(P) {
                let corners = corners[pixel..].first_chunk().expect("corners enough for every tile");
                let sums = self.tile::<S, W, P, B>(simd, weights, bias, corners);
                let channels = output.chunks_exact_mut(pixels).enumerate();
                for (channel, output) in channels {
                    let values = sums.iter().map(|sums| sums[channel / WIDE][channel % WIDE]);
                    output[pixel..].iter_mut().zip(values).for_each(|(to, value)| *to = value);
                }
            }
        }
    }

    /// `[pixel][block][channel]` of `P` pixels whose windows begin at `corners`, and of the `B` blocks that `weights
    /// [block][line of an input][column]` and `bias` are of.
    #[inline(always)]
    fn tile<S: Simd, const W: usize, const P: usize, const B: usize>(
        self,
        simd: S,
        weights: &[[[f32; WIDE]; W]],
        bias: &[[f32; WIDE]; B],
        corners: &[usize; P],
    ) -> [[[f32; WIDE]; B]; P] {
        let Direct { inputs, window, bordered, rectify, .. } = self.convolution;
        let mut blocks = [weights; B];
        for (number, block) in blocks.iter_mut().enumerate() {
            *block = &weights[number * inputs * window[0]..][..inputs * window[0]];
        }
        // Loops, not closures: those would not be compiled for these vectors.
        let mut first = [f32x16::splat(simd, 0.0); B];
        for (sum, bias) in first.iter_mut().zip(bias) {
            *sum = f32x16::load_array_ref(simd, bias);
        }
        let mut sums = [first; P];
        let mut line = 0;
        for plane in self.image.chunks_exact(bordered[0] * bordered[1]) {
            for row in 0..window[0] {
                let mut pixels = [&[0.0; W]; P];
                for (pixels, corner) in pixels.iter_mut().zip(corners) {
                    let begin = corner + row * bordered[1];
                    *pixels = plane[begin..].first_chunk().expect("a window lies in the image");
                }
                for column in 0..W {
                    let mut weights = [f32x16::splat(simd, 0.0); B];
                    for (weights, block) in weights.iter_mut().zip(&blocks) {
                        *weights = f32x16::load_array_ref(simd, &block[line][column]);
                    }
                    for (sums, pixels) in sums.iter_mut().zip(&pixels) {
                        let pixel = f32x16::splat(simd, pixels[column]);
                        for (sum, weights) in sums.iter_mut().zip(&weights) {
                            *sum = pixel.mul_add(*weights, *sum);
                        }
                    }
                }
                line += 1;
            }
        }
        let mut values = [[[0.0; WIDE]; B]; P];
        let zero = f32x16::splat(simd, 0.0);
        for (values, sum) in values.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            // What is no number stays none, for the check on the features.
            let sum = if *rectify { sum.simd_lt(zero).select(zero, *sum) } else { *sum };
            sum.store_array(values);
        }
        values
    }
}

/// `[rows][columns]` to `[block of rows][columns][WIDE]`, with zeros where the last block has no row.
fn packed(values: &[f32], rows: usize, columns: usize) -> TractResult<Arc<Tensor>> {
    let blocks = rows.div_ceil(WIDE);
    let mut packed = vec![0.0; blocks * columns * WIDE];
    for (row, values) in values.chunks_exact(columns).enumerate() {
        let block = &mut packed[row / WIDE * columns * WIDE..];
        for (column, value) in values.iter().enumerate() {
            block[column * WIDE + row % WIDE] = *value;
        }
    }
    Ok(Tensor::from_shape(&[blocks, columns, WIDE], &packed)?.into_arc_tensor())
}

impl Op for Direct {
    fn name(&self) -> StaticName {
        "DirectConvolution".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Direct {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Some(vectors) = Vectors::best() else { bail!("the vectors that were there are gone") };
        let mut output = Tensor::zero::<f32>(&[1, self.outputs, self.out[0], self.out[1]])?;
        self.run(vectors, inputs[0].view().as_slice()?, output.view_mut().as_slice_mut()?)?;
        Ok(tvec!(output.into()))
    }
}

impl TypedOp for Direct {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact([1, self.outputs, self.out[0], self.out[1]])))
    }

    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let taps = self.inputs * self.window[0] * self.window[1];
        Ok(tvec!((Cost::FMA(f32::datum_type()), (taps * self.outputs * self.out[0] * self.out[1]).to_dim())))
    }

    as_op!();
}

#[cfg(test)]
mod tests;
