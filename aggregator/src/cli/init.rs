//! `aggregator init`: a new configuration, written only when everything in it is right.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use grapevine_aggregator::config::{BrokerDraft, Config, DEFAULT_STATE, Draft};
use grapevine_host::broker_address::DEFAULT_PORT;
use grapevine_host::draft::{keep_secret, seen_from};
use grapevine_host::{BrokerAddress, class_list, config, files, manifest};
use grapevine_models::Method;
use grapevine_protocol::FleetId;

use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator init --fleet north --extractor models/onnx/digits.toml --classes zero,one,two --embedded
  aggregator init --config /etc/grapevine/aggregator.toml --fleet north --broker mqtt://me:secret@10.0.0.5 \\
      --extractor /usr/share/grapevine/digits.toml --classes-file classes.txt --state /var/lib/grapevine";

/// Write a configuration, after checking all that it names.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The fleet's name.
    #[arg(long, value_name = "NAME")]
    fleet: FleetId,
    /// The frozen extractor's manifest, the `.toml` file beside an `.onnx` file.
    #[arg(long, value_name = "FILE")]
    extractor: PathBuf,
    /// The fleet's class names; every device has the same in the same order.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "classes_file")]
    classes: Vec<String>,
    /// A text file with one class name a line, instead of --classes.
    #[arg(long, value_name = "FILE", conflicts_with = "classes")]
    classes_file: Option<PathBuf>,
    /// Where the broker is: mqtt://[user:password@]host[:port].
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "mqtt://localhost:1883",
        conflicts_with = "embedded",
        value_parser = check_broker
    )]
    broker: String,
    /// Bring a broker along, for this machine or a network you trust, instead of --broker.
    #[arg(long)]
    embedded: bool,
    /// The embedded broker's port; 0 for a free one.
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT, requires = "embedded")]
    port: u16,
    /// How the fleet learns.
    #[arg(long, value_name = "NAME", default_value_t = Method::RedGrape)]
    method: Method,
    /// Replace a configuration that exists.
    #[arg(long)]
    force: bool,
}

pub(super) fn init(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let target = &common.config;
    if target.exists() && !arguments.force {
        bail!("{} exists; give --force to replace it, or another path with --config", target.display());
    }
    let classes = match &arguments.classes_file {
        Some(file) => class_list::read(file)?,
        None => arguments.classes.clone(),
    };
    class_list::check(&classes)?;
    let broker = match arguments.embedded {
        true => BrokerDraft::Embedded(arguments.port),
        false => BrokerDraft::Url(arguments.broker.clone()),
    };
    let draft = Draft {
        fleet: arguments.fleet.clone(),
        extractor: seen_from(target, &arguments.extractor)?,
        classes,
        state: common.state.as_deref().map_or(Ok(DEFAULT_STATE.into()), |state| seen_from(target, state))?,
        broker,
        method: arguments.method,
        seed: getrandom::u32().context("the system gives no random numbers; it must be broken")?,
    };
    let text = draft.text();
    let config = config::parse::<Config>(&text, target, [])?.check(target)?;
    let (manifest, _) = manifest::load(&config.extractor)?;
    let round = config.round_config(&manifest)?;
    files::write_atomic(target, text.as_bytes())?;
    if has_password(&draft.broker) {
        keep_secret(target)?;
    }
    Ok(Answer::text(format!(
        "wrote {}: fleet {}, {}, {} classes, extractor {} with {} features\n\
         next: set [round] as you need it, then aggregator serve\n",
        target.display(),
        config.fleet,
        round.params.method,
        round.shape.classes(),
        manifest.name,
        round.shape.features(),
    )))
}

fn check_broker(text: &str) -> Result<String, String> {
    text.parse::<BrokerAddress>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn has_password(broker: &BrokerDraft) -> bool {
    match broker {
        BrokerDraft::Url(url) => url.parse::<BrokerAddress>().is_ok_and(|address| address.login().is_some()),
        BrokerDraft::Embedded(_) => false,
    }
}
