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
    pub fn add_products(self, left: &[[f32; HEIGHT]], right: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]; HEIGHT]) {
        let terms = left.len().min(right.len());
        if terms > 0 {
            // SAFETY: `self` proves that the processor has NEON; both sides hold `terms` entries, and `sums` is whole.
            unsafe { tile(left.as_ptr(), right.as_ptr(), terms, sums) }
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
unsafe extern "C" fn tile(
    left: *const [f32; HEIGHT],
    right: *const [f32; WIDTH],
    terms: usize,
    sums: *mut [[f32; WIDTH]; HEIGHT],
) {
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
            let left: Vec<[f32; HEIGHT]> = (0..terms).map(|k| [0, 1, 2, 3].map(|i| number(k * 5 + i))).collect();
            let right: Vec<[f32; WIDTH]> =
                (0..terms + 1).map(|k| [0, 1, 2, 3, 4, 5, 6, 7].map(|j| number(k * 11 + j + 3))).collect();
            let mut sums = [[0.25; WIDTH]; HEIGHT];
            let mut wanted = sums;
            for (left, right) in left.iter().zip(&right) {
                for (sums, left) in wanted.iter_mut().zip(left) {
                    sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
                }
            }
            neon.add_products(&left, &right, &mut sums);
            assert_eq!(sums.map(|row| row.map(f32::to_bits)), wanted.map(|row| row.map(f32::to_bits)), "{terms} terms");
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
