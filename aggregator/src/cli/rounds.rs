//! `aggregator rounds`: every round of the newest run.

use core::fmt::Write;
use std::collections::BTreeSet;

use clap::Args;
use serde_json::Value;

use super::ledger::{Ledger, ROUND_COLUMNS, RoundSummary};
use super::show::{Column, table};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator rounds
  aggregator rounds --json | jq '.[-1].samples'

Reads only, also beside `aggregator serve`.";

/// List the rounds of the newest run, with what was measured.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print an array as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn rounds(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let config = common.configuration()?;
    let ledger = Ledger::open(&config.state)?;
    let rounds: Vec<RoundSummary> = ledger.rounds.iter().map(Ledger::summary).collect();
    let gaps = ledger.gaps(&config.classes)?.and_then(|gaps| gaps.sentence());
    let gaps = gaps.map_or_else(String::new, |sentence| format!("\n{sentence}\n"));
    Ok(Answer::of(&rounds, arguments.json, |rounds| render(rounds) + &gaps)?)
}

fn render(rounds: &[RoundSummary]) -> String {
    if rounds.is_empty() {
        return "no round was opened yet; `aggregator status` says what is missing\n".into();
    }
    let has_metrics = rounds.iter().any(|round| !measured(round).is_empty());
    let has_notes = rounds.iter().any(|round| round.note.is_some());
    let mut columns = ROUND_COLUMNS.to_vec();
    if has_metrics {
        columns.push(Column::Left("measured"));
    }
    if has_notes {
        columns.push(Column::Left("note"));
    }
    let cells = |round: &RoundSummary| {
        let mut cells = round.cells();
        if has_metrics {
            cells.push(measured(round));
        }
        cells.extend(round.note.clone().or(has_notes.then(String::new)));
        cells
    };
    table(&columns, &rounds.iter().map(cells).collect::<Vec<_>>())
}

/// The numbers of a round's metrics; whatever is nested is left to `--json`.
fn measured(round: &RoundSummary) -> String {
    let Some(Value::Object(metrics)) = &round.metrics else { return String::new() };
    let names: BTreeSet<&String> = metrics.keys().collect();
    names.into_iter().fold(String::new(), |mut text, name| {
        if let Some(number) = metrics[name].as_f64() {
            let gap = if text.is_empty() { "" } else { "  " };
            // Writing to a string cannot fail.
            let _ = match metrics[name].is_f64() {
                true => write!(text, "{gap}{name} {number:.4}"),
                false => write!(text, "{gap}{name} {number}"),
            };
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use grapevine_aggregator::store::RoundPhase;

    use super::*;

    #[test]
    fn metrics_have_a_column_when_there_are_any() {
        let round = |metrics| RoundSummary {
            round: 4,
            task: "train".into(),
            phase: RoundPhase::Merged,
            updates: 3,
            expected: 4,
            chosen: 5,
            extensions: 1,
            samples: 120,
            opened_ms: 0,
            seconds: Some(0.25),
            heads: None,
            heads_kept: false,
            note: None,
            metrics,
        };
        assert!(render(&[]).starts_with("no round"));
        let plain = render(&[round(None)]);
        assert_eq!(plain.lines().nth(1).unwrap(), "    4  train  merged   3 of 4       5         1      120     0.25");
        assert!(!plain.contains("measured"));
        let metrics = serde_json::json!({"balanced_accuracy": 0.91234, "classes": 10, "by_class": [1, 2]});
        let text = render(&[round(Some(metrics)), round(None)]);
        assert!(text.contains("measured") && text.contains("balanced_accuracy 0.9123  classes 10\n"), "{text}");
    }
}
