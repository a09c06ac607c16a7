//! The report as data: what `--json` prints and every other rendering reads.

use core::ops::Range;

use grapevine_models::evaluate::Groups;
use serde::{Deserialize, Serialize};

/// Everything about one set of runs on one data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One entry per method, partition, participation and seed, in the order they ran.
    pub runs: Vec<Run>,
    /// Devices of the fleet.
    pub devices: usize,
    /// Rounds of every run.
    pub rounds: usize,
    /// Classes.
    pub classes: usize,
    /// Features per sample.
    pub features: usize,
    /// Largest resident memory of the whole process; `None` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// Name of the data set.
    pub data: String,
    /// Samples of the most frequent class per sample of the rarest one, as asked for.
    pub imbalance_ratio: f64,
    /// Concentration of the partition.
    pub alpha: f64,
    /// Training samples of each class over the whole fleet: `[class]`.
    pub class_counts: Vec<u64>,
    /// Training samples of each class on each device: `[device][class]`. With several seeds, those of the first.
    pub device_class_counts: Vec<Vec<u64>>,
    /// A name per class.
    pub class_names: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// The command line that makes this report again.
    pub command: String,
}

/// One federation, from the first round to the last. Accuracies are shares of the balanced test set, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Name of the method.
    pub method: String,
    /// Seed of data, partition and training.
    pub seed: u64,
    /// Name of the partition.
    pub partition: String,
    /// Who takes part in a round, such as `10 of 50`.
    pub participation: String,
    /// Mean of the accuracies of all classes after the last round.
    pub balanced_accuracy: f64,
    /// Mean over the head classes, see [`Groups`]: 3, 4 and 3 of 10.
    pub head_accuracy: f64,
    /// Mean over the mid classes.
    pub mid_accuracy: f64,
    /// Mean over the tail classes.
    pub tail_accuracy: f64,
    /// Accuracy of each class after the last round: `[class]`.
    pub accuracy_by_class: Vec<f64>,
    /// Balanced accuracy after each round; a single entry for a method that needs one round.
    pub balanced_accuracy_by_round: Vec<f64>,
    /// Mean bytes that a device taking part sends in a round.
    pub bytes_up_per_device_round: u64,
    /// Mean bytes that a device taking part receives in a round.
    pub bytes_down_per_device_round: u64,
    /// Mean wall-clock time of a round.
    pub seconds_per_round: f64,
    /// SHA-256 of the final head, in hexadecimal: equal digests are equal heads.
    pub head_digest: String,
    /// Mean processor time of one device in a round; `None` where it was not measured.
    pub device_cpu_seconds_per_round: Option<f64>,
    /// Mean processor time of the aggregator in a round; `None` where it was not measured.
    pub aggregator_cpu_seconds_per_round: Option<f64>,
}

/// Mean over the seeds of one method under one condition: a row of the table, a line of the charts.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Means of the runs; `seed`, `head_digest` are those of the first.
    pub mean: Run,
    /// Seeds that the means are over.
    pub seeds: usize,
    /// Standard deviation of the balanced accuracy over the seeds; zero for one seed.
    pub deviation: f64,
}

impl Report {
    /// The report as indented JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Reads a report written by [`Self::to_json`].
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The runs, averaged over seeds, in the order in which method and condition first appear.
    pub fn rows(&self) -> Vec<Row> {
        let mut groups: Vec<Vec<&Run>> = Vec::new();
        for run in &self.runs {
            let key = |run: &Run| (run.method.clone(), run.partition.clone(), run.participation.clone());
            match groups.iter_mut().find(|group| key(group[0]) == key(run)) {
                Some(group) => group.push(run),
                None => groups.push(vec![run]),
            }
        }
        groups.iter().map(|group| Row::of(group)).collect()
    }

