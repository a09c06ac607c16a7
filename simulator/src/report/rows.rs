//! Runs averaged over their seeds, and what to say about them.

use grapevine_aggregator::config::DEFAULT_METHOD;
use grapevine_models::Method;

use super::results::{Report, Run};

/// With how many methods the default one is compared in words.
const MOST_RIVALS: usize = 3;

/// Mean over the seeds of one method under one condition: a row of the table, a line of the charts.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Means of the runs; `seed`, `head_digest` are those of the first.
    pub mean: Run,
    /// Seeds that the means are over.
    pub seeds: usize,
    /// Standard deviation of the balanced accuracy over the seeds; zero for one seed.
    pub deviation: f64,
    /// Standard deviations of the accuracies of head, mid and tail classes; zeros for one seed.
    pub group_deviations: [f64; 3],
}

impl Row {
    /// The mean of some runs, at least one.
    pub(super) fn of(runs: &[&Run]) -> Self {
        let average = |value: fn(&Run) -> f64| mean(&runs.iter().map(|run| value(run)).collect::<Vec<_>>());
        let optional = |value: fn(&Run) -> Option<f64>| {
            let measured: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
            (!measured.is_empty()).then(|| mean(&measured))
        };
        let spread = |value: fn(&Run) -> f64| deviation(&runs.iter().map(|run| value(run)).collect::<Vec<_>>());
        let total = |value: fn(&Run) -> Option<u64>| {
            let counted: Vec<f64> = runs.iter().filter_map(|run| value(run)).map(|bytes| bytes as f64).collect();
            (!counted.is_empty()).then(|| mean(&counted).round() as u64)
        };
        let bytes_by_round: Vec<f64> =
            mean_by_position(runs, |run| run.bytes_per_device_by_round.iter().map(|&bytes| bytes as f64).collect());
        let mean = Run {
            balanced_accuracy: average(|run| run.balanced_accuracy),
            head_accuracy: average(|run| run.head_accuracy),
            mid_accuracy: average(|run| run.mid_accuracy),
            tail_accuracy: average(|run| run.tail_accuracy),
            accuracy_by_class: mean_by_position(runs, |run| run.accuracy_by_class.clone()),
            balanced_accuracy_by_round: mean_by_position(runs, |run| run.balanced_accuracy_by_round.clone()),
            head_accuracy_by_round: mean_by_position(runs, |run| run.head_accuracy_by_round.clone()),
            mid_accuracy_by_round: mean_by_position(runs, |run| run.mid_accuracy_by_round.clone()),
            tail_accuracy_by_round: mean_by_position(runs, |run| run.tail_accuracy_by_round.clone()),
            rounds_to_95_percent: optional(|run| run.rounds_to_95_percent),
            bytes_up_per_device: total(|run| run.bytes_up_per_device),
            bytes_down_per_device: total(|run| run.bytes_down_per_device),
            bytes_per_device_by_round: bytes_by_round.into_iter().map(|bytes| bytes.round() as u64).collect(),
            bytes_up_per_device_round: average(|run| run.bytes_up_per_device_round as f64).round() as u64,
            bytes_down_per_device_round: average(|run| run.bytes_down_per_device_round as f64).round() as u64,
            seconds_per_round: average(|run| run.seconds_per_round),
            device_cpu_seconds_per_round: optional(|run| run.device_cpu_seconds_per_round),
            aggregator_cpu_seconds_per_round: optional(|run| run.aggregator_cpu_seconds_per_round),
            ..runs[0].clone()
        };
        Self {
            mean,
            seeds: runs.len(),
            deviation: spread(|run| run.balanced_accuracy),
            group_deviations: [
                spread(|run| run.head_accuracy),
                spread(|run| run.mid_accuracy),
                spread(|run| run.tail_accuracy),
            ],
        }
    }
}

