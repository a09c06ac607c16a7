//! The rest of a board's fleet, on this machine: a broker on the loopback, the aggregator, and a second device, the
//! companion, with images of its own. All of them are the shipped programs.

use core::ops::Range;
use core::time::Duration;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::digits;
use crate::process::{Process, succeed};
use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit};

const MOSQUITTO: &str = include_str!("../../mosquitto.conf");
/// The name of the fleet.
pub(crate) const FLEET: &str = "hil";
/// Rounds of training.
pub(crate) const ROUNDS: u32 = 3;
/// What this machine does takes moments; a busy one needs longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// The folder of `aggregator` and `edge-client`.
    pub(crate) programs: PathBuf,
    /// The manifest of the extractor.
    pub(crate) extractor: PathBuf,
}

/// See the module. Dropping it kills all of it.
pub(crate) struct Fleet {
    folder: PathBuf,
    tools: Tools,
    interruption: Interruption,
    /// The broker's.
    pub(crate) port: u16,
    aggregator: Process,
    companion: Option<Process>,
    _broker: Process,
}

impl Fleet {
    /// Starts the broker and the aggregator, and gives the companion its images.
    pub(crate) fn start(
        folder: PathBuf,
        tools: Tools,
        images: Range<usize>,
        interruption: Interruption,
    ) -> Result<Self, Trouble> {
        for part in ["aggregator", "companion/images"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| Trouble::file(&part, "make", &error))?;
        }
        let (broker, port) = broker(&folder, &interruption)?;
        let address = format!("mqtt://127.0.0.1:{port}");
        let shared = Shared { folder: &folder, tools: &tools, interruption: &interruption };
        let (extractor, classes) = (tools.extractor.to_string_lossy(), digits::class_names());
        let common = ["--fleet", FLEET, "--extractor", &extractor, "--classes", &classes, "--broker", &address];
        shared.succeed("aggregator", "aggregator", &[&["init", "--method", "redgrape"], &common[..]].concat())?;
        let aggregator = shared.serve()?;
        shared.succeed("companion", "edge-client", &[&["init", "--device", "companion"], &common[..]].concat())?;
        digits::write(&folder.join("companion/images"), images)?;
        shared.succeed("companion", "edge-client", &["ingest", "images", "--json"])?;
        Ok(Self { folder, tools, interruption, port, aggregator, companion: None, _broker: broker })
    }

    fn shared(&self) -> Shared<'_> {
        Shared { folder: &self.folder, tools: &self.tools, interruption: &self.interruption }
    }

    /// Lets the companion take part.
    pub(crate) fn start_companion(&mut self) -> Result<(), Trouble> {
        let mut command = self.shared().command("companion", "edge-client", &["run", "--until-finished", "-v"]);
        self.companion = Some(Process::start("the companion", &mut command, &self.folder.join("companion.log"))?);
        Ok(())
    }

    /// Waits until the companion has delivered its update of the first round, and keeps it from everything else: so no
    /// later round ends without somebody's leave.
    pub(crate) fn hold_companion_after_its_first_update(&self, limit: Duration) -> Result<(), Trouble> {
        let log = self.folder.join("companion.log");
        let advice = format!("read {}", log.display());
        let limit = Limit { what: "the companion's first update", time: limit, advice: &advice };
        let companion = self.companion.as_ref().expect("the companion was started");
        companion.line("update delivered round=0", &limit, &self.interruption)?;
        companion.signal("STOP")
    }

    /// Lets the companion go on.
    pub(crate) fn release_companion(&self) -> Result<(), Trouble> {
        self.companion.as_ref().expect("the companion was started").signal("CONT")
    }

    /// Makes the aggregator deaf and mute, as on a machine that is suspended.
    pub(crate) fn hold_aggregator(&self) -> Result<(), Trouble> {
        self.aggregator.signal("STOP")
    }

    /// Lets the aggregator go on.
    pub(crate) fn release_aggregator(&self) -> Result<(), Trouble> {
        self.aggregator.signal("CONT")
    }

    /// Waits until the companion ended by itself, when the run was over.
    pub(crate) fn end_companion(&mut self, limit: Duration) -> Result<(), Trouble> {
        let log = self.folder.join("companion.log");
        let advice = format!("read {}", log.display());
        let limit = Limit { what: "the companion's end", time: limit, advice: &advice };
        let companion = self.companion.take().expect("the companion was started");
        let (status, _) = companion.end(&limit, &self.interruption)?;
        if status.success() { Ok(()) } else { Err(Trouble::Host(format!("the companion failed; {advice}"))) }
    }

    /// What a command of the aggregator says with `--json`.
    pub(crate) fn aggregator_says(&self, command: &str) -> Result<Value, Trouble> {
        json(&self.shared().succeed("aggregator", "aggregator", &[command, "--json"])?)
    }
}

