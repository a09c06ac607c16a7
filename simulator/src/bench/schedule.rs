//! Many runs on all cores in bounded memory: a run's devices share the cores, and where it has fewer devices than there
//! are cores, several runs go on side by side.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::BenchError;
use super::fleet::{Fleet, Validation};
use super::pool::{Deal, Pool};

/// The fleets of all seeds, each made when its first run begins and dropped after its last.
pub(super) struct Fleets<'a> {
    pub(super) pool: &'a Pool,
    pub(super) deal: Deal,
    pub(super) seeds: &'a [u64],
    /// The training samples to test on, in place of the test set.
    pub(super) validation: Option<Validation>,
}

struct Slot {
    fleet: Option<Arc<Fleet>>,
    runs_left: usize,
}

/// Says whether everything should end.
type Stop<'a> = &'a (dyn Fn() -> bool + Sync);
/// One job on the fleet of its seed.
type Work<'a, J, R> = dyn Fn(&Fleet, &J, Stop<'_>) -> Result<Option<R>, BenchError> + Sync + 'a;

/// Does `work` for every job, which names its seed's position; gives the results in the order of the jobs. A job that
/// was stopped gives `None`. The first error ends them all.
pub(super) fn run_all<J: Sync, R: Send>(
    fleets: &Fleets<'_>,
    jobs: &[(usize, J)],
    side_by_side: usize,
    stop: Stop<'_>,
    work: &Work<'_, J, R>,
) -> Result<Vec<Option<R>>, BenchError> {
    let slots: Vec<Mutex<Slot>> = (0..fleets.seeds.len())
        .map(|seed| Mutex::new(Slot { fleet: None, runs_left: jobs.iter().filter(|job| job.0 == seed).count() }))
        .collect();
    // Seed after seed, so that few fleets are in memory at a time.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&job| jobs[job].0);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Mutex<Vec<Result<Option<R>, BenchError>>> = Mutex::new(jobs.iter().map(|_| Ok(None)).collect());
    let stop = || failed.load(Ordering::Relaxed) || stop();
    let worker = || {
        while let Some(&job) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop() {
                return;
            }
            let (seed, job_itself) = &jobs[job];
            let fleet = fleets.of(*seed, &mut lock(&slots[*seed]));
            let result = fleet.and_then(|fleet| work(&fleet, job_itself, &stop));
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            lock(&results)[job] = result;
            lock(&slots[*seed]).run_ended();
        }
    };
    thread::scope(|scope| {
        for _ in 1..side_by_side.min(jobs.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

impl Fleets<'_> {
    fn of(&self, seed: usize, slot: &mut Slot) -> Result<Arc<Fleet>, BenchError> {
        if let Some(fleet) = &slot.fleet {
            return Ok(fleet.clone());
        }
        let whole = self.pool.draw(&self.deal, self.seeds[seed])?;
        let fleet = match self.validation {
            Some(validation) => whole.with_validation(validation),
            None => whole,
        };
        let fleet = Arc::new(fleet);
        slot.fleet = Some(fleet.clone());
        Ok(fleet)
    }
}

impl Slot {
    fn run_ended(&mut self) {
        self.runs_left = self.runs_left.saturating_sub(1);
        if self.runs_left == 0 {
            self.fleet = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
