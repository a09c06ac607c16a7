//! What a run found out, as data: `report.json` is exactly this.

use serde::Serialize;

use crate::inventory::{Architecture, Entry, Reach};
use crate::trouble::Trouble;

const NOTE: &str = "Figures of boards reached by qemu are those of an emulator on a machine that did other things, too: \
                    they prove that it works and say nothing about the speed of a real board. Bytes are what the \
                    aggregator counted of the protocol's messages, without MQTT, TCP and ssh around them.";

/// All boards of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// How the figures must be read.
    pub(crate) note: &'static str,
    /// Images that each board was fed.
    pub(crate) images: usize,
    /// Rounds of training.
    pub(crate) rounds: u32,
    /// In the order asked for.
    pub(crate) boards: Vec<BoardReport>,
}

impl Report {
    /// A run's report.
    pub(crate) fn new(images: usize, rounds: u32, boards: Vec<BoardReport>) -> Self {
        Self { note: NOTE, images, rounds, boards }
    }

    /// Whether every board came to its end with the fleet's head.
    pub(crate) fn passed(&self) -> bool {
        self.boards.iter().all(|board| board.passed)
    }
}

/// One board.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BoardReport {
    /// Its name in the inventory.
    pub(crate) name: String,
    /// What its program is built for.
    pub(crate) architecture: Architecture,
    /// `qemu virt`, or `ssh pi@pi4.local`.
    pub(crate) reached_by: String,
    /// Whether it ended with the fleet's head.
    pub(crate) passed: bool,
    /// What was done, up to the first failure.
    pub(crate) phases: Vec<Phase>,
    /// What was measured until then.
    pub(crate) figures: Figures,
}

impl BoardReport {
    /// A board with which nothing was done yet.
    pub(crate) fn new(entry: &Entry) -> Self {
        let reached_by = match &entry.reach {
            Reach::Qemu(machine) => format!("qemu {}", machine.name()),
            Reach::Ssh(ssh, _) => format!("ssh {}", ssh.host),
        };
        let Entry { name, architecture, .. } = entry;
        let (name, architecture) = (name.clone(), *architecture);
        Self { name, architecture, reached_by, passed: false, phases: Vec::new(), figures: Figures::default() }
    }

    /// The failure, if there was one.
    pub(crate) fn failure(&self) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.failure.is_some())
    }
}

/// One step of a board's trial.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Phase {
    /// What was done.
    pub(crate) name: &'static str,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Why it failed.
    pub(crate) failure: Option<Failure>,
}

/// Why a phase failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// Whose fault it is.
    pub(crate) kind: FailureKind,
    /// One sentence.
    pub(crate) message: String,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FailureKind {
    /// The board's, or what was to be proven is not so.
    Board,
    /// This machine's, or somebody stopped the run.
    Host,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        let kind = match &trouble {
            Trouble::Interrupted | Trouble::Host(_) => FailureKind::Host,
            Trouble::Late { .. } | Trouble::Board(_) | Trouble::Disproven(_) => FailureKind::Board,
        };
        Self { kind, message: trouble.to_string() }
    }
}

/// What is measured on a board; what was not reached is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// From power-on after the cut until the board does what it is told.
    pub(crate) boot_ms: Option<u64>,
    /// The same, plus the time from the program's start until it is connected to the broker, plus the time from the
    /// aggregator's going on until it knows the device again.
    pub(crate) boot_to_ready_ms: Option<u64>,
    /// What `ingest` took for all images, divided by their number: the loading of the extractor is in it, and weighs much
    /// where there are few images.
    pub(crate) ms_per_image: Option<f64>,
    /// Training alone, as `edge-client train` measures it.
    pub(crate) ms_per_local_round: Option<f64>,
    /// Largest resident memory that was seen while images were stored.
    pub(crate) ingest_peak_bytes: Option<u64>,
    /// Largest resident memory of the program in the rounds after the cut.
    pub(crate) run_peak_bytes: Option<u64>,
    /// From the board to the aggregator, in all rounds.
    pub(crate) bytes_up: Option<u64>,
    /// From the aggregator to the board, in all rounds.
    pub(crate) bytes_down: Option<u64>,
    /// The program's file.
    pub(crate) program_bytes: Option<u64>,
    /// Where the update of the second round was when the power went.
    pub(crate) update_at_cut: Option<UpdateAtCut>,
    /// Digest of the head on the board, as the board says.
    pub(crate) head: Option<String>,
    /// Digest of the fleet's head, as the aggregator says.
    pub(crate) fleet_head: Option<String>,
}

/// Where an update was when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpdateAtCut {
    /// On the board's disk, not yet delivered; it was found there after the cut.
    InTheOutbox,
    /// The aggregator had it, and had told the board so.
    Delivered,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inventory;

    /// One board that passed and one that did not.
    pub(crate) fn example() -> Report {
        let entries = inventory::parse(include_str!("../boards.toml")).unwrap();
        let [mut virt, mut raspi3b] = [&entries[0], &entries[1]].map(BoardReport::new);
        let phase = |name, failure| Phase { name, seconds: 1.25, failure };
        virt.phases = vec![phase("copy", None), phase("boot", None)];
        virt.passed = true;
        virt.figures = Figures {
            boot_ms: Some(5_000),
            boot_to_ready_ms: Some(6_500),
            ms_per_image: Some(12.345),
            ms_per_local_round: Some(100.0),
            ingest_peak_bytes: Some(20 << 20),
            run_peak_bytes: Some(10 << 20),
            bytes_up: Some(93_684),
            bytes_down: Some(67_655),
            program_bytes: Some(11_500_000),
            update_at_cut: Some(UpdateAtCut::InTheOutbox),
            head: Some("d8".into()),
            fleet_head: Some("d8".into()),
        };
        let late = Trouble::Board("the <console> said \"nothing\" & ended".into());
        raspi3b.phases = vec![phase("copy", None), phase("boot", Some(late.into()))];
        Report::new(60, 3, vec![virt, raspi3b])
    }

    #[test]
    fn one_board_that_fails_fails_the_run() {
        let mut report = example();
        assert!(!report.passed());
        assert_eq!(report.boards[1].failure().unwrap().name, "boot");
        report.boards.truncate(1);
        assert!(report.passed());
    }

    #[test]
    fn the_report_says_how_it_must_be_read() {
        let json = serde_json::to_value(example()).unwrap();
        assert!(json["note"].as_str().unwrap().contains("say nothing about the speed of a real board"));
        assert_eq!(json["boards"][0]["figures"]["update_at_cut"], "in-the-outbox");
        assert_eq!(json["boards"][0]["reached_by"], "qemu virt");
        assert_eq!(json["boards"][1]["phases"][1]["failure"]["kind"], "board");
    }
}
