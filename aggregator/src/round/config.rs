//! What a run is to do.

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use grapevine_models::{Shape, ValidParams};
use grapevine_protocol::{Digest, Encoding, Refusal};

use super::Select;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct RoundConfig {
    /// Classes and features of the fleet.
    pub shape: Shape,
    /// SHA-256 of the fleet's extractor.
    pub extractor: Digest,
    /// Digest of the fleet's class list.
    pub classes: Digest,
    /// Method and hyper-parameters.
    pub params: ValidParams,
    /// Rounds of training; without a number the run has no end and rests while there is nothing new to learn.
    pub rounds: Option<u32>,
    /// Rounds of training without new samples, after which a run without an end rests.
    pub rest_after: u32,
    /// Pause before news of few samples are gathered, counted from the last time.
    pub news_after: Duration,
    /// Most samples that a device may say it holds: they are its weight.
    pub max_samples: u32,
    /// Devices with samples that must be there before a round opens.
    pub min_devices: usize,
    /// Which devices take part in rounds at all.
    pub select: Select,
    /// Updates that a round of training waits for.
    pub participants: Participants,
    /// Share of further devices that are chosen beside the participants; the round closes without the slowest of them.
    pub over_select: f64,
    /// Share of the updates waited for that must have come at the deadline, above 0 and at most 1.
    pub quorum: f64,
    /// Time a round is open.
    pub deadline: Duration,
    /// How often a round without its quorum is given the same time again before it is abandoned.
    pub extensions: u32,
    /// When a device is sent away.
    pub quarantine: Quarantine,
    /// How weights and gradients are written.
    pub encoding: Encoding,
    /// Every random choice of the run comes from this.
    pub seed: u64,
    /// Bytes of updates on their way in at any time.
    pub upload_bytes: usize,
    /// The aggregator's own samples, for a method that needs some.
    pub auxiliary: Option<Arc<Auxiliary>>,
}

/// How many of the devices that are there take part in a round of training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Participants {
    /// All of them.
    #[default]
    All,
    /// So many.
    Count(usize),
    /// This share, above 0 and at most 1.
    Share(f64),
}

impl Participants {
    /// Updates to wait for, and devices to choose for that, when so many devices are able to take part.
    pub fn of(self, able: usize, over_select: f64) -> (usize, usize) {
        let wanted = match self {
            Self::All => able,
            Self::Count(count) => count,
            // A product of a count and a share of at most 1, rounded up.
            Self::Share(share) => (share * able as f64).ceil() as usize,
        };
        let wanted = wanted.clamp(able.min(1), able);
        let reserve = (over_select * wanted as f64).ceil() as usize;
        (wanted, wanted.saturating_add(reserve).min(able))
    }
}

/// When a device is sent away until somebody releases it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// Bad updates in a row; 0 for never.
    pub after: u32,
    /// Refusals that make an update a bad one.
    pub reasons: BTreeSet<Refusal>,
}

/// Samples that the aggregator holds itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Auxiliary {
    /// Standardised features, `[sample][feature]`.
    pub features: Vec<f32>,
    /// Classes, `[sample]`.
    pub labels: Vec<u16>,
}

impl Auxiliary {
    /// One name for these samples.
    pub fn digest(&self) -> Digest {
        let features = self.features.iter().flat_map(|feature| feature.to_le_bytes());
        let labels = self.labels.iter().flat_map(|label| label.to_le_bytes());
        Digest::of(&features.chain(labels).collect::<Vec<u8>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_a_reserve_stay_within_the_fleet() {
        assert_eq!(Participants::All.of(7, 0.5), (7, 7));
        assert_eq!(Participants::Count(10).of(50, 0.0), (10, 10));
        assert_eq!(Participants::Count(10).of(50, 0.25), (10, 13));
        assert_eq!(Participants::Count(10).of(11, 0.25), (10, 11));
        assert_eq!(Participants::Count(10).of(4, 0.25), (4, 4));
        assert_eq!(Participants::Share(0.1).of(25, 0.0), (3, 3));
        assert_eq!(Participants::Share(0.001).of(25, 1.0), (1, 2));
        assert_eq!(Participants::Share(0.5).of(0, 1.0), (0, 0));
    }
}
