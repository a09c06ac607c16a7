//! Progress on standard error: a bar on a terminal, a line per round elsewhere.

use core::time::Duration;
use std::io::{self, IsTerminal, Write};

use grapevine_simulator::demo::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use super::images_bar::ImagesBar;

/// Shows progress.
pub(super) struct Screen {
    images: ImagesBar,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Screen {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix:>14} {bar:30} {pos}/{len}  {msg}");
            ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
        });
        Self { images: ImagesBar::new(quiet), bar, quiet }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        match (progress, &self.bar) {
            (Progress::Reading(progress), _) => self.images.show(*progress),
            (Progress::Preparing { done, devices }, Some(bar)) => {
                self.images.clear();
                bar.set_prefix("storing");
                bar.set_length(*devices as u64);
                bar.set_position(*done as u64);
            }
            (Progress::Preparing { done, devices }, None) if done == devices => {
                say(&format!("{devices} devices have their features"));
            }
            (Progress::Preparing { .. }, None) => {}
            (Progress::Begins { method, rounds }, Some(bar)) => {
                bar.set_prefix(method.name());
                bar.set_message("");
                bar.set_length(u64::from(*rounds));
                bar.set_position(0);
            }
            (Progress::Begins { .. }, None) => {}
            (Progress::Round { method, done, rounds, updates, balanced_accuracy, elapsed }, bar) => {
                let text = round_text(*updates, *balanced_accuracy, *elapsed);
                match bar {
                    Some(bar) => {
                        bar.set_position(u64::from(*done));
                        bar.set_message(text);
                        if done == rounds {
                            bar.println(format!("{:>14} {done} rounds  {}", method.name(), bar.message()));
                        }
                    }
                    None => say(&format!("{method} round {done}/{rounds}: {text}")),
                }
            }
        }
    }

    pub(super) fn clear(&self) {
        self.images.clear();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

fn round_text(updates: (usize, usize), balanced_accuracy: Option<f64>, elapsed: Duration) -> String {
    let accuracy = balanced_accuracy.map_or_else(String::new, |share| format!("balanced {:.1} %, ", 100.0 * share));
    format!("{accuracy}{} of {} updates, {:.1} s", updates.0, updates.1, elapsed.as_secs_f64())
}
