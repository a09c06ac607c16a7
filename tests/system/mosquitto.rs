//! Starts a real mosquitto for one test, and ends it with the test.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

const TEMPLATE: &str = include_str!("../mosquitto.conf");
/// Another process may take the free port between asking for it and listening on it.
const ATTEMPTS: usize = 5;

/// A running mosquitto on a port of its own. Dropping it kills it.
pub struct Mosquitto {
    /// Where it listens.
    pub port: u16,
    program: Vec<OsString>,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts mosquitto and waits until it listens; `None` if it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_at("127.0.0.1", &[])
    }

    /// The same with more lines in its configuration.
    #[allow(dead_code, reason = "not every test needs it")]
    pub fn start_with(lines: &str) -> Option<Self> {
        Self::launch_anew("127.0.0.1", &[], lines)
    }

    /// The same on another address, started by another program that is given this one and its arguments.
    pub fn start_at(address: &str, starter: &[&str]) -> Option<Self> {
        Self::launch_anew(address, starter, "")
    }

    fn launch_anew(address: &str, starter: &[&str], lines: &str) -> Option<Self> {
        let program = starter.iter().map(OsString::from).chain([find("mosquitto")?.into()]).collect::<Vec<_>>();
        for _ in 0..ATTEMPTS {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let port = free_port();
            let text = TEMPLATE.replace("listener PORT 127.0.0.1", &format!("listener {port} {address}"));
            let text = format!("{text}\n{}\n", lines.replace("FOLDER", &folder.path().to_string_lossy()));
            fs::write(folder.path().join("mosquitto.conf"), text).expect("the temporary folder is writable");
            let mut mosquitto = Self { port, program: program.clone(), folder, child: None };
            if mosquitto.launch() {
                return Some(mosquitto);
            }
        }
        panic!("mosquitto did not start {ATTEMPTS} times; run it by hand with tests/mosquitto.conf to see why");
    }

    /// Kills it as a power cut would: no client is told.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// Starts it again on the same port, with nothing remembered. Kills it first if it still runs.
    pub fn restart(&mut self) {
        self.kill();
        let again = (0..ATTEMPTS).any(|_| self.launch());
        assert!(again, "mosquitto did not start again on port {}", self.port);
    }

    fn launch(&mut self) -> bool {
        let config = self.folder.path().join("mosquitto.conf");
        let (program, arguments) = self.program.split_first().expect("it holds mosquitto at least");
        let mut command = Command::new(program);
        command.args(arguments).arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("mosquitto is installed and can be run");
        let stderr = child.stderr.take().expect("its standard error is a pipe");
        self.child = Some(child);
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let runs = lines.any(|line| line.contains("mosquitto version") && line.contains("running"));
        // A full pipe would stop the broker.
        thread::spawn(move || lines.for_each(drop));
        if !runs {
            self.kill();
        }
        runs
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An installed program, also where only the superuser's `PATH` leads.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A port of this machine on which nobody listens.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be had");
    listener.local_addr().expect("a listening socket has an address").port()
}
