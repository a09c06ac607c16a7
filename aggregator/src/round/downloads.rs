//! Model blobs on their way out: each block is published once for all who need it.
//!
//! Devices ask for a window of blocks at a time. The devices that fetch the same blob are kept in step: what they ask
//! for goes out when all of them have asked, or a moment after the first did, so that one slow device holds nobody up
//! for long and no block goes out once per device.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{Bitmap, BlobRef, BlockRequest, BlockSize, block};

use super::action::Tell;
use super::context::Ctx;
use super::device_index::{Column, DeviceIndex, DeviceSet};
use super::{Content, Model};

/// How long the first requests for a blob are gathered before it is known who fetches it.
const GATHER: Duration = Duration::from_millis(5);
/// How long the others wait for the last of those who fetch the same blob.
const HOLD: Duration = Duration::from_millis(100);
/// A device that asked for nothing for so long does not fetch any more.
const FORGET: Duration = Duration::from_secs(5);
/// How often it is looked for devices to forget: looking at all of them for each request would take a large fleet's time.
const LOOK: Duration = Duration::from_secs(1);
/// A block goes out again no sooner than this: a busy broker may just be slow to hand it on.
const REPEAT: Duration = Duration::from_secs(5);
/// Blocks published at a time, so that the broker and the aggregator's own queue can follow.
const BURST: usize = 64;

/// The blobs a device may ask for now.
#[derive(Default)]
pub(super) struct Downloads {
    blobs: BTreeMap<BlobKind, Served>,
    /// How blobs are cut: as the broker allows.
    block: BlockSize,
}

struct Served {
    content: Content,
    wanted: Bitmap,
    /// When each block last went out, and the how manieth flush that was.
    published_at: Vec<Option<(Duration, u32)>>,
    /// How often blocks went out.
    flushes: u32,
    /// Who of the fetchers asked since the last blocks went out.
    askers: DeviceSet,
    /// Who fetches this blob.
    fetchers: DeviceSet,
    /// What they do; of a device that is no fetcher it means nothing.
    fetching: Column<Fetcher>,
    /// When it was last looked for fetchers to forget.
    looked_at: Duration,
    flush_at: Option<Duration>,
}

/// A fleet fetches its heads all at once, so this is small.
#[derive(Clone, Copy, Default)]
struct Fetcher {
    /// It receives everything that went out after this flush.
    since: u32,
    /// When it asked last, in whole seconds.
    asked_s: u32,
    /// The last block that it asked for.
    asked_to: u16,
}

impl Served {
    fn new(content: Content) -> Self {
        let blocks = content.blob.blocks();
        Self {
            content,
            wanted: Bitmap::none(blocks),
            published_at: vec![None; blocks],
            flushes: 0,
            askers: DeviceSet::default(),
            fetchers: DeviceSet::default(),
            fetching: Column::default(),
            looked_at: Duration::ZERO,
            flush_at: None,
        }
    }

    fn take(&mut self, now: Duration, index: DeviceIndex, missing: &Bitmap) {
        self.forget_silent(now);
        let is_new = self.fetchers.insert(index);
        let fetcher = self.fetching.slot(index);
        let since = if is_new { self.flushes } else { fetcher.since };
        let (first, last) = (missing.iter().next(), missing.iter().last());
        // Who asks for the same blocks again lost them: it asks for the first that it misses, and once they have come it
        // asks for later ones. Else a block that went out meanwhile is still on its way.
        let is_again = !is_new && first.is_some_and(|first| first <= usize::from(fetcher.asked_to));
        let asked_to = last.map_or(0, |last| last as u16);
        *fetcher = Fetcher { since, asked_s: seconds(now), asked_to };
        let on_its_way = |published: Option<(Duration, u32)>| {
            published.is_some_and(|(at, flush)| if is_again { at + REPEAT > now } else { flush > since })
        };
        for index in missing.iter().filter(|&index| !on_its_way(self.published_at[index])) {
            self.wanted.insert(index);
        }
        self.askers.insert(index);
        if self.wanted.is_empty() {
            return;
        }
        let all_asked = self.askers.len() == self.fetchers.len();
        let at = match (is_new, all_asked) {
            (true, _) => now + GATHER,
            (false, true) => now,
            (false, false) => now + HOLD,
        };
        // A request never delays what is due already: who comes late joins those who are under way.
        self.flush_at = Some(self.flush_at.map_or(at, |due| due.min(at)));
    }

    fn forget_silent(&mut self, now: Duration) {
        if self.looked_at + LOOK <= now {
            self.looked_at = now;
            let asks = |asked_s: u32| u64::from(asked_s) + FORGET.as_secs() >= now.as_secs();
            self.fetchers.retain(|index| self.fetching.get(index).is_some_and(|fetcher| asks(fetcher.asked_s)));
            self.askers.retain(|asker| self.fetchers.contains(asker));
        }
    }

