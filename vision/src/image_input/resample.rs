//! Pillow's `resize(size, BILINEAR)` of version 13, bit for bit: a triangle filter as wide as the scale, in fixed point,
//! across before down, or down before across where that is much less work.
//!
//! Source: `src/libImaging/Resample.c` of Pillow. The extractors were trained on images resized this way. Libraries with
//! the same filter round elsewhere, which moves one value in five by a level. So did Pillow itself before version 13
//! for tall images, which it resized across first like all others.

/// Fractional bits of a weight: a byte times a weight, summed over weights that add up to one, fits an `i32`.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// For each output pixel: where its window begins, and the weights inside.
struct Windows {
    first: Vec<usize>,
    weights: Vec<Vec<i32>>,
}

/// Resizes `pixels` `[row][column][channel]` of `CHANNELS` channels from one size to another.
pub(super) fn resize<const CHANNELS: usize>(
    pixels: Vec<u8>,
    [width, height]: [usize; 2],
    [new_width, new_height]: [usize; 2],
) -> Vec<u8> {
    let across = |pixels: Vec<u8>| {
        if width == new_width { pixels } else { resize_rows::<CHANNELS>(&pixels, width, new_width) }
    };
    let down = |pixels: Vec<u8>, width: usize| {
        if height == new_height { pixels } else { resize_columns(&pixels, width * CHANNELS, height, new_height) }
    };
    if goes_down_first([width, height], [new_width, new_height]) {
        across(down(pixels, width))
    } else {
        down(across(pixels), new_width)
    }
}

/// Whether the height shrinks by more than twice what the width shrinks by, in pixels.
fn goes_down_first([width, height]: [usize; 2], [new_width, new_height]: [usize; 2]) -> bool {
    height > new_height && height + 2 * new_width > new_height + 2 * width
}

fn resize_rows<const CHANNELS: usize>(pixels: &[u8], width: usize, new_width: usize) -> Vec<u8> {
    let windows = Windows::new(width, new_width);
    let mut resized = Vec::with_capacity(pixels.len() / width * new_width);
    for row in pixels.chunks_exact(width * CHANNELS) {
        let (row, _) = row.as_chunks::<CHANNELS>();
        for (&first, weights) in windows.first.iter().zip(&windows.weights) {
            let mut sums = [1 << (WEIGHT_BITS - 1); CHANNELS];
            for (pixel, &weight) in row[first..].iter().zip(weights) {
                for (sum, &level) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(level) * weight;
                }
            }
            resized.extend(sums.map(level));
        }
    }
    resized
}

/// `row_bytes` are the bytes of one row.
fn resize_columns(pixels: &[u8], row_bytes: usize, height: usize, new_height: usize) -> Vec<u8> {
    let windows = Windows::new(height, new_height);
    let mut resized = Vec::with_capacity(row_bytes * new_height);
    let mut sums = vec![0; row_bytes];
    for (&first, weights) in windows.first.iter().zip(&windows.weights) {
        sums.fill(1 << (WEIGHT_BITS - 1));
        for (row, &weight) in pixels[first * row_bytes..].chunks_exact(row_bytes).zip(weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(level));
    }
    resized
}

fn level(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

impl Windows {
    fn new(length: usize, new_length: usize) -> Self {
        let scale = length as f64 / new_length as f64;
        // Enlarging looks at the two nearest pixels, reducing at all that a new pixel covers.
        let support = scale.max(1.0);
        let window = |position: usize| {
            let centre = (position as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(length);
            let triangle = |pixel: usize| {
                let distance = ((pixel as f64 - centre + 0.5) * (1.0 / support)).abs();
                if distance < 1.0 { 1.0 - distance } else { 0.0 }
            };
            let weights: Vec<f64> = (first..end).map(triangle).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (0.5 + weight / total * f64::from(1 << WEIGHT_BITS)) as i32;
            (first, weights.iter().map(fixed).collect())
        };
        let (first, weights) = (0..new_length).map(window).unzip();
        Self { first, weights }
    }
}
