//! The report as data: what `--json` prints and every other rendering reads.

use core::ops::Range;
use std::collections::BTreeMap;

use grapevine_models::evaluate::Groups;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::logit_offset::LogitOffset;
use super::rows::mean;
pub use super::rows::{Row, verdicts};
use crate::data::by_frequency;

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
    /// The same, read and with every default; null where the command line says it all.
    #[serde(default)]
    pub arguments: Value,
    /// SHA-256 of the files that samples and features came from, by name.
    #[serde(default)]
    pub data_digests: BTreeMap<String, String>,
    /// Test samples of each class: `[class]`; empty where it is not told.
    #[serde(default)]
    pub test_class_counts: Vec<u64>,
    /// What was tried to choose hyper-parameters.
    #[serde(default)]
    pub trials: Vec<Trial>,
    /// What some methods' heads do when they are shifted by the class shares.
    #[serde(default)]
    pub logit_offsets: Vec<LogitOffset>,
    /// What people should know about the data.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether the runs were stopped before the last one.
    #[serde(default)]
    pub stopped: bool,
    /// System, processor and cores.
    #[serde(default)]
    pub machine: String,
    /// Wall-clock time of everything.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// One combination of hyper-parameters that was tried for a method, on samples held out of the training samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Name of the method.
    pub method: String,
    /// Values by the hyper-parameters' names.
    pub values: BTreeMap<String, f64>,
    /// Mean over the seeds of the balanced accuracy on the held-out samples.
    pub validation_accuracy: f64,
    /// The same, seed by seed.
    pub validation_accuracy_by_seed: Vec<f64>,
    /// Whether the method's runs have these values.
    pub chosen: bool,
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
    /// Mean accuracy of the head classes after each round; empty where it was not measured.
    #[serde(default)]
    pub head_accuracy_by_round: Vec<f64>,
    /// Mean accuracy of the mid classes after each round.
    #[serde(default)]
    pub mid_accuracy_by_round: Vec<f64>,
    /// Mean accuracy of the tail classes after each round.
    #[serde(default)]
    pub tail_accuracy_by_round: Vec<f64>,
    /// The first round after which the balanced accuracy was 95 % of the final one.
    #[serde(default)]
    pub rounds_to_95_percent: Option<f64>,
    /// Bytes that a device sends in the whole run, mean over all devices; `None` where it was not counted.
    #[serde(default)]
    pub bytes_up_per_device: Option<u64>,
    /// Bytes that a device receives in the whole run, mean over all devices.
    #[serde(default)]
    pub bytes_down_per_device: Option<u64>,
    /// Bytes both ways until the end of each round of `balanced_accuracy_by_round`, mean over all devices.
    #[serde(default)]
    pub bytes_per_device_by_round: Vec<u64>,
    /// The hyper-parameters that make a difference to the method, by name.
    #[serde(default)]
    pub hyper_parameters: BTreeMap<String, Value>,
    /// Which of them were chosen on held-out training samples.
    #[serde(default)]
    pub chosen: Vec<String>,
}

impl Report {
    /// The report as indented JSON.
    ///
    /// # Errors
    /// If the report cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Reads a report written by [`Self::to_json`].
    ///
    /// # Errors
    /// If the text is no JSON, or no such report.
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
        let count = |class: usize| self.class_counts.get(class).copied().unwrap_or(0);
        by_frequency(&(0..self.classes).map(count).collect::<Vec<u64>>())
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
        let order: Vec<usize> = (0..accuracy_by_class.len()).collect();
        self.with_accuracies_in_order(accuracy_by_class, &order)
    }

    /// The same for classes that are numbered in another order than by frequency: `order` is that.
    pub fn with_accuracies_in_order(self, accuracy_by_class: Vec<f64>, order: &[usize]) -> Self {
        let groups = Groups::of(accuracy_by_class.len());
        let over = |classes: &Range<usize>| {
            let classes = order.get(classes.clone()).unwrap_or_default();
            mean(&classes.iter().filter_map(|&class| accuracy_by_class.get(class).copied()).collect::<Vec<f64>>())
        };
        let balanced = mean(&accuracy_by_class);
        Self {
            rounds_to_95_percent: rounds_to(&self.balanced_accuracy_by_round, 0.95 * balanced),
            balanced_accuracy: balanced,
            head_accuracy: over(&groups.head),
            mid_accuracy: if groups.mid.is_empty() { balanced } else { over(&groups.mid) },
            tail_accuracy: over(&groups.tail),
            accuracy_by_class,
            ..self
        }
    }
}

