//! A disk in memory that remembers everything that is asked of it, and can be full.

use core::ops::Bound;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{BackendError, ReadableTable, StorageBackend};

use super::*;
use crate::store::database::open_backend;
use crate::store::features::counts_in;
use crate::store::record::split_sample_key;

/// Blocks of a full disk.
const BLOCK: u64 = 4096;

/// What changes a disk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// When a change fails for want of room.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Room {
    /// Never.
    #[default]
    Enough,
    /// The change with this number and no other, whatever it is; half of a write is done.
    NoneFor(usize),
    /// From the change with this number on, each that needs a block that the file does not have.
    NoneFrom(usize),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    blocks: BTreeSet<u64>,
    changes: Vec<Change>,
    room: Room,
}

impl Disk {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let blocks = (0..bytes.len().div_ceil(BLOCK as usize) as u64).collect();
        Self(Arc::new(Mutex::new(State { bytes, blocks, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state().changes.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state().changes.len()
    }

    /// Of the blocks that were ever written and not cut off: what a file with holes takes.
    pub(crate) fn used_bytes(&self) -> u64 {
        let state = self.state();
        let len = state.bytes.len() as u64;
        state.blocks.iter().filter(|&&block| block * BLOCK < len).count() as u64 * BLOCK
    }

    pub(crate) fn set_room(&self, room: Room) {
        self.state().room = room;
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state();
        let number = state.changes.len();
        let blocks = match &change {
            Change::Write(at, data) => at / BLOCK..(at + data.len() as u64).div_ceil(BLOCK),
            Change::SetLen(_) | Change::Sync => 0..0,
        };
        let fails = match state.room {
            Room::Enough => false,
            Room::NoneFor(refused) => number == refused,
            Room::NoneFrom(first) => number >= first && blocks.clone().any(|block| !state.blocks.contains(&block)),
        };
        let done = match (&change, fails) {
            (Change::Write(at, data), true) => Some(Change::Write(*at, data[..data.len() / 2].to_vec())),
            (Change::SetLen(_) | Change::Sync, true) => None,
            (_, false) => Some(change.clone()),
        };
        if let Some(done) = &done {
            apply(&mut state.bytes, done);
        }
        if !fails {
            state.blocks.extend(blocks);
        }
        state.changes.push(change);
        if fails { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// Makes one change to the bytes of a disk.
pub(crate) fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let at = *at as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
        Change::Sync => {}
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let bytes = state.bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Change::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}

/// A store on this disk, opened as a file would be.
pub(crate) fn open_on(disk: &Disk, identity: &StoreIdentity) -> Result<Store, StoreError> {
    let (disk, settled) = (disk.clone(), identity.clone());
    Store::over(Path::new("disk"), identity.shape, move || {
        let opened = open_backend(Path::new("disk"), || Ok(disk.clone()))?;
        settle(Path::new("disk"), &opened, &settled)?;
        Ok(opened)
    })
}

/// Everything that a store holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contents {
    dataset: Dataset,
    head: Option<NewestHead>,
    outbox: Option<OutboxEntry>,
}

impl Contents {
    pub(crate) fn of(store: &Store) -> Self {
        let dataset = store.load_all().unwrap();
        assert_eq!(*store.samples().unwrap(), dataset, "what is in memory is what is on the disk");
        Self { dataset, head: store.newest_head().unwrap(), outbox: store.outbox().unwrap() }
    }

    pub(crate) fn samples(&self) -> usize {
        self.dataset.labels.len()
    }
}

/// What must hold in every store: each sample is there once, whole, under its label, and counted.
#[track_caller]
pub(crate) fn check(store: &Store) {
    let classes = store.shape().classes();
    let (counts, by_label, labels) = store
        .database
        .read(|transaction| {
            let counts = counts_in(&transaction.open_table(STATE)?, classes)?;
            let mut by_label = BTreeSet::new();
            for entry in transaction.open_table(SAMPLES)?.iter()? {
                let (label, digest) = split_sample_key(entry?.0.value());
                by_label.insert((label, digest));
            }
            let mut labels = BTreeSet::new();
            for entry in transaction.open_table(LABELS)?.iter()? {
                let (digest, label) = entry?;
                labels.insert((label.value(), *digest.value()));
            }
            Ok((counts, by_label, labels))
        })
        .unwrap();
    assert_eq!(by_label, labels, "each sample has its label and each label its sample");
    let digests: BTreeSet<Digest> = by_label.iter().map(|&(_, digest)| digest).collect();
    assert_eq!(digests.len(), by_label.len(), "no content is there twice");
    let counted: Vec<u32> = (0..classes)
        .map(|class| by_label.iter().filter(|(label, _)| usize::from(*label) == class).count() as u32)
        .collect();
    assert_eq!(counts, counted);
    let dataset = store.load_all().unwrap();
    assert_eq!((dataset.labels.len(), dataset.damaged), (by_label.len(), 0));
}
