//! Blobs: contents too large for one message, cut into blocks with a crc each and put together again in any order.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::bitmap::Bitmap;
use crate::ids::Digest;
use crate::limits::{BLOCK_BYTES, MAX_BLOB_BYTES};
use crate::messages::BlockHeader;
use crate::refusal::Refusal;

/// The name of a blob: its digest and its length. Whoever holds it can ask for the blocks and check the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub bytes: u32,
}

/// Why a block or a blob is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Longer than allowed here.
    #[error("a blob of {bytes} bytes was claimed; at most {limit} are expected here")]
    TooLarge {
        /// Bytes claimed.
        bytes: u32,
        /// Bytes allowed.
        limit: usize,
    },
    /// Empty.
    #[error("an empty blob was claimed")]
    Empty,
    /// A block of another blob.
    #[error("a block of another blob")]
    OtherBlob,
    /// An index beyond the end, or the wrong length for its index.
    #[error("block {index} of {blocks} does not have the length it must have")]
    Length {
        /// The index received.
        index: u16,
        /// Blocks of the blob.
        blocks: usize,
    },
    /// Damaged on the way.
    #[error("block {0} is damaged (crc)")]
    Crc(u16),
    /// All blocks are there and the content is not what was announced.
    #[error("the content does not have the digest that was announced")]
    Digest,
}

impl BlockError {
    /// Under which name it is counted.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::TooLarge { .. } => Refusal::TooLarge,
            Self::Empty | Self::OtherBlob | Self::Length { .. } => Refusal::Block,
            Self::Crc(_) => Refusal::Crc,
            Self::Digest => Refusal::Digest,
        }
    }
}

impl BlobRef {
    /// Names some content.
    ///
    /// # Panics
    /// If the content is longer than [`MAX_BLOB_BYTES`].
    pub fn of(content: &[u8]) -> Self {
        assert!(content.len() <= MAX_BLOB_BYTES, "a blob of {} bytes", content.len());
        Self { digest: Digest::of(content), bytes: content.len() as u32 }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        (self.bytes as usize).div_ceil(BLOCK_BYTES)
    }

    /// Refuses what is empty or longer than `limit` bytes.
    pub fn check(&self, limit: usize) -> Result<(), BlockError> {
        match self.bytes {
            0 => Err(BlockError::Empty),
            bytes if bytes as usize > limit.min(MAX_BLOB_BYTES) => {
                Err(BlockError::TooLarge { bytes, limit: limit.min(MAX_BLOB_BYTES) })
            }
            _ => Ok(()),
        }
    }

    /// Where a block lies in the content; empty for an index beyond the end.
    fn range(&self, index: usize) -> core::ops::Range<usize> {
        let end = self.bytes as usize;
        let start = (index * BLOCK_BYTES).min(end);
        start..(start + BLOCK_BYTES).min(end)
    }
}

/// One block of some content with its header, or `None` beyond the end.
pub fn block<'a>(blob: &BlobRef, content: &'a [u8], index: usize) -> Option<(BlockHeader, &'a [u8])> {
    let bytes = content.get(blob.range(index)).filter(|bytes| !bytes.is_empty())?;
    Some((BlockHeader { digest: blob.digest, index: index as u16, crc: crc32fast::hash(bytes) }, bytes))
}

/// A blob on its way in. Allocates its declared and checked length once.
#[derive(Clone, Debug)]
pub struct Assembler {
    blob: BlobRef,
    content: Vec<u8>,
    missing: Bitmap,
}

impl Assembler {
    /// Starts a blob of at most `limit` bytes.
    pub fn new(blob: BlobRef, limit: usize) -> Result<Self, BlockError> {
        blob.check(limit)?;
        Ok(Self { blob, content: vec![0; blob.bytes as usize], missing: Bitmap::all(blob.blocks()) })
    }

    /// Which blob this is.
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// The blocks still missing.
    pub fn missing(&self) -> &Bitmap {
        &self.missing
    }

