//! Model blobs on their way out: each block is published once for all who need it.
//!
//! Devices ask for a window of blocks at a time. The devices that fetch the same blob are kept in step: what they ask
//! for goes out when all of them have asked, or a moment after the first did, so that one slow device holds nobody up
//! for long and no block goes out once per device.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{Bitmap, DeviceId, Want, block};

use super::{Action, Content, Coordinator, Model};

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
pub(super) struct Serving {
    blobs: BTreeMap<BlobKind, Served>,
}

struct Served {
    content: Content,
    wanted: Bitmap,
    /// When each block last went out.
    published_at: Vec<Option<Duration>>,
    /// Who of the fetchers asked since the last blocks went out.
    askers: BTreeSet<DeviceId>,
    /// Who fetches this blob.
    fetchers: BTreeMap<DeviceId, Fetcher>,
    /// When it was last looked for fetchers to forget.
    looked_at: Duration,
    flush_at: Option<Duration>,
}

struct Fetcher {
    /// It receives everything that went out after this.
    since: Duration,
    asked_at: Duration,
    asked_for: Bitmap,
}

impl Served {
    fn new(content: Content) -> Self {
        let blocks = content.blob.blocks();
        Self {
            content,
            wanted: Bitmap::none(blocks),
            published_at: vec![None; blocks],
            askers: BTreeSet::new(),
            fetchers: BTreeMap::new(),
            looked_at: Duration::ZERO,
            flush_at: None,
        }
    }

    fn take(&mut self, now: Duration, device: &DeviceId, missing: &Bitmap) {
        self.forget_silent(now);
        let is_new = !self.fetchers.contains_key(device);
        let fetcher = self.fetchers.entry(device.clone()).or_insert_with(|| Fetcher {
            since: now,
            asked_at: now,
            asked_for: Bitmap::none(missing.blocks()),
        });
        // Who asks for the same blocks again lost them. Else a block that went out meanwhile is still on its way.
        let is_again = fetcher.asked_for.intersects(missing);
        let on_its_way =
            |at: Option<Duration>| at.is_some_and(|at| if is_again { at + REPEAT > now } else { at > fetcher.since });
        for index in missing.iter().filter(|&index| !on_its_way(self.published_at[index])) {
            self.wanted.insert(index);
        }
        fetcher.asked_at = now;
        fetcher.asked_for = missing.clone();
        self.askers.insert(device.clone());
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
            self.fetchers.retain(|_, fetcher| fetcher.asked_at + FORGET > now);
            self.askers.retain(|asker| self.fetchers.contains_key(asker));
        }
    }

    /// Takes up to `room` blocks that are due.
    fn due(&mut self, now: Duration, room: usize) -> Bitmap {
        if self.flush_at.is_none_or(|at| at > now) {
            return Bitmap::none(self.wanted.blocks());
        }
        let due = self.wanted.first(room);
        for index in due.iter() {
            self.wanted.remove(index);
            self.published_at[index] = Some(now);
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

impl Serving {
    /// Offers what a model's devices train with, and no other blobs.
    pub(super) fn offer(&mut self, model: &Model) {
        self.offer_blobs(model.heads.as_ref(), model.aid.as_ref());
    }

    /// Offers what devices classify with, and no other blobs.
    pub(super) fn offer_for_use(&mut self, model: &Model) {
        self.offer_blobs(model.for_use(), None);
    }

    fn offer_blobs(&mut self, heads: Option<&Content>, aid: Option<&Content>) {
        for (kind, content) in [(BlobKind::Heads, heads), (BlobKind::Aid, aid)] {
            let served = self.blobs.get(&kind).map(|served| served.content.blob);
            match content {
                Some(content) if served != Some(content.blob) => {
                    self.blobs.insert(kind, Served::new(content.clone()));
                }
                Some(_) => {}
                None => drop(self.blobs.remove(&kind)),
            }
        }
    }

    /// A device begins anew: nothing that went out before is on its way to it.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        for served in self.blobs.values_mut() {
            served.fetchers.remove(device);
            served.askers.remove(device);
        }
    }

    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.blobs.values().filter_map(|served| served.flush_at).min()
    }
}

impl Coordinator {
    /// A device needs blocks. A blob that is no longer the fleet's is not served: the device missed a notice.
    pub(super) fn handle_want(&mut self, now: Duration, device: &DeviceId, want: &Want) {
        let served = self.serving.blobs.values_mut().find(|served| served.content.blob == want.blob);
        let Some(served) = served else { return self.tell_one(device) };
        if served.wanted.blocks() == want.missing.blocks() {
            served.take(now, device, &want.missing);
        }
    }

    pub(super) fn publish_wanted_blocks(&mut self, now: Duration) {
        let mut room = BURST;
        for (kind, served) in &mut self.serving.blobs {
            let due = served.due(now, room);
            room -= due.count();
            for index in due.iter() {
                if let Some((header, bytes)) = block(&served.content.blob, &served.content.bytes, index) {
                    served.fetchers.keys().for_each(|device| self.registry.count_down(device, bytes.len()));
                    self.actions.push_back(Action::PublishBlock(*kind, header, bytes.to_vec()));
                }
            }
        }
    }
}