/// The first round after which a value was reached, counted from 1.
fn rounds_to(by_round: &[f64], value: f64) -> Option<f64> {
    by_round.iter().position(|&reached| reached >= value).map(|position| (position + 1) as f64)
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
            ..Report::default()
        }
    }

    /// The fields of a report.
    const REPORT: &str = "\
        runs devices rounds classes features peak_memory_bytes data imbalance_ratio alpha class_counts \
        device_class_counts class_names version command arguments data_digests test_class_counts trials \
        logit_offsets notes stopped machine seconds";
    /// The fields of one of its runs.
    const RUN: &str = "\
        method seed partition participation balanced_accuracy head_accuracy mid_accuracy tail_accuracy \
        accuracy_by_class balanced_accuracy_by_round bytes_up_per_device_round bytes_down_per_device_round \
        seconds_per_round head_digest device_cpu_seconds_per_round aggregator_cpu_seconds_per_round \
        head_accuracy_by_round mid_accuracy_by_round tail_accuracy_by_round rounds_to_95_percent \
        bytes_up_per_device bytes_down_per_device bytes_per_device_by_round hyper_parameters chosen";
    /// The fields of a logit offset and of a rival in it.
    const LOGIT_OFFSET: &str = "\
        method adds taus balanced_accuracy head_accuracy tail_accuracy validation_balanced_accuracy \
        validation_head_accuracy against rival tau head_accuracy balanced_accuracy rival_head_accuracy \
        rival_balanced_accuracy dominates";

    #[test]
    fn json_field_names_are_frozen() {
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let report = serde_json::to_value(example()).unwrap();
        let logit_offset = serde_json::to_value(super::super::logit_offset::tests::example()).unwrap();
        for (mut actual, expected) in [
            (names(&report), REPORT),
            (names(&report["runs"][0]), RUN),
            ([names(&logit_offset), names(&logit_offset["against"][0])].concat(), LOGIT_OFFSET),
        ] {
            let mut expected: Vec<&str> = expected.split_whitespace().collect();
            actual.sort_unstable();
            expected.sort_unstable();
            assert_eq!(actual, expected);
        }
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

    #[test]
    fn the_verdict_says_what_the_default_method_gains_and_loses() {
        let mut report = example();
        report.runs[1].method = "redgrape-plus".to_owned();
        report.runs[1].tail_accuracy = report.runs[2].tail_accuracy;
        assert_eq!(
            verdicts(&report)[1..],
            [
                "On the tail classes the default method, redgrape-plus, has 70.0 %: as much as lda, 56.7 more than fedavg.",
                "On the head classes it has 92.3 %: 3.0 points more than lda, 2.7 less than fedavg."
            ]
        );
        report.runs.remove(2);
        report.runs.remove(0);
        assert_eq!(verdicts(&report).len(), 1, "there is nothing to compare it with");
    }

    #[test]
    fn many_methods_are_not_all_named_in_words() {
        let mut report = example();
        for (name, share) in [("a", 0.9), ("b", 0.9), ("c", 0.9), ("redgrape-plus", 0.5)] {
            let run = Run { method: name.to_owned(), ..report.runs[0].clone() }.with_accuracies(vec![share; 10]);
            report.runs.push(run);
        }
        let text = &verdicts(&report)[1];
        let named = |name: &str| text.contains(&format!("than {name}"));
        assert!(
            named("a") && named("b") && named("c") && named("fedavg") && !named("lda") && !named("redgrape,"),
            "{text}"
        );
    }
}