    /// Takes up to `room` blocks that are due.
    fn due(&mut self, now: Duration, room: usize) -> Bitmap {
        if self.flush_at.is_none_or(|at| at > now) {
            return Bitmap::none(self.wanted.blocks());
        }
        let due = self.wanted.first(room);
        self.flushes = self.flushes.saturating_add(1);
        for index in due.iter() {
            self.wanted.remove(index);
            self.published_at[index] = Some((now, self.flushes));
        }
        if self.wanted.is_empty() {
            self.flush_at = None;
            self.askers.clear();
        } else {
            self.flush_at = Some(now + GATHER);
        }
        due
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Downloads {
    /// Offers what a model's devices train with, and no other blobs.
    pub(super) fn offer(&mut self, model: &Model) {
        self.offer_blobs(model.heads.as_ref(), model.side_information.as_ref());
    }

    /// Offers what devices classify with, and no other blobs.
    pub(super) fn offer_for_use(&mut self, model: &Model) {
        self.offer_blobs(model.for_use(), None);
    }

    fn offer_blobs(&mut self, heads: Option<&Content>, side_information: Option<&Content>) {
        for (kind, content) in [(BlobKind::Heads, heads), (BlobKind::SideInformation, side_information)] {
            let served = self.blobs.get(&kind).map(|served| served.content.blob);
            match content {
                // Devices keep their heads. What comes beside them they fetch in every round, also where it is the same
                // again: what went out for the round before is not on its way to them.
                Some(content) if kind == BlobKind::SideInformation || served != Some(self.cut(content.blob)) => {
                    let content = Content { blob: self.cut(content.blob), ..content.clone() };
                    self.blobs.insert(kind, Served::new(content));
                }
                Some(_) => {}
                None => drop(self.blobs.remove(&kind)),
            }
        }
    }

    /// The name of a blob as it is cut now.
    pub(super) fn cut(&self, blob: BlobRef) -> BlobRef {
        blob.in_blocks_of(self.block)
    }

    /// The broker does not take packets of so many bytes: from now on blocks are smaller. `false` if there are no smaller
    /// ones.
    #[must_use]
    pub(super) fn limit_packets(&mut self, bytes: usize) -> bool {
        let Some(block) = BlockSize::below_packet(bytes).filter(|block| *block < self.block) else { return false };
        self.block = block;
        for served in self.blobs.values_mut() {
            let content = &served.content;
            *served = Served::new(Content { blob: content.blob.in_blocks_of(block), ..content.clone() });
        }
        true
    }

    /// A device needs blocks; `false` if their blob is not the fleet's any more.
    #[must_use]
    pub(super) fn request(&mut self, now: Duration, index: DeviceIndex, request: &BlockRequest) -> bool {
        let served = self.blobs.values_mut().find(|served| served.content.blob == request.blob);
        let Some(served) = served else { return false };
        if served.wanted.blocks() == request.missing.blocks() {
            served.take(now, index, &request.missing);
        }
        true
    }

    /// Publishes the blocks that are due.
    pub(super) fn publish(&mut self, ctx: &mut Ctx<'_>) {
        let mut room = BURST;
        for (kind, served) in &mut self.blobs {
            let due = served.due(ctx.now, room);
            room -= due.count();
            for index in due.iter() {
                if let Some((header, bytes)) = block(&served.content.blob, &served.content.bytes, index) {
                    served.fetchers.iter().for_each(|index| ctx.devices.registry.count_down(index, bytes.len()));
                    ctx.out.tell(Tell::Followers(*kind, header, bytes.to_vec()));
                }
            }
        }
    }

    /// A device begins anew: nothing that went out before is on its way to it.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        for served in self.blobs.values_mut() {
            served.fetchers.remove(index);
            served.askers.remove(index);
        }
    }

    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.blobs.values().filter_map(|served| served.flush_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::device_index::Names;
    use super::*;

    /// All blocks that go out within a second when a device asks for all.
    fn served(downloads: &mut Downloads, now: Duration, index: DeviceIndex, blob: BlobRef) -> usize {
        let served = downloads.blobs.get_mut(&BlobKind::SideInformation).unwrap();
        assert_eq!(served.content.blob, blob);
        served.take(now, index, &Bitmap::all(blob.blocks()));
        served.due(now + Duration::from_secs(1), BURST).count()
    }

    #[test]
    fn what_is_the_same_in_the_next_round_is_served_at_once() {
        let content = Content::new(vec![7; 200_000]);
        let (blob, index) = (content.blob, Names::default().index(&"camera-1".parse().unwrap()));
        let model = Model { side_information: Some(content), ..Model::default() };
        let mut downloads = Downloads::default();
        downloads.offer(&model);
        assert_eq!(served(&mut downloads, Duration::ZERO, index, blob), 4);
        assert_eq!(served(&mut downloads, Duration::from_millis(1_100), index, blob), 0, "they are on their way");
        downloads.offer(&model);
        assert_eq!(served(&mut downloads, Duration::from_millis(1_200), index, blob), 4);
    }
}
