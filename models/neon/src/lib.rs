//! One tile of a matrix product with NEON on 32-bit ARM, where neither stable Rust nor LLVM's vectoriser offers it.
//!
//! Everything is empty on other targets. Products and sums are rounded one after the other, as plain Rust does there,
//! so the results are the same bits, except that NEON takes numbers below 1.2e-38 for zero.
#![no_std]
#![cfg(target_arch = "arm")]

extern crate std;

use core::arch::naked_asm;
use std::fs;
use std::sync::OnceLock;

/// Rows of a tile.
pub const HEIGHT: usize = 4;
/// Columns of a tile.
pub const WIDTH: usize = 8;
/// A column of the left side of a product.
pub type Column = [f32; HEIGHT];
/// A row of the right side.
pub type Row = [f32; WIDTH];
/// A tile of the result.
pub type Tile = [Row; HEIGHT];
/// Entries of a row that are loaded at a time.
const TERMS: usize = 4;

/// Proof that this processor has NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// What the kernel says of this processor; asked once.
    pub fn found() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = FOUND.get_or_init(|| fs::read("/proc/self/auxv").is_ok_and(|entries| has_neon(&entries)));
        found.then_some(Self(()))
    }

    /// `sums[i][j] += left[k][i] * right[k][j]`, summed over k in ascending order, to the end of the shorter side.
    #[inline]
    pub fn add_products(self, left: &[Column], right: &[Row], sums: &mut Tile) {
        let terms = left.len().min(right.len());
        if terms > 0 {
            // SAFETY: `self` proves that the processor has NEON; both sides hold `terms` entries, and `sums` is whole.
            unsafe { tile(left.as_ptr(), right.as_ptr(), terms, sums) }
        }
    }

    /// The same of a left side that lies in rows: `sums[i][j] += rows[i][k] * right[k][j]`, to the end of the shortest.
    #[inline]
    pub fn add_products_of_rows(self, rows: [&[f32]; HEIGHT], right: &[Row], sums: &mut Tile) {
        let terms = rows.iter().map(|row| row.len()).fold(right.len(), usize::min);
        let whole = terms - terms % TERMS;
        if whole > 0 {
            let starts = rows.map(<[f32]>::as_ptr);
            // SAFETY: `self` proves that the processor has NEON; every row and the right side hold `whole` entries, a
            // multiple of `TERMS`, and `sums` is whole.
            unsafe { tile_of_rows(&starts, right.as_ptr(), whole / TERMS, sums) }
        }
        for (k, right) in right.iter().enumerate().take(terms).skip(whole) {
            self.add_products(&[rows.map(|row| row[k])], &[*right], sums);
        }
    }
}

/// Looks for `HWCAP_NEON` in the pairs of words that the kernel gives to every program.
fn has_neon(entries: &[u8]) -> bool {
    const AT_HWCAP: u32 = 16;
    const HWCAP_NEON: u32 = 1 << 12;
    let (pairs, _) = entries.as_chunks::<8>();
    pairs.iter().any(|&[a, b, c, d, e, f, g, h]| {
        u32::from_ne_bytes([a, b, c, d]) == AT_HWCAP && u32::from_ne_bytes([e, f, g, h]) & HWCAP_NEON != 0
    })
}

/// The sums stay in q8 to q15; q0 is a column of the left side, q2 and q3 are a row of the right one. None of these
/// belongs to the caller (AAPCS, section 6.1.2).
///
/// # Safety
///
/// The processor has NEON, and both sides hold at least `terms` entries, at least one.
#[unsafe(naked)]
unsafe extern "C" fn tile(left: *const Column, right: *const Row, terms: usize, sums: *mut Tile) {
    naked_asm!(
        ".fpu neon",
        "vldmia r3, {{d16-d31}}",
        "2:",
        "vld1.32 {{d0-d1}}, [r0]!",
        "vld1.32 {{d4-d7}}, [r1]!",
        "subs r2, r2, #1",
        "vmla.f32 q8, q2, d0[0]",
        "vmla.f32 q9, q3, d0[0]",
        "vmla.f32 q10, q2, d0[1]",
        "vmla.f32 q11, q3, d0[1]",
        "vmla.f32 q12, q2, d1[0]",
        "vmla.f32 q13, q3, d1[0]",
        "vmla.f32 q14, q2, d1[1]",
        "vmla.f32 q15, q3, d1[1]",
        "bne 2b",
        "vstmia r3, {{d16-d31}}",
        "bx lr",
    )
}

