//! What the device remembers beside its features: the pending update and the newest head.
//!
//! A record whose checksum does not fit reads as absent: each of them can be had again from the aggregator or from
//! the features, so a damaged one costs a message and not the device.

use grapevine_models::Head;
use redb::{ReadableTable, WriteTransaction};

use super::record::{entry_of, outbox_header, pack_head, parse_head, parse_outbox, seal, unseal};
use super::{Digest, RECORDS, Store, StoreError};

/// Most bytes of an update: two heads of the largest shape, with room for prototypes.
const MAX_UPDATE_BYTES: usize = 64 << 20;

const OUTBOX: &str = "outbox";
const HEAD: &str = "head";
const METHOD: &str = "method";

/// An update that waits for its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The run it belongs to.
    pub run: u64,
    /// The round it answers.
    pub round: u32,
    /// SHA-256 of `bytes`; the receipt names it.
    pub digest: Digest,
    /// The update as it goes out.
    pub bytes: Vec<u8>,
}

/// What the method keeps on this device from round to round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodState {
    /// The run it belongs to.
    pub run: u64,
    /// The round with whose update it was kept.
    pub round: u32,
    /// Whether the aggregator has that update for certain.
    pub is_confirmed: bool,
    /// The state as the protocol writes it.
    pub bytes: Vec<u8>,
}

/// The newest head this device has seen; `classify` works with it when the aggregator is away.
#[derive(Clone, Debug, PartialEq)]
pub struct NewestHead {
    /// The run it belongs to.
    pub run: u64,
    /// The round whose announcement named it: so many rounds went before.
    pub round: u32,
    /// The head for inference, f32 exact.
    pub main: Head,
    /// SHA-256 of the model's blob.
    pub digest: Digest,
}

impl Store {
    /// Keeps one update until its receipt comes; it replaces an older one, whose round is over.
    ///
    /// # Errors
    /// If the update is too large, or the store cannot be written.
    pub fn put_outbox(&self, entry: &OutboxEntry) -> Result<(), StoreError> {
        if entry.bytes.len() > MAX_UPDATE_BYTES {
            return Err(StoreError::TooLarge { bytes: entry.bytes.len(), limit: MAX_UPDATE_BYTES });
        }
        self.put_record(OUTBOX, &[&outbox_header(entry), &entry.bytes])
    }

