//! A round whose merged model cannot be used: it is merged without the devices that caused that.
//!
//! Every update passed its own checks, so the cause shows only in the merge. The updates are read again from the ledger
//! and added in its order. The search is by bisection: the last update of the shortest prefix that cannot be merged is
//! taken out, until the rest can be. The order of the ledger does not change, so a restart finds the same devices.

use grapevine_models::{Request, RoundSum};
use grapevine_protocol::{DeviceId, Digest, Refusal, RoundAnnouncement};

use super::action::Durable;
use super::committing::discard;
use super::context::Ctx;
use super::device_index::DeviceIndex;
use super::model::ModelAfter;
use super::phase::Phase;
use super::round_record::RoundRecord;
use super::run::RunState;
use super::{Event, ModelError};

/// Taking out more than one in so many updates blames devices for what the model was before.
const LEAST_KEPT: usize = 4;

/// An update and whose it is.
type Suspect = (DeviceIndex, Digest);

/// The updates of a round are being read again.
pub(super) struct Sifting {
    record: RoundRecord,
    search: Search,
    /// So many were added in this pass, this one last.
    added: usize,
    last: Option<Suspect>,
    sum: RoundSum,
}

/// What the passes until now showed.
struct Search {
    /// Taken out, each with the digest of its update.
    suspects: Vec<Suspect>,
    /// The first so many updates of the others can be merged.
    usable: usize,
    /// The first so many cannot.
    unusable: usize,
    /// So many are added in this pass.
    wanted: usize,
    /// The last of the shortest prefix that cannot be merged.
    culprit: Option<Suspect>,
}

/// What a pass leads to.
#[must_use]
pub(super) enum Sifted {
    /// Another pass, or the end of a round that counts for nothing.
    Phase(Phase),
    /// The round can be merged.
    Found(Box<Found>),
}

/// A round that can be merged without some of its updates.
pub(super) struct Found {
    pub(super) record: RoundRecord,
    /// The updates that are taken out.
    pub(super) suspects: Vec<Suspect>,
    pub(super) after: ModelAfter,
}

impl Search {
    /// What a pass showed that ended with the update `last`; `true` if the search goes on among `all` updates. Each pass brings
    /// the two bounds closer, or takes an update out.
    #[must_use]
    fn narrow(&mut self, is_usable: bool, last: Option<Suspect>, all: usize) -> bool {
        if is_usable {
            self.usable = self.wanted;
        } else {
            (self.unusable, self.culprit) = (self.wanted, last);
        }
        if self.unusable - self.usable > 1 {
            self.wanted = self.usable.midpoint(self.unusable);
            return true;
        }
        let Some(culprit) = self.culprit.take() else { return false };
        self.suspects.push(culprit);
        let rest = all - self.suspects.len();
        (self.usable, self.unusable, self.wanted) = (0, rest, rest);
        rest > 0 && self.suspects.len() <= all.div_ceil(LEAST_KEPT)
    }
}

impl Sifting {
    /// Looks for the updates of which the merged model is unusable.
    #[must_use]
    pub(super) fn begin(ctx: &mut Ctx<'_>, run: &mut RunState, record: RoundRecord) -> Phase {
        let all = record.accepted.len();
        let search = Search { suspects: Vec::new(), usable: 0, unusable: all, wanted: all, culprit: None };
        Self::begin_pass(ctx, run, record, search)
    }

    /// Has the updates read again, to be added to an empty sum.
    fn begin_pass(ctx: &mut Ctx<'_>, run: &mut RunState, record: RoundRecord, search: Search) -> Phase {
        match run.empty_sum(record.request, ctx.config) {
            Ok(sum) => {
                let RoundAnnouncement { run: id, round, .. } = record.announcement;
                ctx.out.durable(Durable::RereadUpdates(id, round));
                Phase::Sifting(Box::new(Self { record, search, added: 0, last: None, sum }))
            }
            Err(fault) => discard(ctx, run, record, fault),
        }
    }

    pub(super) fn request(&self) -> Request {
        self.record.request
    }

    /// Adds the next update of this pass.
    ///
    /// # Errors
    /// If it does not fit; the ledger holds only updates that passed this check before.
    pub(super) fn add(
        &mut self,
        index: DeviceIndex,
        device: &DeviceId,
        content: &[u8],
        former: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let Search { suspects, wanted, .. } = &self.search;
        if self.added == *wanted || suspects.iter().any(|(suspect, _)| *suspect == index) {
            return Ok(());
        }
        let update = self.record.decode(content)?;
        let former = self.record.former(former)?;
        let added = self.sum.add_in_place_of(former.as_ref(), device.as_str(), &update.response, update.samples);
        added.map_err(|_| Refusal::Storage)?;
        self.added += 1;
        self.last = Some((index, Digest::of(content)));
        Ok(())
    }

    /// The ledger has no more updates of the round.
    pub(super) fn end_pass(self, ctx: &mut Ctx<'_>, run: &mut RunState) -> Sifted {
        let Self { record, mut search, last, sum, .. } = self;
        let all = record.accepted.len();
        let is_whole = search.wanted == all - search.suspects.len();
        let after = run.merge(sum, ctx.config);
        let is_usable = after.is_ok();
        if let (true, Ok(after)) = (is_whole, after) {
            return Sifted::Found(Box::new(Found { record, suspects: search.suspects, after }));
        }
        Sifted::Phase(if search.narrow(is_usable, last, all) {
            Self::begin_pass(ctx, run, record, search)
        } else {
            discard(ctx, run, record, ModelError::Unusable)
        })
    }
}

/// The round is merged without this update.
pub(super) fn take_out(ctx: &mut Ctx<'_>, record: &mut RoundRecord, index: DeviceIndex) {
    let RoundAnnouncement { run, round, .. } = record.announcement;
    record.take_out(index);
    ctx.out.durable(Durable::DropUpdate(run, round, ctx.devices.id(index)));
    ctx.report(Event::UpdateTakenOut { device: ctx.id(index), round });
}
