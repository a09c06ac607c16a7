//! Fetching the fleet's heads and side information, block by block.

use core::time::Duration;
use std::sync::Arc;

use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{Assembler, Bitmap, BlobRef, BlockHeader, BlockRequest, ToAggregator};

use super::{Action, Event, FIRST_PAUSE, Session, next_pause};

/// Blocks asked for at a time: 2 MiB, little enough for any broker's queue.
pub const WINDOW: usize = 32;

/// One blob on its way to this device.
pub(super) struct Download {
    kind: BlobKind,
    assembler: Assembler,
    /// Blocks of the current window that have not come yet.
    outstanding: Bitmap,
    again_at: Duration,
    pause: Duration,
}

impl Download {
    pub(super) fn again_at(&self) -> Duration {
        self.again_at
    }
}

impl Session {
    /// Follows the blob's topic and asks for the first blocks. `limit` is the most bytes such a blob can have.
    pub(super) fn begin_download(&mut self, now: Duration, kind: BlobKind, blob: BlobRef, limit: usize) {
        let assembler = match Assembler::new(blob, limit) {
            Ok(assembler) => assembler,
            Err(error) => {
                // An announcement that names an impossible blob cannot be followed; the round goes on without this device.
                self.answered = self.announcement.as_ref().map(|announcement| (announcement.run, announcement.round));
                return self.report(Event::Ignored(error.refusal()));
            }
        };
        self.actions.push_back(Action::Follow(kind));
        let outstanding = Bitmap::none(blob.blocks());
        self.download = Some(Download { kind, assembler, outstanding, again_at: now, pause: FIRST_PAUSE });
        self.ask(now);
    }

    /// Asks for the next missing blocks, or again for those that did not come.
    pub(super) fn ask(&mut self, now: Duration) {
        let Some(pause) = self.download.as_ref().map(|download| download.pause) else { return };
        let again_at = now + self.jittered(pause);
        let Some(download) = &mut self.download else { return };
        download.again_at = again_at;
        download.pause = next_pause(download.pause);
        let missing = download.assembler.missing().first(WINDOW);
        download.outstanding = missing.clone();
        let request = BlockRequest { blob: download.assembler.blob(), missing };
        self.send(ToAggregator::BlockRequest(request));
    }

    /// After a reconnect of either side: asks for what is still missing, and for nothing that is here.
    pub(super) fn resume_download(&mut self, now: Duration) {
        if let Some(download) = &mut self.download {
            download.pause = FIRST_PAUSE;
            self.ask(now);
        }
    }

    /// Blocks also come because somebody else asked for them; they are as welcome.
    pub(super) fn handle_block(&mut self, now: Duration, header: &BlockHeader, block: &[u8]) {
        let Some(download) = &mut self.download else { return };
        if header.digest != download.assembler.blob().digest {
            // Late blocks of the round before, for somebody slower.
            return;
        }
        match download.assembler.accept(header, block) {
            Ok(true) => {
                download.outstanding.remove(usize::from(header.index));
                download.pause = FIRST_PAUSE;
                download.again_at = now + FIRST_PAUSE;
            }
            Ok(false) => return,
            Err(error) => return self.report(Event::Ignored(error.refusal())),
        }
        if download.assembler.is_complete() {
            self.end_download(now);
        } else if download.outstanding.is_empty() {
            self.ask(now);
        }
    }

    /// After another announcement: a blob that it names too goes on where it is, any other is given up.
    pub(super) fn review_download(&mut self) {
        let is_named = |download: &Download| {
            let named = self.announcement.as_ref().and_then(|announcement| match download.kind {
                BlobKind::Heads => announcement.heads,
                BlobKind::SideInformation => announcement.side_information,
            });
            named == Some(download.assembler.blob())
        };
        if self.download.as_ref().is_none_or(is_named) {
            return;
        }
        if let Some(download) = self.download.take() {
            self.actions.push_back(Action::Unfollow(download.kind));
        }
    }

    fn end_download(&mut self, now: Duration) {
        let Some(download) = self.download.take() else { return };
        let blob = download.assembler.blob();
        self.actions.push_back(Action::Unfollow(download.kind));
        match download.assembler.into_content() {
            Ok(content) => {
                let content: Arc<[u8]> = content.into();
                let slot = match download.kind {
                    BlobKind::Heads => &mut self.heads,
                    BlobKind::SideInformation => &mut self.side_information,
                };
                *slot = Some((blob, content));
            }
            // Every block had its crc and the whole is still wrong: start over.
            Err(error) => self.report(Event::Ignored(error.refusal())),
        }
        self.proceed(now);
    }
}
