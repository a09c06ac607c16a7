//! An open round as its phases hand it on: what was asked, of whom, and who answered.

use grapevine_models::{Request, Response, RoundError, Statistics};
use grapevine_protocol::{Digest, Incarnation, Refusal, RoundAnnouncement, Update};

use super::context::Ctx;
use super::device_index::{Answers, DeviceIndex, DeviceSet};
use super::devices::UpdateName;
use super::{Contribution, OpenRound};

/// What is known about the open round, its sum aside.
pub(super) struct RoundRecord {
    pub(super) announcement: RoundAnnouncement,
    /// What the announcement asks.
    pub(super) request: Request,
    /// Who was asked and is known to have been, those who came later and who answered included.
    pub(super) asked: DeviceSet,
    pub(super) accepted: Answers,
    /// What the updates in the sum tell of their devices' samples.
    pub(super) contributions: Vec<(DeviceIndex, Contribution)>,
    pub(super) samples: u64,
    /// Updates that the round waited for when it opened; with fewer it waits for its deadline.
    wanted: usize,
    /// Devices that were chosen when the round opened; more than are wanted if there is a reserve.
    chosen: usize,
    /// How often it was given more time.
    pub(super) extensions: u32,
}

impl RoundRecord {
    pub(super) fn new(announcement: RoundAnnouncement, request: Request, asked: DeviceSet, wanted: usize) -> Self {
        Self {
            announcement,
            request,
            accepted: Answers::default(),
            contributions: Vec::new(),
            samples: 0,
            wanted,
            chosen: asked.len(),
            asked,
            extensions: 0,
        }
    }

    /// A round that a stop interrupted. Nobody is known to have been asked until they say so.
    pub(super) fn resumed(open: OpenRound, request: Request, incarnation: Incarnation) -> Self {
        let announcement = RoundAnnouncement { incarnation, ..open.announcement };
        let record = Self::new(announcement, request, DeviceSet::default(), open.expected);
        Self { chosen: open.chosen, extensions: open.extensions, ..record }
    }

    /// The name of an update in this round.
    pub(super) fn update(&self, digest: Digest) -> UpdateName {
        UpdateName { run: self.announcement.run, round: self.announcement.round, digest }
    }

    /// Updates that the round waits for. Without a reserve these are those of everybody who was asked; a resumed round
    /// has heard of fewer than were chosen.
    pub(super) fn expected(&self) -> usize {
        let has_reserve = self.wanted < self.chosen;
        if has_reserve { self.wanted } else { self.chosen() }
    }

    /// Devices that were chosen, those included that came later.
    pub(super) fn chosen(&self) -> usize {
        self.asked.len().max(self.chosen)
    }

    /// Of the updates that the round waits for, the ones that can still come if so many devices are gone.
    pub(super) fn awaited(&self, absent: usize) -> usize {
        self.expected().min(self.chosen().saturating_sub(absent))
    }

    /// Who was asked and has not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = DeviceIndex> {
        self.asked.iter().filter(|index| !self.accepted.has(*index))
    }

    /// The round is over. Rounds to come do not wait for devices that did not answer, until they do.
    pub(super) fn count_missed(&self, ctx: &mut Ctx<'_>) {
        let pause = ctx.config.deadline;
        self.unanswered().for_each(|index| ctx.devices.registry.count_missed(index, ctx.now, pause));
    }

    /// An update is in the sum.
    pub(super) fn accept(&mut self, index: DeviceIndex, digest: &Digest, update: &Update) {
        self.samples += u64::from(update.samples);
        self.accepted.insert(index, digest);
        self.contributions.push((index, contribution(update)));
    }

    /// The round is merged without this device's update.
    pub(super) fn take_out(&mut self, index: DeviceIndex) {
        self.accepted.remove(index);
        self.asked.remove(index);
        let taken_out = self.contributions.extract_if(.., |(from, _)| *from == index);
        self.samples -= taken_out.map(|(_, contribution)| u64::from(contribution.samples)).sum::<u64>();
    }

    /// An update as the ledger has it.
    pub(super) fn decode(&self, content: &[u8]) -> Result<Update, Refusal> {
        Update::decode(content, self.announcement.shape, self.request).map_err(|error| error.refusal())
    }

    /// What the ledger has of the device's earlier statistics, if this round puts others in their place.
    pub(super) fn former(&self, content: Option<&[u8]>) -> Result<Option<Statistics>, Refusal> {
        let Some(content) = content.filter(|_| !self.request.is_training()) else { return Ok(None) };
        match self.decode(content) {
            Ok(Update { response: Response::Statistics(former), .. }) => Ok(Some(former)),
            // The ledger holds only what was checked before.
            Ok(_) | Err(_) => Err(Refusal::Storage),
        }
    }
}

/// What an update tells of its device's samples.
pub(super) fn contribution(update: &Update) -> Contribution {
    let mean_square = match &update.response {
        Response::Statistics(statistics) => statistics.mean_square().unwrap_or(0.0) as f32,
        Response::Heads { .. } | Response::Gradient(_) | Response::Prototypes(_) | Response::OfMethod(_) => 0.0,
    };
    Contribution { dataset: update.dataset, samples: update.samples, mean_square }
}

/// The length of a gradient; of anything else, nothing.
pub(super) fn gradient_length(update: &Update) -> f64 {
    let Response::Gradient(gradient) = &update.response else { return 0.0 };
    let values = gradient.weight.iter().chain(&gradient.bias);
    values.map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()
}

/// Under which name a sum's refusal is counted.
pub(super) fn refusal(error: &RoundError) -> Refusal {
    match error {
        RoundError::Content => Refusal::Content,
        RoundError::Heads(_) => Refusal::Samples,
        RoundError::Prototypes(_) => Refusal::TooManyDevices,
        RoundError::Statistics(_) => Refusal::Absurd,
    }
}
