//! Every limit of what is read here, with its unit.

/// Most classes of a source: what a `u16` numbers.
pub const MAX_CLASSES: usize = 1 << 16;
/// Most folders between a class and an image.
pub const MAX_FOLDER_DEPTH: usize = 16;
/// How many times its own size an archive may unpack to, above [`FREE_BYTES`]. Images hardly compress; ten times is much.
pub const MAX_EXPANSION: u64 = 200;
/// Longest row of a table, in bytes.
pub const MAX_TABLE_ROW_BYTES: u64 = 64 << 10;

/// What any archive may unpack to, in bytes.
pub(super) const FREE_BYTES: u64 = 64 << 20;
/// Longest member name of an archive, in bytes.
pub(super) const MAX_MEMBER_NAME_BYTES: u64 = 4 << 10;
/// Largest extended header of an archive's member, in bytes.
pub(super) const MAX_EXTENDED_HEADER_BYTES: u64 = 64 << 10;
/// Most different folders of an archive.
pub(super) const MAX_ARCHIVE_FOLDERS: usize = 1 << 18;
/// Largest list of class names, in bytes.
pub(super) const MAX_NAMES_BYTES: u64 = 1 << 20;
/// Largest header of an array, in bytes: what version 1 of the format allows.
pub(super) const MAX_ARRAY_HEADER_BYTES: usize = 64 << 10;
/// Most arrays in one `.npz`.
pub(super) const MAX_ARRAYS: usize = 1_024;
/// Read from a disk at a time, in bytes.
pub(super) const BUFFER_BYTES: usize = 64 << 10;
