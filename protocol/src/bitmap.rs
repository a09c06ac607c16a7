//! Which blocks of a blob are meant, one bit each.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_BLOCKS;

const BYTES: usize = MAX_BLOCKS / 8;

/// A set of block indices below a known number of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBitmap", into = "RawBitmap")]
pub struct Bitmap {
    blocks: u16,
    /// A bit for each block, and no more: at most 512 bytes.
    bits: Vec<u8>,
}

impl Bitmap {
    /// No block of `blocks`, which is at most [`MAX_BLOCKS`].
    pub fn none(blocks: usize) -> Self {
        Self::filled(blocks, 0)
    }

    /// Every block of `blocks`.
    pub fn all(blocks: usize) -> Self {
        let mut bitmap = Self::filled(blocks, 0xff);
        bitmap.clear_beyond_end();
        bitmap
    }

    /// Adds a block; one that does not exist is ignored.
    pub fn insert(&mut self, index: usize) {
        if index < usize::from(self.blocks) {
            self.bits[index / 8] |= 1 << (index % 8);
        }
    }

    /// Takes a block out.
    pub fn remove(&mut self, index: usize) {
        if index < usize::from(self.blocks) {
            self.bits[index / 8] &= !(1 << (index % 8));
        }
    }

    /// Whether a block is in the set.
    pub fn contains(&self, index: usize) -> bool {
        index < usize::from(self.blocks) && self.bits[index / 8] & (1 << (index % 8)) != 0
    }

    /// Blocks in the set.
    pub fn count(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }

    /// Number of blocks there are, in the set or not.
    pub fn blocks(&self) -> usize {
        usize::from(self.blocks)
    }

    /// The blocks of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.blocks()).filter(|index| self.contains(*index))
    }

    /// The first `most` blocks of the set.
    pub fn first(&self, most: usize) -> Self {
        let mut window = Self::none(self.blocks());
        self.iter().take(most).for_each(|index| window.insert(index));
        window
    }

    /// Adds every block of another set over the same blob.
    pub fn union(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(mine, theirs)| *mine |= theirs);
        self.clear_beyond_end();
    }

    fn filled(blocks: usize, byte: u8) -> Self {
        let blocks = blocks.min(MAX_BLOCKS);
        Self { blocks: blocks as u16, bits: vec![byte; blocks.div_ceil(8)] }
    }

    fn clear_beyond_end(&mut self) {
        let used = usize::from(self.blocks) % 8;
        if let (Some(last), 1..) = (self.bits.last_mut(), used) {
            *last &= (1 << used) - 1;
        }
    }
}

/// As it is on the wire, where no more is read than the largest bitmap has.
#[derive(Clone, Serialize, Deserialize)]
struct RawBitmap {
    blocks: u16,
    bits: heapless::Vec<u8, BYTES>,
}

impl From<Bitmap> for RawBitmap {
    fn from(bitmap: Bitmap) -> Self {
        let bits = heapless::Vec::from_slice(&bitmap.bits).expect("at most MAX_BLOCKS bits");
        Self { blocks: bitmap.blocks, bits }
    }
}

impl TryFrom<RawBitmap> for Bitmap {
    type Error = &'static str;

    fn try_from(raw: RawBitmap) -> Result<Self, &'static str> {
        if usize::from(raw.blocks) > MAX_BLOCKS || raw.bits.len() != usize::from(raw.blocks).div_ceil(8) {
            return Err("a bitmap does not fit its number of blocks");
        }
        let mut bitmap = Self { blocks: raw.blocks, bits: raw.bits.to_vec() };
        bitmap.clear_beyond_end();
        Ok(bitmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_behave() {
        let mut bitmap = Bitmap::all(13);
        assert_eq!(bitmap.count(), 13);
        bitmap.remove(12);
        bitmap.remove(400);
        bitmap.insert(400);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        assert_eq!(bitmap.first(2).iter().collect::<Vec<_>>(), [0, 1]);
        let mut other = Bitmap::none(13);
        other.insert(12);
        assert!(!other.iter().any(|index| bitmap.contains(index)));
        other.union(&bitmap);
        assert!(other.iter().any(|index| bitmap.contains(index)));
        assert_eq!(other, Bitmap::all(13));
        assert!(Bitmap::none(0).is_empty() && Bitmap::all(0).is_empty());
        assert_eq!(Bitmap::all(MAX_BLOCKS).count(), MAX_BLOCKS);
    }
}
