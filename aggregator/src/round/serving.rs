//! Model blobs on their way out: each block is published once for all who asked within a moment.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::{Bitmap, Digest, Want, block};

use super::{Action, Content, Coordinator, Model};

/// How long requests are gathered before blocks go out.
const GATHER: Duration = Duration::from_millis(4);
/// Blocks published at a time, so that the broker and the aggregator's own queue can follow.
const BURST: usize = 64;

/// The blobs a device may ask for now, and the blocks that were asked for.
#[derive(Default)]
pub(super) struct Serving {
    contents: BTreeMap<Digest, (Content, Bitmap)>,
    flush_at: Option<Duration>,
}

impl Serving {
    /// Offers a model's blobs and no others.
    pub(super) fn offer(&mut self, model: &Model) {
        let offered = [&model.heads, &model.aid].into_iter().flatten();
        let mut contents = BTreeMap::new();
        for content in offered {
            let digest = content.blob.digest;
            let kept = self.contents.remove(&digest);
            let fresh = || (content.clone(), Bitmap::none(content.blob.blocks()));
            contents.insert(digest, kept.unwrap_or_else(fresh));
        }
        self.contents = contents;
    }

    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.flush_at
    }
}

impl Coordinator {
    /// A device needs blocks. A blob that is no longer the fleet's is not served: a newer notice is under way.
    pub(super) fn handle_want(&mut self, now: Duration, want: &Want) {
        let Some((content, wanted)) = self.serving.contents.get_mut(&want.blob.digest) else { return };
        if want.missing.blocks() != content.blob.blocks() {
            return;
        }
        wanted.union(&want.missing);
        self.serving.flush_at.get_or_insert(now + GATHER);
    }

    pub(super) fn publish_wanted_blocks(&mut self, now: Duration) {
        if self.serving.flush_at.is_none_or(|at| at > now) {
            return;
        }
        let mut room = BURST;
        for (content, wanted) in self.serving.contents.values_mut() {
            for index in wanted.first(room).iter() {
                room -= 1;
                wanted.remove(index);
                if let Some((header, bytes)) = block(&content.blob, &content.bytes, index) {
                    self.actions.push_back(Action::PublishBlock(header, bytes.to_vec()));
                }
            }
        }
        let is_done = self.serving.contents.values().all(|(_, wanted)| wanted.is_empty());
        self.serving.flush_at = (!is_done).then_some(now + GATHER);
    }
}
