//! A real board, reached by ssh. The broker of this machine's loopback comes with the connection, so nothing of it is
//! open to the network.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::board::answer::SAY_END;
use crate::board::{Answering, Board, Limits, Surroundings};
use crate::inventory::{Power, Ssh};
use crate::process::{Process, succeed};
use crate::trouble::Trouble;
use crate::waiting::Limit;

/// Different after each boot.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
/// Without goodbye to programs and disks, whoever's `reboot` it is.
const REBOOT: &str = "if [ \"$(id -u)\" = 0 ]; then reboot -f -f; else sudo -n reboot -f -f; fi";

/// See the module.
pub(super) struct Real {
    ssh: Ssh,
    power: Option<Power>,
    surroundings: Surroundings,
    limits: Limits,
    /// The boot that was ended by the last cut.
    ended_boot: Option<String>,
}

impl Real {
    /// As it is, with whatever power it has.
    pub(super) fn new(ssh: Ssh, power: Option<Power>, surroundings: Surroundings, limits: Limits) -> Self {
        Self { ssh, power, surroundings, limits, ended_boot: None }
    }

    /// The connection of one command.
    fn command(&self, script: &str, tunnel: Option<u16>) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        command.args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]);
        if let Some(port) = tunnel {
            let ends = format!("127.0.0.1:{port}:127.0.0.1:{port}");
            command.args(["-o", "ExitOnForwardFailure=yes", "-R", &ends]);
        }
        if let Some(key) = &self.ssh.key {
            command.arg("-i").arg(at_home(key, std::env::var("HOME").ok().as_deref()));
        }
        if let Some(port) = self.ssh.port {
            command.args(["-p", &port.to_string()]);
        }
        command.arg(&self.ssh.host).arg(format!("sh -c {}", quote(script)));
        command
    }

    fn connect(&self, script: &str, tunnel: Option<u16>) -> Result<Process, Trouble> {
        Process::start("ssh", &mut self.command(script, tunnel), &self.surroundings.folder.join("console.log"))
    }

    /// What the board says to a short command, if it answers.
    fn ask(&self, script: &str) -> Result<Option<String>, Trouble> {
        let limit =
            Limit { what: "an answer by ssh", time: self.limits.seconds(30), advice: "is the board on the network?" };
        let connection = self.connect(script, None)?.end(&limit, &self.surroundings.interruption);
        match connection {
            Ok((status, said)) if status.success() => Ok(Some(said.trim().to_owned())),
            Ok(_) | Err(Trouble::Late { .. }) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    fn switch(&self, command: &str, what: &str) -> Result<(), Trouble> {
        let advice = format!("run it by hand: {command}");
        let limit = Limit { what, time: self.limits.seconds(60), advice: &advice };
        let log = self.surroundings.folder.join("power.log");
        succeed(Command::new("sh").args(["-c", command]), &log, &limit, &self.surroundings.interruption)?;
        Ok(())
    }
}

impl Board for Real {
    fn load(&mut self, payload: &Path) -> Result<(), Trouble> {
        let Surroundings { folder, interruption, .. } = &self.surroundings;
        let limit = Limit {
            what: "the copy",
            time: self.limits.seconds(300),
            advice: "is the board's network slow or its disk full?",
        };
        let archive = folder.join("payload.tar");
        let mut pack = Command::new("tar");
        pack.arg("cf").arg(&archive).arg("-C").arg(payload).arg(".");
        succeed(&mut pack, &folder.join("copy.log"), &limit, interruption)?;
        let place = self.folder();
        let mut connection =
            self.connect(&format!("rm -rf {place} && mkdir -p {place} && tar xf - -C {place} && sync"), None)?;
        let mut input = connection.input().expect("a new process has its input");
        let copied = File::open(&archive).and_then(|mut file| io::copy(&mut file, &mut input));
        drop(input);
        let (status, said) = connection.end(&limit, interruption)?;
        match (copied, status.success()) {
            (Ok(_), true) => Ok(()),
            (Err(error), true) => Err(Trouble::Board(format!("the copy broke off: {error}"))),
            (_, false) => Err(Trouble::Board(format!("the board did not take the copy: {}", said.trim()))),
        }
    }

    fn power_on(&mut self) -> Result<(), Trouble> {
        if let (Some(power), Some(_)) = (&self.power, &self.ended_boot) {
            self.switch(&power.on, "power on")?;
        }
        let advice = format!("try `ssh {}` by hand: it must ask for nothing", self.ssh.host);
        let limit = Limit { what: "an answer of the booted board", time: self.limits.seconds(240), advice: &advice };
        limit.until(&self.surroundings.interruption, || {
            // A board that still answers from before the cut is none that booted.
            Ok(self.ask(BOOT_ID)?.filter(|boot| self.ended_boot.as_ref() != Some(boot)).map(drop))
        })
    }

    fn cut_power(&mut self) -> Result<(), Trouble> {
        let boot = self.ask(BOOT_ID)?;
        self.ended_boot = Some(boot.ok_or_else(|| Trouble::Board("the board does not answer before the cut".into()))?);
        match &self.power {
            Some(power) => {
                self.switch(&power.off, "power off")?;
                self.surroundings.interruption.pause(power.time_off())
            }
            // The connection breaks with the board; whether it booted is seen by its next answer.
            None => self.ask(REBOOT).map(drop),
        }
    }

    fn start(&mut self, command: &str, tunnel: Option<u16>) -> Result<Answering, Trouble> {
        let connection = self.connect(&format!("({command}) 2>&1; {SAY_END}"), tunnel)?;
        Ok(Answering::new(connection.lines().clone(), Some(connection)))
    }

    fn folder(&self) -> String {
        format!("{}/trial", self.ssh.folder)
    }

    fn broker(&self, port: u16) -> String {
        // The board's end of the tunnel.
        format!("mqtt://127.0.0.1:{port}")
    }
}

/// A word for a shell, whatever it holds.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `~/` in an inventory means the home folder; no shell reads it.
fn at_home(path: &str, home: Option<&str>) -> String {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        (Some(_), None) | (None, _) => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_stays_one_word() {
        assert_eq!(quote("echo 'a b' \"$c\""), r#"'echo '\''a b'\'' "$c"'"#);
        let output =
            Command::new("sh").arg("-c").arg(format!("sh -c {}", quote("echo 'a  b' \"$0\""))).output().unwrap();
        assert_eq!(output.stdout, b"a  b sh\n");
    }

    #[test]
    fn keys_may_lie_at_home() {
        assert_eq!(at_home("~/.ssh/key", Some("/home/me")), "/home/me/.ssh/key");
        assert_eq!(at_home("/keys/key", Some("/home/me")), "/keys/key");
    }
}
