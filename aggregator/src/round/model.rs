//! The fleet's model, as it is published: heads, and what the method adds to them.

use std::sync::Arc;

use grapevine_models::{Conditions, FleetModel, Head, Heads, Memory, Merged, RoundSum, Samples};
use grapevine_protocol::{AidBody, BlobRef, HeadsBody, MemoryBody};

use super::RoundConfig;

/// A blob with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub blob: BlobRef,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

impl Content {
    /// Names some bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { blob: BlobRef::of(&bytes), bytes: bytes.into() }
    }
}

/// What the fleet knows. Kept as published, so that a restart continues from the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The heads; none before the first merge that makes any.
    pub heads: Option<Content>,
    /// What the method adds to the heads; none where it adds nothing, or before the first merge.
    pub aid: Option<Content>,
    /// What only the aggregator knows, and never publishes; none where that is nothing.
    pub memory: Option<Content>,
    /// The head that people classify with, where it is not the main one of `heads`.
    pub in_use: Option<Content>,
}

impl Model {
    /// What people get: the head in use alone, or the heads as they are.
    pub fn for_use(&self) -> Option<&Content> {
        self.in_use.as_ref().or(self.heads.as_ref())
    }

    /// The head that people classify with, decoded.
    pub fn head_in_use(&self, config: &RoundConfig) -> Option<Head> {
        heads(self.for_use(), config).map(|heads| heads.main)
    }

    /// What only the aggregator knows, decoded.
    pub(super) fn decoded_memory(&self, config: &RoundConfig) -> Memory {
        let body = self.memory.as_ref().and_then(|content| MemoryBody::decode(&content.bytes, config.shape).ok());
        body.map(|body| body.0).unwrap_or_default()
    }

    /// The model after a round; `trained` rounds of training were merged before it.
    pub(super) fn after(&self, sum: RoundSum, trained: u32, config: &RoundConfig) -> Self {
        let shape = config.shape;
        let known = FleetModel {
            heads: heads(self.heads.as_ref(), config),
            aid: self.aid.as_ref().and_then(|content| AidBody::decode(&content.bytes, shape).ok()).map(|body| body.0),
            memory: self.decoded_memory(config),
            in_use: None,
        };
        let auxiliary = config.auxiliary.as_deref();
        let conditions = Conditions {
            params: &config.params,
            seed: config.seed,
            rounds: config.rounds,
            trained,
            auxiliary: auxiliary.and_then(|set| Samples::new(shape, &set.features, &set.labels).ok()),
        };
        let Merged { heads, aid, memory, in_use } = sum.merge(known, &conditions);
        let content = |heads: Heads| Content::new(HeadsBody(heads).encode(shape));
        let aid = aid.map(|aid| Content::new(AidBody(aid).encode(config.encoding)));
        Self {
            heads: heads.map(content).or_else(|| self.heads.clone()),
            aid: aid.or_else(|| self.aid.clone()),
            memory: (memory != Memory::default()).then(|| Content::new(MemoryBody(memory).encode())),
            in_use: in_use.map(|main| content(Heads { main, supplementary: Head::zeros(shape) })),
        }
    }
}

fn heads(content: Option<&Content>, config: &RoundConfig) -> Option<Heads> {
    HeadsBody::decode(&content?.bytes, config.shape).ok().map(|body| body.0)
}
