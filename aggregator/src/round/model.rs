//! The fleet's model, as it is published: heads, and what the method adds to them.

use std::sync::Arc;

use grapevine_models::oneshot::{LDA_SHRINKAGE, RIDGE_STRENGTH, lda, ncm, ridge};
use grapevine_models::{Head, Heads, Method, PrototypeSum, Prototypes, Statistics};
use grapevine_protocol::{Aid, BlobRef, HeadsBody};

use super::RoundConfig;
use super::collecting::RoundSum;

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
    /// Prototypes, means or prior; none where the method has none, or before the first merge.
    pub aid: Option<Content>,
}

impl Model {
    /// The heads, decoded.
    pub fn decoded_heads(&self, config: &RoundConfig) -> Option<Heads> {
        let content = self.heads.as_ref()?;
        HeadsBody::decode(&content.bytes, config.shape).ok().map(|body| body.0)
    }

    /// The model after a round.
    pub(super) fn after(&self, sum: RoundSum, config: &RoundConfig) -> Self {
        match sum {
            RoundSum::Trained(heads, prototypes) => {
                let merged = heads.mean().map(|heads| Content::new(HeadsBody(heads).encode(config.shape)));
                let aid = if config.params.method.sends_prototypes() {
                    Some(self.merge_prototypes(&prototypes, config))
                } else {
                    self.aid.clone()
                };
                Self { heads: merged.or_else(|| self.heads.clone()), aid }
            }
            RoundSum::Statistics(statistics) => self.with_statistics(&statistics, config),
        }
    }

    fn merge_prototypes(&self, sum: &PrototypeSum, config: &RoundConfig) -> Content {
        let known = self.aid.as_ref().map(|content| Aid::decode(&content.bytes, config.shape));
        let mut prototypes = match known {
            Some(Ok(Aid::Prototypes(prototypes))) => prototypes,
            Some(Ok(Aid::Means(_) | Aid::Prior(_)) | Err(_)) | None => Prototypes::default(),
        };
        sum.merge_into(&mut prototypes);
        Content::new(Aid::Prototypes(prototypes).encode(config.encoding))
    }

    fn with_statistics(&self, statistics: &Statistics, config: &RoundConfig) -> Self {
        let aid = |aid: Aid| Self { heads: self.heads.clone(), aid: Some(Content::new(aid.encode(config.encoding))) };
        let heads = |main: Head| {
            let heads = Heads { main, supplementary: Head::zeros(config.shape) };
            Self { heads: Some(Content::new(HeadsBody(heads).encode(config.shape))), aid: self.aid.clone() }
        };
        match config.params.method {
            Method::LogitAdjusted => aid(Aid::Prior(statistics.prior())),
            Method::RedGrapeLive => aid(Aid::Means(statistics.means())),
            Method::Ncm => heads(ncm(statistics)),
            Method::Ridge => heads(ridge(statistics, RIDGE_STRENGTH)),
            Method::Lda => heads(lda(statistics, LDA_SHRINKAGE)),
            Method::FedAvg | Method::RedGrape | Method::RedGrapeNoPrototypes | Method::RedGrapeNoSupplementary => {
                self.clone()
            }
        }
    }
}