/// The eight products of one term: a row of the right side in q4 and q5 times one lane of each row of the left side.
macro_rules! term {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vld1.32 {{d8-d11}}, [r1]!\n",
            "vmla.f32 q8, q4, ",
            $a,
            "\n vmla.f32 q9, q5, ",
            $a,
            "\n",
            "vmla.f32 q10, q4, ",
            $b,
            "\n vmla.f32 q11, q5, ",
            $b,
            "\n",
            "vmla.f32 q12, q4, ",
            $c,
            "\n vmla.f32 q13, q5, ",
            $c,
            "\n",
            "vmla.f32 q14, q4, ",
            $d,
            "\n vmla.f32 q15, q5, ",
            $d,
        )
    };
}

/// As [`tile`], four terms at a time: q0 to q3 are the rows of the left side. What belongs to the caller is put back.
///
/// # Safety
///
/// The processor has NEON, and every row and the right side hold at least four times `fours` entries, `fours` at least 1.
#[unsafe(naked)]
unsafe extern "C" fn tile_of_rows(rows: *const [*const f32; HEIGHT], right: *const Row, fours: usize, sums: *mut Tile) {
    naked_asm!(
        ".fpu neon",
        "push {{r4-r7}}",
        "vpush {{d8-d11}}",
        "ldm r0, {{r4-r7}}",
        "vldmia r3, {{d16-d31}}",
        "2:",
        "vld1.32 {{d0-d1}}, [r4]!",
        "vld1.32 {{d2-d3}}, [r5]!",
        "vld1.32 {{d4-d5}}, [r6]!",
        "vld1.32 {{d6-d7}}, [r7]!",
        "subs r2, r2, #1",
        term!("d0[0]", "d2[0]", "d4[0]", "d6[0]"),
        term!("d0[1]", "d2[1]", "d4[1]", "d6[1]"),
        term!("d1[0]", "d3[0]", "d5[0]", "d7[0]"),
        term!("d1[1]", "d3[1]", "d5[1]", "d7[1]"),
        "bne 2b",
        "vstmia r3, {{d16-d31}}",
        "vpop {{d8-d11}}",
        "pop {{r4-r7}}",
        "bx lr",
    )
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_tile_is_the_sums_that_plain_loops_give() {
        let neon =
            Neon::found().expect("the emulated processor, and every 32-bit Raspberry Pi after the first, has NEON");
        for terms in [0, 1, 2, 7, 256] {
            let number = |at: usize| (at * 97 % 251) as f32 / 251.0 - 0.5;
            let left: Vec<Column> = (0..terms).map(|k| [0, 1, 2, 3].map(|i| number(k * 5 + i))).collect();
            let right: Vec<Row> =
                (0..terms + 1).map(|k| [0, 1, 2, 3, 4, 5, 6, 7].map(|j| number(k * 11 + j + 3))).collect();
            let mut sums = [[0.25; WIDTH]; HEIGHT];
            let mut wanted = sums;
            for (left, right) in left.iter().zip(&right) {
                for (sums, left) in wanted.iter_mut().zip(left) {
                    sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
                }
            }
            let bits = |sums: Tile| sums.map(|row| row.map(f32::to_bits));
            let rows = [0, 1, 2, 3].map(|i| left.iter().map(|column| column[i]).collect::<Vec<f32>>());
            let mut of_rows = sums;
            neon.add_products(&left, &right, &mut sums);
            assert_eq!(bits(sums), bits(wanted), "{terms} terms");
            neon.add_products_of_rows([&rows[0], &rows[1], &rows[2], &rows[3]], &right, &mut of_rows);
            assert_eq!(bits(of_rows), bits(wanted), "{terms} terms of rows");
        }
    }

    #[test]
    fn the_processor_is_asked() {
        let words = |pairs: &[u32]| pairs.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        assert!(has_neon(&words(&[3, 4096, 16, 1 << 12 | 3, 0, 0])));
        assert!(!has_neon(&words(&[3, 1 << 12, 16, 3, 26, 1 << 12])));
        assert!(!has_neon(&[16, 0, 0]));
    }
}
