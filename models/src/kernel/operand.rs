//! How a product reads its two sides, whatever way they lie in memory.

use fearless_simd::prelude::*;
use fearless_simd::{Simd, f32x4};
#[cfg(all(feature = "std", target_arch = "arm"))]
use grapevine_neon::{HEIGHT, Neon, Row, Tile};

/// So many terms are taken without a check of bounds between them.
const BLOCK: usize = 16;

/// Rows of equal width: all of a matrix, or chosen ones.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    width: usize,
    chosen: Option<&'a [u32]>,
}

/// A matrix whose rows are the given rows.
#[derive(Clone, Copy)]
pub(super) struct ByRow<'a>(pub(super) Rows<'a>);

/// A matrix whose columns are the given rows.
#[derive(Clone, Copy)]
pub(super) struct ByColumn<'a>(pub(super) Rows<'a>);

/// The left side of a product, `[rows][depth]`.
pub(super) trait Left: Copy {
    fn rows(self) -> usize;
    fn depth(self) -> usize;

    /// Calls `step` with each column of the `M` rows from `row` on, from column `from` on, beside each row of the panel.
    fn beside<const M: usize, const N: usize>(
        self,
        row: usize,
        from: usize,
        panel: &[[f32; N]],
        step: impl FnMut([f32; M], &[f32; N]),
    );

    /// Adds to a tile the products of the rows from `row` on, from column `from` on, beside the panel; rows beyond the
    /// last give any number.
    #[cfg(all(feature = "std", target_arch = "arm"))]
    fn add_products(self, neon: Neon, row: usize, from: usize, panel: &[Row], sums: &mut Tile);
}

/// The right side of a product, `[depth][columns]`.
pub(super) trait Right: Copy {
    fn columns(self) -> usize;

    /// Copies the `N` columns from `column` on, of the rows from `from` on; columns beyond the last hold any number.
    fn pack<S: Simd, const N: usize>(self, simd: S, column: usize, from: usize, panel: &mut [[f32; N]]);
}

impl<'a> Rows<'a> {
    /// All rows of a matrix.
    pub(crate) fn all(values: &'a [f32], width: usize) -> Self {
        Self { values, width, chosen: None }
    }

    /// The chosen rows of a matrix, in the order chosen.
    pub(crate) fn chosen(values: &'a [f32], width: usize, chosen: &'a [u32]) -> Self {
        Self { values, width, chosen: Some(chosen) }
    }

    pub(crate) fn width(self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(crate) fn count(self) -> usize {
        self.chosen.map_or_else(|| self.values.len() / self.width, <[u32]>::len)
    }

    #[inline(always)]
    pub(super) fn row(self, at: usize) -> &'a [f32] {
        let at = self.chosen.map_or(at, |chosen| chosen[at] as usize);
        &self.values[at * self.width..][..self.width]
    }
}

impl Left for ByRow<'_> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.count()
    }

    #[inline(always)]
    fn depth(self) -> usize {
        self.0.width
    }

    #[inline(always)]
    fn beside<const M: usize, const N: usize>(
        self,
        row: usize,
        from: usize,
        panel: &[[f32; N]],
        mut step: impl FnMut([f32; M], &[f32; N]),
    ) {
        let mut rows: [&[f32]; M] = [&[]; M];
        for (i, slice) in rows.iter_mut().enumerate() {
            *slice = &self.0.row(row + i)[from..][..panel.len()];
        }
        let mut entries = [0.0; M];
        let (blocks, rest) = panel.as_chunks::<BLOCK>();
        for (at, block) in blocks.iter().enumerate() {
            let mut row_blocks: [&[f32; BLOCK]; M] = [&[0.0; BLOCK]; M];
            for (block, row) in row_blocks.iter_mut().zip(&rows) {
                *block = &row.as_chunks().0[at];
            }
            for (k, terms) in block.iter().enumerate() {
                for (entry, row) in entries.iter_mut().zip(&row_blocks) {
                    *entry = row[k];
                }
                step(entries, terms);
            }
        }
        for (k, terms) in (blocks.len() * BLOCK..).zip(rest) {
            for (entry, row) in entries.iter_mut().zip(&rows) {
                *entry = row[k];
            }
            step(entries, terms);
        }
    }

    #[cfg(all(feature = "std", target_arch = "arm"))]
    fn add_products(self, neon: Neon, row: usize, from: usize, panel: &[Row], sums: &mut Tile) {
        let last = self.0.count() - 1;
        let mut rows: [&[f32]; HEIGHT] = Default::default();
        for (i, slice) in rows.iter_mut().enumerate() {
            *slice = &self.0.row((row + i).min(last))[from..];
        }
        neon.add_products_of_rows(rows, panel, sums);
    }
}

