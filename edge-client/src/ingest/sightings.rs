//! Which contents were seen in one pass over a source, and under which class: one image under two classes is nobody's
//! to decide but a person's.

use std::collections::BTreeMap;

use crate::store::Digest;

/// Bytes of names that are kept to say where a content was seen first; beyond, only its class is said.
const MAX_NAME_BYTES: usize = 32 << 20;
/// So much of a digest tells contents apart.
const KEY_BYTES: usize = 16;

/// The contents of one pass; some 100 bytes each.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    seen: BTreeMap<[u8; KEY_BYTES], Sighting>,
    name_bytes: usize,
}

#[derive(Debug)]
struct Sighting {
    label: u16,
    /// Its label in the store before the pass.
    before: Option<u16>,
    name: Option<Box<str>>,
    is_conflict: bool,
}

/// What a sighting means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The first of its content.
    First,
    /// As before, under the same class.
    Same,
    /// Under another class than before.
    Conflict {
        /// Where it was seen first, if that is still known.
        first: Option<String>,
        /// Its class there.
        first_label: u16,
        /// Its label in the store before the pass.
        before: Option<u16>,
        /// Whether this is the first contradiction.
        is_new: bool,
    },
}

impl Sightings {
    /// Notes a content under a class; `before` is its label in the store, `name` says where it is.
    pub(super) fn see(&mut self, digest: &Digest, label: u16, before: Option<u16>, name: &str) -> Verdict {
        let (key, _) = digest.split_first_chunk::<KEY_BYTES>().expect("a digest has 32 bytes");
        match self.seen.get_mut(key) {
            None => {
                let has_room = self.name_bytes + name.len() <= MAX_NAME_BYTES;
                self.name_bytes += name.len();
                let sighting = Sighting { label, before, name: has_room.then(|| name.into()), is_conflict: false };
                self.seen.insert(*key, sighting);
                Verdict::First
            }
            Some(sighting) if sighting.label == label && !sighting.is_conflict => Verdict::Same,
            Some(sighting) => {
                let is_new = !core::mem::replace(&mut sighting.is_conflict, true);
                let first = sighting.name.as_ref().map(ToString::to_string);
                Verdict::Conflict { first, first_label: sighting.label, before: sighting.before, is_new }
            }
        }
    }
}
