//! Where a run is between its rounds and within them.

use core::cmp::Ordering;

use grapevine_models::Request;
use grapevine_protocol::{Offer, Refusal, RoundId};

use super::collecting::Collecting;
use super::committing::Committing;
use super::device_index::{Answers, DeviceIndex};
use super::registry::Registry;
use super::run::RunState;
use super::sifting::Sifting;

/// A phase owns what only it needs. What ends one consumes it and gives what comes next.
pub(super) enum Phase {
    /// Not enough devices to open a round.
    Gathering,
    /// A round is open.
    Collecting(Box<Collecting>),
    /// The merged model cannot be used; the devices that cause that are looked for.
    Sifting(Box<Sifting>),
    /// A merged round waits to be durable.
    Committing(Box<Committing>),
    /// Nothing is to be learned for now, or the number of rounds that was asked for is done.
    Resting,
}

impl Phase {
    pub(super) fn is_gathering(&self) -> bool {
        matches!(self, Self::Gathering)
    }

    pub(super) fn is_resting(&self) -> bool {
        matches!(self, Self::Resting)
    }

    pub(super) fn collecting(&self) -> Option<&Collecting> {
        match self {
            Self::Collecting(collecting) => Some(collecting),
            Self::Gathering | Self::Sifting(_) | Self::Committing(_) | Self::Resting => None,
        }
    }

    pub(super) fn collecting_mut(&mut self) -> Option<&mut Collecting> {
        match self {
            Self::Collecting(collecting) => Some(collecting),
            Self::Gathering | Self::Sifting(_) | Self::Committing(_) | Self::Resting => None,
        }
    }

    /// Ends this phase, for what comes next to be put in its place.
    #[must_use]
    pub(super) fn end(&mut self) -> Self {
        core::mem::replace(self, Self::Gathering)
    }

    /// What the round asks of which updates are added.
    pub(super) fn request(&self) -> Option<Request> {
        match self {
            Self::Collecting(collecting) => Some(collecting.record().request),
            Self::Sifting(sifting) => Some(sifting.request()),
            Self::Gathering | Self::Committing(_) | Self::Resting => None,
        }
    }

    /// Where an offered update belongs: `Ok` if the open round waits for it.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn check_offer(
        &self,
        run: &RunState,
        registry: &Registry,
        index: DeviceIndex,
        offer: &Offer,
    ) -> Result<(), Refusal> {
        if offer.run != run.id {
            return Err(Refusal::WrongRun);
        }
        match self {
            Self::Collecting(collecting) if offer.round == collecting.announcement().round => {
                collecting.check_offer(index, offer, registry)
            }
            // It is being merged.
            Self::Committing(_) | Self::Sifting(_) if offer.round == run.next_round => Err(Refusal::Late),
            Self::Collecting(_) | Self::Sifting(_) | Self::Committing(_) | Self::Gathering | Self::Resting => {
                let closed = run.next_round.0.checked_sub(1).map(RoundId);
                Err(match Some(offer.round).cmp(&closed) {
                    Ordering::Less => Refusal::Stale,
                    Ordering::Equal => Refusal::Late,
                    Ordering::Greater => Refusal::WrongRound,
                })
            }
        }
    }

    /// Whether this very update is stored already, in this round or the newest merged one.
    pub(super) fn has_stored(&self, run: &RunState, index: DeviceIndex, offer: &Offer) -> bool {
        let stored_in = |(round, accepted): (RoundId, &Answers)| {
            offer.run == run.id && offer.round == round && accepted.is(index, &offer.blob.digest)
        };
        let open = self.collecting().map(Collecting::record);
        let open = open.map(|record| (record.announcement.round, &record.accepted));
        open.into_iter().chain(run.newest_merged()).any(stored_in)
    }
}
