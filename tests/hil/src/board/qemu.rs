//! A board that is emulated here. Its disk is a file; its power is a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::board::console::Console;
use crate::board::{Answering, Board, Limits, Surroundings};
use crate::inventory::Machine;
use crate::process::{Process, succeed};
use crate::trouble::Trouble;
use crate::waiting::{Limit, seconds_since_1970};

/// An SD card's size must be a power of two. The file has holes, so it takes what is written only.
const DISK_BYTES: u64 = 128 << 20;
const MEMORY: &str = "512";

/// See the module.
pub(super) struct Emulated {
    machine: Machine,
    surroundings: Surroundings,
    limits: Limits,
    boots: u32,
    console: Option<Console>,
}

impl Emulated {
    /// Without disk and power so far.
    pub(super) fn new(machine: Machine, surroundings: Surroundings, limits: Limits) -> Self {
        Self { machine, surroundings, limits, boots: 0, console: None }
    }

    fn disk(&self) -> PathBuf {
        self.surroundings.folder.join("disk.img")
    }

    fn command(&self) -> Command {
        let parts = &self.surroundings.parts;
        let libraries = parts.join("qemu/usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(parts.join("qemu/usr/bin/qemu-system-aarch64"));
        command.env(
            "LD_LIBRARY_PATH",
            format!("{}:{}", libraries.display(), parts.join("qemu/lib/x86_64-linux-gnu").display()),
        );
        command.arg("-L").arg(parts.join("qemu/usr/share/qemu")).arg("-kernel").arg(parts.join("kernel"));
        command.arg("-initrd").arg(parts.join(format!("{}.initramfs", self.machine.name())));
        command.args(["-machine", self.machine.name(), "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-serial", "stdio", "-netdev", "user,id=net"]);
        let disk = |interface: &str| format!("file={},format=raw,{interface}", self.disk().display());
        match self.machine {
            Machine::Virt => {
                command.args(["-cpu", "cortex-a72", "-m", MEMORY, "-append", "console=ttyAMA0 quiet panic=-1"]);
                command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
                command.args(["-drive", &disk("if=none,id=disk"), "-device", "virtio-blk-pci,drive=disk"]);
            }
            Machine::Raspi3b => {
                command.arg("-dtb").arg(parts.join("raspi3b.dtb"));
                // The last console is the one that programs get.
                let consoles = "console=ttyS1,115200 console=ttyAMA0,115200 rdinit=/init quiet panic=-1";
                command.args(["-append", consoles, "-device", "usb-net,netdev=net", "-drive", &disk("if=sd")]);
            }
        }
        command
    }
}

impl Board for Emulated {
    fn load(&mut self, payload: &Path) -> Result<(), Trouble> {
        let disk = self.disk();
        let made = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
        made.map_err(|error| Trouble::file(&disk, "make the disk", &error))?;
        let mut command = Command::new("mke2fs");
        // The tools of file systems lie where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/sbin:/usr/sbin")).args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "root_owner=0:0",
            "-d",
        ]);
        command.arg(payload).arg(&disk);
        let limit =
            Limit { what: "making the disk", time: self.limits.seconds(60), advice: "is this machine's disk full?" };
        succeed(&mut command, &self.surroundings.folder.join("disk.log"), &limit, &self.surroundings.interruption)?;
        Ok(())
    }

    fn power_on(&mut self) -> Result<(), Trouble> {
        self.boots += 1;
        let log = self.surroundings.folder.join(format!("console-{}.log", self.boots));
        let mut console = Console::new(Process::start("the emulator", &mut self.command(), &log)?);
        let advice = format!("read {}", log.display());
        let limit = Limit { what: "the boot", time: self.limits.seconds(240), advice: &advice };
        console.ready(&limit, &self.surroundings.interruption)?;
        // Most boards have no clock of their own and ask the network; the logs are to be read side by side.
        let date = format!("date -s @{} >/dev/null", seconds_since_1970());
        console.start(&date)?.end(&limit, &self.surroundings.interruption)?.success("date")?;
        self.console = Some(console);
        Ok(())
    }

    fn cut_power(&mut self) -> Result<(), Trouble> {
        let console = self.console.take().ok_or_else(|| Trouble::Host("the board has no power".into()))?;
        console.kill();
        // What the board's kernel had not written to its disk is gone. The disk as it was is kept for whoever doubts it.
        let kept = self.surroundings.folder.join("disk-at-the-cut.img");
        fs::copy(self.disk(), &kept).map_err(|error| Trouble::file(&kept, "write", &error))?;
        Ok(())
    }

    fn start(&mut self, command: &str, _tunnel: Option<u16>) -> Result<Answering, Trouble> {
        self.console.as_mut().ok_or_else(|| Trouble::Host("the board has no power".into()))?.start(command)
    }

    fn folder(&self) -> String {
        "/disk".into()
    }

    fn broker(&self, port: u16) -> String {
        // The emulator's name for this machine's loopback.
        format!("mqtt://10.0.2.2:{port}")
    }
}
