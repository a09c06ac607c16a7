//! Updates on their way in: offered by devices, fetched block by block within a bounded amount of memory.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use grapevine_protocol::{Assembler, BlobRef, BlockHeader, BlockRequest, Offer, Receipt, Refusal, ToDevice};

use super::device_index::DeviceIndex;
use super::{Coordinator, Phase};

/// Blocks asked of one device at a time.
pub const WINDOW: usize = 16;
/// Blocks asked of all devices at a time: below the default queue of every broker.
const MAX_BLOCKS_IN_FLIGHT: usize = 512;
/// A window that stands still so long is asked for again.
const STALL: Duration = Duration::from_secs(2);
/// An upload that stands still so long is parked: nothing is asked for any more, and it gives way to others.
const PARK: Duration = Duration::from_secs(30);

pub(super) struct Uploads {
    limit_bytes: usize,
    bytes: usize,
    active: BTreeMap<DeviceIndex, Upload>,
    waiting: VecDeque<(DeviceIndex, BlobRef)>,
}

struct Upload {
    assembler: Assembler,
    /// Blocks of the current window that have not come yet.
    outstanding: usize,
    asked_at: Duration,
    progress_at: Duration,
    /// Its device is away. Its next offer goes on with the blocks that are here.
    is_parked: bool,
}

impl Uploads {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, bytes: 0, active: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Forgets all: their round is over.
    pub(super) fn clear(&mut self) {
        self.active.clear();
        self.waiting.clear();
        self.bytes = 0;
    }

    /// A device is not heard any more.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        self.remove(index);
        self.waiting.retain(|(waiting, _)| *waiting != index);
    }

    /// Whether an update of this device is on its way.
    pub(super) fn has(&self, index: DeviceIndex) -> bool {
        self.active.contains_key(&index) || self.waiting.iter().any(|(waiting, _)| *waiting == index)
    }

    pub(super) fn again_at(&self) -> Option<Duration> {
        self.active.values().filter(|upload| !upload.is_parked).map(|upload| upload.asked_at + STALL).min()
    }

    /// One upload is always let in, so that an update larger than the limit is slow and not impossible.
    fn has_room(&self, blob: &BlobRef) -> bool {
        let in_flight: usize = self.active.values().map(|upload| upload.outstanding).sum();
        let fits = self.bytes + blob.bytes as usize <= self.limit_bytes;
        self.active.is_empty() || (fits && in_flight + WINDOW.min(blob.blocks()) <= MAX_BLOCKS_IN_FLIGHT)
    }

    /// As [`has_room`](Self::has_room), after parked uploads have given way, the longest parked first.
    fn make_room(&mut self, blob: &BlobRef) -> bool {
        while !self.has_room(blob) {
            let parked = self.active.iter().filter(|(_, upload)| upload.is_parked);
            let Some(index) = parked.min_by_key(|(_, upload)| upload.progress_at).map(|(index, _)| *index) else {
                return false;
            };
            self.remove(index);
        }
        true
    }

    fn insert(&mut self, index: DeviceIndex, assembler: Assembler, now: Duration) {
        self.remove(index);
        self.bytes += assembler.blob().bytes as usize;
        let upload = Upload { assembler, outstanding: 0, asked_at: now, progress_at: now, is_parked: false };
        self.active.insert(index, upload);
    }

    fn unpark(&mut self, index: DeviceIndex, now: Duration) {
        if let Some(upload) = self.active.get_mut(&index).filter(|upload| upload.is_parked) {
            (upload.is_parked, upload.outstanding, upload.progress_at) = (false, 0, now);
        }
    }

    fn remove(&mut self, index: DeviceIndex) -> Option<Assembler> {
        let upload = self.active.remove(&index)?;
        self.bytes -= upload.assembler.blob().bytes as usize;
        Some(upload.assembler)
    }
}

impl Coordinator {
    /// Bytes of updates on their way in: what they were announced with, which is what memory they take.
    pub fn upload_bytes(&self) -> usize {
        self.uploads.bytes
    }

    /// Updates that wait for room; they take none but their names.
    pub fn uploads_waiting(&self) -> usize {
        self.uploads.waiting.len()
    }

