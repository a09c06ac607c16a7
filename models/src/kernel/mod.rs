//! The matrix products of training, on the caller's buffers: nothing is allocated.
//!
//! Every entry of a result is summed in one order: it begins at what stands there, or at zero, and takes its terms
//! first to last, each with one fused multiply-add. So it depends on its own row and column alone, not on the width of
//! vectors or on what is computed beside it, and is the same bits on x86 with AVX2 and on 64-bit ARM. Processors
//! without a fused multiply-add (x86 before 2013), targets that do not count on one (32-bit ARM, with NEON or without),
//! and x86 without this crate's feature `std`, which is what asks the processor, round each product before it is added:
//! their last bits differ.

#[cfg(all(feature = "std", target_arch = "arm"))]
mod neon;
mod operand;
mod product;
#[cfg(test)]
mod tests;
pub(crate) mod vectors;

pub(crate) use operand::Rows;
use operand::{ByColumn, ByRow};
use product::{Product, add_few};
pub(crate) use vectors::vectorised;

/// Below so many rows a gradient is added up row by row: packing would cost more than it saves.
const FEW: usize = 6;

/// `logits [rows][C] = samples [rows][d] * weight [C][d]^T + bias [C]`.
pub(crate) fn logits(samples: &[f32], weight: &[f32], bias: &[f32], features: usize, logits: &mut [f32]) {
    logits_of(Rows::all(samples, features), weight, bias, logits);
}

/// [`logits`] of chosen samples.
pub(crate) fn logits_of(samples: Rows<'_>, weight: &[f32], bias: &[f32], logits: &mut [f32]) {
    for row in logits.chunks_exact_mut(bias.len()) {
        row.copy_from_slice(bias);
    }
    let product = Product {
        left: ByRow(samples),
        right: ByColumn(Rows::all(weight, samples.width())),
        add: true,
        symmetric: false,
    };
    vectorised!(simd => product.run(simd, logits));
}

/// `products [rows][rows]`: the inner products of the rows.
pub(crate) fn inner_products(rows: Rows<'_>, products: &mut [f32]) {
    let product = Product { left: ByRow(rows), right: ByColumn(rows), add: false, symmetric: true };
    vectorised!(simd => product.run(simd, products));
}

/// `weight_gradient [C][d] = beta * weight_gradient + errors [rows][C]^T * samples [rows][d]`, and the column sums of
/// the errors into `bias_gradient [C]` likewise; `beta` is 0 or 1.
pub(crate) fn accumulate_gradient(
    errors: &[f32],
    samples: &[f32],
    features: usize,
    beta: f32,
    weight_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    gradient_of(errors, Rows::all(samples, features), beta != 0.0, weight_gradient, bias_gradient);
}

/// [`accumulate_gradient`] of chosen samples; added to what stands there, or in its place.
pub(crate) fn gradient_of(
    errors: &[f32],
    samples: Rows<'_>,
    add: bool,
    weight_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let classes = bias_gradient.len();
    if !add {
        bias_gradient.fill(0.0);
    }
    for row in errors.chunks_exact(classes) {
        bias_gradient.iter_mut().zip(row).for_each(|(entry, error)| *entry += error);
    }
    combinations(Rows::all(errors, classes), samples, add, weight_gradient);
}

/// `weight [C][d] += coefficients [rows][C]^T * rows [rows][d]`.
pub(crate) fn add_combinations(coefficients: &[f32], rows: Rows<'_>, weight: &mut [f32]) {
    let classes = weight.len() / rows.width();
    combinations(Rows::all(coefficients, classes), rows, true, weight);
}

fn combinations(coefficients: Rows<'_>, rows: Rows<'_>, add: bool, weight: &mut [f32]) {
    if rows.count() < FEW {
        vectorised!(simd => add_few(simd, coefficients, rows, add, weight));
    } else {
        let product = Product { left: ByColumn(coefficients), right: ByRow(rows), add, symmetric: false };
        vectorised!(simd => product.run(simd, weight));
    }
}

/// `result [rows][columns] += left [rows][inner] * right [inner][columns]`.
pub(crate) fn accumulate_product(left: &[f32], right: &[f32], inner: usize, result: &mut [f32]) {
    if inner > 0 {
        product_of(Rows::all(left, inner), right, result);
    }
}

/// [`accumulate_product`] of chosen rows.
pub(crate) fn product_of(left: Rows<'_>, right: &[f32], result: &mut [f32]) {
    let columns = right.len() / left.width();
    let product = Product { left: ByRow(left), right: ByRow(Rows::all(right, columns)), add: true, symmetric: false };
    vectorised!(simd => product.run(simd, result));
}
