//! From outcomes to a report.

use std::collections::BTreeMap;
use std::path::Path;

use grapevine_host::memory;
use grapevine_models::Method;
use grapevine_models::evaluate::Accuracy;
use grapevine_models::hyper_parameters::LAMBDA;
use serde_json::{Value, json};

use super::choosing::Chosen;
use super::federation::Outcome;
use super::fleet::Fleet;
use super::grid::Point;
use super::logit_offset::{Measured, logit_offsets};
use super::pool::{Pool, PoolSamples};
use super::sources::Source;
use super::{BenchOptions, VALIDATION_SHARE};
use crate::data::long_tail::{ratio_of, told};
use crate::data::{by_frequency, class_counts};
use crate::hyper_parameters::{as_json, hyper_parameters, told_by_bench};
use crate::report::results::{Report, Run, Trial};

/// Most numbers in the report of who holds what; the devices beyond are left out.
const MOST_COUNTS: usize = 1 << 20;

impl Outcome {
    /// Balanced accuracy of the inference head at the end; zero if there was none.
    pub(super) fn balanced(&self) -> f64 {
        self.last().map_or(0.0, Accuracy::balanced)
    }

    /// What the inference head did at the end, if there was one.
    pub(super) fn last(&self) -> Option<&Accuracy> {
        self.rounds.last().map(|round| &round.accuracy)
    }
}

/// What a point did on the validation samples, fold after fold of so many seeds.
pub(super) fn trial(point: &Point, outcomes: &[Outcome], seeds: usize) -> Trial {
    let mean = |outcomes: Vec<f64>| outcomes.iter().sum::<f64>() / outcomes.len().max(1) as f64;
    let of_seed = |seed: usize| mean(outcomes.iter().skip(seed).step_by(seeds).map(Outcome::balanced).collect());
    let by_seed: Vec<f64> = (0..seeds).map(of_seed).collect();
    Trial {
        method: point.params.method.name().into(),
        values: point.values.iter().map(|value| (value.parameter.name.to_owned(), value.value)).collect(),
        validation_accuracy: by_seed.iter().sum::<f64>() / by_seed.len().max(1) as f64,
        validation_accuracy_by_seed: by_seed,
        chosen: false,
    }
}

/// The report of what is over. `outcomes` are those of the chosen points: method after method, seed after seed.
pub(super) fn report(
    options: &BenchOptions,
    pool: &Pool,
    first: &Fleet,
    chosen: &[Chosen],
    trials: &[Trial],
    outcomes: Vec<Option<Outcome>>,
) -> Report {
    let classes = pool.shape.classes();
    let mut counts = first.device_class_counts();
    let class_totals = (0..classes).map(|class| counts.iter().map(|device| device[class]).sum()).collect::<Vec<u64>>();
    counts.truncate(MOST_COUNTS / classes);
    let order = by_frequency(&class_totals);
    let stopped = outcomes.iter().any(Option::is_none);
    let logit_offsets = logit_offsets(&options.logit_offset, &measured(chosen, &outcomes, options.seeds.len()), &order);
    let points = chosen.iter().flat_map(|chosen| options.seeds.iter().map(move |seed| (&chosen.point, *seed)));
    let runs =
        points.zip(outcomes).filter_map(|((point, seed), outcome)| Some(run(options, point, seed, &outcome?, &order)));
    Report {
        runs: runs.collect(),
        devices: options.devices,
        rounds: options.rounds as usize,
        classes,
        features: pool.shape.features(),
        peak_memory_bytes: memory::peak_bytes(),
        data: pool.name.clone(),
        imbalance_ratio: options.imbalance.unwrap_or_else(|| ratio_of(&class_totals)),
        alpha: options.alpha,
        class_counts: class_totals.clone(),
        device_class_counts: counts,
        class_names: pool.class_names.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        command: options.command.clone(),
        arguments: arguments(options),
        data_digests: pool.digests.clone(),
        test_class_counts: class_counts(first.test.labels.iter().copied(), classes),
        trials: trials.to_vec(),
        logit_offsets,
        notes: notes(options, pool, &class_totals),
        stopped,
        machine: machine(),
        seconds: None,
    }
}

/// What the data say of themselves, what became of them, and where a demo has other hyper-parameters.
fn notes(options: &BenchOptions, pool: &Pool, after: &[u64]) -> Vec<String> {
    let mut notes = pool.notes.clone();
    if let (Source::Files { .. }, PoolSamples::Real(samples)) = (&options.source, &pool.samples) {
        let before = class_counts(samples.labels.iter().copied(), pool.shape.classes());
        notes.insert(0, told(&before, after, options.imbalance));
    }
    let is_set = options.settings.iter().any(|set| *set.parameter == LAMBDA)
        || options.grid.iter().any(|axis| *axis.parameter == LAMBDA);
    let is_real = match options.source {
        Source::Digits | Source::Files { .. } => true,
        // A demo on made-up features takes the published values, too.
        Source::Synthetic { .. } => false,
    };
    let methods: &[Method] = if is_real && !is_set { &options.methods } else { &[] };
    notes.extend(told_by_bench(methods, pool.shape.classes()));
    notes
}

