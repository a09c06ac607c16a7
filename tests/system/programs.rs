//! The shipped programs as processes: in a folder of their own, with every wait bounded.

use core::time::Duration;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use tempfile::TempDir;

use crate::namespaces;

/// Longest wait for anything: far beyond what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The device's program.
const DEVICE: &str = "edge-client";

/// A moment, for deadlines and measurements.
#[allow(clippy::disallowed_methods, reason = "tests measure, and bound their waits")]
pub fn now() -> Instant {
    Instant::now()
}

/// The folder in which programs run, with nothing else in it.
pub struct Workplace {
    folder: TempDir,
    /// The network namespace that the programs run in, if not this process's own.
    namespace: Option<String>,
    /// What is started in place of `edge-client`, and its first arguments.
    device: Vec<OsString>,
}

impl Default for Workplace {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { folder, namespace: None, device: Vec::new() }
    }
}

impl Workplace {
    /// The same folder, whose programs run in a network namespace.
    pub fn inside(self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self }
    }

    /// The same folder, whose device is another program, such as one of another architecture under an emulator.
    pub fn with_device(self, program: &[OsString]) -> Self {
        Self { device: program.to_vec(), ..self }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every name in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = self.folder.path().read_dir().expect("our own folder can be listed");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// A program in the folder, without the settings of whoever runs the tests.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let own = [built().join(format!("{program}{}", env::consts::EXE_SUFFIX)).into_os_string()];
        let program = if program == DEVICE && !self.device.is_empty() { &self.device[..] } else { &own[..] };
        let starter = self.namespace.as_deref().map(namespaces::starter);
        let mut words = starter.iter().flatten().map(OsStr::new).chain(program.iter().map(OsString::as_os_str));
        let mut command = Command::new(words.next().expect("a program has a name"));
        command.args(words);
        let names = env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("GRAPEVINE_")) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Standard output of a success.
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().expect("a built program starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
        String::from_utf8(output.stdout).expect("our programs write UTF-8")
    }

    /// Standard output of a success, as JSON.
    pub fn json(&self, program: &str, arguments: &[&str]) -> serde_json::Value {
        let text = self.succeed(program, arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}: {text}"))
    }

    /// What `status` says, whether or not there is something that a person must look at.
    pub fn status(&self, program: &str) -> serde_json::Value {
        let output = self.command(program, &["status", "--json"]).output().expect("a built program starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{program}: {complaint}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{program}: {error}: {complaint}"))
    }

    /// The one line on standard error of a failure with this exit code that wrote nothing to standard output.
    pub fn fail(&self, program: &str, arguments: &[&str], code: i32) -> String {
        let output = self.command(program, arguments).output().expect("a built program starts");
        complaint(&output, code).unwrap_or_else(|text| panic!("{program} {arguments:?}: {text}"))
    }

    /// Starts a program and follows its standard error.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(program, arguments))
    }
}

/// A running program; dropping it kills it as a power cut would.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    /// Starts it with its standard error followed and its standard output thrown away.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a built program starts");
        let stderr = BufReader::new(child.stderr.take().expect("its standard error is a pipe"));
        let (sender, lines) = unbounded();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, heard: Vec::new() }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line on standard error that holds `part`.
    pub fn line(&mut self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.heard.push(line);
                    if let Some(line) = self.heard.last().filter(|line| line.contains(part)) {
                        return line.clone();
                    }
                }
                Err(_) => panic!("`{part}` was never said, but:\n{}", self.heard.join("\n")),
            }
        }
    }

    /// Listens until `moment`; gives the next line that holds `part`, if it is said by then.
    pub fn line_until(&mut self, part: &str, moment: Instant) -> Option<String> {
        while let Ok(line) = self.lines.recv_deadline(moment) {
            self.heard.push(line);
            if let Some(line) = self.heard.last().filter(|line| line.contains(part)) {
                return Some(line.clone());
            }
        }
        None
    }

    /// Forgets what was said so far: a program that runs for hours says a lot.
    pub fn forget_lines(&mut self) {
        self.heard.clear();
    }

    /// The newest line on standard error, if there is any.
    pub fn last_line(&mut self) -> Option<&str> {
        self.heard.extend(self.lines.try_iter());
        self.heard.last().map(String::as_str)
    }

    /// The exit code of a program that ends by itself, and everything it wrote to standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.heard.push(line),
                // It closed its standard error, which it does at its end.
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().expect("our own child can be waited for");
                    return (status.code(), self.heard.join("\n"));
                }
                Err(RecvTimeoutError::Timeout) => panic!("it never ended:\n{}", self.heard.join("\n")),
            }
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `INT`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("`kill` is installed");
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The one `error: ` line of a failure; else what is wrong with it.
///
/// # Errors
/// If the exit code is another, or the output is anything but that line.
pub fn complaint(output: &Output, code: i32) -> Result<String, String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.trim_end().strip_prefix("error: ");
    match line.filter(|line| !line.contains('\n')) {
        Some(line) if output.status.code() == Some(code) && output.stdout.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err(format!("{:?}, not {code}: {stderr}", output.status.code())),
    }
}

/// The shipped extractor's manifest.
pub fn extractor() -> String {
    root().join("models/onnx/digits.toml").to_str().expect("the checkout's path is UTF-8").to_owned()
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root")
}

/// The folder of the programs. They belong to other packages, so cargo does not build them for these tests: that is
/// done here, once, in the profile of the tests. Cargo's own lock keeps several of them apart.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = env::current_exe().expect("a program knows where it lies");
        let folder = program.parent().expect("programs lie in target/<profile>, tests in target/<profile>/deps");
        let folder = if folder.ends_with("deps") { folder.parent().expect("a profile's folder") } else { folder };
        let profile = folder.file_name().and_then(|name| name.to_str()).expect("a profile has a name");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO")));
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--bins", "-p", "grapevine-aggregator", "-p", "grapevine-edge-client"]);
        build.args(["-p", "grapevine-simulator", "--profile", if profile == "debug" { "dev" } else { profile }]);
        build.arg("--target-dir").arg(folder.parent().expect("target/ holds the profile"));
        let output = build.current_dir(root()).output().expect("cargo started this test");
        assert!(output.status.success(), "the programs do not build: {}", String::from_utf8_lossy(&output.stderr));
        folder.to_owned()
    })
}
