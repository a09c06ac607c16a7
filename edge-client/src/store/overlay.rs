//! Looks into a file that its writer did not close, without touching it: what the database writes to repair it stays
//! in memory.

use core::mem;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use redb::StorageBackend;

use super::database::CHANGED;

/// Written bytes are kept in pieces of this size.
const PIECE_BYTES: usize = 4096;

/// A file below, and what was written since above it.
#[derive(Debug)]
pub(super) struct Overlay {
    /// When the file was changed last; another time means that somebody writes it.
    modified: SystemTime,
    layers: Mutex<Layers>,
}

#[derive(Debug)]
struct Layers {
    file: File,
    /// Bytes of the file that still show; those behind it are zero until they are written.
    file_bytes: u64,
    len: u64,
    /// By number of the piece.
    written: BTreeMap<u64, Box<[u8; PIECE_BYTES]>>,
}

impl Overlay {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let len = metadata.len();
        let layers = Layers { file, file_bytes: len, len, written: BTreeMap::new() };
        Ok(Self { modified: metadata.modified()?, layers: Mutex::new(layers) })
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64> {
        Ok(self.layers().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut layers = self.layers();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > layers.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        layers.read(offset, out)?;
        // Looked at after the reading: what was read before the first change is whole.
        if layers.file.metadata()?.modified()? == self.modified {
            Ok(())
        } else {
            Err(Error::new(CHANGED, "another process has begun to write the file"))
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.layers().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.layers().write(offset, data)
    }
}

impl Layers {
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from_file = self.file_bytes.saturating_sub(offset).min(out.len() as u64) as usize;
        let (below, behind) = out.split_at_mut(from_file);
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(below)?;
        behind.fill(0);
        for (piece, place, inside) in pieces(offset, out.len()) {
            if let Some(written) = self.written.get(&piece) {
                let length = place.len();
                out[place].copy_from_slice(&written[inside..inside + length]);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.len = self.len.max(offset + data.len() as u64);
        for (piece, place, inside) in pieces(offset, data.len()) {
            let mut bytes = match self.written.remove(&piece) {
                Some(bytes) => bytes,
                None => {
                    let mut bytes = Box::new([0; PIECE_BYTES]);
                    self.read(piece * PIECE_BYTES as u64, bytes.as_mut_slice())?;
                    bytes
                }
            };
            bytes[inside..inside + place.len()].copy_from_slice(&data[place]);
            self.written.insert(piece, bytes);
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.file_bytes = self.file_bytes.min(len);
            let (last, inside) = (len / PIECE_BYTES as u64, (len % PIECE_BYTES as u64) as usize);
            drop(self.written.split_off(&(last + 1)));
            if let Some(piece) = self.written.get_mut(&last) {
                piece[inside..].fill(0);
            }
        }
        self.len = len;
    }
}

/// The pieces that `length` bytes from `offset` on touch: their number, where in the bytes, and where in the piece.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, core::ops::Range<usize>, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = (at % PIECE_BYTES as u64) as usize;
        let end = length.min(done + PIECE_BYTES - inside);
        let place = mem::replace(&mut done, end)..end;
        (!place.is_empty()).then_some((at / PIECE_BYTES as u64, place, inside))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0_u64..20_000;
        prop_oneof![
            (offset.clone(), prop::collection::vec(any::<u8>(), 1..9_000)).prop_map(|(at, data)| Step::Write(at, data)),
            offset.clone().prop_map(Step::SetLen),
            (offset, 1_usize..9_000).prop_map(|(at, length)| Step::Read(at, length)),
        ]
    }

    proptest! {
        #[test]
        fn it_reads_as_a_file_would_and_leaves_the_file_alone(
            below in prop::collection::vec(1_u8.., 0..15_000),
            steps in prop::collection::vec(step(), 1..20),
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), &below).unwrap();
            let overlay = Overlay::open(file.path()).unwrap();
            let mut plain = below.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        overlay.write(at, &data).unwrap();
                        let end = at as usize + data.len();
                        plain.resize(plain.len().max(end), 0);
                        plain[at as usize..end].copy_from_slice(&data);
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len).unwrap();
                        plain.resize(len as usize, 0);
                    }
                    Step::Read(at, length) => {
                        let mut out = vec![7; length];
                        let expected = plain.get(at as usize..at as usize + length);
                        prop_assert_eq!(overlay.read(at, &mut out).is_ok(), expected.is_some());
                        prop_assert!(expected.is_none_or(|expected| expected == out));
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), plain.len() as u64);
            }
            prop_assert_eq!(fs::read(file.path()).unwrap(), below);
        }
    }

    #[test]
    fn it_notices_that_somebody_writes_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [1; 100]).unwrap();
        let overlay = Overlay::open(file.path()).unwrap();
        let mut out = [0; 100];
        overlay.read(0, &mut out).unwrap();
        let later = overlay.modified + core::time::Duration::from_millis(1);
        File::options().write(true).open(file.path()).unwrap().set_modified(later).unwrap();
        assert_eq!(overlay.read(0, &mut out).unwrap_err().kind(), CHANGED);
    }
}
