//! The ledger as the reading commands see it: its newest run, beside a running `serve` or without one.

use std::path::Path;

use anyhow::{Context, bail};
use grapevine_aggregator::store::{self, Records, RoundPhase, RoundRow, RunRow};
use grapevine_models::Shape;
use grapevine_protocol::HeadsBody;
use serde::Serialize;
use serde_json::Value;

use super::gaps::Gaps;
use super::show::Column;

/// The newest run of a state folder.
pub(super) struct Ledger {
    pub(super) store: Box<dyn Records>,
    pub(super) run: RunRow,
    /// What the run was opened with.
    pub(super) config: Value,
    /// Oldest first.
    pub(super) rounds: Vec<RoundRow>,
}

impl Ledger {
    /// Reads what there is; refuses a ledger without any run.
    pub(super) fn open(state: &Path) -> anyhow::Result<Self> {
        let store = store::open_read_only(state)?;
        let Some(run) = store.current_run()? else {
            bail!(
                "the ledger in {} holds no run yet; start `aggregator serve` with this state folder",
                state.display()
            );
        };
        let config = serde_json::from_str(&run.config_json)
            .context("the ledger's run configuration cannot be read; restore the state folder from a backup")?;
        let rounds = store.rounds(run.run)?;
        Ok(Self { store, run, config, rounds })
    }

    /// 16 hexadecimal digits.
    pub(super) fn run_name(&self) -> String {
        format!("{:016x}", self.run.run.0)
    }

    /// A text of the run's configuration.
    pub(super) fn setting(&self, pointer: &str) -> Option<&str> {
        self.config.pointer(pointer).and_then(Value::as_str)
    }

    /// A number of the run's configuration.
    pub(super) fn number(&self, pointer: &str) -> u64 {
        self.config.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// What the newest head cannot tell, if there is a head.
    pub(super) fn gaps(&self, classes: &[String]) -> anyhow::Result<Option<Gaps>> {
        let merged =
            self.rounds.iter().rev().find(|round| round.phase == RoundPhase::Merged && round.model.heads.is_some());
        let Some(digest) = merged.and_then(|round| round.model.for_use()) else { return Ok(None) };
        let features = usize::try_from(self.number("/shape/features")).unwrap_or(0);
        let shape = Shape::new(usize::try_from(self.number("/shape/classes")).unwrap_or(0), features)?;
        let body = HeadsBody::decode(&self.store.blob(&digest)?, shape)
            .context("the newest heads cannot be read; restore the state folder from a backup")?;
        Ok(Some(Gaps::of(&body.0.main, classes, self.number("/params/min_samples_to_share"))))
    }

    /// The round that takes updates.
    pub(super) fn open_round(&self) -> Option<&RoundRow> {
        self.rounds.last().filter(|round| round.phase == RoundPhase::Collecting)
    }

    pub(super) fn summary(round: &RoundRow) -> RoundSummary {
        RoundSummary {
            round: round.round.0,
            task: round.task.clone(),
            phase: round.phase,
            updates: round.accepted,
            expected: round.expected,
            chosen: round.chosen,
            extensions: round.extensions,
            samples: round.samples,
            opened_ms: round.opened_ms,
            seconds: round.closed_ms.map(|closed| closed.saturating_sub(round.opened_ms) as f64 / 1e3),
            heads: round.model.heads.map(|digest| digest.to_string()),
            heads_kept: round.heads_kept && round.model.heads.is_some(),
            note: round.note.clone(),
        }
    }
}

/// One round for people and machines.
#[derive(Serialize)]
pub(super) struct RoundSummary {
    pub(super) round: u32,
    pub(super) task: String,
    pub(super) phase: RoundPhase,
    pub(super) updates: u32,
    pub(super) expected: u32,
    pub(super) chosen: u32,
    pub(super) extensions: u32,
    pub(super) samples: u64,
    pub(super) opened_ms: u64,
    pub(super) seconds: Option<f64>,
    /// SHA-256 of the merged heads.
    pub(super) heads: Option<String>,
    /// Whether they can still be exported.
    pub(super) heads_kept: bool,
    /// What people should know of it beside its figures.
    pub(super) note: Option<String>,
}

/// The columns of [`RoundSummary::cells`].
pub(super) const ROUND_COLUMNS: [Column; 8] = [
    Column::Right("round"),
    Column::Left("task"),
    Column::Left("phase"),
    Column::Right("updates"),
    Column::Right("chosen"),
    Column::Right("extended"),
    Column::Right("samples"),
    Column::Right("seconds"),
];

impl RoundSummary {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.round.to_string(),
            self.task.clone(),
            self.phase.to_string(),
            format!("{} of {}", self.updates, self.expected),
            self.chosen.to_string(),
            self.extensions.to_string(),
            self.samples.to_string(),
            self.seconds.map_or("-".into(), |seconds| format!("{seconds:.2}")),
        ]
    }
}
