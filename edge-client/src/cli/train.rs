//! `edge-client train`: a fleet of one device, without a broker.

use core::fmt::Write;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use grapevine_edge_client::session::Job;
use grapevine_edge_client::store::{Dataset, NewestHead, Store};
use grapevine_edge_client::work::{WorkError, work};
use grapevine_models::evaluate::Accuracy;
use grapevine_models::{
    Head, Heads, Method, Params, Prototypes, Samples, Shape, Statistics, Sums, class_counts, oneshot,
};
use grapevine_protocol::{
    Aid, BootId, DeviceId, Digest, Encoding, HeadsBody, Notice, RoundId, RunId, Task, Update, UpdateContent,
};
use serde::Serialize;

use super::failure::UsageError;
use super::setup::{LOCAL_RUN, Setup};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client train                          # is this device able to, and how long does a round take?
  edge-client train --rounds 20 --save       # a head of its own, without any fleet
  edge-client train --method ridge --json

Begins with the newest head if there is one. The accuracy is that on the training samples themselves.";

/// Train on this device's own samples alone, without a broker.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// How to train.
    #[arg(long, value_name = "NAME", default_value_t = Method::RedGrape)]
    method: Method,
    /// How many rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Store the head as the newest one, for `classify`; else nothing is written.
    #[arg(long)]
    save: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Trained {
    method: Method,
    rounds: u32,
    samples: usize,
    /// Whether the newest head was the beginning.
    from_newest_head: bool,
    ms_per_round: f64,
    /// The mean over the classes that have samples.
    balanced_accuracy: f64,
    by_class: Vec<OfClass>,
    saved: bool,
}

#[derive(Serialize)]
struct OfClass {
    class: String,
    samples: u32,
    accuracy: Option<f64>,
}

pub(super) fn train(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let Arguments { method, rounds, save, .. } = *arguments;
    if method.is_one_shot() && rounds > 1 {
        let line = format!("{method} is done in one exchange and gains nothing from {rounds}; leave out --rounds");
        return Err(UsageError(line).into());
    }
    let setup = Setup::load(common.configuration()?)?;
    let store = if save { setup.open_filled_store() } else { setup.read_store() }?;
    let dataset = store.load_all()?;
    let newest = store.newest_head()?;
    if dataset.labels.is_empty() {
        return Err(WorkError::Nothing.into());
    }
    let shape = setup.shape;
    let samples = Samples::new(shape, &dataset.features, &dataset.labels)?;
    let from_newest_head = newest.is_some() && !method.is_one_shot();
    let (heads, time) = if method.is_one_shot() {
        solve(method, &samples)
    } else {
        let mut fleet = FleetOfOne::new(&setup.config.device, shape, method, newest.map(|newest| newest.main));
        fleet.prepare(&samples);
        let started = now();
        for round in 0..rounds {
            fleet.round(round, &dataset)?;
        }
        (fleet.heads.unwrap_or_else(|| Heads::zeros(shape)), started.elapsed())
    };
    if save {
        keep(&store, shape, &heads)?;
    }
    let accuracy = Accuracy::of(&heads.main, &samples);
    let counts = class_counts(&dataset.labels, shape.classes());
    let by_class = setup.config.classes.into_iter().zip(counts.into_iter().zip(&accuracy.by_class));
    let trained = Trained {
        method,
        rounds,
        samples: dataset.labels.len(),
        from_newest_head,
        ms_per_round: 1e3 * time.as_secs_f64() / f64::from(rounds),
        balanced_accuracy: accuracy.balanced(),
        by_class: by_class.map(|(class, (samples, &accuracy))| OfClass { class, samples, accuracy }).collect(),
        saved: save,
    };
    Ok(Answer::of(&trained, arguments.json, render)?)
}

/// The rounds of a fleet that has one device: what the aggregator would send comes from the device's own updates.
struct FleetOfOne<'a> {
    device: &'a DeviceId,
    notice: Notice,
    heads: Option<Heads>,
    aid: Option<Aid>,
}

impl<'a> FleetOfOne<'a> {
    fn new(device: &'a DeviceId, shape: Shape, method: Method, main: Option<Head>) -> Self {
        let notice = Notice {
            boot: BootId(0),
            run: RunId(LOCAL_RUN),
            round: RoundId(0),
            task: Task::Train,
            shape,
            params: Params::defaults(method, shape.classes()),
            encoding: Encoding::F32,
            heads: None,
            aid: None,
            seed: 0,
            highest_ticket: u64::MAX,
            closes_in_ms: 0,
        };
        let heads = main.map(|main| Heads { main, supplementary: Head::zeros(shape) });
        Self { device, notice, heads, aid: None }
    }

