//! `edge-client init`: a new configuration, written only when everything in it is right.

use clap::Args;
use grapevine_edge_client::config::{Config, DEFAULT_STATE, Draft};
use grapevine_host::draft::{DraftArguments, keep_secret, seen_from};
use grapevine_host::{broker_address, config, files};
use grapevine_protocol::DeviceId;

use super::setup::Setup;
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client init --fleet north --device camera-1 --broker mqtt://broker.local \\
      --extractor models/onnx/digits.toml --classes zero,one,two
  edge-client init --config /etc/grapevine/edge-client.toml --fleet north --device camera-2 \\
      --broker mqtt://camera-2:secret@10.0.0.5:1884 --extractor /usr/share/grapevine/digits.toml \\
      --classes-file classes.txt --state /var/lib/grapevine";

/// Write a configuration, after checking all that it names.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    draft: DraftArguments,
    /// This device's name, unique in the fleet.
    #[arg(long, value_name = "NAME")]
    device: DeviceId,
    /// Where the broker is: mqtt://[user:password@]host[:port].
    #[arg(long, value_name = "ADDRESS", value_parser = broker_address::checked)]
    broker: String,
}

pub(super) fn init(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let target = &common.config;
    let classes = arguments.draft.class_list(target)?;
    let state = common.state.as_deref().map_or(Ok(DEFAULT_STATE.into()), |state| seen_from(target, state))?;
    let draft = Draft {
        fleet: arguments.draft.fleet.clone(),
        device: arguments.device.clone(),
        broker: arguments.broker.clone(),
        extractor: seen_from(target, &arguments.draft.extractor)?,
        classes,
        state,
    };
    let text = draft.text();
    let setup = Setup::load(config::parse::<Config>(&text, target, [])?.check(target)?)?;
    let trial = setup.try_extractor()?;
    files::write_atomic(target, text.as_bytes())?;
    if setup.config.broker.login().is_some() {
        keep_secret(target)?;
    }
    Ok(Answer::text(format!(
        "wrote {}: device {} of fleet {}, {} classes, extractor {} with {} features, {:.2} ms an image here\n\
         next: edge-client ingest DIR (DIR/<class>/*.png), then edge-client run\n",
        target.display(),
        setup.config.device,
        setup.config.fleet,
        setup.shape.classes(),
        setup.manifest.name,
        setup.shape.features(),
        trial.image_ms,
    )))
}
