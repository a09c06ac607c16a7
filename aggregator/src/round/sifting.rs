//! A round whose merged model cannot be used: it is merged without the devices that caused that.
//!
//! Every update passed its own checks, so the cause shows only in the merge. The updates are read again from the ledger
//! and added in its order. The search is by bisection: the last update of the shortest prefix that cannot be merged is
//! taken out, until the rest can be. The order of the ledger does not change, so a restart finds the same devices.

use core::time::Duration;

use grapevine_models::{Request, RoundSum};
use grapevine_protocol::{DeviceId, Digest, Refusal};

use super::action::Durable;
use super::device_index::DeviceIndex;
use super::{Collecting, Coordinator, Event, ModelError, Phase};

/// Taking out more than one in so many updates blames devices for what the model was before.
const LEAST_KEPT: usize = 4;

/// The updates of a round are being read again.
pub(super) struct Sifting {
    collecting: Collecting,
    /// Taken out, each with the digest of its update.
    suspects: Vec<(DeviceIndex, Digest)>,
    /// The first so many updates of the others can be merged.
    usable: usize,
    /// The first so many cannot.
    unusable: usize,
    /// So many are added in this pass.
    wanted: usize,
    /// So many were added until now, this one last.
    added: usize,
    last: Option<(DeviceIndex, Digest)>,
    /// The last of the shortest prefix that cannot be merged.
    culprit: Option<(DeviceIndex, Digest)>,
    /// Of this pass; `None` between two.
    sum: Option<RoundSum>,
}

impl Sifting {
    pub(super) fn request(&self) -> Request {
        self.collecting.request
    }

    /// Updates that are not taken out.
    fn rest(&self) -> usize {
        self.collecting.accepted.len() - self.suspects.len()
    }

    /// Adds the next update of this pass.
    fn add(
        &mut self,
        index: DeviceIndex,
        device: &DeviceId,
        content: &[u8],
        former: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        if self.added == self.wanted || self.suspects.iter().any(|(suspect, _)| *suspect == index) {
            return Ok(());
        }
        let update = self.collecting.decode(content)?;
        let former = self.collecting.former(former)?;
        let sum = self.sum.as_mut().ok_or(Refusal::Late)?;
        let added = sum.add_in_place_of(former.as_ref(), device.as_str(), &update.response, update.samples);
        added.map_err(|_| Refusal::Storage)?;
        self.added += 1;
        self.last = Some((index, Digest::of(content)));
        Ok(())
    }

    /// What the pass showed; `true` if the search goes on. Each pass brings the two bounds closer, or takes an update out.
    fn narrow(&mut self, is_usable: bool) -> bool {
        if is_usable {
            self.usable = self.wanted;
        } else {
            (self.unusable, self.culprit) = (self.wanted, self.last);
        }
        if self.unusable - self.usable > 1 {
            self.wanted = self.usable.midpoint(self.unusable);
            return true;
        }
        let Some(culprit) = self.culprit.take() else { return false };
        self.suspects.push(culprit);
        (self.usable, self.unusable, self.wanted) = (0, self.rest(), self.rest());
        self.rest() > 0 && self.suspects.len() <= self.collecting.accepted.len().div_ceil(LEAST_KEPT)
    }
}

impl Coordinator {
    /// Looks for the updates of which the merged model is unusable.
    pub(super) fn sift(&mut self, now: Duration, collecting: Collecting) {
        let all = collecting.accepted.len();
        let sifting = Sifting {
            collecting,
            suspects: Vec::new(),
            usable: 0,
            unusable: all,
            wanted: all,
            added: 0,
            last: None,
            culprit: None,
            sum: None,
        };
        self.begin_pass(now, Box::new(sifting));
    }

    /// Has the updates read again, to be added to an empty sum.
    fn begin_pass(&mut self, now: Duration, mut sifting: Box<Sifting>) {
        let round = sifting.collecting.announcement.round;
        match self.empty_sum(sifting.request()) {
            Ok(sum) => {
                (sifting.sum, sifting.added, sifting.last) = (Some(sum), 0, None);
                self.phase = Phase::Sifting(sifting);
                self.actions.durable(Durable::RereadUpdates(self.run, round));
            }
            Err(fault) => self.discard_round(now, round, fault),
        }
    }

    /// An update of the round that is sifted, as the ledger has it. `former` is as in [`Coordinator::handle_restored`].
    pub fn handle_reread(&mut self, device: &DeviceId, content: &[u8], former: Option<&[u8]>) {
        let index = self.registry.index(device);
        let Phase::Sifting(sifting) = &mut self.phase else { return };
        if let Err(reason) = sifting.add(index, device, content, former) {
            self.count(Some(device), reason);
        }
    }

    /// The ledger has no more updates of the round.
    pub fn handle_all_reread(&mut self, now: Duration) {
        let Phase::Sifting(mut sifting) = core::mem::replace(&mut self.phase, Phase::Gathering) else { return };
        let Some(sum) = sifting.sum.take() else { return };
        let is_whole = sifting.wanted == sifting.rest();
        match self.progress.model.after(sum, self.progress.counters.since_start, &self.config) {
            Ok(after) if is_whole => {
                let Sifting { mut collecting, suspects, .. } = *sifting;
                suspects.iter().for_each(|suspect| self.take_out(&mut collecting, *suspect));
                self.commit_round(now, collecting, after);
            }
            after => {
                if !sifting.narrow(after.is_ok()) {
                    let round = sifting.collecting.announcement.round;
                    return self.discard_round(now, round, ModelError::Unusable);
                }
                self.begin_pass(now, sifting);
            }
        }
    }

    /// The round is merged without this update, and its device is blamed.
    fn take_out(&mut self, collecting: &mut Collecting, (index, digest): (DeviceIndex, Digest)) {
        let round = collecting.announcement.round;
        let device = self.registry.names().id(index);
        collecting.take_out(index);
        self.actions.durable(Durable::DropUpdate(self.run, round, device.clone()));
        self.report(Event::UpdateTakenOut { device, round });
        self.refuse_update(index, self.run, round, digest, Refusal::Absurd);
    }
}
