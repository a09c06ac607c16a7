//! Seed after seed, on all cores, until one breaks an invariant.

use core::error::Error;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::panic::catch_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clap::Args;
use grapevine_host::Answer;
use grapevine_tests::storm::{Passed, Plan, Trace, Weather, run as run_plan};
use serde_json::json;

use super::{STORM, share};

/// Which seeds, and in what weather.
#[derive(Debug, Args)]
pub(super) struct Seeds {
    /// How many seeds to run.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Write down everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Share of messages that are lost.
    #[arg(long, value_name = "SHARE", default_value_t = STORM.loss, value_parser = share)]
    loss: f64,
    /// Share of messages that arrive twice.
    #[arg(long, value_name = "SHARE", default_value_t = STORM.duplication, value_parser = share)]
    duplication: f64,
    /// Share of messages that are overtaken.
    #[arg(long, value_name = "SHARE", default_value_t = STORM.reordering, value_parser = share)]
    reordering: f64,
    /// Threads [default: one for each core].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    jobs: Option<u16>,
}

impl Seeds {
    fn weather(&self) -> Weather {
        Weather { loss: self.loss, duplication: self.duplication, reordering: self.reordering }
    }

    /// The options that are not as usual, for whoever runs a seed again.
    fn again(&self, seed: u64) -> String {
        let mut command = format!("storm --seed {seed} --trace");
        for (name, share, usual) in [
            ("loss", self.loss, STORM.loss),
            ("duplication", self.duplication, STORM.duplication),
            ("reordering", self.reordering, STORM.reordering),
        ] {
            if share != usual {
                command += &format!(" --{name} {share}");
            }
        }
        command
    }
}

pub(super) fn run(arguments: &Seeds, json: bool) -> Result<Answer, Box<dyn Error>> {
    let began = Instant::now();
    let (first, count) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let total = match arguments.trace {
        true => one(arguments, first, Trace::to(|line| println!("{line}"))),
        false => all(arguments, first..first + count),
    }
    .map_err(|failed| format!("{failed}; run it again with: {}", arguments.again(failed.seed)))?;
    Ok(answer(&total, count, began.elapsed(), json))
}

/// Why a seed did not pass.
struct Failed {
    seed: u64,
    why: String,
}

impl core::fmt::Display for Failed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.why)
    }
}

fn one(arguments: &Seeds, seed: u64, trace: Trace) -> Result<Passed, Failed> {
    let run = AssertUnwindSafe(|| run_plan(Plan::of(seed, arguments.weather()), trace));
    match catch_unwind(run) {
        Ok(Ok(passed)) => Ok(passed),
        Ok(Err(failed)) => Err(Failed { seed, why: failed.to_string() }),
        Err(_panic) => Err(Failed { seed, why: format!("seed {seed} panicked, see above") }),
    }
}

fn all(arguments: &Seeds, seeds: core::ops::Range<u64>) -> Result<Passed, Failed> {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Ok(Passed::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = one(arguments, seed, Trace::default());
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *total, outcome) {
                (Ok(sum), Ok(passed)) => sum.add(&passed),
                (Ok(_), Err(failed)) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    *total = Err(failed);
                }
                (Err(_), Ok(_) | Err(_)) => {}
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..arguments.jobs.map_or(cores, usize::from)).for_each(|_| drop(scope.spawn(work)));
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn answer(total: &Passed, seeds: u64, took: Duration, json: bool) -> Answer {
    let Passed { figures, carried, time } = total;
    let seconds = took.as_secs_f64();
    let (seeds_per_second, steps_per_second) = (seeds as f64 / seconds, figures.steps as f64 / seconds);
    if json {
        return Answer::text(format!(
            "{}\n",
            json!({
                "seeds": seeds, "steps": figures.steps, "seconds": seconds,
                "seeds_per_second": seeds_per_second, "steps_per_second": steps_per_second,
                "virtual_seconds": time.as_secs_f64(),
                "merged": figures.merged, "abandoned": figures.abandoned, "extended": figures.extended,
                "receipts": figures.receipts, "deaths": figures.deaths, "torn": figures.torn,
                "forged": figures.forged, "quarantined": figures.quarantined, "released": figures.released,
                "interrupted": figures.interrupted, "reconnected": figures.reconnected,
                "sent": carried.sent, "lost": carried.lost, "duplicated": carried.duplicated,
                "reordered": carried.reordered,
            })
        ));
    }
    let share = |part: u64| 100.0 * part as f64 / carried.sent.max(1) as f64;
    Answer::text(format!(
        "{seeds} seeds, {} steps in {seconds:.1} s: {seeds_per_second:.0} seeds/s, {steps_per_second:.0} steps/s; every \
         invariant held\n\
         rounds: {} merged, {} extended, {} abandoned; {} receipts\n\
         processes died {} times, {} of them in the middle of a write\n\
         forged messages: {}; devices quarantined {} times, released {} times; work interrupted {} times, silent \
         connections given up {} times\n\
         messages: {}, of which {:.1} % lost, {:.1} % twice, {:.1} % overtaken; {:.0} h of virtual time\n",
        figures.steps,
        figures.merged,
        figures.extended,
        figures.abandoned,
        figures.receipts,
        figures.deaths,
        figures.torn,
        figures.forged,
        figures.quarantined,
        figures.released,
        figures.interrupted,
        figures.reconnected,
        carried.sent,
        share(carried.lost),
        share(carried.duplicated),
        share(carried.reordered),
        time.as_secs_f64() / 3_600.0,
    ))
}
