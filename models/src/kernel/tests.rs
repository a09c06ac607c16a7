use std::vec::Vec;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::operand::{ByColumn, ByRow, Rows};
use super::product::{Product, add_few};
use super::vectors::{Vectors, vectorised};
use super::*;

/// Rows, terms and columns that end at, before and after the edges of tiles, panels and blocks.
const SIZES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (2, 3, 5),
    (5, 4, 8),
    (6, 17, 16),
    (7, 16, 17),
    (8, 15, 4),
    (9, 33, 20),
    (13, 256, 24),
    (16, 257, 23),
    (17, 300, 33),
    (64, 512, 10),
    (3, 530, 100),
];

/// The vectors that this processor has, each with whether they fuse.
fn vectors() -> [(Vectors, bool); 2] {
    let fuses = |vectors: Vectors| match vectors {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Vectors::Avx2(_) => true,
        Vectors::Common(_) => cfg!(target_arch = "aarch64"),
    };
    [Vectors::best(), Vectors::common()].map(|vectors| (vectors, fuses(vectors)))
}

fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random::<f32>() - 0.5).collect()
}

/// The order of additions that the module promises, entry by entry.
fn plainly(fuses: bool, terms: usize, start: f32, left: impl Fn(usize) -> f32, right: impl Fn(usize) -> f32) -> f32 {
    (0..terms).fold(start, |sum, k| match fuses {
        true => libm::fmaf(left(k), right(k), sum),
        false => left(k) * right(k) + sum,
    })
}

fn same_bits(what: &str, got: &[f32], wanted: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(wanted), "{what}");
}

#[test]
fn every_entry_is_one_ascending_sum() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (rows, depth, columns) in SIZES {
        let left = random(&mut rng, rows * depth);
        let right = random(&mut rng, depth * columns);
        let standing = random(&mut rng, rows * columns);
        let turned = |values: &[f32], width: usize| -> Vec<f32> {
            (0..width).flat_map(|i| values.iter().copied().skip(i).step_by(width)).collect()
        };
        let (left_turned, right_turned) = (turned(&left, depth), turned(&right, columns));
        for (vectors, fuses) in vectors() {
            for add in [false, true] {
                let wanted: Vec<f32> = (0..rows * columns)
                    .map(|at| {
                        let (i, j) = (at / columns, at % columns);
                        let start = if add { standing[at] } else { 0.0 };
                        plainly(fuses, depth, start, |k| left[i * depth + k], |k| right[k * columns + j])
                    })
                    .collect();
                let what = std::format!("{vectors:?}, {rows} x {depth} x {columns}, add {add}");
                let (by_row, by_column) = (ByRow(Rows::all(&left, depth)), ByColumn(Rows::all(&left_turned, rows)));
                let (across, along) = (ByRow(Rows::all(&right, columns)), ByColumn(Rows::all(&right_turned, depth)));
                macro_rules! check {
                    ($left:expr, $right:expr) => {
                        let mut out = standing.clone();
                        let product = Product { left: $left, right: $right, add, symmetric: false };
                        vectorised!(vectors, simd => product.run(simd, &mut out));
                        same_bits(&what, &out, &wanted);
                    };
                }
                check!(by_row, across);
                check!(by_row, along);
                check!(by_column, across);
                let mut out = standing.clone();
                let (few, rest) = (Rows::all(&left_turned, rows), Rows::all(&right, columns));
                vectorised!(vectors, simd => add_few(simd, few, rest, add, &mut out));
                same_bits(&what, &out, &wanted);
            }
        }
    }
}

#[test]
fn inner_products_are_the_sums_of_both_triangles() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for (count, width) in [(1, 1), (4, 9), (17, 40), (37, 300)] {
        let rows = random(&mut rng, count * width);
        let product = |at: usize| {
            let (left, right) = (&rows[at / count * width..][..width], &rows[at % count * width..][..width]);
            plainly(vectors()[0].1, width, 0.0, |k| left[k], |k| right[k])
        };
        let mut products = std::vec![0.0; count * count];
        inner_products(Rows::all(&rows, width), &mut products);
        same_bits("products", &products, &(0..count * count).map(product).collect::<Vec<_>>());
    }
}

#[test]
fn chosen_rows_are_as_good_as_copies_of_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (features, classes) = (40, 7);
    let (samples, weight, bias) =
        (random(&mut rng, 30 * features), random(&mut rng, classes * features), random(&mut rng, classes));
    let chosen: Vec<u32> = (0..23).map(|_| rng.random_range(0..30)).collect();
    let copies: Vec<f32> =
        chosen.iter().flat_map(|&row| &samples[row as usize * features..][..features]).copied().collect();
    let rows = Rows::chosen(&samples, features, &chosen);
    let (mut of_chosen, mut of_copies) = (std::vec![0.0; 23 * classes], std::vec![0.0; 23 * classes]);
    logits_of(rows, &weight, &bias, &mut of_chosen);
    logits(&copies, &weight, &bias, features, &mut of_copies);
    same_bits("logits", &of_chosen, &of_copies);
    let errors = of_copies;
    let gradient = || (std::vec![1.0; classes * features], std::vec![1.0; classes]);
    let ((mut a, mut a_bias), (mut b, mut b_bias)) = (gradient(), gradient());
    gradient_of(&errors, rows, true, &mut a, &mut a_bias);
    accumulate_gradient(&errors, &copies, features, 1.0, &mut b, &mut b_bias);
    same_bits("weight gradient", &a, &b);
    same_bits("bias gradient", &a_bias, &b_bias);
}
