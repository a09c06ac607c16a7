//! `aggregator export`: extractor and head in one ONNX file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use grapevine_aggregator::config::ValidConfig;
use grapevine_aggregator::export::join;
use grapevine_aggregator::store::{RoundPhase, RoundRow};
use grapevine_host::files;
use grapevine_models::{Head, Shape};
use grapevine_protocol::{Digest, HeadsBody, class_list_digest};
use grapevine_vision::manifest;
use serde::Serialize;

use super::gaps::Gaps;
use super::ledger::Ledger;
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator export --output north.onnx
  aggregator export --output round-12.onnx --round 12 --head-json head.json

The file goes from the extractor's input to `logits` and `probabilities`; its metadata say how images become that input.
Works beside `aggregator serve`.";

/// Write one ONNX file, extractor and merged head joined.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The round to take the head from, instead of the newest.
    #[arg(long, value_name = "NUMBER")]
    round: Option<u32>,
    /// The extractor's manifest; overrides the configuration's `extractor`.
    #[arg(long, value_name = "FILE")]
    extractor: Option<PathBuf>,
    /// Write weight and bias as JSON, too.
    #[arg(long, value_name = "FILE")]
    head_json: Option<PathBuf>,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Exported {
    output: PathBuf,
    bytes: usize,
    sha256: String,
    run: String,
    round: u32,
    head_json: Option<PathBuf>,
    /// Classes that the head never names.
    never_learned: Vec<String>,
}

/// `weight` is `[class][feature]`, for features standardised as the extractor's manifest says.
#[derive(Serialize)]
struct HeadJson<'a> {
    run: &'a str,
    round: u32,
    classes: &'a [String],
    weight: Vec<&'a [f32]>,
    bias: &'a [f32],
}

pub(super) fn export(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let mut config = common.configuration()?;
    if let Some(extractor) = &arguments.extractor {
        config.extractor.clone_from(extractor);
    }
    let ledger = Ledger::open(&config.state)?;
    let (manifest, onnx_path) = manifest::load(&config.extractor)?;
    check_run(&ledger, &config, &manifest.sha256)?;
    let shape = Shape::new(config.classes.len(), manifest.output.features)?;
    let (round, head) = head(&ledger, arguments.round, shape)?;
    let gaps = Gaps::of(&head, &config.classes, config.params.min_samples_to_share.into());
    if gaps.is_blank {
        bail!("the head of round {round} is not exported: {}", gaps.sentence().unwrap_or_default());
    }
    let onnx = fs::read(&onnx_path).with_context(|| format!("cannot read {}", onnx_path.display()))?;
    let joined = join(&onnx, &manifest, &head, &config.classes, round)?;
    let run = ledger.run_name();
    if let Some(path) = &arguments.head_json {
        let weight = head.weight.chunks_exact(shape.features()).collect();
        let content = HeadJson { run: &run, round, classes: &config.classes, weight, bias: &head.bias };
        files::write_atomic(path, &serde_json::to_vec(&content)?)?;
    }
    files::write_atomic(&arguments.output, &joined)?;
    let exported = Exported {
        output: arguments.output.clone(),
        bytes: joined.len(),
        sha256: Digest::of(&joined).to_string(),
        run,
        round,
        head_json: arguments.head_json.clone(),
        never_learned: gaps.never_learned.clone(),
    };
    if let Some(sentence) = gaps.sentence() {
        tracing::warn!("{sentence}");
    }
    Ok(Answer::of(&exported, arguments.json, |exported| {
        let Exported { bytes, sha256, round, .. } = exported;
        let output = shown(&exported.output);
        let head = exported.head_json.as_deref().map(|path| format!("wrote {}\n", shown(path))).unwrap_or_default();
        format!("wrote {output}: head of round {round}, {bytes} bytes, sha256 {sha256}\n{head}")
    })?)
}

/// The head was trained for one extractor and one class list; with others it would give nonsense.
fn check_run(ledger: &Ledger, config: &ValidConfig, extractor: &str) -> anyhow::Result<()> {
    let classes = class_list_digest(config.classes.iter().map(String::as_str)).to_string();
    if ledger.setting("/extractor") != Some(extractor) {
        bail!(
            "the newest run is of another extractor than {}; give its manifest with --extractor",
            shown(&config.extractor)
        );
    }
    if ledger.setting("/classes") != Some(&classes) {
        bail!("the newest run is of another class list than {}; set `classes` back", shown(&config.path));
    }
    Ok(())
}

fn head(ledger: &Ledger, wanted: Option<u32>, shape: Shape) -> anyhow::Result<(u32, Head)> {
    let has_heads = |round: &&RoundRow| round.phase == RoundPhase::Merged && round.model.heads.is_some();
    let mut merged = ledger.rounds.iter().filter(has_heads);
    let found = match wanted {
        Some(number) => merged.find(|round| round.round.0 == number),
        None => merged.next_back(),
    };
    if let Some(RoundRow { round, heads_kept: false, .. }) = found {
        bail!("the heads of round {round} were let go; `limits.kept_heads` says of how many rounds they are kept");
    }
    let Some((round, digest)) = found.and_then(|round| Some((round.round.0, round.model.for_use()?))) else {
        match wanted {
            Some(number) => bail!("round {number} has no merged heads; `aggregator rounds` lists the rounds"),
            None => bail!("no round has merged heads yet; export after the first one, see `aggregator status`"),
        }
    };
    let blob = ledger.store.blob(&digest)?;
    let body = HeadsBody::decode(&blob, shape).with_context(|| {
        format!("the heads of round {round} cannot be read; restore the state folder from a backup")
    })?;
    Ok((round, body.0.main))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
