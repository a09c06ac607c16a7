//! Arrays on the wire: rows of little-endian f32, of f16, or of int8 with one f32 scale per row.

use alloc::vec::Vec;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

/// Numbers converted at a time.
const STRIP: usize = 256;

/// How the numbers of a weight matrix are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// 4 bytes a number, exact.
    #[default]
    F32,
    /// 2 bytes a number, 3 significant digits.
    F16,
    /// 1 byte a number and 4 bytes a row: `scale * q`, `scale = largest / 127`.
    Int8,
}

/// Why bytes are not the array they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The bytes end before the array does.
    #[error("the content ends in the middle of an array")]
    Short,
    /// A NaN or an infinity, or a number that the encoding cannot hold.
    #[error("an array holds a number that is not finite")]
    NotFinite,
}

impl Encoding {
    /// Bytes of a `[rows][columns]` array; of one too large for the address space, more than there are.
    pub fn bytes(self, rows: usize, columns: usize) -> usize {
        let of_row = match self {
            Self::F32 => columns.saturating_mul(4),
            Self::F16 => columns.saturating_mul(2),
            Self::Int8 => columns.saturating_add(4),
        };
        of_row.saturating_mul(rows)
    }

    /// Appends a `[rows][columns]` array, row-major.
    pub fn write(self, values: &[f32], columns: usize, out: &mut Vec<u8>) {
        match self {
            Self::F32 => write_f32(values, out),
            Self::F16 => write_f16(values, out),
            Self::Int8 => values.chunks(columns.max(1)).for_each(|row| write_int8_row(row, out)),
        }
    }

    /// Takes a `[rows][columns]` array off the front of `bytes`. Allocates only once the bytes are known to be there.
    ///
    /// # Errors
    /// If the bytes end before the array does, or a number is not finite.
    pub fn read(self, rows: usize, columns: usize, bytes: &mut &[u8]) -> Result<Vec<f32>, TensorError> {
        let (mine, rest) = bytes.split_at_checked(self.bytes(rows, columns)).ok_or(TensorError::Short)?;
        *bytes = rest;
        let mut values = Vec::with_capacity(rows * columns);
        match self {
            Self::F32 => values.extend(mine.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Self::F16 => for_each_strip_f16(mine, |_, strip| values.extend_from_slice(strip)),
            Self::Int8 => int8_rows(mine, columns).for_each(|(scale, row)| {
                values.extend(row.iter().map(|&byte| scale * signed(byte)));
            }),
        }
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(TensorError::NotFinite) }
    }

    /// Adds `share` times an array of so many columns to `sums`.
    pub(crate) fn add_scaled(self, bytes: &[u8], columns: usize, share: f32, sums: &mut [f32]) {
        match self {
            Self::F32 => {
                let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
            }
            Self::F16 => for_each_strip_f16(bytes, |from, strip| {
                sums[from..].iter_mut().zip(strip).for_each(|(sum, value)| *sum += share * value);
            }),
            Self::Int8 => {
                for (sums, (scale, row)) in sums.chunks_mut(columns).zip(int8_rows(bytes, columns)) {
                    sums.iter_mut().zip(row).for_each(|(sum, &byte)| *sum += share * (scale * signed(byte)));
                }
            }
        }
    }

    /// The largest number of an array of so many columns without its sign; not finite where one of them is not.
    pub(crate) fn largest(self, bytes: &[u8], columns: usize) -> f32 {
        // The bits of numbers without their sign are in the order of the numbers, and those of no number above.
        match self {
            Self::F32 => {
                let bits = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) & 0x7fff_ffff);
                f32::from_bits(bits.fold(0, u32::max))
            }
            Self::F16 => {
                let bits = bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes) & 0x7fff);
                f16::from_bits(bits.fold(0, u16::max)).to_f32()
            }
            Self::Int8 => {
                let largest_of =
                    |row: &[u8]| row.iter().fold(0, |most, &byte| u8::max(most, (byte as i8).unsigned_abs()));
                let rows = int8_rows(bytes, columns).map(|(scale, row)| (scale * f32::from(largest_of(row))).abs());
                f32::from_bits(rows.fold(0, |most, value| u32::max(most, value.to_bits())))
            }
        }
    }
}

/// Calls `each` with the numbers, in order, a few at a time, and with where they begin.
fn for_each_strip_f16(bytes: &[u8], mut each: impl FnMut(usize, &[f32])) {
    let mut halves = [f16::ZERO; STRIP];
    let mut strip = [0.0; STRIP];
    for (at, bytes) in bytes.as_chunks::<2>().0.chunks(STRIP).enumerate() {
        halves.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = f16::from_le_bytes(*bytes));
        let strip = &mut strip[..bytes.len()];
        halves[..bytes.len()].convert_to_f32_slice(strip);
        each(at * STRIP, strip);
    }
}

