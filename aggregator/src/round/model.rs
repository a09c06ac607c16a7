//! The fleet's model, as it is published: heads, and what the method adds to them.

use std::sync::Arc;

use grapevine_models::{
    Conditions, FleetModel, Head, Heads, HeldBack, RoundResult, RoundSum, Samples, ServerState, Statistics,
};
use grapevine_protocol::{BlobRef, HeadsBody, ServerStateBody, SideInformationBody, StatisticsBody};

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
    pub side_information: Option<Content>,
    /// What only the aggregator knows, and never publishes; none where that is nothing.
    pub server_state: Option<Content>,
    /// The head that people classify with, where it is not the main one of `heads`.
    pub inference_head: Option<Content>,
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
    /// What people get: the inference head alone, or the heads as they are.
    pub fn for_use(&self) -> Option<&Content> {
        self.inference_head.as_ref().or(self.heads.as_ref())
    }

    /// The head that people classify with, decoded.
    pub fn inference_head(&self, config: &RoundConfig) -> Option<Head> {
        heads(self.for_use(), config).ok().flatten().map(|heads| heads.main)
    }

    /// Everything, decoded.
    ///
    /// # Errors
    /// If a part was not written by this program, for this fleet and this method. Nothing is guessed in its place: a run
    /// that went on without it would stay as it is for ever.
    pub fn decode(&self, config: &RoundConfig) -> Result<FleetModel, ModelError> {
        let shape = config.shape;
        let server_state = |content: &Content| ServerStateBody::decode(&content.bytes, shape).map(|body| body.0);
        let server_state = self.server_state.as_ref().map(server_state).transpose();
        let server_state = server_state.map_err(|_| ModelError::Unreadable("server state"))?.unwrap_or_default();
        if self.heads.is_some() && !config.params.method.fits_server_state(&server_state) {
            return Err(ModelError::Unreadable("server state"));
        }
        let side_information =
            |content: &Content| SideInformationBody::decode(&content.bytes, shape).map(|body| body.0);
        let side_information = self
            .side_information
            .as_ref()
            .map(side_information)
            .transpose()
            .map_err(|_| ModelError::Unreadable("side information"))?;
        let inference_head = heads(self.inference_head.as_ref(), config)?.map(|heads| heads.main);
        Ok(FleetModel {
            heads: heads(self.heads.as_ref(), config)?,
            side_information,
            server_state,
            inference_head,
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
        let before = known.heads.clone().zip(known.inference_head().cloned());
        let auxiliary = config.auxiliary.as_deref();
        let conditions = Conditions {
            params: &config.params,
            seed: config.seed,
            rounds: config.rounds.unwrap_or(config.rest_after),
            trained,
            auxiliary: auxiliary.and_then(|set| Samples::new(shape, &set.features, &set.labels).ok()),
        };
        let RoundResult { heads, side_information, server_state, inference_head, statistics, starts_anew, held_back } =
            sum.merge(known, &conditions);
        let is_usable = heads.iter().all(|heads| heads.check(shape).is_ok())
            && inference_head.iter().all(|head| head.check(shape).is_ok());
        if !is_usable {
            return Err(ModelError::Unusable);
        }
        let change = before.filter(|_| !starts_anew).map(|(before, used)| {
            let after = heads.as_ref().unwrap_or(&before);
            distance(&before.main, &after.main).max(distance(&used, inference_head.as_ref().unwrap_or(&after.main)))
        });
        let content = |heads: Heads| Content::new(HeadsBody(heads).encode(shape));
        let side_information = side_information
            .map(|side_information| Content::new(SideInformationBody(side_information).encode(config.encoding)));
        let former = |content: &Option<Content>| if starts_anew { None } else { content.clone() };
        let statistics = statistics.map(|statistics| Content::new(StatisticsBody(statistics).encode()));
        let model = Self {
            heads: heads.map(content).or_else(|| former(&self.heads)),
            side_information: side_information.or_else(|| former(&self.side_information)),
            server_state: (server_state != ServerState::default())
                .then(|| Content::new(ServerStateBody(server_state).encode())),
            inference_head: inference_head.map(|main| content(Heads { main, supplementary: Head::zeros(shape) })),
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
