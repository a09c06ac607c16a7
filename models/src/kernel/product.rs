//! A product in tiles: a few columns of the right side are copied to where they lie together and stay in the nearest
//! cache, and the tile of the result under work stays in registers.

use fearless_simd::prelude::*;
use fearless_simd::{Simd, f32x4, f32x8, f32x16};

use super::operand::{Left, Right, Rows};

/// Terms that are taken at a time: 16 columns of them are 16 KiB.
pub(super) const DEPTH: usize = 256;
/// Columns of the widest tile.
const WIDEST: usize = 16;

/// `out [rows][columns] = left [rows][depth] * right [depth][columns]`, or added to what stands in `out`.
#[derive(Clone, Copy)]
pub(super) struct Product<L, R> {
    pub(super) left: L,
    pub(super) right: R,
    pub(super) add: bool,
    /// The result is symmetric: what lies above its diagonal is copied from below.
    pub(super) symmetric: bool,
}

/// The upper left corner of a tile, the term it goes on with, and whether it goes on from what stands there.
#[derive(Clone, Copy)]
struct Corner {
    row: usize,
    column: usize,
    term: usize,
    add: bool,
}

impl<L: Left, R: Right> Product<L, R> {
    /// Tiles as large as the registers hold.
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, out: &mut [f32]) {
        if simd.level().is_fallback() {
            #[cfg(all(feature = "std", target_arch = "arm"))]
            if let Some(neon) = grapevine_neon::Neon::found() {
                return self.run_with(neon, simd, out);
            }
            self.panels::<S, f32x4<S>, f32x4<S>, 4, 4, 4>(simd, out);
        } else if S::f32s::LEN == 8 || cfg!(target_arch = "aarch64") {
            self.panels::<S, f32x16<S>, f32x8<S>, 16, 8, 6>(simd, out);
        } else {
            self.panels::<S, f32x8<S>, f32x4<S>, 8, 4, 6>(simd, out);
        }
    }

    /// Panels of `WIDE` columns, and one of `NARROW` where that is enough for the rest; tiles of `M` rows at most.
    #[inline(always)]
    fn panels<S, V, W, const WIDE: usize, const NARROW: usize, const M: usize>(self, simd: S, out: &mut [f32])
    where
        S: Simd,
        V: SimdFloat<S, Element = f32, Array = [f32; WIDE]>,
        W: SimdFloat<S, Element = f32, Array = [f32; NARROW]>,
    {
        let columns = self.right.columns();
        let mut panel = [0.0; DEPTH * WIDEST];
        let mut column = 0;
        while column < columns {
            if columns - column > NARROW {
                self.panel::<S, V, WIDE, M>(simd, column, panel.as_chunks_mut().0, out);
                column += WIDE;
            } else {
                self.panel::<S, W, NARROW, M>(simd, column, panel.as_chunks_mut().0, out);
                column += NARROW;
            }
        }
        self.mirror(out);
    }

    /// Copies what lies below the diagonal of a symmetric result to above it.
    pub(super) fn mirror(self, out: &mut [f32]) {
        if self.symmetric {
            let columns = self.right.columns();
            for row in 0..columns {
                for column in row + 1..columns {
                    out[row * columns + column] = out[column * columns + row];
                }
            }
        }
    }

    #[inline(always)]
    fn panel<S, V, const N: usize, const M: usize>(
        self,
        simd: S,
        column: usize,
        panel: &mut [[f32; N]],
        out: &mut [f32],
    ) where
        S: Simd,
        V: SimdFloat<S, Element = f32, Array = [f32; N]>,
    {
        let first = if self.symmetric { column } else { 0 };
        let (rows, depth) = (self.left.rows(), self.left.depth());
        for term in (0..depth).step_by(DEPTH) {
            let panel = &mut panel[..DEPTH.min(depth - term)];
            self.right.pack(simd, column, term, panel);
            let tiles = (rows - first).div_ceil(M);
            let mut corner = Corner { row: first, column, term, add: self.add || term > 0 };
            for done in 0..tiles {
                // Tiles of nearly equal height.
                let height = (rows - corner.row).div_ceil(tiles - done);
                macro_rules! tile_of {
                    ($($height:literal)*) => {
                        match height {
                            $($height if $height <= M => self.tile::<S, V, N, $height>(simd, corner, panel, out),)*
                            _ => unreachable!("no tile is higher than M, and M is at most 6"),
                        }
                    };
                }
                tile_of!(1 2 3 4 5 6);
                corner.row += height;
            }
        }
    }

    #[inline(always)]
    fn tile<S, V, const N: usize, const M: usize>(self, simd: S, corner: Corner, panel: &[[f32; N]], out: &mut [f32])
    where
        S: Simd,
        V: SimdFloat<S, Element = f32, Array = [f32; N]>,
    {
        let Corner { row, column, term, add } = corner;
        let columns = self.right.columns();
        let width = N.min(columns - column);
        let at = |i: usize| (row + i) * columns + column..(row + i) * columns + column + width;
        let mut sums = [V::splat(simd, 0.0); M];
        if add {
            for (i, sum) in sums.iter_mut().enumerate() {
                let standing = &out[at(i)];
                *sum = V::load_array(simd, standing.first_chunk().copied().unwrap_or_else(|| padded(standing)));
            }
        }
        self.left.beside(
            row,
            term,
            panel,
            #[inline(always)]
            |entries: [f32; M], terms: &[f32; N]| {
                let terms = V::load_array_ref(simd, terms);
                for (sum, entry) in sums.iter_mut().zip(entries) {
                    *sum = V::splat(simd, entry).mul_add(terms, *sum);
                }
            },
        );
        for (i, sum) in sums.iter().enumerate() {
            let result = &mut out[at(i)];
            match result.first_chunk_mut() {
                Some(result) => sum.store_array(result),
                // Not a part of `sum` itself: what is looked at through a reference does not stay in a register.
                None => {
                    let mut whole = [0.0; N];
                    sum.store_array(&mut whole);
                    result.copy_from_slice(&whole[..width]);
                }
            }
        }
    }
}

#[inline(always)]
fn padded<const N: usize>(values: &[f32]) -> [f32; N] {
    let mut padded = [0.0; N];
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// `out [columns of left][columns of right] = left [rows]^T * right [rows]`, or added to `out`, for a handful of rows:
/// the same bits as [`Product`] gives, row of `out` by row.
#[inline(always)]
pub(super) fn add_few<S: Simd>(simd: S, left: Rows<'_>, right: Rows<'_>, add: bool, out: &mut [f32]) {
    for (column, out) in out.chunks_exact_mut(right.width()).enumerate() {
        if !add {
            out.fill(0.0);
        }
        for k in 0..right.count() {
            let entry = left.row(k)[column];
            let (wide, rest) = out.as_chunks_mut::<WIDEST>();
            let (terms, rest_terms) = right.row(k).as_chunks::<WIDEST>();
            let entries = f32x16::splat(simd, entry);
            for (out, terms) in wide.iter_mut().zip(terms) {
                entries
                    .mul_add(f32x16::load_array_ref(simd, terms), f32x16::load_array_ref(simd, out))
                    .store_array(out);
            }
            if !rest.is_empty() {
                let sum = entries
                    .mul_add(f32x16::load_array(simd, padded(rest_terms)), f32x16::load_array(simd, padded(rest)));
                rest.copy_from_slice(&sum.as_slice()[..rest.len()]);
            }
        }
    }
}
