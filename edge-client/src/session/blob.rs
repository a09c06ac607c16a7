//! An update's bytes with their digest, which is computed once.

use grapevine_protocol::{BlobRef, BlockSize, Digest};

/// Bytes and their SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    content: Vec<u8>,
    digest: Digest,
}

impl Blob {
    /// Computes the digest of `content`.
    pub fn of(content: Vec<u8>) -> Self {
        Self { digest: Digest::of(&content), content }
    }

    /// Of content whose digest was kept beside it, under a checksum of both.
    pub fn kept(content: Vec<u8>, digest: Digest) -> Self {
        Self { content, digest }
    }

    /// The bytes.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Their SHA-256.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How messages name it, cut into blocks of this size.
    pub(super) fn named(&self, block: BlockSize) -> BlobRef {
        let bytes = u32::try_from(self.content.len()).expect("an update is at most MAX_BLOB_BYTES long");
        BlobRef { digest: self.digest, bytes, block: BlockSize::default() }.in_blocks_of(block)
    }
}
