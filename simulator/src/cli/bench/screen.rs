//! Progress on standard error: a bar with the time left on a terminal, a line per run elsewhere.

use core::time::Duration;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use grapevine_simulator::bench::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::images_bar::ImagesBar;
use crate::cli::screen::restart;

/// Shows progress; the runs tell theirs from several threads.
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    quiet: bool,
    images: Mutex<ImagesBar>,
    state: Mutex<State>,
}

struct State {
    began: Instant,
    rounds: u64,
    rounds_done: u64,
    runs: usize,
    runs_done: usize,
}

impl Screen {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix:>10} {bar:30} {pos}/{len} rounds, {eta} left  {msg}");
            ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
        });
        let state = State { began: now(), rounds: 0, rounds_done: 0, runs: 0, runs_done: 0 };
        Self { bar, quiet, images: Mutex::new(ImagesBar::new(quiet)), state: Mutex::new(state) }
    }

    pub(super) fn show(&self, progress: &Progress) {
        if self.quiet {
            return;
        }
        match progress {
            Progress::Images(step) => lock(&self.images).show(*step),
            Progress::Planned { tuning, runs, rounds } => {
                lock(&self.images).clear();
                let mut state = self.state();
                *state = State { began: now(), rounds: *rounds, rounds_done: 0, runs: *runs, runs_done: 0 };
                if let Some(bar) = &self.bar {
                    bar.reset();
                    restart(bar, *rounds, if *tuning { "choosing" } else { "running" });
                }
            }
            Progress::Round => {
                self.state().rounds_done += 1;
                if let Some(bar) = &self.bar {
                    bar.inc(1);
                }
            }
            Progress::Ran { method, seed, values, balanced_accuracy } => {
                let mut state = self.state();
                state.runs_done += 1;
                let values: String = values.iter().map(|value| format!(" {value}")).collect();
                let held_out = if values.is_empty() { "" } else { " on held-out training samples" };
                let (done, runs) = (state.runs_done, state.runs);
                let ran =
                    format!("{method}{values} seed {seed}: balanced {:.1} %{held_out}", 100.0 * balanced_accuracy);
                match &self.bar {
                    Some(bar) => bar.set_message(ran),
                    None => say(&format!("run {done}/{runs}: {ran}{}", state.time_left())),
                }
            }
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn time_left(&self) -> String {
        let left = self.rounds.saturating_sub(self.rounds_done);
        if self.rounds_done == 0 || left == 0 {
            return String::new();
        }
        let seconds = (now() - self.began).as_secs_f64() * left as f64 / self.rounds_done as f64;
        format!(", about {} s left", Duration::from_secs_f64(seconds).as_secs().max(1))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

#[allow(clippy::disallowed_methods, reason = "the time left is shown to people")]
fn now() -> Instant {
    Instant::now()
}
