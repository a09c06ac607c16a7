//! The federation in memory: the real session, work, round, merging and ledger code, under a virtual clock and on a
//! network that loses, duplicates, reorders, delays and partitions. Programs are killed and lose their power in the
//! middle of a write, the broker forgets. One seed decides everything, so a run that fails is run again from its seed.
//!
//! No thread, socket, clock or file. [`Plan`] is what a seed decides beforehand, [`Stimulus`] all that can happen; the
//! invariants are checked after each step, and when the weather clears, everything must come to its end.

mod aggregator;
mod crowd;
mod device;
mod faults;
mod forging;
mod invariants;
mod ledger;
mod meter;
mod network;
mod plan;
mod power;
mod reference;
mod stimulus;
mod trace;
mod world;

use core::time::Duration;

use grapevine_aggregator::store::Ledger;

pub use crowd::{Crowd, RoundEnd};
pub use invariants::Broken;
pub use meter::{Instruments, Meter, Owner, Taken};
pub use network::Carried;
pub use plan::{Plan, Weather};
pub use stimulus::{Ending, Fault, Forgery, Part, Stimulus};
pub use trace::Trace;
pub use world::Figures;
use world::World;
pub(crate) use world::dataset;

/// How long after the storm a run may take beyond its rounds: pauses of a minute end, announcements are repeated, and a device
/// that hears nothing doubts its connection.
const SETTLING: Duration = Duration::from_secs(2_000);

/// A run that came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// What happened.
    pub figures: Figures,
    /// What became of messages.
    pub carried: Carried,
    /// On the virtual clock.
    pub time: Duration,
}

impl Passed {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.figures.add(&other.figures);
        self.carried.add(&other.carried);
        self.time += other.time;
    }
}

/// A run that broke an invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, step {step}, {} s: {broken}", time.as_secs_f64())]
pub struct Failed {
    /// Runs it again.
    pub seed: u64,
    /// After how many steps.
    pub step: u64,
    /// On the virtual clock.
    pub time: Duration,
    /// Which one.
    pub broken: Broken,
}

/// Runs a plan to its end.
///
/// # Errors
/// If an invariant does not hold.
pub fn run(plan: Plan, trace: Trace) -> Result<Passed, Failed> {
    run_beside(plan, trace, None)
}

/// Runs a plan to its end with another ledger, which is empty, beside the modelled one.
///
/// # Panics
/// If it does something else than the modelled one.
///
/// # Errors
/// If an invariant does not hold.
pub fn run_beside(plan: Plan, trace: Trace, ledger: Option<Box<dyn Ledger>>) -> Result<Passed, Failed> {
    let seed = plan.seed;
    let round = &plan.round;
    // A run without an end rests soon after its devices hold what they hold in the end.
    let most = round.rounds.unwrap_or(3 * round.rest_after + 3);
    let rounds = round.deadline * (round.extensions + 2) * (most + 1) + round.news_after;
    let limit = plan.calm_at + rounds + SETTLING;
    let mut world = World::new(plan, Meter::default(), trace, true);
    if let Some(ledger) = ledger {
        world.aggregator.ledger.compare_with(ledger);
    }
    match settle(&mut world, limit) {
        Ok(()) => Ok(Passed { figures: world.figures(), carried: world.network.carried, time: world.now }),
        Err(broken) => Err(Failed { seed, step: world.figures.steps, time: world.now, broken }),
    }
}

fn settle(world: &mut World, limit: Duration) -> Result<(), Broken> {
    loop {
        let goes_on = world.step()?;
        if world.healed_at.is_none() {
            continue;
        }
        let Some(missing) = invariants::what_is_missing(world) else { return Ok(()) };
        if !goes_on || world.now > limit {
            return Err(Broken::new("a healed fleet comes to its end", missing));
        }
    }
}
