//! The fleet's model, as it is published: heads, and what the method adds to them.

use std::sync::Arc;

use grapevine_models::{Conditions, FleetModel, Head, Heads, HeldBack, Memory, Merged, RoundSum, Samples, Statistics};
use grapevine_protocol::{AidBody, BlobRef, HeadsBody, MemoryBody, StatisticsBody};

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
    /// The exact sum of the devices' statistics, never published; none where the method needs none.
    pub statistics: Option<Content>,
}

/// Which part of a model cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Bytes that this program did not write.
    #[error("the model's {0} cannot be read")]
    Unreadable(&'static str),
    /// Numbers that nobody can classify with.
    #[error("the merged head has parameters that are not finite or too large")]
    Unusable,
}

/// What a closed round makes of the model.
pub(super) struct ModelAfter {
    pub(super) model: Model,
    /// See [`super::RoundOutcome::change`].
    pub(super) change: Option<f32>,
    pub(super) held_back: Option<HeldBack>,
    pub(super) starts_anew: bool,
}

impl Model {
    /// What people get: the head in use alone, or the heads as they are.
    pub fn for_use(&self) -> Option<&Content> {
        self.in_use.as_ref().or(self.heads.as_ref())
    }

    /// The head that people classify with, decoded.
    pub fn head_in_use(&self, config: &RoundConfig) -> Option<Head> {
        heads(self.for_use(), config).ok().flatten().map(|heads| heads.main)
    }

    /// Everything, decoded.
    ///
    /// # Errors
    /// If a part was not written by this program, for this fleet and this method. Nothing is guessed in its place: a run
    /// that went on without it would stay as it is for ever.
    pub fn decode(&self, config: &RoundConfig) -> Result<FleetModel, ModelError> {
        let shape = config.shape;
        let memory = |content: &Content| MemoryBody::decode(&content.bytes, shape).map(|body| body.0);
        let memory = self.memory.as_ref().map(memory).transpose();
        let memory = memory.map_err(|_| ModelError::Unreadable("server state"))?.unwrap_or_default();
        if self.heads.is_some() && !config.params.method.fits_memory(&memory, shape) {
            return Err(ModelError::Unreadable("server state"));
        }
        let aid = |content: &Content| AidBody::decode(&content.bytes, shape).map(|body| body.0);
        let aid = self.aid.as_ref().map(aid).transpose().map_err(|_| ModelError::Unreadable("side information"))?;
        let in_use = heads(self.in_use.as_ref(), config)?.map(|heads| heads.main);
        Ok(FleetModel {
            heads: heads(self.heads.as_ref(), config)?,
            aid,
            memory,
            in_use,
            statistics: self.decoded_statistics(config)?,
        })
    }

    /// The sum of the devices' statistics, decoded.
    ///
    /// # Errors
    /// If it was not written by this program for this fleet.
    pub fn decoded_statistics(&self, config: &RoundConfig) -> Result<Option<Statistics>, ModelError> {
        let decode = |content: &Content| StatisticsBody::decode(&content.bytes, config.shape).map(|body| body.0);
        self.statistics.as_ref().map(decode).transpose().map_err(|_| ModelError::Unreadable("statistics"))
    }

    /// The model after a round; `trained` rounds of training were merged before it since the run started anew.
    ///
    /// # Errors
    /// If the model before cannot be read, or the one after cannot be used.
    pub(super) fn after(&self, sum: RoundSum, trained: u32, config: &RoundConfig) -> Result<ModelAfter, ModelError> {
        let shape = config.shape;
        let known = self.decode(config)?;
        let before = known.heads.clone().zip(known.in_use().cloned());
        let auxiliary = config.auxiliary.as_deref();
        let conditions = Conditions {
            params: &config.params,
            seed: config.seed,
            rounds: config.rounds.unwrap_or(config.rest_after),
            trained,
            auxiliary: auxiliary.and_then(|set| Samples::new(shape, &set.features, &set.labels).ok()),
        };
        let Merged { heads, aid, memory, in_use, statistics, starts_anew, held_back } = sum.merge(known, &conditions);
        let is_usable =
            heads.iter().all(|heads| heads.check(shape).is_ok()) && in_use.iter().all(|head| head.check(shape).is_ok());
        if !is_usable {
            return Err(ModelError::Unusable);
        }
        let change = before.filter(|_| !starts_anew).map(|(before, used)| {
            let after = heads.as_ref().unwrap_or(&before);
            distance(&before.main, &after.main).max(distance(&used, in_use.as_ref().unwrap_or(&after.main)))
        });
        let content = |heads: Heads| Content::new(HeadsBody(heads).encode(shape));
        let aid = aid.map(|aid| Content::new(AidBody(aid).encode(config.encoding)));
        let former = |content: &Option<Content>| if starts_anew { None } else { content.clone() };
        let statistics = statistics.map(|statistics| Content::new(StatisticsBody(statistics).encode()));
        let model = Self {
            heads: heads.map(content).or_else(|| former(&self.heads)),
            aid: aid.or_else(|| former(&self.aid)),
            memory: (memory != Memory::default()).then(|| Content::new(MemoryBody(memory).encode())),
            in_use: in_use.map(|main| content(Heads { main, supplementary: Head::zeros(shape) })),
            statistics: statistics.or_else(|| self.statistics.clone()),
        };
        Ok(ModelAfter { model, change, held_back, starts_anew })
    }
}

fn heads(content: Option<&Content>, config: &RoundConfig) -> Result<Option<Heads>, ModelError> {
    let decode = |content: &Content| HeadsBody::decode(&content.bytes, config.shape).map(|body| body.0);
    content.map(decode).transpose().map_err(|_| ModelError::Unreadable("heads"))
}

/// How far a head is from the one before, relative to its length.
fn distance(before: &Head, after: &Head) -> f32 {
    let pairs = || {
        let weights = before.weight.iter().zip(&after.weight);
        weights.chain(before.bias.iter().zip(&after.bias)).map(|(a, b)| (f64::from(*a), f64::from(*b)))
    };
    let far: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
    let length: f64 = after.weight.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    if far == 0.0 { 0.0 } else { (far / length.max(f64::MIN_POSITIVE)).sqrt() as f32 }
}
