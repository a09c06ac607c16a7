//! The report as an aligned table for a terminal.

use grapevine_aggregator::config::DEFAULT_METHOD;

use super::columns::columns;
use super::logit_offset;
use super::results::{Report, Row, Run, verdicts};

/// Renders the table, one row per method and condition, and below it which row has the best balanced accuracy; then the
/// logit offsets.
///
/// Accuracies are percentages of the balanced test set; `±` is the standard deviation over seeds.
pub fn render(report: &Report) -> String {
    let rows = report.rows();
    let columns: Vec<_> =
        columns(report).into_iter().filter_map(|column| Some((column.terminal?, column.cell))).collect();
    let texts = text_headings(report);
    let headings = texts.iter().copied().chain(columns.iter().map(|(heading, _)| *heading));
    let mut lines: Vec<Vec<String>> = vec![headings.map(str::to_owned).collect()];
    lines.extend(rows.iter().map(|row| {
        let mut cells = text_cells(row, report);
        cells.extend(columns.iter().map(|(_, cell)| cell(row)));
        cells
    }));
    let mut text = aligned(&lines, texts.len());
    text.push('\n');
    for verdict in verdicts(report) {
        text += &verdict;
        text.push('\n');
    }
    text + &logit_offset::text(&report.logit_offsets)
}

/// Lines of as many cells each, the first one the heading, with its columns of text on the left.
pub(super) fn aligned(lines: &[Vec<String>], left_aligned: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (position, line) in lines.iter().enumerate() {
        text += &padded(line, &widths, left_aligned);
        if position == 0 {
            text += &rule(&widths);
        }
    }
    text
}

/// The headings of the columns of text: partition and participation get a column only where they differ.
pub(super) fn text_headings(report: &Report) -> Vec<&'static str> {
    let (partition, participation) = differing(report);
    let conditions = [(partition, "partition"), (participation, "participation")];
    let differing = conditions.into_iter().filter(|(differs, _)| *differs).map(|(_, heading)| heading);
    ["method"].into_iter().chain(differing).collect()
}

/// The cells of the columns of text of one row, as many as there are headings.
pub(super) fn text_cells(row: &Row, report: &Report) -> Vec<String> {
    let run = &row.mean;
    let (partition, participation) = differing(report);
    let conditions = [(partition, &run.partition), (participation, &run.participation)];
    let differing = conditions.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name.clone());
    [named(run, report)].into_iter().chain(differing).collect()
}

/// The method; a demo says which one is the default.
fn named(run: &Run, report: &Report) -> String {
    let is_default = run.method == DEFAULT_METHOD.name() && !report.counts_whole_runs();
    if is_default { format!("{} (default)", run.method) } else { run.method.clone() }
}

fn differing(report: &Report) -> (bool, bool) {
    let differs = |name: fn(&Run) -> &String| report.runs.windows(2).any(|pair| name(&pair[0]) != name(&pair[1]));
    (differs(|run| &run.partition), differs(|run| &run.participation))
}

fn padded(line: &[String], widths: &[usize], left_aligned: usize) -> String {
    let pad = |(column, (cell, &width)): (usize, (&String, &usize))| {
        if column < left_aligned { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let text = line.iter().zip(widths).enumerate().map(pad).collect::<Vec<_>>().join("  ");
    text.trim_end().to_owned() + "\n"
}

fn rule(widths: &[usize]) -> String {
    widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::example;
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let expected = "\
method    balanced %  head %  mid %  tail %  up/device/round     down  time/round  device CPU  aggregator CPU
--------  ----------  ------  -----  ------  ---------------  -------  ----------  ----------  --------------
fedavg          58.5    95.0   65.0    13.3          5.20 kB  2.60 kB     62.5 ms     3.10 ms          800 µs
redgrape        76.7    92.3   77.5    60.0          31.2 kB  15.6 kB     62.5 ms     3.10 ms         2.10 ms
lda             80.5    89.3   81.8    70.0          11.0 kB  5.50 kB     62.5 ms     3.10 ms               -

Best balanced accuracy: lda, 80.5 %; redgrape has 76.7 %, 3.8 points less.
";
        assert_eq!(render(&example()), expected);
    }

    #[test]
    fn conditions_and_seeds_show_where_they_differ() {
        let mut report = example();
        let mut again = report.runs[0].clone();
        again.seed = 2;
        again.balanced_accuracy += 0.01;
        report.runs.push(again);
        report.runs[1].participation = "2 of 3".to_owned();
        let text = render(&report);
        assert!(text.contains("59.0 ± 0.7"), "{text}");
        assert!(text.contains("redgrape  2 of 3 "), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("Best balanced accuracy (global-prior, ")).count(), 2);
        let widths: Vec<usize> = text.lines().take(4).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{text}");
    }

    #[test]
    fn a_demo_marks_the_default_method() {
        let mut report = example();
        report.runs[1].method = "redgrape-plus".to_owned();
        assert!(render(&report).contains("\nredgrape-plus (default) "));
        report.runs[1].bytes_up_per_device = Some(1);
        assert!(render(&report).contains("\nredgrape-plus  "));
    }

    #[test]
    fn an_empty_report_is_a_heading() {
        assert!(render(&Report::default()).starts_with("method"));
    }
}
