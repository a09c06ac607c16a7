//! Many devices or many rounds without a fault: what they cost.

use core::time::Duration;

use super::invariants::{self, Broken};
use super::meter::{Meter, Owner, Taken};
use super::plan::Plan;
use super::trace::Trace;
use super::world::World;

/// How long devices have to fetch the final heads.
const LAST_DOWNLOADS: Duration = Duration::from_secs(60);

/// A fleet on its way through a run.
pub struct Crowd {
    world: World,
}

/// A merged round.
#[derive(Clone, Copy, Debug)]
pub struct RoundEnd {
    /// How many were merged until now.
    pub merged: u64,
    /// What the aggregator's machine takes.
    pub aggregator: Taken,
    /// What the machines of all devices take.
    pub devices: Taken,
    /// On the virtual clock.
    pub time: Duration,
}

impl Crowd {
    /// A fleet that begins its run; `meter` measures what it takes.
    pub fn new(plan: Plan, meter: Meter) -> Self {
        Self { world: World::new(plan, meter, Trace::default(), false) }
    }

    /// Goes on until the next round is merged; `None` when the run is over and all devices have the final heads.
    ///
    /// # Errors
    /// If an invariant does not hold.
    pub fn next_round(&mut self) -> Result<Option<RoundEnd>, Broken> {
        let before = self.world.merged();
        let mut finished_at = None;
        while self.world.step()? && finished_at.is_none_or(|at| self.world.now < at + LAST_DOWNLOADS) {
            if self.world.merged() > before {
                return Ok(Some(self.round_end()));
            }
            let process = self.world.aggregator.process.as_ref();
            let is_finished = process.is_some_and(|process| process.coordinator.is_resting());
            finished_at = finished_at.or(is_finished.then_some(self.world.now));
        }
        match invariants::what_is_missing(&self.world) {
            None => Ok(None),
            Some(missing) => Err(Broken::new("a calm fleet comes to its end", missing)),
        }
    }

    /// Looks for the most bytes anew from now on.
    pub fn forget_peaks(&mut self) {
        self.world.meter.forget_peaks();
    }

    fn round_end(&self) -> RoundEnd {
        RoundEnd {
            merged: self.world.merged(),
            aggregator: self.world.meter.taken(Owner::Aggregator),
            devices: self.world.meter.taken(Owner::Devices),
            time: self.world.now,
        }
    }
}
