//! A process of this machine that never outlives its place in this program.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, select, unbounded};

use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit, now};

/// Brings it about that the kernel kills a process when the thread that started it is gone: so nothing stays behind even
/// if this program is itself killed.
const STARTER: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// A running process whose output is followed and kept. Dropping it kills it, as a power cut would.
pub(crate) struct Process {
    name: String,
    child: Child,
    /// Whether its end was seen, after which its number may be that of another process.
    is_over: bool,
    lines: Receiver<String>,
}

impl Process {
    /// Starts it. Both its outputs go, as they come, to the end of a file and to [`lines`](Self::lines).
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, Trouble> {
        let log = OpenOptions::new().create(true).append(true).open(log);
        let log = log.map_err(|error| Trouble::Host(format!("cannot write the log of {name}: {error}")))?;
        let [starter, arguments @ ..] = STARTER;
        let mut started = Command::new(starter);
        started.args(arguments).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            started.current_dir(folder);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => started.env(key, value),
                None => started.env_remove(key),
            };
        }
        // A group of its own: Ctrl-C reaches this program only, which then ends what it started in the right order.
        started.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = started.spawn().map_err(|error| Trouble::Host(format!("cannot start {name}: {error}")))?;
        let (sender, lines) = unbounded();
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as _),
            child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let (sender, log) = (sender.clone(), log.try_clone());
            let log = log.map_err(|error| Trouble::Host(format!("cannot write the log of {name}: {error}")))?;
            thread::spawn(move || follow(output, log, |line| drop(sender.send(line))));
        }
        Ok(Self { name: name.into(), child, is_over: false, lines })
    }

    /// Each line of its outputs, until it ends.
    pub(crate) fn lines(&self) -> &Receiver<String> {
        &self.lines
    }

    /// Its standard input, once.
    pub(crate) fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The next line that holds a text.
    pub(crate) fn line(&self, part: &str, limit: &Limit<'_>, interruption: &Interruption) -> Result<String, Trouble> {
        next(&self.lines, limit, interruption, |line| line.contains(part).then_some(line))?
            .ok_or_else(|| Trouble::Host(format!("{} ended before {}; {}", self.name, limit.what, limit.advice)))
    }

    /// Everything it says from now on and how it ends.
    pub(crate) fn end(
        mut self,
        limit: &Limit<'_>,
        interruption: &Interruption,
    ) -> Result<(ExitStatus, String), Trouble> {
        let mut said = String::new();
        let gather = |line: String| {
            said += &line;
            said.push('\n');
            None::<()>
        };
        drop(self.input());
        next(&self.lines, limit, interruption, gather)?;
        let status = self.child.wait();
        self.is_over = true;
        let status = status.map_err(|error| Trouble::Host(format!("cannot wait for {}: {error}", self.name)))?;
        Ok((status, said))
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Trouble> {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            _ => {
                Err(Trouble::Host(format!("{} could not be sent {name}: it ended by itself; read its log", self.name)))
            }
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        // Whatever it started itself first. Either may have ended already.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its good end; gives its standard output.
pub(crate) fn succeed(
    command: &mut Command,
    log: &Path,
    limit: &Limit<'_>,
    interruption: &Interruption,
) -> Result<String, Trouble> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (status, said) = Process::start(&name, command, log)?.end(limit, interruption)?;
    if status.success() {
        return Ok(said);
    }
    let last = said.lines().rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    Err(Trouble::Host(format!("{name} failed: {last} ({})", log.display())))
}

/// Reads lines until one of them is what is wanted; `None` if there are no more.
pub(crate) fn next<T>(
    lines: &Receiver<String>,
    limit: &Limit<'_>,
    interruption: &Interruption,
    mut wanted: impl FnMut(String) -> Option<T>,
) -> Result<Option<T>, Trouble> {
    let deadline = now() + limit.time;
    loop {
        interruption.check()?;
        let left = deadline.saturating_duration_since(now());
        let line = select! {
            recv(lines) -> line => line.map_err(|_| RecvTimeoutError::Disconnected),
            recv(interruption.receiver()) -> _ => return Err(Trouble::Interrupted),
            default(left) => Err(RecvTimeoutError::Timeout),
        };
        match line {
            Ok(line) => {
                if let Some(found) = wanted(line) {
                    return Ok(Some(found));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => return Err(limit.passed()),
        }
    }
}

/// Copies an output to a file, and its lines to a listener. A console may say anything but UTF-8.
fn follow(output: impl std::io::Read, mut log: File, mut listener: impl FnMut(String)) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        // A full disk must not stop the process that is followed.
        let _ = log.write_all(&line);
        listener(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const LIMIT: Limit<'_> = Limit { what: "the end", time: Duration::from_secs(20), advice: "read the log" };

    fn shell(script: &str, folder: &Path) -> Process {
        Process::start("the shell", Command::new("sh").args(["-c", script]), &folder.join("log")).unwrap()
    }

    #[test]
    fn both_outputs_are_heard_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (_keeper, interruption) = Interruption::manual();
        let (status, said) = shell("echo one; echo two >&2; exit 3", folder.path()).end(&LIMIT, &interruption).unwrap();
        assert_eq!(status.code(), Some(3));
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["one", "two"]);
        assert!(std::fs::read_to_string(folder.path().join("log")).unwrap().contains("two"));
    }

    #[test]
    fn nothing_outlives_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let (_keeper, interruption) = Interruption::manual();
        let process = shell("sleep 1000 & echo $!; wait", folder.path());
        let grandchild = process.line("", &LIMIT, &interruption).unwrap();
        let is_there = || Path::new("/proc").join(&grandchild).join("exe").exists();
        assert!(is_there());
        drop(process);
        LIMIT.until(&interruption, || Ok((!is_there()).then_some(()))).unwrap();
    }

    #[test]
    fn a_failure_names_the_last_line_and_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let (_keeper, interruption) = Interruption::manual();
        let log = folder.path().join("log");
        let error = succeed(Command::new("sh").args(["-c", "echo no luck; exit 1"]), &log, &LIMIT, &interruption);
        assert_eq!(error.unwrap_err().to_string(), format!("sh failed: no luck ({})", log.display()));
    }
}
