//! The inventory: which boards there are and how they are reached. Pure: text in, checked boards out.

use core::time::Duration;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Longest time between power off and on that an inventory may ask for.
const LONGEST_OFF_SECONDS: u64 = 600;
/// Names are folders, too.
const LONGEST_NAME: usize = 40;
/// How much longer than the built-in limits a board may take.
const MOST_PATIENCE: f64 = 100.0;

/// What a board's processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Architecture {
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM with hardware floating point.
    Armv7,
    /// Something like this machine.
    #[serde(rename = "x86_64")]
    X86,
}

impl Architecture {
    /// As it is written in an inventory, and as `cross/build` knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::Armv7 => "armv7",
            Self::X86 => "x86_64",
        }
    }
}

/// A machine that the emulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Machine {
    /// A board that exists nowhere, on paravirtual devices: quick.
    Virt,
    /// A Raspberry Pi 3B with its own SD controller and USB network.
    Raspi3b,
}

impl Machine {
    /// As the emulator calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::Raspi3b => "raspi3b",
        }
    }
}

/// A board that answers to ssh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ssh {
    /// `user@address`, or a name of `~/.ssh/config`.
    pub(crate) host: String,
    /// The private key's file, if it is not the one that ssh takes by itself.
    pub(crate) key: Option<String>,
    /// ssh's port, if it is not 22.
    pub(crate) port: Option<u16>,
    /// A folder on the board's disk that is made, filled, and left there.
    #[serde(default = "board_folder")]
    pub(crate) folder: String,
}

fn board_folder() -> String {
    "/var/tmp/grapevine-hil".into()
}

/// How a real board loses and gets its power: commands of this machine, run by `sh -c`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Power {
    /// Takes it away.
    pub(crate) off: String,
    /// Gives it back.
    pub(crate) on: String,
    /// How long it stays away: capacitors keep a board alive for a moment.
    #[serde(default = "seconds_off")]
    pub(crate) seconds_off: u64,
}

fn seconds_off() -> u64 {
    5
}

impl Power {
    /// How long it stays away.
    pub(crate) fn time_off(&self) -> Duration {
        Duration::from_secs(self.seconds_off)
    }
}

/// How a board is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is emulated here.
    Qemu(Machine),
    /// It is real. Without commands for its power it is made to reboot without any goodbye.
    Ssh(Ssh, Option<Power>),
}

/// One board, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its name here and in the fleet.
    pub(crate) name: String,
    /// What its program is built for.
    pub(crate) architecture: Architecture,
    /// How it is reached.
    pub(crate) reach: Reach,
    /// Every limit is so many times longer for it.
    pub(crate) patience: f64,
}

/// Why a text is no inventory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InventoryError {
    /// It is not TOML of this form.
    #[error("not an inventory: {0}")]
    Syntax(String),
    /// It lists nothing.
    #[error("the inventory lists no board; add a [[board]]")]
    Empty,
    /// A field holds what it cannot.
    #[error("board '{board}': {complaint}")]
    Board {
        /// Its name.
        board: String,
        /// What to change.
        complaint: &'static str,
    },
    /// A board that was asked for is not listed.
    #[error("no board '{board}' in the inventory, which lists {listed}")]
    Unknown {
        /// What was asked for.
        board: String,
        /// What there is.
        listed: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    board: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    architecture: Architecture,
    #[serde(default = "usual_patience")]
    patience: f64,
    qemu: Option<Machine>,
    ssh: Option<Ssh>,
    power: Option<Power>,
}

fn usual_patience() -> f64 {
    1.0
}

/// The boards of an inventory, in its order.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, InventoryError> {
    let file: File = toml::from_str(text).map_err(|error| InventoryError::Syntax(error.to_string()))?;
    let entries = file.board.into_iter().map(Entry::try_from).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = entries.iter().find(|entry| !names.insert(&entry.name)) {
        return Err(complain(&twice.name, "is listed twice; names are unique"));
    }
    if entries.is_empty() { Err(InventoryError::Empty) } else { Ok(entries) }
}

/// The boards of these names, or all of them.
pub(crate) fn choose(entries: Vec<Entry>, names: &[String]) -> Result<Vec<Entry>, InventoryError> {
    if names.is_empty() {
        return Ok(entries);
    }
    let listed = || entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let unknown = || InventoryError::Unknown { board: name.clone(), listed: listed() };
        entries.iter().find(|entry| entry.name == *name).cloned().ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}

impl TryFrom<Line> for Entry {
    type Error = InventoryError;

    fn try_from(line: Line) -> Result<Self, InventoryError> {
        let Line { name, architecture, patience, qemu, ssh, power } = line;
        let fail = |complaint| Err(complain(&name, complaint));
        let is_plain = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_plain) {
            return fail("names are 1 to 40 of a-z, 0-9 and '-'");
        }
        if !(1.0..=MOST_PATIENCE).contains(&patience) {
            return fail("patience is a number from 1 to 100");
        }
        if power.as_ref().is_some_and(|power| power.seconds_off > LONGEST_OFF_SECONDS) {
            return fail("seconds_off is at most 600");
        }
        let reach = match (qemu, ssh, power) {
            (Some(_), None, Some(_)) => return fail("an emulated board has no power command; its process is killed"),
            (Some(_), None, None) if architecture != Architecture::Aarch64 => {
                return fail("the emulated machines are aarch64");
            }
            (Some(machine), None, None) => Reach::Qemu(machine),
            (None, Some(ssh), power) => {
                if ssh.host.starts_with('-') || ssh.host.is_empty() {
                    return fail("ssh.host is user@address");
                }
                let is_plain = |character: char| character.is_ascii_alphanumeric() || "/-_.".contains(character);
                if !ssh.folder.starts_with('/') || ssh.folder.len() < 2 || !ssh.folder.chars().all(is_plain) {
                    return fail("ssh.folder is an absolute path of letters, digits, '-', '_' and '.'");
                }
                Reach::Ssh(ssh, power)
            }
            (Some(_), Some(_), _) | (None, None, _) => return fail("needs either `qemu` or `ssh`"),
        };
        Ok(Self { name, architecture, reach, patience })
    }
}

fn complain(board: &str, complaint: &'static str) -> InventoryError {
    InventoryError::Board { board: board.into(), complaint }
}

#[cfg(test)]
mod tests;
