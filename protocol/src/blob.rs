//! Blobs: contents too large for one message, cut into blocks with a crc each and put together again in any order.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::bitmap::Bitmap;
use crate::ids::Digest;
use crate::limits::{BLOCK_BYTES, MAX_BLOB_BYTES, MAX_BLOCKS, MAX_HEADER_BYTES};
use crate::messages::BlockHeader;
use crate::refusal::Refusal;

/// The name of a blob: its digest, its length and the size of its blocks. Whoever holds it can ask for the blocks and
/// check the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub bytes: u32,
    /// How it is cut: as its sender's broker allows.
    pub block: BlockSize,
}

/// Bytes of a block. Only a broker that refuses larger packets makes a sender choose a small one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockSize {
    /// 4 KiB.
    Kib4,
    /// 8 KiB.
    Kib8,
    /// 16 KiB, which holds the largest blob in [`MAX_BLOCKS`].
    Kib16,
    /// 32 KiB.
    Kib32,
    /// [`BLOCK_BYTES`], unless there is a reason for another one.
    #[default]
    Kib64,
}

impl BlockSize {
    /// Every size, the smallest first.
    pub const ALL: [Self; 5] = [Self::Kib4, Self::Kib8, Self::Kib16, Self::Kib32, Self::Kib64];

    /// In bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Kib4 => BLOCK_BYTES / 16,
            Self::Kib8 => BLOCK_BYTES / 8,
            Self::Kib16 => BLOCK_BYTES / 4,
            Self::Kib32 => BLOCK_BYTES / 2,
            Self::Kib64 => BLOCK_BYTES,
        }
    }

    /// The largest size whose packets are smaller than one of so many bytes that did not pass; `None` if there is none.
    pub fn below_packet(bytes: usize) -> Option<Self> {
        let is_smaller = |size: &Self| size.bytes() + MAX_HEADER_BYTES < bytes;
        Self::ALL.into_iter().rev().find(is_smaller)
    }
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
    /// Cut into blocks so small that there are too many.
    #[error("a blob of {0} blocks was claimed; at most {MAX_BLOCKS} are allowed")]
    Blocks(usize),
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
            Self::TooLarge { .. } | Self::Blocks(_) => Refusal::TooLarge,
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
        Self { digest: Digest::of(content), bytes: content.len() as u32, block: BlockSize::default() }
    }

    /// The same content cut into blocks of this size, or of the smallest one above it that gives no more than
    /// [`MAX_BLOCKS`].
    #[must_use]
    pub fn in_blocks_of(self, block: BlockSize) -> Self {
        let cut = |block| Self { block, ..self };
        let fits = |block: &BlockSize| cut(*block).blocks() <= MAX_BLOCKS;
        let block = BlockSize::ALL.into_iter().filter(|size| *size >= block).find(fits).unwrap_or_default();
        cut(block)
    }

    /// Whether it is the same content, however it is cut.
    pub fn is_content_of(&self, other: &Self) -> bool {
        (self.digest, self.bytes) == (other.digest, other.bytes)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        (self.bytes as usize).div_ceil(self.block.bytes())
    }

    /// Refuses what is empty, longer than `limit` bytes, or cut into more than [`MAX_BLOCKS`].
    ///
    /// # Errors
    /// If the blob is one of these.
    pub fn check(&self, limit: usize) -> Result<(), BlockError> {
        match self.bytes {
            0 => Err(BlockError::Empty),
            bytes if bytes as usize > limit.min(MAX_BLOB_BYTES) => {
                Err(BlockError::TooLarge { bytes, limit: limit.min(MAX_BLOB_BYTES) })
            }
            _ if self.blocks() > MAX_BLOCKS => Err(BlockError::Blocks(self.blocks())),
            _ => Ok(()),
        }
    }

    /// Where a block lies in the content; empty for an index beyond the end.
    fn range(&self, index: usize) -> core::ops::Range<usize> {
        let (end, block) = (self.bytes as usize, self.block.bytes());
        let start = (index * block).min(end);
        start..(start + block).min(end)
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
    ///
    /// # Errors
    /// If the blob is empty, longer than `limit`, or cut into too many blocks.
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
    ///
    /// # Errors
    /// If the block is of another blob, does not have the length that its index demands, or is damaged.
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
    ///
    /// # Errors
    /// If a block is missing, or the content does not have the digest that was announced.
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
        fn any_order_and_any_repetition_gives_the_content(length in 1_usize..200_000, order: u64, size in 0..5_usize) {
            let content: Vec<u8> = (0..length).map(|i| (i * 31 + i / 257) as u8).collect();
            let blob = BlobRef::of(&content).in_blocks_of(BlockSize::ALL[size]);
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
        let claim = BlobRef { bytes: 200_000_000, ..BlobRef::of(b"") };
        assert!(matches!(Assembler::new(claim, 1_000), Err(BlockError::TooLarge { limit: 1_000, .. })));
        assert!(Assembler::new(BlobRef { bytes: 0, ..claim }, 1_000).is_err());
        let crumbs = BlobRef { bytes: 40_000_000, block: BlockSize::Kib4, ..claim };
        assert_eq!(Assembler::new(crumbs, MAX_BLOB_BYTES).unwrap_err(), BlockError::Blocks(9_766));
        assert_eq!(crumbs.in_blocks_of(BlockSize::Kib4).block, BlockSize::Kib16);
    }

    #[test]
    fn wrong_content_with_right_blocks_is_noticed() {
        let content = vec![1_u8; 100];
        let claimed = BlobRef { bytes: 100, ..BlobRef::of(b"something else") };
        let mut assembler = Assembler::new(claimed, 1_000).unwrap();
        let (header, bytes) = block(&claimed, &content, 0).unwrap();
        assembler.accept(&header, bytes).unwrap();
        assert_eq!(assembler.into_content(), Err(BlockError::Digest));
    }

    #[test]
    fn a_packet_that_does_not_pass_is_followed_by_a_smaller_one() {
        let mut size = BlockSize::default();
        let mut tried = vec![size];
        while let Some(next) = BlockSize::below_packet(size.bytes() + 150) {
            size = next;
            tried.push(size);
        }
        assert_eq!(tried.iter().rev().copied().collect::<Vec<_>>(), BlockSize::ALL);
    }
}
