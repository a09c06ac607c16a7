//! `faults links`

use core::time::Duration;
use std::process::ExitCode;

use clap::Args;
use grapevine_tests::broker::Broker;
use grapevine_tests::links;
use grapevine_tests::proxy::Conditions;
use serde_json::json;

/// Send a 20.9 MB update and a 3.1 MB model over a bad link, on loopback.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Bytes a second from the device.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    up: u64,
    /// Bytes a second to the device.
    #[arg(long, value_name = "BYTES", default_value_t = 128_000, value_parser = clap::value_parser!(u64).range(1..))]
    down: u64,
    /// Milliseconds that every byte is under way.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
    /// Break the connection each time it has carried so many bytes in one direction.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    cut_every: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let broker = Broker::start();
    let conditions = Conditions {
        up: None,
        down: None,
        delay: Duration::from_millis(arguments.delay_ms),
        cut_every: arguments.cut_every,
    };
    eprintln!("{}: an update at {} bytes a second", broker.name(), arguments.up);
    let upload = links::upload(&broker, links::large_update(), Conditions { up: Some(arguments.up), ..conditions });
    eprintln!("{} bytes in {:.1} s; a model at {} bytes a second", upload.bytes, upload.seconds, arguments.down);
    let download =
        links::download(&broker, links::large_model(), Conditions { down: Some(arguments.down), ..conditions });
    eprintln!("{} bytes in {:.1} s", download.bytes, download.seconds);
    crate::answer(&json!({ "broker": broker.name(), "upload": upload, "download": download }))
}