    /// The conditions of the runs, partition and participation, in order of appearance.
    pub fn conditions(&self) -> Vec<(String, String)> {
        let mut conditions = Vec::new();
        for run in &self.runs {
            let condition = (run.partition.clone(), run.participation.clone());
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
        conditions
    }

    /// The classes from the most frequent to the rarest.
    pub fn classes_by_frequency(&self) -> Vec<usize> {
        let count = |class: &usize| self.class_counts.get(*class).copied().unwrap_or(0);
        let mut classes: Vec<usize> = (0..self.classes).collect();
        classes.sort_by_key(|class| core::cmp::Reverse(count(class)));
        classes
    }

    /// The name of a class; its number where it has none.
    pub fn class_name(&self, class: usize) -> String {
        self.class_names.get(class).cloned().unwrap_or_else(|| class.to_string())
    }
}

impl Run {
    /// Fills in the accuracies after the last round from those of each class. Two classes have no middle; it then
    /// shows the mean of both.
    pub fn with_accuracies(self, accuracy_by_class: Vec<f64>) -> Self {
        let groups = Groups::of(accuracy_by_class.len());
        let over = |classes: &Range<usize>| mean(&accuracy_by_class[classes.clone()]);
        let balanced = mean(&accuracy_by_class);
        Self {
            balanced_accuracy: balanced,
            head_accuracy: over(&groups.head),
            mid_accuracy: if groups.mid.is_empty() { balanced } else { over(&groups.mid) },
            tail_accuracy: over(&groups.tail),
            accuracy_by_class,
            ..self
        }
    }
}

impl Row {
    fn of(runs: &[&Run]) -> Self {
        let average = |value: fn(&Run) -> f64| mean(&runs.iter().map(|run| value(run)).collect::<Vec<_>>());
        let optional = |value: fn(&Run) -> Option<f64>| {
            let measured: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
            (!measured.is_empty()).then(|| mean(&measured))
        };
        let balanced = average(|run| run.balanced_accuracy);
        let squares: f64 = runs.iter().map(|run| (run.balanced_accuracy - balanced).powi(2)).sum();
        let mean = Run {
            balanced_accuracy: balanced,
            head_accuracy: average(|run| run.head_accuracy),
            mid_accuracy: average(|run| run.mid_accuracy),
            tail_accuracy: average(|run| run.tail_accuracy),
            accuracy_by_class: mean_by_position(runs, |run| &run.accuracy_by_class),
            balanced_accuracy_by_round: mean_by_position(runs, |run| &run.balanced_accuracy_by_round),
            bytes_up_per_device_round: average(|run| run.bytes_up_per_device_round as f64).round() as u64,
            bytes_down_per_device_round: average(|run| run.bytes_down_per_device_round as f64).round() as u64,
            seconds_per_round: average(|run| run.seconds_per_round),
            device_cpu_seconds_per_round: optional(|run| run.device_cpu_seconds_per_round),
            aggregator_cpu_seconds_per_round: optional(|run| run.aggregator_cpu_seconds_per_round),
            ..runs[0].clone()
        };
        let deviation = if runs.len() > 1 { (squares / (runs.len() - 1) as f64).sqrt() } else { 0.0 };
        Self { mean, seeds: runs.len(), deviation }
    }
}

/// Says in plain words which row of each condition has the best balanced accuracy, whichever method it is, and how far
/// behind RedGrape is; where one of the RedGrape methods is best, how far behind the best other method is.
pub fn verdicts(report: &Report) -> Vec<String> {
    let rows = report.rows();
    let conditions = report.conditions();
    let verdict = |(partition, participation): &(String, String)| {
        let mut group: Vec<&Row> = rows
            .iter()
            .filter(|row| row.mean.partition == *partition && row.mean.participation == *participation)
            .collect();
        group.sort_by(|left, right| right.mean.balanced_accuracy.total_cmp(&left.mean.balanced_accuracy));
        let (best, others) = group.split_first()?;
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
        Some(text + ".")
    };
    conditions.iter().filter_map(verdict).collect()
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Position by position, over the runs that are long enough.
fn mean_by_position(runs: &[&Run], values: fn(&Run) -> &Vec<f64>) -> Vec<f64> {
    let length = runs.iter().map(|run| values(run).len()).max().unwrap_or(0);
    let at = |position: usize| runs.iter().filter_map(|run| values(run).get(position).copied()).collect::<Vec<_>>();
    (0..length).map(|position| mean(&at(position))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A made-up report with three methods, two of them iterative.
    pub(crate) fn example() -> Report {
        let run = |method: &str, by_class: [f64; 10], by_round: &[f64], up: u64, aggregator: Option<f64>| {
            Run {
                method: method.to_owned(),
                seed: 1,
                partition: "global-prior".to_owned(),
                participation: "10 of 10".to_owned(),
                balanced_accuracy_by_round: by_round.to_vec(),
                bytes_up_per_device_round: up,
                bytes_down_per_device_round: up / 2,
                seconds_per_round: 0.0625,
                head_digest: "5f1c9a".repeat(10),
                device_cpu_seconds_per_round: Some(0.0031),
                aggregator_cpu_seconds_per_round: aggregator,
                ..Run::default()
            }
            .with_accuracies(by_class.to_vec())
        };
        Report {
            runs: vec![
                run(
                    "fedavg",
                    [0.98, 0.95, 0.92, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1, 0.0],
                    &[0.3, 0.45, 0.55, 0.585],
                    5200,
                    Some(0.0008),
                ),
                run(
                    "redgrape",
                    [0.94, 0.93, 0.9, 0.85, 0.8, 0.75, 0.7, 0.7, 0.6, 0.5],
                    &[0.3, 0.55, 0.7, 0.767],
                    31_200,
                    Some(0.0021),
                ),
                run("lda", [0.9, 0.9, 0.88, 0.86, 0.83, 0.8, 0.78, 0.75, 0.7, 0.65], &[0.805], 11_000, None),
            ],
            devices: 3,
            rounds: 4,
            classes: 10,
            features: 64,
            peak_memory_bytes: Some(41_000_000),
            data: "digits".to_owned(),
            imbalance_ratio: 50.0,
            alpha: 1.0,
            class_counts: vec![128, 83, 55, 36, 24, 16, 10, 7, 4, 2],
            device_class_counts: vec![
                vec![100, 3, 20, 1, 0, 16, 2, 0, 1, 0],
                vec![8, 70, 5, 25, 4, 0, 8, 1, 0, 2],
                vec![20, 10, 30, 10, 20, 0, 0, 6, 3, 0],
            ],
            class_names: (0..10).map(|class| class.to_string()).collect(),
            version: "0.1.0".to_owned(),
            command: "fleet demo --rounds 4".to_owned(),
        }
    }

    #[test]
    fn json_field_names_are_frozen() {
        let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let report = serde_json::to_value(example()).unwrap();
        let mut expected = [
            "runs",
            "devices",
            "rounds",
            "classes",
            "features",
            "peak_memory_bytes",
            "data",
            "imbalance_ratio",
            "alpha",
            "class_counts",
            "device_class_counts",
            "class_names",
            "version",
            "command",
        ];
        expected.sort_unstable();
        let mut actual = names(&report);
        actual.sort_unstable();
        assert_eq!(actual, expected);
        let mut expected = [
            "method",
            "seed",
            "partition",
            "participation",
            "balanced_accuracy",
            "head_accuracy",
            "mid_accuracy",
            "tail_accuracy",
            "accuracy_by_class",
            "balanced_accuracy_by_round",
            "bytes_up_per_device_round",
            "bytes_down_per_device_round",
            "seconds_per_round",
            "head_digest",
            "device_cpu_seconds_per_round",
            "aggregator_cpu_seconds_per_round",
        ];
        expected.sort_unstable();
        let mut actual = names(&report["runs"][0]);
        actual.sort_unstable();
        assert_eq!(actual, expected);
        assert!(report["runs"][2]["aggregator_cpu_seconds_per_round"].is_null());
    }

    #[test]
    fn json_goes_both_ways() {
        assert_eq!(Report::from_json(&example().to_json().unwrap()).unwrap(), example());
    }

    #[test]
    fn accuracies_of_classes_give_those_of_groups() {
        let run = Run::default().with_accuracies(vec![0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3]);
        let means = [run.balanced_accuracy, run.head_accuracy, run.mid_accuracy, run.tail_accuracy];
        for (mean, expected) in means.into_iter().zip([0.53, 0.9, 0.5, 0.2]) {
            assert!((mean - expected).abs() < 1e-12, "{mean} for {expected}");
        }
        assert_eq!(Run::default().with_accuracies(vec![1.0, 0.5]).mid_accuracy, 0.75);
        assert_eq!(Run::default().with_accuracies(vec![]), Run::default());
    }

    #[test]
    fn seeds_are_averaged_and_conditions_are_not() {
        let mut report = example();
        let mut again = report.runs[1].clone();
        again.seed = 2;
        again.balanced_accuracy += 0.02;
        report.runs.push(again.clone());
        again.participation = "2 of 3".to_owned();
        report.runs.push(again);
        let rows = report.rows();
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[1].seeds, rows[3].seeds), (2, 1));
        assert!((rows[1].mean.balanced_accuracy - 0.777).abs() < 1e-9);
        assert!((rows[1].deviation - 0.02 / 2f64.sqrt()).abs() < 1e-9);
        assert_eq!(report.conditions().len(), 2);
    }

    #[test]
    fn the_verdict_names_the_best_whoever_it_is() {
        let mut report = example();
        assert_eq!(verdicts(&report), ["Best balanced accuracy: lda, 80.5 %; redgrape has 76.7 %, 3.8 points less."]);
        let mut even = report.clone();
        even.runs[1].balanced_accuracy = report.runs[2].balanced_accuracy;
        assert_eq!(verdicts(&even), ["Best balanced accuracy: redgrape, 80.5 %; lda has as much."]);
        report.runs.truncate(2);
        assert_eq!(
            verdicts(&report),
            ["Best balanced accuracy: redgrape, 76.7 %; fedavg has 58.5 %, 18.2 points less."]
        );
        report.runs.truncate(1);
        assert_eq!(verdicts(&report), ["Best balanced accuracy: fedavg, 58.5 %."]);
    }
}
