//! The command line of `hil`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use clap::Parser;

use crate::board::Surroundings;
use crate::fleet::{ROUNDS, Tools};
use crate::inventory::{self, Architecture, Entry, Reach};
use crate::process::succeed;
use crate::progress::Progress;
use crate::report::{BoardReport, Report};
use crate::trial::{self, Plan};
use crate::trouble::Trouble;
use crate::waiting::{Interruption, Limit, seconds_since_1970};
use crate::{junit, program, table};

const EXAMPLES: &str = "\
Examples:
  cargo run -p grapevine-hil                          # builds everything, then all boards of the inventory
  cargo run -p grapevine-hil -- --boards virt
  cargo run -p grapevine-hil -- --boards pi4,jetson-orin --inventory my-boards.toml --at-once
  cargo run -p grapevine-hil -- --program edge-client --host-programs target/release

Progress goes to standard error, the table to standard output; report.json, junit.xml and the log of every console lie in
the folder named at the start. Exit code 0 if every board ended with the fleet's head, 1 if not, 2 for wrong usage, 130
after Ctrl-C, which leaves no process behind.";

/// Real and emulated boards take part in rounds, lose their power, and must end with the fleet's head.
#[derive(Debug, Parser)]
#[command(name = "hil", version, after_help = EXAMPLES)]
struct Arguments {
    /// The list of boards [default: tests/hil/boards.toml]
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Names of the boards, instead of all that are listed
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    boards: Vec<String>,
    /// An edge-client that is built already, for the boards of its architecture; once per architecture
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,
    /// The folder of this machine's edge-client and aggregator, instead of building them
    #[arg(long, value_name = "FOLDER")]
    host_programs: Option<PathBuf>,
    /// Images on each board
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u16).range(10..=800))]
    images: u16,
    /// All boards at once instead of one after another
    #[arg(long)]
    at_once: bool,
    /// A new folder for everything this run makes [default: target/hil/<seconds since 1970>]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("error: {trouble}");
            ExitCode::from(if trouble == Trouble::Interrupted { 130 } else { 1 })
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Trouble> {
    let interruption = Interruption::on_signals()?;
    let progress = Progress::start();
    let root = root();
    let entries = entries(arguments, &root)?;
    let given = given_programs(&arguments.program, &entries)?;
    let folder = output(arguments, &root)?;
    progress.say("hil", &format!("everything of this run goes to {}", folder.display()));
    let workshop = Workshop { root, folder, interruption, progress };
    let tools = workshop.tools(arguments.host_programs.as_deref())?;
    let parts = workshop.parts(&entries)?;
    let mut programs = given;
    for architecture in entries.iter().map(|entry| entry.architecture) {
        if !programs.iter().any(|(known, _)| *known == architecture) {
            programs.push((architecture, workshop.build(architecture, &tools)?));
        }
    }
    let plans = entries.into_iter().map(|entry| {
        let program = programs.iter().find(|(architecture, _)| *architecture == entry.architecture);
        let (_, program) = program.cloned().expect("there is one for each architecture");
        let folder = workshop.folder.join(&entry.name);
        fs::create_dir_all(&folder).map_err(|error| Trouble::file(&folder, "make", &error))?;
        let surroundings = Surroundings { folder, parts: parts.clone(), interruption: workshop.interruption.clone() };
        Ok(Plan { entry, program, images: arguments.images.into(), tools: tools.clone(), surroundings })
    });
    let plans = plans.collect::<Result<Vec<_>, Trouble>>()?;
    let boards = trials(&plans, arguments.at_once, &workshop);
    let report = Report::new(arguments.images.into(), ROUNDS, boards);
    deliver(&report, &workshop.folder)?;
    workshop.interruption.check()?;
    Ok(report.passed())
}

fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).expect("tests/hil lies in the root").to_owned()
}

fn entries(arguments: &Arguments, root: &Path) -> Result<Vec<Entry>, Trouble> {
    let path = arguments.inventory.clone().unwrap_or_else(|| root.join("tests/hil/boards.toml"));
    let text = fs::read_to_string(&path).map_err(|error| Trouble::file(&path, "read", &error))?;
    let entries = inventory::parse(&text).and_then(|entries| inventory::choose(entries, &arguments.boards));
    entries.map_err(|error| Trouble::Host(format!("{}: {error}", path.display())))
}

/// The programs on the command line, each with its architecture.
fn given_programs(paths: &[PathBuf], entries: &[Entry]) -> Result<Vec<(Architecture, PathBuf)>, Trouble> {
    let given = paths.iter().map(|path| {
        let bytes = fs::read(path).map_err(|error| Trouble::file(path, "read", &error))?;
        let refuse = |reason: String| Err(Trouble::Host(format!("{} is {reason}", path.display())));
        let architecture = match program::architecture(&bytes) {
            Ok(architecture) => architecture,
            Err(error) => return refuse(error.to_string()),
        };
        if !entries.iter().any(|entry| entry.architecture == architecture) {
            return refuse(format!("for {}, which no chosen board is", architecture.name()));
        }
        Ok((architecture, path.clone()))
    });
    given.collect()
}

