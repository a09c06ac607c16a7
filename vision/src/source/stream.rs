//! Files as streams of bytes: what they begin with, unpacked on the way, and never more than they may hold.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::error::{Expanded, SourceError};
use super::limits::{BUFFER_BYTES, FREE_BYTES, MAX_EXPANSION};

/// What a file begins with, once unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Magic {
    Tar,
    Idx,
    Zip,
    Unknown,
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// An empty `.npz` begins with the end of its list.
const ZIP: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];
/// Unsigned bytes in one to four dimensions.
const IDX: [u8; 3] = [0, 0, 8];
const TAR_BLOCK: usize = 512;
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// Looks at the first bytes of a file.
pub(super) fn magic(path: &Path) -> Result<Magic, SourceError> {
    let mut head = [0; TAR_BLOCK];
    let mut stream = open(path)?;
    let length = fill(&mut stream, &mut head).map_err(|error| SourceError::reading(path, None, &error))?;
    let head = &head[..length];
    Ok(if ZIP.iter().any(|magic| head.starts_with(magic)) {
        Magic::Zip
    } else if head.starts_with(&IDX) && matches!(head.get(3), Some(1..=4)) {
        Magic::Idx
    } else if is_tar(head) {
        Magic::Tar
    } else {
        Magic::Unknown
    })
}

/// The bytes of a file, unpacked if it is a gzip file, up to what such a file may unpack to.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, SourceError> {
    let open = || {
        let file = File::open(path)?;
        let packed_bytes = file.metadata()?.len();
        let mut head = [0; GZIP.len()];
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let length = fill(&mut file, &mut head)?;
        let whole = io::Cursor::new(head).take(length as u64).chain(file);
        Ok(if head != GZIP {
            Box::new(whole) as Box<dyn Read>
        } else {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, bounded(MultiGzDecoder::new(whole), packed_bytes)))
        })
    };
    open().map_err(|source| SourceError::open(path, source))
}

/// What a stream of so many packed bytes may unpack to.
pub(super) fn bounded<R: Read>(inner: R, packed_bytes: u64) -> impl Read {
    Bounded { inner, left: packed_bytes.saturating_mul(MAX_EXPANSION).saturating_add(FREE_BYTES) }
}

/// Reads until `buffer` is full or the stream ends; gives how many bytes that were.
pub(super) fn fill(stream: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Old archives have no magic; their first header has a checksum.
fn is_tar(head: &[u8]) -> bool {
    let (offset, magic) = TAR_MAGIC;
    if head.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
        return true;
    }
    let Ok(header) = <[u8; TAR_BLOCK]>::try_from(head) else { return false };
    let mut expected = tar::Header::from_byte_slice(&header).clone();
    let Ok(stored) = expected.cksum() else { return false };
    expected.set_cksum();
    stored > 0 && expected.cksum().is_ok_and(|sum| sum == stored)
}

/// Ends with an error instead of giving more than it may.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(Expanded))?;
        Ok(count)
    }
}