/// What every program of the fleet is started with.
struct Shared<'a> {
    folder: &'a Path,
    tools: &'a Tools,
    interruption: &'a Interruption,
}

impl Shared<'_> {
    fn command(&self, place: &str, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.tools.programs.join(program));
        // The settings of whoever runs this are not the fleet's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GRAPEVINE_")) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.folder.join(place)).env("NO_COLOR", "1");
        command.env("GRAPEVINE_MQTT__LONGEST_PAUSE", "2s");
        command
    }

    fn succeed(&self, place: &str, program: &str, arguments: &[&str]) -> Result<String, Trouble> {
        let log = self.folder.join(format!("{place}-commands.log"));
        let advice = format!("read {}", log.display());
        let limit = Limit { what: "a command of this machine's programs", time: PATIENCE, advice: &advice };
        succeed(&mut self.command(place, program, arguments), &log, &limit, self.interruption)
    }

    fn serve(&self) -> Result<Process, Trouble> {
        let mut command = self.command("aggregator", "aggregator", &["serve"]);
        // Every round waits for both devices, longer than any limit of a trial, and learns from single samples.
        let rounds = ROUNDS.to_string();
        for (setting, value) in [
            ("ROUND__ROUNDS", rounds.as_str()),
            ("ROUND__MIN_DEVICES", "2"),
            ("ROUND__QUORUM", "1.0"),
            ("ROUND__DEADLINE", "6h"),
            ("ROUND__SEED", "6"),
            ("METHOD__MIN_SAMPLES_TO_SHARE", "1"),
        ] {
            command.env(format!("GRAPEVINE_{setting}"), value);
        }
        let log = self.folder.join("aggregator.log");
        let advice = format!("read {}", log.display());
        let limit = Limit { what: "the aggregator's start", time: PATIENCE, advice: &advice };
        let aggregator = Process::start("the aggregator", &mut command, &log)?;
        aggregator.line("connected to the broker", &limit, self.interruption)?;
        Ok(aggregator)
    }
}

fn broker(folder: &Path, interruption: &Interruption) -> Result<(Process, u16), Trouble> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.map_err(|error| Trouble::Host(format!("no free port on the loopback: {error}")))?.port();
    let settings = folder.join("mosquitto.conf");
    let text = MOSQUITTO.replace("listener PORT", &format!("listener {port}"));
    fs::write(&settings, text).map_err(|error| Trouble::file(&settings, "write", &error))?;
    let mut command = Command::new("mosquitto");
    // Debian puts servers where only root looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin")).arg("-c").arg(&settings);
    let advice = "install mosquitto (apt-get install mosquitto), or read mosquitto.log";
    let limit = Limit { what: "the broker's start", time: PATIENCE, advice };
    let broker = Process::start("mosquitto", &mut command, &folder.join("mosquitto.log"))?;
    broker.line("running", &limit, interruption)?;
    Ok((broker, port))
}

/// The JSON in what a command said, which may have logged before and after it.
pub(crate) fn json(said: &str) -> Result<Value, Trouble> {
    let start = said.lines().position(|line| line.starts_with(['{', '[']));
    let text = said.lines().skip(start.unwrap_or(0)).collect::<Vec<_>>().join("\n");
    let mut values = serde_json::Deserializer::from_str(&text).into_iter();
    values.next().and_then(Result::ok).ok_or_else(|| Trouble::Board(format!("no JSON, but: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_between_lines_of_a_log() {
        let said = "2026 WARN: hot\n{\n  \"a\": 1\n}\n2026 INFO: done\n";
        assert_eq!(json(said).unwrap()["a"], 1);
        assert_eq!(json("[]").unwrap(), Value::Array(Vec::new()));
        assert_eq!(json("error: no store").unwrap_err().to_string(), "no JSON, but: error: no store");
    }
}