    /// As [`Store::put_outbox`], together with what the method keeps from this update on: after a crash both are there, or
    /// neither is.
    ///
    /// # Errors
    /// If one of the two is too large, or the store cannot be written.
    pub fn put_outbox_with_state(&self, entry: &OutboxEntry, state: &MethodState) -> Result<(), StoreError> {
        let bytes = entry.bytes.len().max(state.bytes.len());
        if bytes > MAX_UPDATE_BYTES {
            return Err(StoreError::TooLarge { bytes, limit: MAX_UPDATE_BYTES });
        }
        let outbox = seal(OUTBOX, &[&outbox_header(entry), &entry.bytes]);
        let state = seal(METHOD, &[&method_header(state), &state.bytes]);
        self.database.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            records.insert(OUTBOX, outbox.as_slice())?;
            records.insert(METHOD, state.as_slice())?;
            Ok(())
        })
    }

    /// What the method keeps on this device.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn method_state(&self) -> Result<Option<MethodState>, StoreError> {
        self.record(METHOD, parse_method_state)
    }

    /// The aggregator has the update of this round: what the method kept with it is confirmed. What it kept with another one
    /// stays as it is.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn confirm_method_state(&self, round: u32) -> Result<(), StoreError> {
        if self.method_state()?.is_none_or(|state| state.round != round || state.is_confirmed) {
            return Ok(());
        }
        self.database.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            // Read again inside the transaction: another thread may have put a new one meanwhile.
            let state = records.get(METHOD)?.and_then(|record| {
                unseal(METHOD, record.value()).and_then(parse_method_state).filter(|state| state.round == round)
            });
            if let Some(state) = state {
                let record =
                    seal(METHOD, &[&method_header(&MethodState { is_confirmed: true, ..state.clone() }), &state.bytes]);
                records.insert(METHOD, record.as_slice())?;
            }
            Ok(())
        })
    }

    /// The update that waits for its receipt.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn outbox(&self) -> Result<Option<OutboxEntry>, StoreError> {
        self.record(OUTBOX, parse_outbox)
    }

    /// Forgets the pending update if it is the one of this digest, and says whether it was: a late receipt of an
    /// older update must not lose a newer one.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn empty_outbox(&self, digest: Digest) -> Result<bool, StoreError> {
        if self.record(OUTBOX, entry_of)?.is_none_or(|(_, _, pending)| pending != digest) {
            return Ok(false);
        }
        self.database.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            // Looked at again inside the transaction: another thread may have put a new update meanwhile.
            let pending = records.get(OUTBOX)?.and_then(|record| unseal(OUTBOX, record.value()).and_then(entry_of));
            let matches = pending.is_some_and(|(_, _, pending)| pending == digest);
            if matches {
                records.remove(OUTBOX)?;
            }
            Ok(matches)
        })
    }

    /// Keeps the newest head in place of the one before.
    ///
    /// # Panics
    /// If the head is not of the store's shape.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put_head(&self, newest: &NewestHead) -> Result<(), StoreError> {
        let shape = self.shape();
        assert_eq!(
            newest.main.weight.len() + newest.main.bias.len(),
            shape.parameters(),
            "a head of the store's shape"
        );
        self.put_record(HEAD, &[&pack_head(newest)])
    }

    /// The newest head, bit for bit as it was put.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn newest_head(&self) -> Result<Option<NewestHead>, StoreError> {
        let shape = self.shape();
        self.record(HEAD, |payload| parse_head(payload, shape))
    }

    /// The newest head if it is another one than `known`, and `None` if there is none or no other. Cheap while nothing
    /// changes: for whoever uses heads for a long time beside the process that stores them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn newer_head(&self, known: &NewestHead) -> Result<Option<NewestHead>, StoreError> {
        let shape = self.shape();
        self.record(HEAD, |payload| {
            let is_known = entry_of(payload) == Some((known.run, known.round, known.digest));
            if is_known { None } else { parse_head(payload, shape) }
        })
    }

    fn put_record(&self, name: &str, payload: &[&[u8]]) -> Result<(), StoreError> {
        let record = seal(name, payload);
        self.database.write(|transaction| {
            transaction.open_table(RECORDS)?.insert(name, record.as_slice())?;
            Ok(())
        })
    }

    fn record<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, StoreError> {
        self.database.read(|transaction| {
            let Some(record) = transaction.open_table(RECORDS)?.get_owned(name)? else { return Ok(None) };
            let Some(payload) = unseal(name, record.value()) else {
                tracing::warn!(record = name, "a stored record is damaged and counts as absent");
                return Ok(None);
            };
            Ok(parse(payload))
        })
    }
}

/// Forgets what belongs to one model: the head and the pending update.
pub(super) fn forget_model(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    records.remove(OUTBOX)?;
    records.remove(HEAD)?;
    records.remove(METHOD)?;
    Ok(())
}

/// Bytes of run, round, and whether it is confirmed, in front of a method's state.
const METHOD_HEADER_BYTES: usize = 8 + 4 + 1;

fn method_header(state: &MethodState) -> [u8; METHOD_HEADER_BYTES] {
    let mut header = [0; METHOD_HEADER_BYTES];
    header[..8].copy_from_slice(&state.run.to_le_bytes());
    header[8..12].copy_from_slice(&state.round.to_le_bytes());
    header[12] = state.is_confirmed.into();
    header
}

fn parse_method_state(payload: &[u8]) -> Option<MethodState> {
    let (run, rest) = payload.split_first_chunk()?;
    let (round, rest) = rest.split_first_chunk()?;
    let (&is_confirmed, bytes) = rest.split_first()?;
    Some(MethodState {
        run: u64::from_le_bytes(*run),
        round: u32::from_le_bytes(*round),
        is_confirmed: is_confirmed != 0,
        bytes: bytes.to_vec(),
    })
}
