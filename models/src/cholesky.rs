//! The Cholesky factor of a covariance, in double precision.

use alloc::vec::Vec;

/// `L Lᵀ` of a symmetric positive definite `[d][d]` matrix.
pub(crate) struct Cholesky {
    /// `[d][d]`; what stands above the diagonal is not part of it.
    pub(crate) lower: Vec<f64>,
    d: usize,
}

impl Cholesky {
    /// Factors in place. A pivot that rounding made tiny or negative is raised to a billionth of the largest entry of the
    /// diagonal, and what is left of its column is taken for rounding, too: divided by the pivot, it would grow from row to row.
    pub(crate) fn of(mut matrix: Vec<f64>, d: usize) -> Self {
        let largest = matrix.iter().step_by(d + 1).copied().fold(1e-100, f64::max);
        let least = libm::sqrt(largest * 1e-9);
        for j in 0..d {
            let (above, row) = matrix.split_at_mut(j * d);
            for k in 0..j {
                let pivot_row = &above[k * d..k * d + k];
                let pivot = above[k * d + k];
                row[k] = if pivot > least { (row[k] - dot(&row[..k], pivot_row)) / pivot } else { 0.0 };
            }
            let pivot = row[j] - dot(&row[..j], &row[..j]);
            row[j] = libm::sqrt(pivot.max(0.0)).max(least);
        }
        Self { lower: matrix, d }
    }

    /// `x` of `L Lᵀ x = right`.
    pub(crate) fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (d, lower) = (self.d, &self.lower);
        let mut x = self.whiten(right);
        for i in (0..d).rev() {
            let value = x[i] / lower[i * d + i];
            x[i] = value;
            for (entry, factor) in x[..i].iter_mut().zip(&lower[i * d..i * d + i]) {
                *entry -= factor * value;
            }
        }
        x
    }

    /// `L⁻¹ right`: where the covariance is `L Lᵀ`, coordinates in which it is the identity.
    pub(crate) fn whiten(&self, right: &[f64]) -> Vec<f64> {
        let (d, lower) = (self.d, &self.lower);
        let mut x = right.to_vec();
        for i in 0..d {
            let (solved, rest) = x.split_at_mut(i);
            rest[0] = (rest[0] - dot(&lower[i * d..i * d + i], solved)) / lower[i * d + i];
        }
        x
    }

    /// `L whitened`: the way back.
    pub(crate) fn unwhiten(&self, whitened: &[f64]) -> Vec<f64> {
        let rows = self.lower.chunks_exact(self.d).enumerate();
        rows.map(|(i, row)| dot(&row[..=i], &whitened[..=i])).collect()
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(crate) fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x - y).collect()
}
