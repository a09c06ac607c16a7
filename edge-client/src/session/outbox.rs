//! The update that waits for its receipt: offered again and again, sent in the blocks the aggregator asks for.

use core::time::Duration;

use grapevine_protocol::{BlobRef, BlockRequest, BlockSize, Digest, Offer, RoundId, RunId, ToAggregator, block};

use super::greeting::Link;
use super::{FIRST_PAUSE, FinishedUpdate, Session, next_pause};

/// Blocks sent for one request; the aggregator asks for fewer.
const MOST_BLOCKS: usize = 64;

/// At most one update is pending; a device works on one round at a time.
pub(super) struct Outbox {
    pending: Option<Pending>,
    /// How updates are cut: as the broker allows.
    block: BlockSize,
}

struct Pending {
    update: FinishedUpdate,
    blob: BlobRef,
    again_at: Duration,
    pause: Duration,
}

impl Outbox {
    pub(super) fn new(update: Option<FinishedUpdate>) -> Self {
        let mut outbox = Self { pending: None, block: BlockSize::default() };
        if let Some(update) = update {
            outbox.put(update, Duration::ZERO);
        }
        outbox
    }

    pub(super) fn put(&mut self, update: FinishedUpdate, now: Duration) {
        let blob = BlobRef::of(&update.content).in_blocks_of(self.block);
        self.pending = Some(Pending { update, blob, again_at: now, pause: FIRST_PAUSE });
    }

    pub(super) fn empty(&mut self) {
        self.pending = None;
    }

    pub(super) fn again_at(&self) -> Option<Duration> {
        self.pending.as_ref().map(|pending| pending.again_at)
    }

    pub(super) fn digest(&self) -> Option<Digest> {
        self.pending.as_ref().map(|pending| pending.blob.digest)
    }

    pub(super) fn round(&self) -> Option<(RunId, RoundId)> {
        self.pending.as_ref().map(|pending| (pending.update.run, pending.update.round))
    }
}

impl Session {
    /// Offers the pending update, with its first block, if the aggregator listens.
    pub(super) fn send_offer(&mut self, now: Duration) {
        if self.link != Link::Welcome {
            return;
        }
        let Some(pause) = self.outbox.pending.as_ref().map(|pending| pending.pause) else { return };
        let again_at = now + self.jittered(pause);
        let Some(pending) = &mut self.outbox.pending else { return };
        pending.again_at = again_at;
        pending.pause = next_pause(pending.pause);
        let Some((header, bytes)) = block(&pending.blob, &pending.update.content, 0) else { return };
        let offer = Offer { run: pending.update.run, round: pending.update.round, blob: pending.blob, crc: header.crc };
        let bytes = bytes.to_vec();
        self.send_block(ToAggregator::Offer(offer), bytes);
    }

    /// The broker does not take packets of so many bytes: from now on blocks are smaller. `false` if there are no smaller
    /// ones.
    pub fn handle_packet_limit(&mut self, bytes: usize) -> bool {
        let outbox = &mut self.outbox;
        let Some(block) = BlockSize::below_packet(bytes).filter(|block| *block < outbox.block) else { return false };
        outbox.block = block;
        outbox.pending.iter_mut().for_each(|pending| pending.blob = pending.blob.in_blocks_of(block));
        true
    }

    /// After a reconnect of either side: the aggregator answers with the blocks that it has not.
    pub(super) fn resume_offer(&mut self, now: Duration) {
        if let Some(pending) = &mut self.outbox.pending {
            pending.pause = FIRST_PAUSE;
        }
        self.send_offer(now);
    }

    /// Sends the blocks the aggregator misses.
    pub(super) fn handle_block_request(&mut self, now: Duration, request: &BlockRequest) {
        let Some(pending) = &mut self.outbox.pending else { return };
        if request.blob != pending.blob {
            return;
        }
        // The aggregator is at it: no need to offer again soon.
        pending.pause = FIRST_PAUSE;
        pending.again_at = now + 2 * FIRST_PAUSE;
        let blocks: Vec<_> = request
            .missing
            .first(MOST_BLOCKS)
            .iter()
            .filter_map(|index| block(&pending.blob, &pending.update.content, index))
            .map(|(header, bytes)| (header, bytes.to_vec()))
            .collect();
        for (header, bytes) in blocks {
            self.send_block(ToAggregator::Block(header), bytes);
        }
    }
}
