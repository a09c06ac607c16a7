//! A product in tiles on 32-bit ARM with NEON: a few columns of the right side are copied to where they lie together, as
//! elsewhere, and the terms of a tile are taken by [`grapevine_neon`].

use fearless_simd::Simd;
use grapevine_neon::{HEIGHT, Neon, WIDTH};

use super::operand::{Left, Right};
use super::product::{DEPTH, Product};

impl<L: Left, R: Right> Product<L, R> {
    /// As [`Product::run`], and the same bits as on a processor without NEON.
    pub(super) fn run_with<S: Simd>(self, neon: Neon, simd: S, out: &mut [f32]) {
        let (rows, columns, depth) = (self.left.rows(), self.right.columns(), self.left.depth());
        let mut panel = [[0.0; WIDTH]; DEPTH];
        for column in (0..columns).step_by(WIDTH) {
            for term in (0..depth).step_by(DEPTH) {
                let panel = &mut panel[..DEPTH.min(depth - term)];
                self.right.pack(simd, column, term, panel);
                let first = if self.symmetric { column } else { 0 };
                for row in (first..rows).step_by(HEIGHT) {
                    let within = Within { columns, row, column };
                    let mut sums = [[0.0; WIDTH]; HEIGHT];
                    if self.add || term > 0 {
                        within
                            .rows_of(out)
                            .zip(&mut sums)
                            .for_each(|(out, sums)| sums[..out.len()].copy_from_slice(out));
                    }
                    self.left.add_products(neon, row, term, panel, &mut sums);
                    within.rows_of(out).zip(&sums).for_each(|(out, sums)| out.copy_from_slice(&sums[..out.len()]));
                }
            }
        }
        self.mirror(out);
    }
}

/// Where a tile lies in the result.
#[derive(Clone, Copy)]
struct Within {
    columns: usize,
    row: usize,
    column: usize,
}

impl Within {
    /// The rows of the tile, without what would lie beyond the result.
    fn rows_of(self, out: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
        let columns = self.column..self.columns.min(self.column + WIDTH);
        out.chunks_exact_mut(self.columns).skip(self.row).take(HEIGHT).map(move |row| &mut row[columns.clone()])
    }
}
