//! Updates on their way in: offered by devices, fetched block by block within a bounded amount of memory.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use grapevine_protocol::{Assembler, BlobRef, BlockHeader, BlockRequest, Digest, Offer, Refusal, ToDevice};

use super::context::Ctx;
use super::device_index::DeviceIndex;

/// Blocks asked of one device at a time.
pub const WINDOW: usize = 16;
/// Blocks asked of all devices at a time: below the default queue of every broker.
const MAX_BLOCKS_IN_FLIGHT: usize = 512;
/// A window that stands still so long is asked for again.
const STALL: Duration = Duration::from_secs(2);
/// An upload that stands still so long is parked: nothing is asked for any more, and it gives way to others.
const PARK: Duration = Duration::from_secs(30);

/// All of the open round. [`Uploads::offer`] and [`Uploads::block`] give an update once it is whole; whoever takes it lets
/// others in with [`Uploads::admit`].
pub(super) struct Uploads {
    limit_bytes: usize,
    bytes: usize,
    active: BTreeMap<DeviceIndex, Upload>,
    waiting: VecDeque<(DeviceIndex, BlobRef)>,
}

/// All blocks of an update are here.
#[must_use]
pub(super) struct Fetched {
    pub(super) digest: Digest,
    /// Why not, if together they are not what was offered.
    pub(super) content: Result<Vec<u8>, Refusal>,
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

    /// Bytes of updates on their way in: what they were announced with, which is what memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Updates that wait for room; they take none but their names.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
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

    /// An update is ready at a device, and the open round waits for it. Its first block came along.
    pub(super) fn offer(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: DeviceIndex,
        offer: &Offer,
        first: &[u8],
    ) -> Option<Fetched> {
        let is_active = self.active.get(&index).is_some_and(|upload| upload.assembler.blob() == offer.blob);
        if !is_active {
            // An update of one block needs no room: it is here.
            let has_room = offer.blob.blocks() == 1 || self.make_room(&offer.blob);
            self.waiting.retain(|(waiting, _)| *waiting != index);
            if !has_room {
                self.waiting.push_back((index, offer.blob));
                return None;
            }
            // The length was checked when the round was asked whether it waits for it.
            let assembler = Assembler::new(offer.blob, offer.blob.bytes as usize).ok()?;
            self.insert(index, assembler, ctx.now);
        }
        self.unpark(index, ctx.now);
        let header = BlockHeader { digest: offer.blob.digest, index: 0, crc: offer.crc };
        let fetched = self.block(ctx, index, &header, first);
        if self.active.get(&index).is_some_and(|upload| upload.outstanding == 0) {
            self.ask(ctx, index);
        }
        fetched
    }

    /// A block of an update. One that nobody asked for, or asked for too long ago, is counted and dropped.
    pub(super) fn block(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: DeviceIndex,
        header: &BlockHeader,
        bytes: &[u8],
    ) -> Option<Fetched> {
        let Some(upload) = self.active.get_mut(&index) else {
            ctx.count(index, Refusal::Block);
            return None;
        };
        match upload.assembler.accept(header, bytes) {
            Ok(true) => {
                upload.outstanding = upload.outstanding.saturating_sub(1);
                (upload.asked_at, upload.progress_at, upload.is_parked) = (ctx.now, ctx.now, false);
            }
            Ok(false) => return None,
            Err(error) => {
                ctx.count(index, error.refusal());
                return None;
            }
        }
        if upload.assembler.is_complete() {
            let assembler = self.remove(index)?;
            let digest = assembler.blob().digest;
            return Some(Fetched { digest, content: assembler.into_content().map_err(|_| Refusal::Digest) });
        }
        if upload.outstanding == 0 && header.index > 0 {
            self.ask(ctx, index);
        }
        None
    }

    /// Asks again for what does not come, and parks what is hopeless.
    pub(super) fn revive(&mut self, ctx: &mut Ctx<'_>) {
        let stalled: Vec<(DeviceIndex, bool)> = self
            .active
            .iter()
            .filter(|(_, upload)| !upload.is_parked && upload.asked_at + STALL <= ctx.now)
            .map(|(index, upload)| (*index, upload.progress_at + PARK <= ctx.now))
            .collect();
        for (index, is_hopeless) in stalled {
            if is_hopeless && let Some(upload) = self.active.get_mut(&index) {
                (upload.is_parked, upload.outstanding) = (true, 0);
            } else {
                self.ask(ctx, index);
            }
        }
        self.admit(ctx);
    }

    /// Lets in what waits, as far as there is room.
    pub(super) fn admit(&mut self, ctx: &mut Ctx<'_>) {
        while let Some((index, blob)) = self.waiting.pop_front() {
            if !self.make_room(&blob) {
                return self.waiting.push_front((index, blob));
            }
            if let Ok(assembler) = Assembler::new(blob, blob.bytes as usize) {
                self.insert(index, assembler, ctx.now);
                self.ask(ctx, index);
            }
        }
    }

    fn ask(&mut self, ctx: &mut Ctx<'_>, index: DeviceIndex) {
        let Some(upload) = self.active.get_mut(&index) else { return };
        let missing = upload.assembler.missing().first(WINDOW);
        upload.outstanding = missing.count();
        upload.asked_at = ctx.now;
        let request = BlockRequest { blob: upload.assembler.blob(), missing };
        ctx.send(index, ToDevice::BlockRequest(request));
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
