//! Fetching the fleet's heads and side information, block by block.

use core::time::Duration;
use std::sync::Arc;

use grapevine_models::{Heads, Shape};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{Assembler, Bitmap, BlobRef, BlockError, BlockHeader, BlockRequest, HeadsBody, ToAggregator};

use super::context::Context;
use super::{Action, Event, FIRST_PAUSE, next_pause};

/// Blocks asked for at a time: 2 MiB, little enough for any broker's queue.
pub const WINDOW: usize = 32;

/// The parts of the model that are here, and the one that is on its way: at most one at a time.
pub(super) struct Download {
    model: Model,
    current: Option<Fetch>,
}

/// What is here of the fleet's model.
pub(super) struct Model {
    shape: Shape,
    /// Decoded when they came, and never again.
    heads: Option<(BlobRef, Arc<Heads>)>,
    /// The newest heads that could not be decoded.
    unusable: Option<BlobRef>,
    side_information: Option<(BlobRef, Arc<[u8]>)>,
}

/// A part of the model that a step needs and that is not here.
#[must_use]
pub(super) struct Missing {
    pub(super) kind: BlobKind,
    pub(super) blob: BlobRef,
    /// Most bytes that such a blob can have.
    pub(super) limit: usize,
}

/// One blob on its way to this device.
struct Fetch {
    kind: BlobKind,
    assembler: Assembler,
    /// Blocks of the current window that have not come yet.
    outstanding: Bitmap,
    again_at: Duration,
    pause: Duration,
}

impl Download {
    pub(super) fn new(shape: Shape) -> Self {
        Self { model: Model { shape, heads: None, unusable: None, side_information: None }, current: None }
    }

    /// Whether a blob is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.current.as_ref().map(|fetch| fetch.again_at)
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        if let Some(fetch) = self.current.as_mut().filter(|fetch| fetch.again_at <= context.now()) {
            fetch.ask(context);
        }
    }

    /// Follows the blob's topic and asks for the first blocks.
    ///
    /// # Errors
    /// If there can be no such blob.
    pub(super) fn begin(&mut self, context: &mut Context, missing: &Missing) -> Result<(), BlockError> {
        let Missing { kind, blob, limit } = *missing;
        let assembler = Assembler::new(blob, limit)?;
        context.act(Action::Follow(kind));
        let outstanding = Bitmap::none(blob.blocks());
        let fetch = Fetch { kind, assembler, outstanding, again_at: context.now(), pause: FIRST_PAUSE };
        self.current.insert(fetch).ask(context);
        Ok(())
    }

    /// After a reconnect of either side: asks for what is still missing, and for nothing that is here.
    pub(super) fn resume(&mut self, context: &mut Context) {
        if let Some(fetch) = &mut self.current {
            fetch.pause = FIRST_PAUSE;
            fetch.ask(context);
        }
    }

    /// Blocks also come because somebody else asked for them; they are as welcome. Gives whether the blob is no longer on
    /// its way.
    #[must_use]
    pub(super) fn handle_block(&mut self, context: &mut Context, header: &BlockHeader, block: &[u8]) -> bool {
        let Some(fetch) = &mut self.current else { return false };
        if header.digest != fetch.assembler.blob().digest {
            // Late blocks of the round before, for somebody slower.
            return false;
        }
        match fetch.assembler.accept(header, block) {
            Ok(true) => fetch.has_got(header.index, context.now()),
            Ok(false) => return false,
            Err(error) => {
                context.report(Event::Ignored(error.refusal()));
                return false;
            }
        }
        if !fetch.assembler.is_complete() {
            if fetch.outstanding.is_empty() {
                fetch.ask(context);
            }
            return false;
        }
        if let Some(fetch) = self.current.take() {
            self.model.keep(context, fetch);
        }
        true
    }

    /// After an announcement that names these heads and this side information: what is on its way and among them goes on
    /// where it is, anything else is given up.
    pub(super) fn review(&mut self, context: &mut Context, [heads, side_information]: [Option<BlobRef>; 2]) {
        let is_outdated = |fetch: &mut Fetch| {
            let named = match fetch.kind {
                BlobKind::Heads => heads,
                BlobKind::SideInformation => side_information,
            };
            named != Some(fetch.assembler.blob())
        };
        if let Some(fetch) = self.current.take_if(is_outdated) {
            context.act(Action::Unfollow(fetch.kind));
        }
    }
}

impl Model {
    /// The heads of this content, if they are here.
    pub(super) fn heads(&self, named: &BlobRef) -> Option<Arc<Heads>> {
        part_of(&self.heads, named)
    }

    /// Whether these heads have come and cannot be used.
    pub(super) fn is_unusable(&self, named: &BlobRef) -> bool {
        self.unusable.is_some_and(|blob| blob.is_content_of(named))
    }

    /// The side information of this content, if it is here.
    pub(super) fn side_information(&self, named: &BlobRef) -> Option<Arc<[u8]>> {
        part_of(&self.side_information, named)
    }

    pub(super) fn forget_side_information(&mut self) {
        self.side_information = None;
    }

    fn keep(&mut self, context: &mut Context, fetch: Fetch) {
        let Fetch { kind, assembler, .. } = fetch;
        let blob = assembler.blob();
        context.act(Action::Unfollow(kind));
        match assembler.into_content() {
            Ok(content) => match kind {
                BlobKind::Heads => self.keep_heads(context, blob, &content),
                BlobKind::SideInformation => self.side_information = Some((blob, content.into())),
            },
            // Every block had its crc and the whole is still wrong: start over.
            Err(error) => context.report(Event::Ignored(error.refusal())),
        }
    }

    fn keep_heads(&mut self, context: &mut Context, blob: BlobRef, content: &[u8]) {
        match HeadsBody::decode(content, self.shape) {
            Ok(HeadsBody(heads)) => self.heads = Some((blob, Arc::new(heads))),
            Err(error) => {
                self.unusable = Some(blob);
                context.report(Event::Unusable(error.refusal()));
            }
        }
    }
}

fn part_of<T: ?Sized>(part: &Option<(BlobRef, Arc<T>)>, named: &BlobRef) -> Option<Arc<T>> {
    part.as_ref().filter(|(have, _)| have.is_content_of(named)).map(|(_, part)| part.clone())
}

impl Fetch {
    /// Asks for the next missing blocks, or again for those that did not come.
    fn ask(&mut self, context: &mut Context) {
        self.again_at = context.after(self.pause);
        self.pause = next_pause(self.pause);
        let missing = self.assembler.missing().first(WINDOW);
        self.outstanding = missing.clone();
        context.send(ToAggregator::BlockRequest(BlockRequest { blob: self.assembler.blob(), missing }));
    }

    fn has_got(&mut self, index: u16, now: Duration) {
        self.outstanding.remove(usize::from(index));
        self.pause = FIRST_PAUSE;
        self.again_at = now + FIRST_PAUSE;
    }
}
