//! A closed round: merge, make durable, go on.

use grapevine_models::Sums;
use grapevine_protocol::RoundAnnouncement;

use super::action::Durable;
use super::context::Ctx;
use super::model::{ModelAfter, ModelError};
use super::phase::Phase;
use super::round_record::RoundRecord;
use super::run::RunState;
use super::{Event, RoundOutcome};

/// The merged model waits to be durable.
pub(super) struct Committing {
    outcome: RoundOutcome,
}

impl From<Committing> for Phase {
    fn from(committing: Committing) -> Self {
        Self::Committing(Box::new(committing))
    }
}

impl Committing {
    /// The round is merged: has it made durable.
    #[must_use]
    pub(super) fn begin(ctx: &mut Ctx<'_>, run: &mut RunState, record: RoundRecord, after: ModelAfter) -> Self {
        record.count_missed(ctx);
        let (expected, chosen) = (record.expected(), record.chosen());
        let RoundRecord { announcement, request, accepted, samples, contributions, extensions, .. } = record;
        let mut counters = run.counters;
        let ModelAfter { model, change, held_back, starts_anew } = after;
        let is_statistics = !request.is_training();
        let takes_in = is_statistics || ctx.config.params.needs() == Sums::Nothing;
        // A round that does not take samples in has no news, whatever its answers are of: else it would have them for ever.
        let has_news = takes_in
            && contributions.iter().any(|(index, contribution)| {
                run.contributions.news(*index, contribution.dataset, contribution.samples).is_some()
            });
        // The next round asks the same devices again, unless some are drawn anew each time.
        let is_of_all = announcement.selection_threshold == u64::MAX;
        if is_statistics {
            counters.gathered(starts_anew);
        } else {
            counters.trained(change, has_news);
            // Where devices train, chance has a part in what they answer.
            counters.is_unchanged &= is_of_all && ctx.config.params.method.sends_gradient();
        }
        if takes_in {
            contributions.into_iter().for_each(|(index, contribution)| run.contributions.put(index, contribution));
        }
        let outcome = RoundOutcome {
            run: run.id,
            round: announcement.round,
            request,
            model,
            accepted: accepted.len(),
            expected,
            chosen,
            extensions,
            samples,
            counters,
            change,
            held_back,
            takes_in,
        };
        accepted.from().for_each(|index| ctx.devices.registry.count_done(index, announcement.round));
        run.merged(announcement.round, accepted, held_back.is_some());
        ctx.out.durable(Durable::Commit(Box::new(outcome.clone())));
        Self { outcome }
    }

    /// The merged model is durable: it is the fleet's model now, and the next round may open.
    pub(super) fn finish(self, run: &mut RunState) {
        run.counters = self.outcome.counters;
        run.model = self.outcome.model;
        run.count_round();
    }
}

/// What a round gave cannot be used: it counts for nothing, and nothing of it is told to anybody. The same answers would give
/// the same: the next round waits until a device comes, or the roll is called.
#[must_use]
pub(super) fn discard(ctx: &mut Ctx<'_>, run: &mut RunState, record: RoundRecord, fault: ModelError) -> Phase {
    let RoundAnnouncement { run: id, round, .. } = record.announcement;
    run.count_round();
    ctx.out.durable(Durable::AbandonRound(id, round));
    ctx.report(Event::RoundUnusable { round, fault });
    Phase::Gathering
}