impl Left for ByColumn<'_> {
    #[inline(always)]
    fn rows(self) -> usize {
        self.0.width
    }

    #[inline(always)]
    fn depth(self) -> usize {
        self.0.count()
    }

    #[inline(always)]
    fn beside<const M: usize, const N: usize>(
        self,
        row: usize,
        from: usize,
        panel: &[[f32; N]],
        mut step: impl FnMut([f32; M], &[f32; N]),
    ) {
        for (k, terms) in (from..).zip(panel) {
            step(*self.0.row(k)[row..].first_chunk().expect("a tile lies within the rows"), terms);
        }
    }

    #[cfg(all(feature = "std", target_arch = "arm"))]
    fn add_products(self, neon: Neon, row: usize, from: usize, panel: &[Row], sums: &mut Tile) {
        let mut columns = [[0.0; HEIGHT]; BLOCK];
        for (from, panel) in (from..).step_by(BLOCK).zip(panel.chunks(BLOCK)) {
            for (k, column) in (from..).zip(columns.iter_mut().take(panel.len())) {
                let entries = &self.0.row(k)[row..];
                match entries.first_chunk() {
                    Some(entries) => *column = *entries,
                    None => column[..entries.len()].copy_from_slice(entries),
                }
            }
            neon.add_products(&columns, panel, sums);
        }
    }
}

impl Right for ByRow<'_> {
    #[inline(always)]
    fn columns(self) -> usize {
        self.0.width
    }

    #[inline(always)]
    fn pack<S: Simd, const N: usize>(self, _: S, column: usize, from: usize, panel: &mut [[f32; N]]) {
        for (k, to) in (from..).zip(panel) {
            let row = &self.0.row(k)[column..];
            match row.first_chunk() {
                Some(row) => *to = *row,
                None => to[..row.len()].copy_from_slice(row),
            }
        }
    }
}

impl Right for ByColumn<'_> {
    #[inline(always)]
    fn columns(self) -> usize {
        self.0.count()
    }

    /// Four columns at a time, in squares of four.
    #[inline(always)]
    fn pack<S: Simd, const N: usize>(self, simd: S, column: usize, from: usize, panel: &mut [[f32; N]]) {
        let last = self.0.count() - 1;
        for to in (0..N).step_by(4) {
            // A column beyond the last is a copy of the last.
            let mut rows: [&[f32]; 4] = [&[]; 4];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = &self.0.row((column + to + i).min(last))[from..][..panel.len()];
            }
            let (squares, rest) = panel.as_chunks_mut::<4>();
            for (at, panel) in squares.iter_mut().enumerate() {
                let mut square = [f32x4::splat(simd, 0.0); 4];
                for (square, row) in square.iter_mut().zip(&rows) {
                    *square = f32x4::load_array_ref(simd, &row.as_chunks().0[at]);
                }
                for (panel, entries) in panel.iter_mut().zip(transposed(simd, square)) {
                    panel[to..to + 4].copy_from_slice(entries.as_slice());
                }
            }
            for (k, panel) in (squares.len() * 4..).zip(rest) {
                for (entry, row) in panel[to..to + 4].iter_mut().zip(&rows) {
                    *entry = row[k];
                }
            }
        }
    }
}

#[inline(always)]
fn transposed<S: Simd>(simd: S, [a, b, c, d]: [f32x4<S>; 4]) -> [f32x4<S>; 4] {
    let (low, high) = (simd.zip_low_f32x4(a, c), simd.zip_high_f32x4(a, c));
    let (other_low, other_high) = (simd.zip_low_f32x4(b, d), simd.zip_high_f32x4(b, d));
    [
        simd.zip_low_f32x4(low, other_low),
        simd.zip_high_f32x4(low, other_low),
        simd.zip_low_f32x4(high, other_high),
        simd.zip_high_f32x4(high, other_high),
    ]
}
