//! A report as a table for a terminal. Pure.

use crate::report::{BoardReport, Report};

const HEADINGS: [&str; 11] = [
    "board",
    "result",
    "boot s",
    "ready s",
    "ms/image",
    "ms/round",
    "ingest MiB",
    "run MiB",
    "up KB",
    "down KB",
    "program MB",
];
const MIB: f64 = (1 << 20) as f64;

/// The whole table, then a line for every board that failed.
pub(crate) fn render(report: &Report) -> String {
    let rows: Vec<_> = core::iter::once(HEADINGS.map(str::to_owned)).chain(report.boards.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; HEADINGS.len()] = core::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    for board in &report.boards {
        if let Some((phase, failure)) = board.failure().and_then(|phase| Some((phase, phase.failure.as_ref()?))) {
            text += &format!("{} failed at '{}': {}\n", board.name, phase.name, failure.message);
        }
    }
    text
}

fn row(board: &BoardReport) -> [String; HEADINGS.len()] {
    let figures = &board.figures;
    let scaled = |value: Option<f64>, unit: f64, digits: usize| {
        value.map_or("-".into(), |value| format!("{:.digits$}", value / unit))
    };
    let counted = |value: Option<u64>, unit: f64, digits| scaled(value.map(|value| value as f64), unit, digits);
    [
        board.name.clone(),
        if board.passed { "passed" } else { "FAILED" }.into(),
        counted(figures.boot_ms, 1e3, 1),
        counted(figures.boot_to_ready_ms, 1e3, 1),
        scaled(figures.ms_per_image, 1.0, 1),
        scaled(figures.ms_per_local_round, 1.0, 1),
        counted(figures.ingest_peak_bytes, MIB, 1),
        counted(figures.run_peak_bytes, MIB, 1),
        counted(figures.bytes_up, 1e3, 1),
        counted(figures.bytes_down, 1e3, 1),
        counted(figures.program_bytes, 1e6, 1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_row_per_board_and_what_went_wrong() {
        let expected = "\
board    result  boot s  ready s  ms/image  ms/round  ingest MiB  run MiB  up KB  down KB  program MB
virt     passed     5.0      6.5      12.3     100.0        20.0     10.0   93.7     67.7        11.5
raspi3b  FAILED       -        -         -         -           -        -      -        -           -
raspi3b failed at 'boot': the <console> said \"nothing\" & ended
";
        assert_eq!(render(&example()), expected);
    }
}