    /// What the method needs to know before its first round.
    fn prepare(&mut self, samples: &Samples<'_>) {
        let method = self.notice.params.method;
        let statistics = |extent| Statistics::of(samples, extent, self.notice.params.min_samples_to_share);
        self.aid = match method.needs() {
            Sums::Nothing => None,
            Sums::Counts => Some(Aid::Prior(statistics(Sums::Counts).prior())),
            extent @ (Sums::Means | Sums::SecondMoment) => Some(Aid::Means(statistics(extent).means())),
        };
    }

    /// One round, through the same bytes that a device of a larger fleet reads and writes.
    fn round(&mut self, round: u32, dataset: &Dataset) -> anyhow::Result<()> {
        self.notice.round = RoundId(round);
        let (shape, method) = (self.notice.shape, self.notice.params.method);
        let heads = self.heads.take().map(|heads| Arc::from(HeadsBody(heads).encode(shape)));
        let aid = self.aid.as_ref().map(|aid| Arc::from(aid.encode(Encoding::F32)));
        let content = work(&Job { notice: self.notice.clone(), heads, aid }, self.device, dataset)?;
        match Update::decode(&content, shape, Task::Train, method)?.content {
            UpdateContent::Trained { heads, prototypes } => {
                self.heads = Some(heads);
                self.remember(prototypes);
                Ok(())
            }
            UpdateContent::Statistics(_) => Err(WorkError::Nothing.into()),
        }
    }

    fn remember(&mut self, prototypes: Prototypes) {
        if self.notice.params.method.sends_prototypes() {
            self.aid = Some(Aid::Prototypes(prototypes));
        }
    }
}

/// A one-shot method's head and the time it took.
fn solve(method: Method, samples: &Samples<'_>) -> (Heads, Duration) {
    let started = now();
    let statistics = Statistics::of(samples, method.needs(), 1);
    let main = match method {
        Method::Ridge => oneshot::ridge(&statistics, oneshot::RIDGE_STRENGTH),
        Method::Lda => oneshot::lda(&statistics, oneshot::LDA_SHRINKAGE),
        Method::Ncm
        | Method::FedAvg
        | Method::LogitAdjusted
        | Method::RedGrape
        | Method::RedGrapeNoPrototypes
        | Method::RedGrapeNoSupplementary
        | Method::RedGrapeLive => oneshot::ncm(&statistics),
    };
    let supplementary = Head::zeros(samples.shape());
    (Heads { main, supplementary }, started.elapsed())
}

fn keep(store: &Store, shape: Shape, heads: &Heads) -> anyhow::Result<()> {
    heads.check(shape).context("the trained head cannot be used; look at the images and the extractor")?;
    let digest = Digest::of(&HeadsBody(heads.clone()).encode(shape)).0;
    store.put_head(&NewestHead { run: LOCAL_RUN, round: 0, main: heads.main.clone(), digest })?;
    Ok(())
}

fn render(trained: &Trained) -> String {
    let Trained { method, rounds, samples, ms_per_round, balanced_accuracy, .. } = trained;
    let beginning = if trained.from_newest_head { ", from the newest head" } else { "" };
    let mut text = format!("{samples} samples, {method}, {rounds} round(s) of {ms_per_round:.2} ms{beginning}\n");
    let width = trained.by_class.iter().map(|each| each.class.chars().count()).max().unwrap_or(0);
    for OfClass { class, samples, accuracy } in &trained.by_class {
        let share = accuracy.map_or("      -".to_owned(), |accuracy| format!("{:5.1} %", 100.0 * accuracy));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {class:width$}  {share}  of {samples}");
    }
    let _ = writeln!(text, "balanced training accuracy {:.1} %", 100.0 * balanced_accuracy);
    text.push_str(if trained.saved { "saved as the newest head\n" } else { "not saved; --save stores the head\n" });
    text
}

#[allow(clippy::disallowed_methods, reason = "the command exists to measure a device's time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_learns_two_separable_classes() {
        let shape = Shape::new(2, 2).unwrap();
        let labels: Vec<u16> = (0..40).map(|index| index % 2).collect();
        let features = labels.iter().flat_map(|&label| if label == 0 { [1.0, 0.2] } else { [-1.0, 0.2] }).collect();
        let dataset = Dataset { features, labels, damaged: 0 };
        let samples = Samples::new(shape, &dataset.features, &dataset.labels).unwrap();
        let device = "alone".parse().unwrap();
        for method in Method::ALL {
            let heads = if method.is_one_shot() {
                solve(method, &samples).0
            } else {
                let mut fleet = FleetOfOne::new(&device, shape, method, None);
                fleet.prepare(&samples);
                (0..5).try_for_each(|round| fleet.round(round, &dataset)).unwrap();
                fleet.heads.unwrap()
            };
            assert_eq!(Accuracy::of(&heads.main, &samples).balanced(), 1.0, "{method}");
        }
    }
}
