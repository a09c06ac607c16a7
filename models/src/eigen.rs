//! Eigenvectors of a small symmetric matrix.

use alloc::vec;
use alloc::vec::Vec;

/// Sweeps after which the rest is let be; convergence is quadratic and takes about eight.
const MOST_SWEEPS: usize = 24;

/// Eigenvalues `[n]` and orthonormal eigenvectors `[n][n]`, a row each, of a symmetric `[n][n]` matrix: cyclic Jacobi
/// rotations (Golub and Van Loan, "Matrix Computations", section 8.5).
pub(crate) fn symmetric(mut matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    vectors.iter_mut().step_by(n + 1).for_each(|entry| *entry = 1.0);
    let total: f64 = matrix.iter().map(|entry| entry * entry).sum();
    for _ in 0..MOST_SWEEPS {
        let mut outside = 0.0;
        for p in 0..n {
            for q in p + 1..n {
                outside += matrix[p * n + q] * matrix[p * n + q];
                rotate(&mut matrix, &mut vectors, n, (p, q));
            }
        }
        if outside <= 1e-24 * total {
            break;
        }
    }
    (matrix.into_iter().step_by(n + 1).collect(), vectors)
}

/// The rotation of the axes `p < q` that makes their entry zero.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], n: usize, (p, q): (usize, usize)) {
    let entry = matrix[p * n + q];
    if entry == 0.0 {
        return;
    }
    let ratio = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * entry);
    let tangent = 1.0_f64.copysign(ratio) / (ratio.abs() + libm::sqrt(1.0 + ratio * ratio));
    let cosine = 1.0 / libm::sqrt(1.0 + tangent * tangent);
    let turn = |a: &mut f64, b: &mut f64| {
        (*a, *b) = (cosine * (*a - tangent * *b), cosine * (*b + tangent * *a));
    };
    for rows in [&mut *matrix, vectors] {
        let (above, below) = rows.split_at_mut(q * n);
        above[p * n..(p + 1) * n].iter_mut().zip(&mut below[..n]).for_each(|(a, b)| turn(a, b));
    }
    for row in matrix.chunks_exact_mut(n) {
        let (left, right) = row.split_at_mut(q);
        turn(&mut left[p], &mut right[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cholesky::dot;

    #[test]
    fn a_matrix_is_the_sum_of_its_eigenvectors() {
        for n in [1, 2, 5, 17] {
            let value = |i: usize, j: usize| (((i * j + i + j) * 7919) % 101) as f64 / 50.0 - 1.0;
            let matrix: Vec<f64> = (0..n * n).map(|at| value(at / n, at % n)).collect();
            let (values, vectors) = symmetric(matrix.clone(), n);
            for i in 0..n {
                for j in 0..n {
                    let along = dot(&vectors[i * n..(i + 1) * n], &vectors[j * n..(j + 1) * n]);
                    assert!((along - if i == j { 1.0 } else { 0.0 }).abs() < 1e-12, "{n}: {i} {j}");
                    let sum: f64 = (0..n).map(|k| values[k] * vectors[k * n + i] * vectors[k * n + j]).sum();
                    assert!((sum - matrix[i * n + j]).abs() < 1e-10, "{n}: {i} {j}");
                }
            }
        }
    }
}