/// A new folder, as an absolute path.
fn output(arguments: &Arguments, root: &Path) -> Result<PathBuf, Trouble> {
    let usual = || root.join("target/hil").join(seconds_since_1970().to_string());
    let folder = arguments.output.clone().unwrap_or_else(usual);
    fs::create_dir_all(&folder).map_err(|error| Trouble::file(&folder, "make", &error))?;
    let is_empty = fs::read_dir(&folder).map(|mut names| names.next().is_none());
    match is_empty.and_then(|is_empty| Ok((is_empty, folder.canonicalize()?))) {
        Ok((true, folder)) => Ok(folder),
        Ok((false, folder)) => Err(Trouble::Host(format!("{} is not empty; name a new folder", folder.display()))),
        Err(error) => Err(Trouble::file(&folder, "look into", &error)),
    }
}

/// Each board's trial, at once or in turn. Whoever comes after Ctrl-C is told in its first phase.
fn trials(plans: &[Plan], at_once: bool, workshop: &Workshop) -> Vec<BoardReport> {
    let progress = workshop.progress;
    if !at_once {
        return plans.iter().map(|plan| trial::run(plan, progress)).collect();
    }
    thread::scope(|scope| {
        let running: Vec<_> = plans.iter().map(|plan| scope.spawn(move || trial::run(plan, progress))).collect();
        running.into_iter().map(|trial| trial.join().expect("a trial reports its failure")).collect()
    })
}

fn deliver(report: &Report, folder: &Path) -> Result<(), Trouble> {
    let json = serde_json::to_string_pretty(report).expect("plain numbers and texts serialise");
    for (name, text) in [("report.json", json + "\n"), ("junit.xml", junit::render(report))] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| Trouble::file(&path, "write", &error))?;
    }
    println!("{}", table::render(report));
    Ok(())
}

/// What must be there before the first trial.
struct Workshop {
    root: PathBuf,
    folder: PathBuf,
    interruption: Interruption,
    progress: Progress,
}

impl Workshop {
    /// This machine's programs, built if no folder is given.
    fn tools(&self, given: Option<&Path>) -> Result<Tools, Trouble> {
        let programs = match given {
            Some(folder) => folder.to_owned(),
            None => {
                let packages = ["-p", "grapevine-edge-client", "-p", "grapevine-aggregator"];
                let mut command = Command::new("cargo");
                command.args(["build", "--release", "--locked", "--bins"]).args(packages);
                self.make("this machine's programs", &mut command, 3600)?;
                let target = std::env::var_os("CARGO_TARGET_DIR").map_or(self.root.join("target"), PathBuf::from);
                self.root.join(target).join("release")
            }
        };
        let programs = programs.canonicalize().map_err(|error| Trouble::file(&programs, "find", &error))?;
        for name in ["aggregator", "edge-client"] {
            let path = programs.join(name);
            fs::metadata(&path).map_err(|error| Trouble::file(&path, "find", &error))?;
        }
        Ok(Tools { programs, extractor: self.root.join("models/onnx/digits.toml") })
    }

    /// The folder of what emulated boards are made of; filled if one of the boards is emulated.
    fn parts(&self, entries: &[Entry]) -> Result<PathBuf, Trouble> {
        let cache = std::env::var_os("GRAPEVINE_CROSS_CACHE").map_or(self.root.join("cross/target"), PathBuf::from);
        let parts = self.root.join(cache).join("boards");
        if entries.iter().any(|entry| matches!(entry.reach, Reach::Qemu(_))) {
            let mut command = Command::new(self.root.join("tests/hil/boards/fetch"));
            self.make("the emulator and the boards' kernel", command.arg(&parts), 1800)?;
        }
        Ok(parts)
    }

    /// The board's program, by the project's own way of building it.
    fn build(&self, architecture: Architecture, tools: &Tools) -> Result<PathBuf, Trouble> {
        if architecture == Architecture::X86 {
            return Ok(tools.programs.join("edge-client"));
        }
        let mut command = Command::new(self.root.join("cross/build"));
        command.arg(architecture.name());
        let said = self.make(&format!("edge-client for {}", architecture.name()), &mut command, 7200)?;
        // `PATH BYTES bytes, GLIBC VERSION`
        let path = said.lines().filter_map(|line| line.split_once(" bytes, GLIBC")?.0.rsplit_once(' ')).next_back();
        let none = || Trouble::Host(format!("cross/build {} named no program", architecture.name()));
        path.map(|(path, _)| PathBuf::from(path)).ok_or_else(none)
    }

    fn make(&self, what: &str, command: &mut Command, seconds: u64) -> Result<String, Trouble> {
        self.progress.say("hil", &format!("{what} ..."));
        let log = self.folder.join("making.log");
        let advice = format!("read {}", log.display());
        let limit = Limit { what, time: core::time::Duration::from_secs(seconds), advice: &advice };
        let said = succeed(command.current_dir(&self.root), &log, &limit, &self.interruption)?;
        self.progress.say("hil", &format!("{what}: there"));
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
