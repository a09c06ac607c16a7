//! How far reading a data set has come, on standard error: a bar on a terminal, a line at the end elsewhere.

use core::time::Duration;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use grapevine_simulator::data::images::ImageProgress;
use indicatif::{ProgressBar, ProgressStyle};

/// Images between two looks at the clock.
const STEP: usize = 32;

/// Shows progress and measures the rate.
pub(super) struct ImagesBar {
    bar: Option<ProgressBar>,
    is_quiet: bool,
    began: Option<Instant>,
    extracted: usize,
    took: Duration,
}

impl ImagesBar {
    pub(super) fn new(is_quiet: bool) -> Self {
        let bar = (!is_quiet && io::stderr().is_terminal()).then(ProgressBar::no_length);
        Self { bar, is_quiet, began: None, extracted: 0, took: Duration::ZERO }
    }

    pub(super) fn show(&mut self, progress: ImageProgress) {
        match progress {
            ImageProgress::Listing { images } if images.is_multiple_of(STEP) => {
                if let Some(bar) = &self.bar {
                    bar.set_style(style("{spinner} listing {pos} images"));
                    bar.set_position(images as u64);
                }
            }
            ImageProgress::Listing { .. } => {}
            ImageProgress::Extracting { done: 0, total } => {
                self.began = Some(now());
                if let Some(bar) = &self.bar {
                    // In this order no bar is drawn that is full before it begins.
                    bar.set_position(0);
                    bar.set_length(total as u64);
                    bar.set_style(style("extracting {bar:30} {pos}/{len} images, {per_sec}, {eta} left"));
                    bar.reset();
                }
            }
            ImageProgress::Extracting { done, total } => {
                if let Some(bar) = self.bar.as_ref().filter(|_| done.is_multiple_of(STEP) || done == total) {
                    bar.set_position(done as u64);
                }
                if done == total {
                    self.finish(total);
                }
            }
        }
    }

    /// Images that were extracted and how many a second; `None` where all were known already.
    pub(super) fn rate(&self) -> Option<(usize, f64)> {
        let seconds = self.took.as_secs_f64();
        (self.extracted > 0 && seconds > 0.0).then(|| (self.extracted, self.extracted as f64 / seconds))
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn finish(&mut self, images: usize) {
        let took = self.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        self.extracted += images;
        self.took += took;
        if !self.is_quiet && self.bar.is_none() {
            let rate = images as f64 / took.as_secs_f64().max(1e-9);
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "{images} images extracted, {rate:.0} a second");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed")
}

#[allow(clippy::disallowed_methods, reason = "a command line tells people how fast it is")]
fn now() -> Instant {
    Instant::now()
}