fn measured<'a>(chosen: &'a [Chosen], outcomes: &'a [Option<Outcome>], seeds: usize) -> Vec<Measured<'a>> {
    let of = |(chosen, outcomes): (&'a Chosen, &'a [Option<Outcome>])| Measured {
        method: chosen.point.params.method,
        test: outcomes.iter().flatten().collect(),
        held_out: &chosen.held_out,
    };
    chosen.iter().zip(outcomes.chunks(seeds)).map(of).collect()
}

fn run(options: &BenchOptions, point: &Point, seed: u64, outcome: &Outcome, order: &[usize]) -> Run {
    let participants = options.participants.unwrap_or(options.devices);
    let shares = f64::from(outcome.steps.max(1)) * participants as f64;
    let devices = options.devices as u64;
    let course = |groups: fn(&Run) -> f64| {
        let of_round = |round: &super::federation::RoundResult| {
            groups(&Run::default().with_accuracies_in_order(shares_of(&round.accuracy.by_class), order))
        };
        outcome.rounds.iter().map(of_round).collect::<Vec<f64>>()
    };
    let last = outcome.rounds.last().map_or_else(Vec::new, |round| shares_of(&round.accuracy.by_class));
    Run {
        method: point.params.method.name().into(),
        seed,
        partition: options.partition.name().into(),
        participation: format!("{participants} of {}", options.devices),
        balanced_accuracy_by_round: course(|run| run.balanced_accuracy),
        head_accuracy_by_round: course(|run| run.head_accuracy),
        mid_accuracy_by_round: course(|run| run.mid_accuracy),
        tail_accuracy_by_round: course(|run| run.tail_accuracy),
        bytes_up_per_device_round: (outcome.traffic.up as f64 / shares).round() as u64,
        bytes_down_per_device_round: (outcome.traffic.down as f64 / shares).round() as u64,
        bytes_up_per_device: Some(outcome.traffic.up / devices),
        bytes_down_per_device: Some(outcome.traffic.down / devices),
        bytes_per_device_by_round: outcome
            .rounds
            .iter()
            .map(|round| (round.traffic.up + round.traffic.down) / devices)
            .collect(),
        seconds_per_round: outcome.seconds / f64::from(outcome.steps.max(1)),
        head_digest: outcome.digest.to_string(),
        hyper_parameters: hyper_parameters(&point.params),
        chosen: point.values.iter().map(|value| value.parameter.name.to_owned()).collect(),
        ..Run::default()
    }
    .with_accuracies_in_order(last, order)
}

fn shares_of(by_class: &[Option<f64>]) -> Vec<f64> {
    by_class.iter().map(|accuracy| accuracy.unwrap_or(0.0)).collect()
}

/// Everything that decides the results, in words and numbers.
fn arguments(options: &BenchOptions) -> Value {
    let path = |path: &Path| path.display().to_string();
    let source = match &options.source {
        Source::Digits => json!({ "kind": "digits" }),
        Source::Synthetic { spec, samples_per_device } => {
            json!({ "kind": spec.to_string(), "samples_per_device": samples_per_device })
        }
        Source::Files { path: file, standardise, extractor, .. } => json!({
            "kind": "files",
            "path": path(file),
            "standardise": standardise,
            "extractor": extractor.as_deref().map(path),
        }),
    };
    let grid: BTreeMap<&str, &Vec<f64>> = options.grid.iter().map(|axis| (axis.parameter.name, &axis.values)).collect();
    let settings: BTreeMap<&str, Value> =
        options.settings.iter().map(|set| (set.parameter.name, as_json(set.parameter, set.value))).collect();
    json!({
        "source": source,
        "imbalance": options.imbalance,
        "partition": options.partition,
        "alpha": options.alpha,
        "devices": options.devices,
        "participants": options.participants,
        "rounds": options.rounds,
        "seeds": options.seeds,
        "methods": options.methods,
        "settings": settings,
        "grid": grid,
        "logit_offset": options.logit_offset.methods,
        "taus": options.logit_offset.taus,
        "validation_share": options.chooses().then_some(VALIDATION_SHARE),
        "folds": options.chooses().then_some(options.folds),
        "encoding": options.encoding,
    })
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
    format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH)
}