    /// Whether all blocks are there.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Takes a block; `Ok(false)` if it was there already. A refused block changes nothing.
    pub fn accept(&mut self, header: &BlockHeader, bytes: &[u8]) -> Result<bool, BlockError> {
        if header.digest != self.blob.digest {
            return Err(BlockError::OtherBlob);
        }
        let index = usize::from(header.index);
        let range = self.blob.range(index);
        if range.is_empty() || range.len() != bytes.len() {
            return Err(BlockError::Length { index: header.index, blocks: self.blob.blocks() });
        }
        if crc32fast::hash(bytes) != header.crc {
            return Err(BlockError::Crc(header.index));
        }
        if !self.missing.contains(index) {
            return Ok(false);
        }
        self.content[range].copy_from_slice(bytes);
        self.missing.remove(index);
        Ok(true)
    }

    /// The whole content, checked against its digest. Call it when [`Assembler::is_complete`].
    pub fn into_content(self) -> Result<Vec<u8>, BlockError> {
        if !self.is_complete() || Digest::of(&self.content) != self.blob.digest {
            return Err(BlockError::Digest);
        }
        Ok(self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_order_and_any_repetition_gives_the_content(length in 1_usize..200_000, order: u64) {
            let content: Vec<u8> = (0..length).map(|i| (i * 31 + i / 257) as u8).collect();
            let blob = BlobRef::of(&content);
            let mut assembler = Assembler::new(blob, MAX_BLOB_BYTES).unwrap();
            let blocks = blob.blocks();
            for turn in 0..3 * blocks {
                let index = (turn + order as usize % blocks) % blocks;
                let (header, bytes) = block(&blob, &content, index).unwrap();
                let fresh = assembler.missing().contains(index);
                prop_assert_eq!(assembler.accept(&header, bytes), Ok(fresh));
            }
            prop_assert_eq!(assembler.into_content(), Ok(content));
        }
    }

    #[test]
    fn damage_is_refused_and_changes_nothing() {
        let content = vec![7_u8; BLOCK_BYTES + 10];
        let blob = BlobRef::of(&content);
        let mut assembler = Assembler::new(blob, MAX_BLOB_BYTES).unwrap();
        let (header, bytes) = block(&blob, &content, 1).unwrap();
        let mut damaged = bytes.to_vec();
        damaged[3] ^= 1;
        assert_eq!(assembler.accept(&header, &damaged), Err(BlockError::Crc(1)));
        assert_eq!(assembler.accept(&header, &bytes[1..]), Err(BlockError::Length { index: 1, blocks: 2 }));
        let beyond = BlockHeader { index: 2, ..header };
        assert_eq!(assembler.accept(&beyond, bytes), Err(BlockError::Length { index: 2, blocks: 2 }));
        let other = BlockHeader { digest: Digest::of(b"other"), ..header };
        assert_eq!(assembler.accept(&other, bytes), Err(BlockError::OtherBlob));
        assert_eq!(assembler.missing(), &Bitmap::all(2));
        assert!(block(&blob, &content, 2).is_none());
    }

    #[test]
    fn a_claim_beyond_the_limit_allocates_nothing() {
        let claim = BlobRef { digest: Digest::of(b""), bytes: 200_000_000 };
        assert!(matches!(Assembler::new(claim, 1_000), Err(BlockError::TooLarge { limit: 1_000, .. })));
        assert!(Assembler::new(BlobRef { bytes: 0, ..claim }, 1_000).is_err());
    }

    #[test]
    fn wrong_content_with_right_blocks_is_noticed() {
        let content = vec![1_u8; 100];
        let claimed = BlobRef { digest: Digest::of(b"something else"), bytes: 100 };
        let mut assembler = Assembler::new(claimed, 1_000).unwrap();
        let (header, bytes) = block(&claimed, &content, 0).unwrap();
        assembler.accept(&header, bytes).unwrap();
        assert_eq!(assembler.into_content(), Err(BlockError::Digest));
    }
}
