//! Every limit of the wire, in one place, with its unit.

use grapevine_models::limits::{MAX_CLASSES, MAX_FEATURES};

/// Bytes of one block: below the packet limits of every broker met so far.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of one blob. Dense prototypes of 100 classes at 512 features (20.5 MB) fit; nothing the fleet needs is larger.
pub const MAX_BLOB_BYTES: usize = 64 * 1024 * 1024;
/// Blocks of the largest blob.
pub const MAX_BLOCKS: usize = MAX_BLOB_BYTES / BLOCK_BYTES;
/// Bytes of a message without its block: the enum in postcard, with the version before it.
pub const MAX_HEADER_BYTES: usize = 1_024;
/// Bytes of one frame on the wire.
pub const MAX_FRAME_BYTES: usize = MAX_HEADER_BYTES + BLOCK_BYTES;
/// Characters of a fleet's name.
pub const MAX_FLEET_ID: usize = 32;
/// Characters of a device's name.
pub const MAX_DEVICE_ID: usize = 64;
/// Characters of the hardware description in a hello.
pub const MAX_HARDWARE: usize = 96;
/// Devices one aggregator keeps in its books.
pub const MAX_DEVICES: usize = 20_000;

const _: () = assert!(MAX_BLOB_BYTES.is_multiple_of(BLOCK_BYTES));
// Block indices are `u16`.
const _: () = assert!(MAX_BLOCKS <= u16::MAX as usize);
// Both heads of the largest fleet fit one blob.
const _: () = assert!(2 * MAX_CLASSES * (MAX_FEATURES + 1) * 4 + MAX_HEADER_BYTES <= MAX_BLOB_BYTES);
// A bitmap with everything else a message holds fits a header.
const _: () = assert!(MAX_BLOCKS / 8 + MAX_DEVICE_ID + MAX_FLEET_ID + MAX_HARDWARE + 256 <= MAX_HEADER_BYTES);
const _: () = assert!(MAX_DEVICES <= grapevine_models::limits::MAX_DEVICES);
