//! `aggregator rounds`: every round of the newest run.

use clap::Args;

use super::ledger::{Ledger, ROUND_COLUMNS, RoundSummary};
use super::show::{Column, table};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator rounds
  aggregator rounds --json | jq '.[-1].samples'

Reads only, also beside `aggregator serve`.";

/// List the rounds of the newest run.
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
    let has_notes = rounds.iter().any(|round| round.note.is_some());
    let mut columns = ROUND_COLUMNS.to_vec();
    if has_notes {
        columns.push(Column::Left("note"));
    }
    let cells = |round: &RoundSummary| {
        let mut cells = round.cells();
        cells.extend(round.note.clone().or(has_notes.then(String::new)));
        cells
    };
    table(&columns, &rounds.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use grapevine_aggregator::store::RoundPhase;

    use super::*;

    #[test]
    fn notes_have_a_column_where_there_are_any() {
        let round = |note: Option<&str>| RoundSummary {
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
            note: note.map(str::to_owned),
        };
        assert!(render(&[]).starts_with("no round"));
        let plain = render(&[round(None)]);
        assert_eq!(plain.lines().nth(1).unwrap(), "    4  train  merged   3 of 4       5         1      120     0.25");
        assert!(!plain.contains("note"));
        let text = render(&[round(Some("unchanged")), round(None)]);
        assert!(text.contains("note") && text.contains("0.25  unchanged\n"), "{text}");
    }
}
