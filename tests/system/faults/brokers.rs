//! `faults brokers`

use core::time::Duration;
use std::process::ExitCode;

use clap::Args;
use grapevine_host::BrokerAddress;
use grapevine_tests::federation::Plan;
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::restarts::{self, Restarts};
use serde_json::json;

/// Rounds of a run that is left when the last restart has healed.
const ENDLESS: u32 = 1_000_000;

/// Kill and restart mosquitto under a federation; every restart must heal and the heads must be those of a run without.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often the broker is killed.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Devices of the federation.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,
    /// Longest that the broker stays away, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    away_ms: u64,
    /// How long a connection lasts at least between two kills, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    rest_ms: u64,
    /// Longest pause between two attempts to connect, in seconds; 60 is the programs' default.
    #[arg(long, value_name = "S", default_value_t = 60)]
    longest_pause_s: u64,
    /// Decides the moments.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some(mut mosquitto) = Mosquitto::start() else {
        eprintln!("error: mosquitto is not installed; install the package `mosquitto` and try again");
        return ExitCode::FAILURE;
    };
    let broker = BrokerAddress::new("127.0.0.1", mosquitto.port);
    let plan = Plan {
        longest_pause: Duration::from_secs(arguments.longest_pause_s),
        keep_alive: Duration::from_secs(60),
        ..restarts::plan(arguments.devices, ENDLESS)
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let treatment = Restarts {
        count: arguments.count,
        longest_away: Duration::from_millis(arguments.away_ms),
        rest: Duration::from_millis(arguments.rest_ms),
        to_the_end: false,
        seed: arguments.seed,
    };
    let mut number = 0;
    let place = folder.path().join("restarted");
    let (healed, heads) = restarts::restarted(&place, &mut mosquitto, &plan, treatment, &mut |restart| {
        number += 1;
        let restarts::Restart { round, after_ms, away_ms, healed_ms } = restart;
        eprintln!(
            "{number}/{}: killed {after_ms} ms into round {round}, away for {away_ms} ms, healed {healed_ms} ms later",
            arguments.count
        );
    });
    eprintln!("{} rounds; the same without restarts", heads.len());
    let plan = Plan { rounds: heads.len() as u32, ..plan };
    let quiet = restarts::quiet(&folder.path().join("quiet"), &broker, &plan);
    assert_eq!(heads, quiet, "seed {}: the restarts changed what the fleet learned", arguments.seed);
    let longest = healed.iter().map(|restart| restart.healed_ms).max();
    crate::answer(&json!({
        "restarts": healed,
        "longest_healed_ms": longest,
        "rounds": heads.len(),
        "head_digest": heads.last().map(ToString::to_string),
    }))
}
