//! A board, however it is reached: it gets files and power, does what it is told, and loses its power.

pub(crate) mod answer;
mod console;
mod qemu;
mod ssh;

use core::time::Duration;
use std::path::{Path, PathBuf};

use crate::inventory::{Entry, Reach};
use crate::trouble::Trouble;
use crate::waiting::Interruption;
pub(crate) use answer::Answering;

/// What a trial asks of a board.
pub(crate) trait Board {
    /// Puts a folder's content where [`folder`](Self::folder) says, in place of what an earlier trial left there.
    fn load(&mut self, payload: &Path) -> Result<(), Trouble>;

    /// Gives it power and waits until it does what it is told; its disk is as it was.
    fn power_on(&mut self) -> Result<(), Trouble>;

    /// Takes its power away without any warning.
    fn cut_power(&mut self) -> Result<(), Trouble>;

    /// Starts a command of its shell. With a port it can use the broker there on this machine's loopback, which it finds
    /// at [`broker`](Self::broker).
    fn start(&mut self, command: &str, tunnel: Option<u16>) -> Result<Answering, Trouble>;

    /// Where the payload lies on the board.
    fn folder(&self) -> String;

    /// The address at which the board finds the broker of this machine.
    fn broker(&self, port: u16) -> String;
}

/// What all boards of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Where this board's files and logs go.
    pub(crate) folder: PathBuf,
    /// What emulated boards are made of, see `boards/fetch`.
    pub(crate) parts: PathBuf,
    /// Ends every wait.
    pub(crate) interruption: Interruption,
}

/// The board of an inventory's entry.
pub(crate) fn open(entry: &Entry, surroundings: Surroundings) -> Box<dyn Board> {
    let limits = Limits { patience: entry.patience };
    match &entry.reach {
        Reach::Qemu(machine) => Box::new(qemu::Emulated::new(*machine, surroundings, limits)),
        Reach::Ssh(ssh, power) => Box::new(ssh::Real::new(ssh.clone(), power.clone(), surroundings, limits)),
    }
}

/// How long a board may take for things, which depends on the board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The inventory's factor.
    pub(crate) patience: f64,
}

impl Limits {
    /// So many seconds, or more for a slow board.
    pub(crate) fn seconds(self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.patience)
    }
}
