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
        let is_shown = !quiet && io::stderr().is_terminal();
        if is_shown { Self::on(ProgressBar::new(0)) } else { Self { images: ImagesBar::new(quiet), bar: None, quiet } }
    }

    fn on(bar: ProgressBar) -> Self {
        let style = ProgressStyle::with_template("{prefix:>14} {bar:30} {pos}/{len}  {msg}");
        let bar = bar.with_style(style.expect("the template is well-formed"));
        Self { images: ImagesBar::new(false), bar: Some(bar), quiet: false }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        match (progress, &self.bar) {
            (Progress::Reading(progress), _) => self.images.show(*progress),
            (Progress::Preparing { done, devices }, Some(bar)) => {
                self.images.clear();
                restart(bar, *devices as u64, "storing");
                bar.set_position(*done as u64);
            }
            (Progress::Preparing { done, devices }, None) if done == devices => {
                say(&format!("{devices} devices have their features"));
            }
            (Progress::Preparing { .. }, None) => {}
            (Progress::Begins { method, rounds }, Some(bar)) => {
                restart(bar, u64::from(*rounds), method.name());
                bar.set_message("");
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

/// Begins a bar anew. The length comes first: a bar that is drawn before it has one is full, and says 0/0.
pub(super) fn restart(bar: &ProgressBar, length: u64, prefix: &'static str) {
    bar.set_length(length);
    bar.set_position(0);
    bar.set_prefix(prefix);
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

fn round_text(updates: (usize, usize), balanced_accuracy: Option<f64>, elapsed: Duration) -> String {
    let accuracy = balanced_accuracy.map_or_else(String::new, |share| format!("balanced {:.1} %, ", 100.0 * share));
    format!("{accuracy}{} of {} updates, {:.1} s", updates.0, updates.1, elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use grapevine_models::Method;
    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps what is written to it.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(&format!("{line}\n"));
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write_line(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_bar_begins_full() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(paper.clone()), 255);
        let mut screen = Screen::on(ProgressBar::with_draw_target(Some(0), target));
        screen.show(&Progress::Preparing { done: 0, devices: 4 });
        screen.show(&Progress::Preparing { done: 4, devices: 4 });
        screen.show(&Progress::Begins { method: Method::FedAvg, rounds: 20 });
        let drawn = paper.0.lock().unwrap().clone();
        assert!(drawn.contains("0/4") && !drawn.contains("0/0"), "{drawn}");
    }
}
