//! Arrays on the wire: rows of little-endian f32, of f16, or of int8 with one f32 scale per row.

use alloc::vec::Vec;

use half::f16;
use serde::{Deserialize, Serialize};

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
    /// Bytes of a `[rows][columns]` array.
    pub fn bytes(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::F32 => rows * columns * 4,
            Self::F16 => rows * columns * 2,
            Self::Int8 => rows * (columns + 4),
        }
    }

    /// Appends a `[rows][columns]` array, row-major.
    pub fn write(self, values: &[f32], columns: usize, out: &mut Vec<u8>) {
        match self {
            Self::F32 => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::F16 => values.iter().for_each(|value| out.extend_from_slice(&f16::from_f32(*value).to_le_bytes())),
            Self::Int8 => values.chunks(columns.max(1)).for_each(|row| write_int8_row(row, out)),
        }
    }

    /// Takes a `[rows][columns]` array off the front of `bytes`. Allocates only once the bytes are known to be there.
    pub fn read(self, rows: usize, columns: usize, bytes: &mut &[u8]) -> Result<Vec<f32>, TensorError> {
        let (mine, rest) = bytes.split_at_checked(self.bytes(rows, columns)).ok_or(TensorError::Short)?;
        *bytes = rest;
        let values: Vec<f32> = match self {
            Self::F32 => mine.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => mine.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Int8 => mine.chunks_exact(columns + 4).flat_map(read_int8_row).collect(),
        };
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(TensorError::NotFinite) }
    }
}

fn write_int8_row(row: &[f32], out: &mut Vec<u8>) {
    let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    // `max` and the casts below drop a NaN: the scale carries it to the reader, who refuses it.
    let scale = if row.iter().all(|value| value.is_finite()) { largest / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    out.extend_from_slice(&scale.to_le_bytes());
    // Adding the half away from zero and truncating rounds without a library call; the cast saturates.
    let quantise = |value: &f32| (value * inverse + f32::copysign(0.5, *value)) as i8;
    out.extend(row.iter().map(|value| quantise(value).to_le_bytes()[0]));
}

fn read_int8_row(row: &[u8]) -> impl Iterator<Item = f32> {
    let (scale, quantised) = row.split_at(4);
    let scale = f32::from_le_bytes(scale.try_into().expect("four bytes"));
    quantised.iter().map(move |&q| scale * f32::from(i8::from_le_bytes([q])))
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