/// Each row's scale and numbers.
fn int8_rows(bytes: &[u8], columns: usize) -> impl Iterator<Item = (f32, &[u8])> {
    let rows = bytes.chunks_exact(columns + 4).filter_map(<[u8]>::split_first_chunk);
    rows.map(|(scale, row)| (f32::from_le_bytes(*scale), row))
}

fn signed(byte: u8) -> f32 {
    f32::from(byte as i8)
}

fn write_f32(values: &[f32], out: &mut Vec<u8>) {
    let mut bytes = [[0; 4]; STRIP];
    for values in values.chunks(STRIP) {
        bytes.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
        out.extend_from_slice(bytes[..values.len()].as_flattened());
    }
}

fn write_f16(values: &[f32], out: &mut Vec<u8>) {
    let mut halves = [f16::ZERO; STRIP];
    let mut bytes = [[0; 2]; STRIP];
    for values in values.chunks(STRIP) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        bytes.iter_mut().zip(halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
        out.extend_from_slice(bytes[..values.len()].as_flattened());
    }
}

fn write_int8_row(row: &[f32], out: &mut Vec<u8>) {
    // The bits of numbers without their sign are in the order of the numbers, and those of no number above.
    let largest = row.iter().fold(0, |most, value| u32::max(most, value.abs().to_bits()));
    // The casts below drop a NaN: the scale carries it to the reader, who refuses it.
    let scale = if largest < f32::INFINITY.to_bits() { f32::from_bits(largest) / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    out.extend_from_slice(&scale.to_le_bytes());
    let mut bytes = [0; STRIP];
    for values in row.chunks(STRIP) {
        bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = whole_byte(value * inverse));
        out.extend_from_slice(&bytes[..values.len()]);
    }
}

/// The nearest whole number from -128 to 127, halves away from zero, in the arithmetic that every vector unit has: a cast
/// is done number by number.
fn whole_byte(value: f32) -> u8 {
    // Adding and subtracting 1.5 * 2^23 leaves the nearest whole number; its low bits are those of the integer.
    const ROUND: f32 = 12_582_912.0;
    let beyond = value + f32::copysign(0.5, value);
    let bounded = if beyond > 127.0 { 127.0 } else { beyond };
    let bounded = if bounded < -128.0 { -128.0 } else { bounded };
    let nearest = (bounded + ROUND) - ROUND;
    let towards_zero = if nearest.abs() > bounded.abs() { nearest - f32::copysign(1.0, bounded) } else { nearest };
    (towards_zero + ROUND).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arrays_come_back_within_their_precision(rows in 0_usize..5, columns in 1_usize..9, scale in 1e-3_f32..1e3) {
            let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 19) as f32 - 9.0) / 9.0 * scale).collect();
            for (encoding, precision) in [(Encoding::F32, 0.0), (Encoding::F16, 1e-3), (Encoding::Int8, 1.0 / 250.0)] {
                let mut bytes = Vec::new();
                encoding.write(&values, columns, &mut bytes);
                prop_assert_eq!(bytes.len(), encoding.bytes(rows, columns));
                let mut reader = &bytes[..];
                let back = encoding.read(rows, columns, &mut reader).unwrap();
                prop_assert!(reader.is_empty());
                for (a, b) in values.iter().zip(&back) {
                    prop_assert!((a - b).abs() <= precision * scale, "{a} became {b}");
                }
            }
        }
    }

    #[test]
    fn whole_bytes_are_what_the_cast_gives() {
        let cast = |value: f32| (value + f32::copysign(0.5, value)) as i8;
        let around = (-1_300..=1_300).flat_map(|tenths| {
            let value = tenths as f32 / 10.0;
            [value.next_down(), value, value.next_up()]
        });
        for value in around.chain([f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, f32::MIN_POSITIVE]) {
            assert_eq!(i8::from_le_bytes([whole_byte(value)]), cast(value), "{value:e}");
        }
    }

    #[test]
    fn numbers_that_are_not_are_refused() {
        for (encoding, values) in [
            (Encoding::F32, vec![1.0, f32::NAN]),
            (Encoding::F32, vec![f32::INFINITY, 0.0]),
            (Encoding::F16, vec![1e6, 0.0]),
            (Encoding::Int8, vec![f32::INFINITY, 0.0]),
        ] {
            let mut bytes = Vec::new();
            encoding.write(&values, 2, &mut bytes);
            assert_eq!(encoding.read(1, 2, &mut &bytes[..]), Err(TensorError::NotFinite), "{encoding:?}");
        }
        assert_eq!(Encoding::F32.read(1_000_000, 1_000_000, &mut &[0_u8; 8][..]), Err(TensorError::Short));
    }
}