/// Says in plain words which row of each condition has the best balanced accuracy, whichever method it is, and how far
/// behind RedGrape is; where one of the RedGrape methods is best, how far behind the best other method is. Where the
/// default method ran beside others, it says what that gains or loses on the tail and on the head.
pub fn verdicts(report: &Report) -> Vec<String> {
    let rows = report.rows();
    let conditions = report.conditions();
    let verdict = |(partition, participation): &(String, String)| {
        let mut group: Vec<&Row> = rows
            .iter()
            .filter(|row| row.mean.partition == *partition && row.mean.participation == *participation)
            .collect();
        group.sort_by(|left, right| right.mean.balanced_accuracy.total_cmp(&left.mean.balanced_accuracy));
        let Some((best, others)) = group.split_first() else { return Vec::new() };
        let is_ours = |row: &Row| row.mean.method.starts_with("redgrape");
        let other = others.iter().find(|row| is_ours(row) != is_ours(best));
        let within = if conditions.len() > 1 { format!(" ({partition}, {participation})") } else { String::new() };
        let shown = |row: &Row| 100.0 * row.mean.balanced_accuracy;
        let mut text = format!("Best balanced accuracy{within}: {}, {:.1} %", best.mean.method, shown(best));
        if let Some(other) = other {
            let behind = shown(best) - shown(other);
            text += &match format!("{behind:.1}").as_str() {
                "0.0" => format!("; {} has as much", other.mean.method),
                points => format!("; {} has {:.1} %, {points} points less", other.mean.method, shown(other)),
            };
            if best.seeds > 1 && behind >= 0.05 && behind < 100.0 * best.deviation.max(other.deviation) {
                text += ", within the spread of the seeds";
            }
        }
        [text + "."].into_iter().chain(about_default(&group, &within)).collect::<Vec<String>>()
    };
    conditions.iter().flat_map(verdict).collect()
}

/// What the default method gains or loses on the tail and on the head, against a few others of its condition; nothing if
/// it did not run beside any. `rows` are in order of their balanced accuracy.
fn about_default(rows: &[&Row], within: &str) -> Vec<String> {
    let name = DEFAULT_METHOD.name();
    let Some(default) = rows.iter().find(|row| row.mean.method == name) else { return Vec::new() };
    let others = rows.iter().filter(|row| row.mean.method != name).enumerate();
    // In a long table the best other methods are the ones that matter, and plain averaging.
    let matters = |(at, row): &(usize, &&Row)| *at < MOST_RIVALS || row.mean.method == Method::FedAvg.name();
    let rivals: Vec<&Row> = others.filter(matters).map(|(_, row)| *row).collect();
    if rivals.is_empty() {
        return Vec::new();
    }
    let against = |subject: &str, share: fn(&Row) -> f64| {
        let own = 100.0 * share(default);
        let gains = rivals.iter().enumerate().map(|(at, rival)| {
            let gain = own - 100.0 * share(rival);
            let unit = if at == 0 { " points" } else { "" };
            match (format!("{:.1}", gain.abs()).as_str(), &rival.mean.method) {
                ("0.0", rival) => format!("as much as {rival}"),
                (points, rival) if gain > 0.0 => format!("{points}{unit} more than {rival}"),
                (points, rival) => format!("{points}{unit} less than {rival}"),
            }
        });
        format!("{subject} {own:.1} %: {}.", gains.collect::<Vec<_>>().join(", "))
    };
    vec![
        against(&format!("On the tail classes{within} the default method, {name}, has"), |row| row.mean.tail_accuracy),
        against(&format!("On the head classes{within} it has"), |row| row.mean.head_accuracy),
    ]
}

pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Standard deviation of a sample; zero for one value.
fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    if values.len() > 1 { (squares / (values.len() - 1) as f64).sqrt() } else { 0.0 }
}

/// Position by position, over the runs that are long enough.
fn mean_by_position(runs: &[&Run], values: fn(&Run) -> Vec<f64>) -> Vec<f64> {
    let courses: Vec<Vec<f64>> = runs.iter().map(|run| values(run)).collect();
    let length = courses.iter().map(Vec::len).max().unwrap_or(0);
    let at = |position: usize| courses.iter().filter_map(|course| course.get(position).copied()).collect::<Vec<_>>();
    (0..length).map(|position| mean(&at(position))).collect()
}
