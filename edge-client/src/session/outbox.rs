//! The update that waits for its receipt: offered again and again, sent in the blocks the aggregator asks for.

use core::time::Duration;

use grapevine_protocol::{
    BlobRef, BlockRequest, BlockSize, Offer, Receipt, RoundAnnouncement, RoundId, RunId, ToAggregator, block,
};

use super::context::Context;
use super::{Action, Event, FIRST_PAUSE, FinishedUpdate, next_pause};

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
        let blob = update.blob.named(self.block);
        self.pending = Some(Pending { update, blob, again_at: now, pause: FIRST_PAUSE });
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.pending.as_ref().map(|pending| pending.again_at)
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        if self.poll_timeout().is_some_and(|at| at <= context.now()) {
            self.offer(context);
        }
    }

    /// The round of the pending update.
    pub(super) fn round(&self) -> Option<(RunId, RoundId)> {
        self.pending.as_ref().map(|pending| (pending.update.run, pending.update.round))
    }

    /// Offers the pending update, with its first block.
    pub(super) fn offer(&mut self, context: &mut Context) {
        let Some(pending) = &mut self.pending else { return };
        pending.again_at = context.after(pending.pause);
        pending.pause = next_pause(pending.pause);
        let Some((header, bytes)) = block(&pending.blob, pending.update.blob.content(), 0) else { return };
        let offer = Offer { run: pending.update.run, round: pending.update.round, blob: pending.blob, crc: header.crc };
        context.send_block(ToAggregator::Offer(offer), bytes.to_vec());
    }

    /// After a reconnect of either side: the aggregator answers with the blocks that it has not.
    pub(super) fn resume(&mut self, context: &mut Context) {
        if let Some(pending) = &mut self.pending {
            pending.pause = FIRST_PAUSE;
        }
        self.offer(context);
    }

    /// Sends the blocks the aggregator misses.
    pub(super) fn handle_block_request(&mut self, context: &mut Context, request: &BlockRequest) {
        let Some(pending) = &mut self.pending else { return };
        if request.blob != pending.blob {
            return;
        }
        // The aggregator is at it: no need to offer again soon.
        pending.pause = FIRST_PAUSE;
        pending.again_at = context.now() + 2 * FIRST_PAUSE;
        for index in request.missing.first(MOST_BLOCKS).iter() {
            if let Some((header, bytes)) = block(&pending.blob, pending.update.blob.content(), index) {
                context.send_block(ToAggregator::Block(header), bytes.to_vec());
            }
        }
    }

    /// Whether the pending update needs no further offers.
    #[must_use]
    pub(super) fn handle_receipt(&mut self, context: &mut Context, receipt: &Receipt) -> bool {
        let is_meant = |pending: &mut Pending| {
            let FinishedUpdate { run, round, .. } = pending.update;
            (run, round, pending.blob.digest) == (receipt.run, receipt.round, receipt.digest)
        };
        if self.pending.take_if(is_meant).is_none() {
            return false;
        }
        context.act(Action::EmptyOutbox(receipt.digest));
        context.report(match receipt.refused {
            None => Event::Delivered(receipt.round),
            Some(reason) => Event::Refused(reason),
        });
        true
    }

    /// Drops an update whose round this announcement ends, and gives that round.
    #[must_use]
    pub(super) fn drop_outdated(
        &mut self,
        context: &mut Context,
        announcement: &RoundAnnouncement,
    ) -> Option<(RunId, RoundId)> {
        let is_over =
            |pending: &mut Pending| pending.update.run != announcement.run || pending.update.round < announcement.round;
        let Pending { update, blob, .. } = self.pending.take_if(is_over)?;
        context.act(Action::EmptyOutbox(blob.digest));
        context.report(Event::Outdated(update.round));
        Some((update.run, update.round))
    }

    /// `false` if there are no smaller blocks.
    #[must_use]
    pub(super) fn handle_packet_limit(&mut self, bytes: usize) -> bool {
        let Some(block) = BlockSize::below_packet(bytes).filter(|block| *block < self.block) else { return false };
        self.block = block;
        self.pending.iter_mut().for_each(|pending| pending.blob = pending.blob.in_blocks_of(block));
        true
    }
}
