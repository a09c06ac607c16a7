//! `edge-client init`: a new configuration, written only when everything in it is right.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use grapevine_edge_client::config::{Config, DEFAULT_STATE, Draft};
use grapevine_host::draft::{keep_secret, seen_from};
use grapevine_host::{BrokerAddress, class_list, config, files};
use grapevine_protocol::{DeviceId, FleetId};

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
    /// The fleet's name.
    #[arg(long, value_name = "NAME")]
    fleet: FleetId,
    /// This device's name, unique in the fleet.
    #[arg(long, value_name = "NAME")]
    device: DeviceId,
    /// Where the broker is: mqtt://[user:password@]host[:port].
    #[arg(long, value_name = "ADDRESS", value_parser = check_broker)]
    broker: String,
    /// The frozen extractor's manifest, the `.toml` file beside an `.onnx` file.
    #[arg(long, value_name = "FILE")]
    extractor: PathBuf,
    /// The fleet's class names, in the fleet's order.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "classes_file")]
    classes: Vec<String>,
    /// A text file with one class name a line, instead of --classes.
    #[arg(long, value_name = "FILE", conflicts_with = "classes")]
    classes_file: Option<PathBuf>,
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
    let state = common.state.as_deref().map_or(Ok(DEFAULT_STATE.into()), |state| seen_from(target, state))?;
    let draft = Draft {
        fleet: arguments.fleet.clone(),
        device: arguments.device.clone(),
        broker: arguments.broker.clone(),
        extractor: seen_from(target, &arguments.extractor)?,
        classes,
        state,
    };
    let text = draft.text();
    let setup = Setup::load(config::parse::<Config>(&text, target, [])?.check(target)?)?;
    setup.extractor()?;
    files::write_atomic(target, text.as_bytes())?;
    if setup.config.broker.login().is_some() {
        keep_secret(target)?;
    }
    Ok(Answer::text(format!(
        "wrote {}: device {} of fleet {}, {} classes, extractor {} with {} features\n\
         next: edge-client ingest DIR (DIR/<class>/*.png), then edge-client run\n",
        target.display(),
        setup.config.device,
        setup.config.fleet,
        setup.shape.classes(),
        setup.manifest.name,
        setup.shape.features(),
    )))
}

fn check_broker(text: &str) -> Result<String, String> {
    text.parse::<BrokerAddress>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}
