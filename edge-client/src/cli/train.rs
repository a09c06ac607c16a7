//! `edge-client train`: a fleet of one device, without a broker.

use core::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use grapevine_edge_client::resources::Throttle;
use grapevine_edge_client::session::Job;
use grapevine_edge_client::store::{Dataset, MethodState, NewestHead, Store};
use grapevine_edge_client::work::{WorkError, work};
use grapevine_host::Shutdown;
use grapevine_models::evaluate::Accuracy;
use grapevine_models::{
    FleetModel, Head, Heads, Init, Method, Params, Run, RunConfig, Samples, Shape, ValidParams, class_counts,
};
use grapevine_protocol::{
    DeviceId, Digest, Encoding, HeadsBody, Incarnation, RoundAnnouncement, RoundId, RunId, SideInformationBody, Task,
    Update,
};
use serde::Serialize;

use super::failure::UsageError;
use super::setup::{LOCAL_RUN, Setup};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client train                          # whether this device can train, and how long a round takes
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
    let throttle = Throttle::new(&setup.config.resources);
    throttle.lower_priority();
    let newest = newest.map(|newest| newest.main);
    let mut fleet = FleetOfOne::new(&setup.config.device, &dataset, samples, method, rounds, throttle, newest)?;
    let started = now();
    while fleet.step()? {}
    let time = started.elapsed();
    let head = fleet.run.model().inference_head().cloned().unwrap_or_else(|| Head::zeros(shape));
    if save {
        keep(&store, shape, &head)?;
    }
    let accuracy = Accuracy::of(&head, &samples);
    let counts = class_counts(&dataset.labels, shape.classes());
    let by_class = setup.config.classes.into_iter().zip(counts.into_iter().zip(&accuracy.by_class));
    let trained = Trained {
        method,
        rounds,
        samples: dataset.labels.len(),
        from_newest_head: fleet.from_newest_head,
        ms_per_round: 1e3 * time.as_secs_f64() / f64::from(rounds),
        balanced_accuracy: accuracy.balanced(),
        by_class: by_class.map(|(class, (samples, &accuracy))| OfClass { class, samples, accuracy }).collect(),
        saved: save,
    };
    Ok(Answer::of(&trained, arguments.json, render)?)
}

/// A fleet that has one device: each step goes through the same bytes that a device of a larger fleet reads and writes.
struct FleetOfOne<'a> {
    device: &'a DeviceId,
    dataset: &'a Dataset,
    announcement: RoundAnnouncement,
    run: Run<'a>,
    throttle: Throttle,
    /// What the method keeps on the device.
    kept: Option<MethodState>,
    /// Whether the newest head was the beginning.
    from_newest_head: bool,
}

impl<'a> FleetOfOne<'a> {
    fn new(
        device: &'a DeviceId,
        dataset: &'a Dataset,
        samples: Samples<'a>,
        method: Method,
        rounds: u32,
        throttle: Throttle,
        newest: Option<Head>,
    ) -> anyhow::Result<Self> {
        let shape = samples.shape();
        let params = Params::defaults(method, shape.classes()).check()?;
        let announcement = RoundAnnouncement {
            incarnation: Incarnation(0),
            run: RunId(LOCAL_RUN),
            round: RoundId(0),
            task: Task::Wait,
            shape,
            params,
            encoding: Encoding::F32,
            heads: None,
            side_information: None,
            seed: 0,
            selection_threshold: u64::MAX,
            only: Vec::new(),
            closes_in_ms: 0,
        };
        let heads =
            newest.filter(|_| begins_anywhere(params)).map(|main| Heads { main, supplementary: Head::zeros(shape) });
        let from_newest_head = heads.is_some();
        // The device's samples are those of an aggregator that needs some: there is nobody else.
        let config = RunConfig { shape, params, seed: announcement.seed, rounds, auxiliary: Some(samples) };
        let run = Run::new(config, FleetModel { heads, ..FleetModel::default() });
        Ok(Self { device, dataset, announcement, run, throttle, kept: None, from_newest_head })
    }

    /// The next round; `false` when there is none.
    fn step(&mut self) -> anyhow::Result<bool> {
        let Some(request) = self.run.next_request() else { return Ok(false) };
        self.announcement.task = Task::Round(request);
        let (shape, model) = (self.announcement.shape, self.run.model());
        let heads = model.heads.clone().map(Arc::new);
        let side_information = model.side_information.clone();
        let side_information =
            side_information.map(|content| Arc::from(SideInformationBody(content).encode(Encoding::F32)));
        let (throttle, stop) = (&self.throttle, Shutdown::manual());
        let job = Job { announcement: self.announcement.clone(), heads, side_information };
        let kept = self.kept.as_ref();
        let worked = work(&job, self.device, self.dataset, kept, &mut || throttle.passes(&stop))?;
        let update = Update::decode(&worked.update, shape, request)?;
        // It is merged at once.
        if let Some(state) = worked.state {
            self.kept = Some(MethodState { is_confirmed: true, ..state });
        }
        let mut sum = self.run.open_round(request);
        sum.add(self.device.as_str(), &update.response, update.samples)?;
        self.run.close_round(sum);
        self.announcement.round.0 += 1;
        Ok(true)
    }
}

/// Whether a method trains from whatever head there is.
fn begins_anywhere(params: ValidParams) -> bool {
    !params.method.is_one_shot() && params.init == Init::Zeros
}

fn keep(store: &Store, shape: Shape, head: &Head) -> anyhow::Result<()> {
    head.check(shape).context("the trained head cannot be used; look at the images and the extractor")?;
    let heads = Heads { main: head.clone(), supplementary: Head::zeros(shape) };
    let digest = Digest::of(&HeadsBody(heads).encode(shape)).0;
    store.put_head(&NewestHead { run: LOCAL_RUN, round: 0, main: head.clone(), digest })?;
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
        let dataset = Dataset { features, labels, ..Dataset::default() };
        let samples = Samples::new(shape, &dataset.features, &dataset.labels).unwrap();
        let device = "alone".parse().unwrap();
        for method in Method::ALL {
            let mut fleet = FleetOfOne::new(&device, &dataset, samples, method, 5, Throttle::default(), None).unwrap();
            while fleet.step().unwrap() {}
            let head = fleet.run.model().inference_head().unwrap();
            assert_eq!(Accuracy::of(head, &samples).balanced(), 1.0, "{method}");
        }
    }
}
