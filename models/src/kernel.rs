//! The two matrix products of training, on views over the caller's buffers.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// `logits [rows][C] = samples [rows][d] * weight [C][d]^T + bias [C]`.
pub(crate) fn logits(samples: &[f32], weight: &[f32], bias: &[f32], features: usize, logits: &mut [f32]) {
    let classes = bias.len();
    let rows = samples.len() / features;
    for row in logits.chunks_exact_mut(classes) {
        row.copy_from_slice(bias);
    }
    let samples = view(samples, rows, features);
    let weight = view(weight, classes, features);
    general_mat_mul(1.0, &samples, &weight.t(), 1.0, &mut view_mut(logits, rows, classes));
}

/// `weight_gradient [C][d] = beta * weight_gradient + errors [rows][C]^T * samples [rows][d]`, and the column sums of
/// the errors into `bias_gradient [C]` likewise.
pub(crate) fn accumulate_gradient(
    errors: &[f32],
    samples: &[f32],
    features: usize,
    beta: f32,
    weight_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let classes = bias_gradient.len();
    let rows = samples.len() / features;
    for entry in bias_gradient.iter_mut() {
        *entry *= beta;
    }
    for row in errors.chunks_exact(classes) {
        for (entry, error) in bias_gradient.iter_mut().zip(row) {
            *entry += error;
        }
    }
    let errors = view(errors, rows, classes);
    let samples = view(samples, rows, features);
    general_mat_mul(1.0, &errors.t(), &samples, beta, &mut view_mut(weight_gradient, classes, features));
}

/// The same sum for a handful of rows, where packing for a matrix product costs more than the product.
pub(crate) fn accumulate_few(
    errors: &[f32],
    samples: &[f32],
    features: usize,
    weight_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let classes = bias_gradient.len();
    for (class, (gradient, bias)) in weight_gradient.chunks_exact_mut(features).zip(bias_gradient).enumerate() {
        for (errors, sample) in errors.chunks_exact(classes).zip(samples.chunks_exact(features)) {
            let error = errors[class];
            *bias += error;
            gradient.iter_mut().zip(sample).for_each(|(entry, feature)| *entry += error * feature);
        }
    }
}

/// `result [rows][columns] += left [rows][inner] * right [inner][columns]`.
pub(crate) fn accumulate_product(left: &[f32], right: &[f32], inner: usize, result: &mut [f32]) {
    if inner == 0 {
        return;
    }
    let (rows, columns) = (left.len() / inner, right.len() / inner);
    let (left, right) = (view(left, rows, inner), view(right, inner, columns));
    general_mat_mul(1.0, &left, &right, 1.0, &mut view_mut(result, rows, columns));
}

fn view(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), values).expect("the caller's buffer is rows * columns long")
}

fn view_mut(values: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), values).expect("the caller's buffer is rows * columns long")
}
