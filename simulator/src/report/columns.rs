//! The columns of the results table: what a demo measures, and what a bench counts.

use super::results::{Report, Row, Run};
use super::{notes, units};

/// One column of numbers.
pub(super) struct Column {
    /// Its heading on a terminal; `None` where it is not shown there.
    pub(super) terminal: Option<&'static str>,
    /// On the page: the heading over it and its neighbours of the same group, and its own.
    pub(super) page: (&'static str, &'static str),
    /// What a row shows.
    pub(super) cell: fn(&Row) -> String,
}

const ACCURACY: &str = "accuracy, %";
const OF_A_ROUND: &str = "mean of one round";
const OF_A_RUN: &str = "device, whole run";

/// The columns of a report, from left to right. The first one is the balanced accuracy.
pub(super) fn columns(report: &Report) -> Vec<Column> {
    let mut columns = Vec::from(accuracies());
    columns.push(Column::new(None, ("", "rounds"), |row| notes::rounds(&row.mean)));
    if !report.counts_whole_runs() {
        columns.extend(of_a_round());
        return columns;
    }
    columns.extend(of_a_run());
    if report.runs.iter().any(|run| !run.chosen.is_empty()) {
        columns.push(Column::new(Some("chosen"), ("", "chosen"), |row| chosen(&row.mean)));
    }
    columns
}

impl Report {
    /// Whether traffic was counted for whole runs, as a bench does.
    pub(super) fn counts_whole_runs(&self) -> bool {
        self.runs.iter().any(|run| run.bytes_up_per_device.is_some())
    }
}

impl Column {
    fn new(terminal: Option<&'static str>, page: (&'static str, &'static str), cell: fn(&Row) -> String) -> Self {
        Self { terminal, page, cell }
    }
}

fn accuracies() -> [Column; 4] {
    let balanced = |row: &Row| share(row, row.mean.balanced_accuracy, row.deviation);
    let head = |row: &Row| share(row, row.mean.head_accuracy, row.group_deviations[0]);
    let mid = |row: &Row| share(row, row.mean.mid_accuracy, row.group_deviations[1]);
    let tail = |row: &Row| share(row, row.mean.tail_accuracy, row.group_deviations[2]);
    [
        Column::new(Some("balanced %"), (ACCURACY, "balanced"), balanced),
        Column::new(Some("head %"), (ACCURACY, "head"), head),
        Column::new(Some("mid %"), (ACCURACY, "mid"), mid),
        Column::new(Some("tail %"), (ACCURACY, "tail"), tail),
    ]
}

fn of_a_round() -> [Column; 5] {
    let up = |row: &Row| units::bytes(row.mean.bytes_up_per_device_round);
    let down = |row: &Row| units::bytes(row.mean.bytes_down_per_device_round);
    let time = |row: &Row| units::seconds(row.mean.seconds_per_round);
    let device = |row: &Row| measured(row.mean.device_cpu_seconds_per_round, units::seconds);
    let aggregator = |row: &Row| measured(row.mean.aggregator_cpu_seconds_per_round, units::seconds);
    [
        Column::new(Some("up/device/round"), (OF_A_ROUND, "device sends"), up),
        Column::new(Some("down"), (OF_A_ROUND, "device receives"), down),
        Column::new(Some("time/round"), (OF_A_ROUND, "time"), time),
        Column::new(Some("device CPU"), (OF_A_ROUND, "device CPU"), device),
        Column::new(Some("aggregator CPU"), (OF_A_ROUND, "aggregator CPU"), aggregator),
    ]
}

fn of_a_run() -> [Column; 3] {
    let soon = |row: &Row| measured(row.mean.rounds_to_95_percent, |rounds| format!("{rounds:.0}"));
    let up = |row: &Row| measured(row.mean.bytes_up_per_device, units::bytes);
    let down = |row: &Row| measured(row.mean.bytes_down_per_device, units::bytes);
    [
        Column::new(Some("to 95 %"), ("", "to 95 %"), soon),
        Column::new(Some("up/device"), (OF_A_RUN, "sends"), up),
        Column::new(Some("down"), (OF_A_RUN, "receives"), down),
    ]
}

fn share(row: &Row, value: f64, deviation: f64) -> String {
    let value = units::percent(value);
    if row.seeds > 1 { format!("{value} ± {}", units::percent(deviation)) } else { value }
}

fn measured<T>(value: Option<T>, shown: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), shown)
}

/// The hyper-parameters that were chosen, with their values.
fn chosen(run: &Run) -> String {
    let value = |name: &String| Some(format!("{name}={}", run.hyper_parameters.get(name)?));
    let values: Vec<String> = run.chosen.iter().filter_map(value).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(" ") }
}
