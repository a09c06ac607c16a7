//! `aggregator backup`: the whole state in one file, also beside a running `serve`.

use std::path::PathBuf;

use clap::Args;
use grapevine_aggregator::store;
use serde::Serialize;

use super::show::bytes;
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator backup /backup/north-$(date +%F).tar
  mkdir state && tar -xf north.tar -C state        # restores it: `aggregator serve` goes on from there

Works beside `aggregator serve`, in the middle of a round, too. The file holds the ledger and every blob it names, of one
moment; the configuration is not in it.";

/// Write ledger, updates of the open round and heads into one tar file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The file to write; one that exists is replaced.
    #[arg(value_name = "FILE")]
    output: PathBuf,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Written {
    output: PathBuf,
    blobs: usize,
    bytes: u64,
}

pub(super) fn backup(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let backed_up = store::back_up(&common.configuration()?.state, &arguments.output)?;
    let written = Written { output: arguments.output.clone(), blobs: backed_up.blobs, bytes: backed_up.bytes };
    Ok(Answer::of(&written, arguments.json, |written| {
        let Written { output, blobs, bytes: size } = written;
        format!("wrote {}: the ledger and {blobs} blobs, {}\n", output.display(), bytes(*size))
    })?)
}
