//! The report as a table for other programs: one line for each run and round.

use core::fmt::Write;

use super::results::{Report, Run};

/// The columns before the hyper-parameters.
const COLUMNS: [&str; 14] = [
    "method",
    "seed",
    "partition",
    "participation",
    "imbalance_ratio",
    "alpha",
    "round",
    "balanced_accuracy",
    "head_accuracy",
    "mid_accuracy",
    "tail_accuracy",
    "bytes_per_device",
    "is_last",
    "head_digest",
];

/// Renders the table, headed by the names of its columns. Accuracies are shares of one; bytes are those that a device
/// sent and received until the end of the round, on average. Behind the fixed columns is one for each hyper-parameter of
/// any method, empty where a method does not read it.
pub fn render(report: &Report) -> String {
    let mut keys: Vec<&String> = report.runs.iter().flat_map(|run| run.hyper_parameters.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut text = COLUMNS.join(",");
    keys.iter().for_each(|key| text += &format!(",{}", quoted(key)));
    text.push('\n');
    for run in &report.runs {
        let behind: String = keys.iter().map(|key| format!(",{}", value(run, key))).collect();
        for round in 0..run.balanced_accuracy_by_round.len() {
            line(&mut text, report, run, round);
            text += &behind;
            text.push('\n');
        }
    }
    text
}

fn line(text: &mut String, report: &Report, run: &Run, round: usize) {
    let at = |values: &[f64]| values.get(round).map_or_else(String::new, |value| format!("{value}"));
    let is_last = round + 1 == run.balanced_accuracy_by_round.len();
    let _ = write!(
        text,
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
        quoted(&run.method),
        run.seed,
        quoted(&run.partition),
        quoted(&run.participation),
        report.imbalance_ratio,
        report.alpha,
        round + 1,
        at(&run.balanced_accuracy_by_round),
        at(&run.head_accuracy_by_round),
        at(&run.mid_accuracy_by_round),
        at(&run.tail_accuracy_by_round),
        run.bytes_per_device_by_round.get(round).map_or_else(String::new, u64::to_string),
        u8::from(is_last),
        if is_last { quoted(&run.head_digest) } else { String::new() },
    );
}

fn value(run: &Run, key: &str) -> String {
    match run.hyper_parameters.get(key) {
        None => String::new(),
        Some(serde_json::Value::String(text)) => quoted(text),
        Some(value) => quoted(&value.to_string()),
    }
}

/// A cell that stays one, whatever is in it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn every_round_is_a_line_with_as_many_cells_as_there_are_columns() {
        let mut report = example();
        report.runs[1].hyper_parameters =
            [("lambda".to_owned(), json!(0.5)), ("start".to_owned(), json!("lda"))].into();
        report.runs[2].participation = "all, \"10\"".to_owned();
        let text = render(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 4 + 4 + 1);
        assert_eq!(lines[0].split(',').count(), COLUMNS.len() + 2);
        assert!(lines[0].ends_with(",head_digest,lambda,start"));
        assert!(lines[1..9].iter().all(|line| line.split(',').count() == COLUMNS.len() + 2), "{text}");
        assert!(
            lines[5].starts_with("redgrape,1,global-prior,10 of 10,50,1,1,0.3,") && lines[5].ends_with(",,0.5,lda")
        );
        assert!(lines[4].contains(",1,5f1c9a") && lines[3].contains(",0,,"));
        assert!(lines[9].contains("\"all, \"\"10\"\"\""));
    }
}
