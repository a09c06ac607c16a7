//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::cmp::Ordering;
use std::collections::BTreeSet;

use grapevine_models::Request;
use grapevine_protocol::limits::MAX_NAMED_DEVICES;
use grapevine_protocol::{DeviceId, RoundAnnouncement, RoundId, Task, named_draw, selection_draw};

use super::action::Durable;
use super::announcements::Announcements;
use super::collecting::Collecting;
use super::context::Ctx;
use super::device_index::{DeviceIndex, DeviceSet};
use super::downloads::Downloads;
use super::round_record::RoundRecord;
use super::run::RunState;
use super::{Event, ModelError, Participants};

/// What follows when no round is open.
#[must_use]
pub(super) enum Next {
    /// This round, which is not announced yet.
    Open(Box<Collecting>),
    /// There is a round to open, and devices are lacking.
    Lacking,
    /// The model cannot be read. It was read at the start; only a fault of this program comes here.
    Unusable(ModelError),
    /// There is nothing to be learned for now.
    Rest,
}

/// Opens the next round if there is one and enough devices are there.
pub(super) fn next(
    ctx: &mut Ctx<'_>,
    run: &mut RunState,
    announcements: &Announcements,
    downloads: &Downloads,
) -> Next {
    let registry = &ctx.devices.registry;
    let Some(request) = run.next_request(ctx.now, ctx.config, registry) else { return Next::Rest };
    let needed = ctx.config.min_devices.max(1);
    // Who is able is counted device by device: not with every hello of a large fleet that comes.
    let able = if registry.present() < needed { 0 } else { registry.able().count() };
    if able < needed {
        return Next::Lacking;
    }
    let draft = |threshold| announcements.draft(Task::Round(request), threshold, ctx.config, run, downloads);
    if run.is_addition(request) {
        let announcement = draft(u64::MAX);
        return gather_news(ctx, run, announcement, request);
    }
    let asks_everybody = ctx.config.params.method.asks_everybody(run.model.side_information.is_some());
    // Statistics and beginnings are of everybody.
    let is_drawn = request.is_training() && !asks_everybody;
    let participants = if is_drawn { ctx.config.participants } else { Participants::All };
    let (wanted, chosen) = participants.of(able, ctx.config.over_select);
    let (asked, selection_threshold) = match participants {
        Participants::All => (registry.able().collect(), u64::MAX),
        Participants::Count(_) | Participants::Share(_) => choose_among(ctx, able, chosen, run.next_round),
    };
    let record = RoundRecord::new(draft(selection_threshold), request, asked, wanted);
    open(ctx, run, record)
}

/// Asks the devices that hold samples which the run does not know for their statistics: each by name, or everybody
/// where they are too many for an announcement.
fn gather_news(ctx: &mut Ctx<'_>, run: &mut RunState, mut announcement: RoundAnnouncement, request: Request) -> Next {
    let (registry, round) = (&ctx.devices.registry, announcement.round);
    let (news, _) = run.news(ctx.now, ctx.config, registry);
    let asked: DeviceSet = if news.len() <= MAX_NAMED_DEVICES {
        let draw = |index| selection_draw(ctx.config.seed, round, &registry.names().id(index));
        announcement.only = news.iter().map(|index| named_draw(draw(index))).collect();
        news
    } else {
        registry.able().collect()
    };
    let wanted = asked.len();
    ctx.report(Event::NewsGathered { round, devices: wanted });
    open(ctx, run, RoundRecord::new(announcement, request, asked, wanted))
}

fn open(ctx: &mut Ctx<'_>, run: &mut RunState, record: RoundRecord) -> Next {
    let sum = match run.empty_sum(record.request, ctx.config) {
        Ok(sum) => sum,
        Err(fault) => return Next::Unusable(fault),
    };
    run.opened(ctx.now, record.request);
    ctx.out.durable(Durable::OpenRound {
        announcement: record.announcement.clone(),
        expected: record.expected(),
        chosen: record.chosen(),
    });
    let silent = record.asked.iter().filter(|index| ctx.devices.registry.has_missed(*index)).collect();
    Next::Open(Box::new(Collecting::new(record, sum, silent, ctx.now, ctx.config.deadline)))
}

/// As [`choose`], among the `able` devices that can take part.
fn choose_among(ctx: &Ctx<'_>, able: usize, wanted: usize, round: RoundId) -> (DeviceSet, u64) {
    let registry = &ctx.devices.registry;
    let names = registry.names();
    let mut draws: Vec<(u64, DeviceIndex)> = Vec::with_capacity(able);
    let draw = |index| (selection_draw(ctx.config.seed, round, &names.id(index)), index);
    draws.extend(registry.able().map(draw));
    lowest(draws, wanted, |one, other| names.order(*one, *other))
}

/// Who takes part in a round of training: the `wanted` devices with the lowest draws, and the highest draw among them.
pub fn choose(able: &[&DeviceId], wanted: usize, seed: u64, round: RoundId) -> (BTreeSet<DeviceId>, u64) {
    let draws = able.iter().map(|device| (selection_draw(seed, round, device), *device)).collect();
    let (chosen, highest): (BTreeSet<&DeviceId>, u64) = lowest(draws, wanted, Ord::cmp);
    (chosen.into_iter().cloned().collect(), highest)
}

/// The `wanted` devices with the lowest draws, and the highest draw among them; `order` is that of the names.
fn lowest<D, C: FromIterator<D>>(
    mut draws: Vec<(u64, D)>,
    wanted: usize,
    order: impl Fn(&D, &D) -> Ordering,
) -> (C, u64) {
    draws.sort_unstable_by(|(draw, one), (other_draw, other)| draw.cmp(other_draw).then_with(|| order(one, other)));
    draws.truncate(wanted);
    let highest = draws.last().map_or(0, |(draw, _)| *draw);
    (draws.into_iter().map(|(_, device)| device).collect(), highest)
}
