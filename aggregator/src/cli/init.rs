//! `aggregator init`: a new configuration, written only when everything in it is right.

use anyhow::Context;
use clap::Args;
use grapevine_aggregator::config::{BrokerDraft, Config, DEFAULT_METHOD, DEFAULT_STATE, Draft};
use grapevine_host::broker_address::DEFAULT_PORT;
use grapevine_host::draft::{DraftArguments, keep_secret, seen_from};
use grapevine_host::{BrokerAddress, broker_address, config, files};
use grapevine_models::Method;
use grapevine_vision::manifest;

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
    #[command(flatten)]
    draft: DraftArguments,
    /// Where the broker is: mqtt://[user:password@]host[:port].
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "mqtt://localhost:1883",
        conflicts_with = "embedded",
        value_parser = broker_address::checked
    )]
    broker: String,
    /// Run a broker inside the aggregator instead of --broker, for this machine or a network that you trust.
    #[arg(long)]
    embedded: bool,
    /// The embedded broker's port; 0 for a free one.
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT, requires = "embedded")]
    port: u16,
    /// How the fleet learns.
    #[arg(long, value_name = "NAME", default_value_t = DEFAULT_METHOD)]
    method: Method,
}

pub(super) fn init(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let target = &common.config;
    let classes = arguments.draft.class_list(target)?;
    let broker = match arguments.embedded {
        true => BrokerDraft::Embedded(arguments.port),
        false => BrokerDraft::Url(arguments.broker.clone()),
    };
    let draft = Draft {
        fleet: arguments.draft.fleet.clone(),
        extractor: seen_from(target, &arguments.draft.extractor)?,
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

fn has_password(broker: &BrokerDraft) -> bool {
    match broker {
        BrokerDraft::Url(url) => url.parse::<BrokerAddress>().is_ok_and(|address| address.login().is_some()),
        BrokerDraft::Embedded(_) => false,
    }
}