    /// An update is ready at a device; its first block came along.
    pub(super) fn handle_offer(&mut self, now: Duration, index: DeviceIndex, offer: &Offer, first: &[u8]) {
        let digest = offer.blob.digest;
        if self.is_stored(index, offer) {
            // Perhaps its receipt was lost, perhaps somebody else says it again: the sum has it once.
            self.count_of(index, Refusal::Replayed);
            let receipt = Receipt { run: offer.run, round: offer.round, digest, refused: None };
            return self.send(index, ToDevice::Receipt(receipt));
        }
        if let Err(reason) = self.place_offer(index, offer) {
            self.refuse_update(index, offer.run, offer.round, digest, reason);
            if matches!(reason, Refusal::WrongRun | Refusal::WrongRound | Refusal::Late | Refusal::Stale) {
                self.tell_one(index);
            }
            return;
        }
        let is_active = self.uploads.active.get(&index).is_some_and(|upload| upload.assembler.blob() == offer.blob);
        if !is_active {
            // An update of one block needs no room: it is here.
            if offer.blob.blocks() > 1 && !self.uploads.make_room(&offer.blob) {
                self.uploads.waiting.retain(|(waiting, _)| *waiting != index);
                return self.uploads.waiting.push_back((index, offer.blob));
            }
            self.uploads.waiting.retain(|(waiting, _)| *waiting != index);
            // The length was checked with the offer's place.
            let Ok(assembler) = Assembler::new(offer.blob, offer.blob.bytes as usize) else { return };
            self.uploads.insert(index, assembler, now);
        }
        self.uploads.unpark(index, now);
        self.handle_block(now, index, &BlockHeader { digest, index: 0, crc: offer.crc }, first);
        if self.uploads.active.get(&index).is_some_and(|upload| upload.outstanding == 0) {
            self.ask_blocks(now, index);
        }
    }

    /// A block of an update. One that nobody asked for, or asked for too long ago, is counted and dropped.
    pub(super) fn handle_block(&mut self, now: Duration, index: DeviceIndex, header: &BlockHeader, bytes: &[u8]) {
        let Some(upload) = self.uploads.active.get_mut(&index) else {
            return self.count_of(index, Refusal::Block);
        };
        match upload.assembler.accept(header, bytes) {
            Ok(true) => {
                upload.outstanding = upload.outstanding.saturating_sub(1);
                (upload.asked_at, upload.progress_at, upload.is_parked) = (now, now, false);
            }
            Ok(false) => return,
            Err(error) => return self.count_of(index, error.refusal()),
        }
        if upload.assembler.is_complete() {
            self.end_upload(now, index);
        } else if upload.outstanding == 0 && header.index > 0 {
            self.ask_blocks(now, index);
        }
    }

    pub(super) fn revive_uploads(&mut self, now: Duration) {
        let stalled: Vec<(DeviceIndex, bool)> = self
            .uploads
            .active
            .iter()
            .filter(|(_, upload)| !upload.is_parked && upload.asked_at + STALL <= now)
            .map(|(index, upload)| (*index, upload.progress_at + PARK <= now))
            .collect();
        for (index, is_hopeless) in stalled {
            if is_hopeless && let Some(upload) = self.uploads.active.get_mut(&index) {
                (upload.is_parked, upload.outstanding) = (true, 0);
            } else {
                self.ask_blocks(now, index);
            }
        }
        self.admit_waiting(now);
    }

    fn end_upload(&mut self, now: Duration, index: DeviceIndex) {
        let Some(assembler) = self.uploads.remove(index) else { return };
        let digest = assembler.blob().digest;
        match assembler.into_content() {
            Ok(content) => self.take_content(index, digest, content),
            Err(_) => {
                let Phase::Collecting(collecting) = &self.phase else { return };
                let (run, round) = (collecting.announcement.run, collecting.announcement.round);
                self.refuse_update(index, run, round, digest, Refusal::Digest);
            }
        }
        self.admit_waiting(now);
    }

    fn admit_waiting(&mut self, now: Duration) {
        while let Some((index, blob)) = self.uploads.waiting.pop_front() {
            if !self.uploads.make_room(&blob) {
                return self.uploads.waiting.push_front((index, blob));
            }
            if let Ok(assembler) = Assembler::new(blob, blob.bytes as usize) {
                self.uploads.insert(index, assembler, now);
                self.ask_blocks(now, index);
            }
        }
    }

    fn ask_blocks(&mut self, now: Duration, index: DeviceIndex) {
        let Some(upload) = self.uploads.active.get_mut(&index) else { return };
        let missing = upload.assembler.missing().first(WINDOW);
        upload.outstanding = missing.count();
        upload.asked_at = now;
        let request = BlockRequest { blob: upload.assembler.blob(), missing };
        self.send(index, ToDevice::BlockRequest(request));
    }
}
