//! Every limit of the wire, in one place, with its unit.

use grapevine_models::limits::{MAX_CLASSES, MAX_FEATURES};

/// Bytes of one block, unless the broker takes smaller ones only: below the usual packet limits of brokers.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of one blob. Dense prototypes of 100 classes at 512 features (20.5 MB) fit; nothing the fleet needs is larger.
pub const MAX_BLOB_BYTES: usize = 64 * 1024 * 1024;
/// Blocks of any blob, and of the largest one in blocks of 16 KiB.
pub const MAX_BLOCKS: usize = 4_096;
/// Bytes of a message without its block: the enum in postcard, with the version before it.
pub const MAX_HEADER_BYTES: usize = 1_024;
/// Bytes of one frame on the wire.
pub const MAX_FRAME_BYTES: usize = MAX_HEADER_BYTES + BLOCK_BYTES;
/// Characters of a fleet's name.
pub const MAX_FLEET_ID: usize = 32;
/// Characters of a device's name.
pub const MAX_DEVICE_ID: usize = 64;
/// Attributes of a device, those included that it sets by itself.
pub const MAX_ATTRIBUTES: usize = 16;
/// Characters of an attribute's name.
pub const MAX_ATTRIBUTE_NAME: usize = 20;
/// Bytes of an attribute's text.
pub const MAX_ATTRIBUTE_TEXT: usize = 32;
/// Devices one aggregator keeps in its registry.
pub const MAX_DEVICES: usize = 20_000;

/// Devices that an announcement may name one by one.
pub const MAX_NAMED_DEVICES: usize = 128;

const _: () = assert!(MAX_BLOB_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(MAX_BLOCKS * BLOCK_BYTES / 4 == MAX_BLOB_BYTES);
// Block indices are `u16`.
const _: () = assert!(MAX_BLOCKS <= u16::MAX as usize);
// Both heads of the largest fleet fit one blob.
const _: () = assert!(2 * MAX_CLASSES * (MAX_FEATURES + 1) * 4 + MAX_HEADER_BYTES <= MAX_BLOB_BYTES);
// A bitmap with everything else a message holds fits a header.
const _: () = assert!(MAX_BLOCKS / 8 + MAX_DEVICE_ID + MAX_FLEET_ID + 256 <= MAX_HEADER_BYTES);
// So does an announcement: what it says beside the names of devices takes no more than two blobs and the
// hyper-parameters do.
const _: () = assert!(MAX_NAMED_DEVICES * 5 + 2 * 40 + 256 <= MAX_HEADER_BYTES);
// So does a hello: two digests, incarnation, shape, samples and their name, and every attribute with its two lengths and
// its kind.
const _: () = assert!(2 * 32 + 42 + MAX_ATTRIBUTES * (MAX_ATTRIBUTE_NAME + MAX_ATTRIBUTE_TEXT + 3) <= MAX_HEADER_BYTES);
const _: () = assert!(MAX_DEVICES <= grapevine_models::limits::MAX_DEVICES);
