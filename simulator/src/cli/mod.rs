//! The command line of `fleet`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what a person sees")]

use core::time::Duration;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use grapevine_host::{BrokerAddress, Shutdown, files, log, memory};
use grapevine_models::Method;
use grapevine_simulator::data::partition::Partition;
use grapevine_simulator::data::synthetic::SyntheticSpec;
use grapevine_simulator::demo::{self, DIGITS_ROUNDS, DemoError, DemoOptions, Progress, Source};
use grapevine_simulator::report::results::Report;
use grapevine_simulator::report::{html, table, units};
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(name = "fleet", version, about = "Whole Grapevine federations on one machine", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more; twice for every message.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Say less: no progress, errors only.
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run a federation here, over real MQTT, and compare methods.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(Box<DemoArguments>),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

const DEMO_EXAMPLES: &str = "Examples:
  fleet demo                                         ten devices, three methods, about half a minute
  fleet demo --method redgrape,redgrape-live --rounds 30 --seed 1
  fleet demo --broker mqtt://192.168.1.5 --json demo.json
  fleet demo --features synthetic:512x100 --devices 200 --rounds 3 --method fedavg

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";

#[derive(clap::Args)]
struct DemoArguments {
    /// Devices of the fleet.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5000))]
    devices: u32,
    /// Devices chosen for each round; all, if it is not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5000))]
    participants: Option<u32>,
    /// Rounds of every method that trains.
    #[arg(long, default_value_t = DIGITS_ROUNDS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Methods, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "fedavg,redgrape,lda", value_parser = parse_method)]
    method: Vec<Method>,
    /// Samples of the most frequent class per sample of the rarest.
    #[arg(long, default_value_t = 50.0, value_name = "RATIO")]
    imbalance: f64,
    /// Concentration of the partition: the smaller, the more devices differ.
    #[arg(long, default_value_t = 1.0)]
    alpha: f64,
    /// How samples are dealt to devices.
    #[arg(long, value_enum, default_value_t = Partition::GlobalPrior)]
    partition: Partition,
    /// Decides everything random: equal seeds give equal heads, to the byte.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Weight of the balanced step, instead of the method's own.
    #[arg(long)]
    lambda: Option<f32>,
    /// Made-up features instead of the digits: synthetic:<features>x<classes>.
    #[arg(long, value_name = "SPEC")]
    features: Option<SyntheticSpec>,
    /// Samples per device of made-up features.
    #[arg(long, default_value_t = 200, requires = "features", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: u32,
    /// A broker such as mqtt://localhost:1883, instead of one inside this process.
    #[arg(long, value_name = "URL")]
    broker: Option<BrokerAddress>,
    /// Write the results as JSON; `-` for standard output, which then holds nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as one HTML page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    report: PathBuf,
}

fn parse_method(name: &str) -> Result<Method, String> {
    name.parse::<Method>().map_err(|error| error.to_string())
}

/// Runs the command line; the exit code says how it went.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init(if cli.quiet { -2 } else { i8::try_from(cli.verbose).unwrap_or(i8::MAX) - 1 });
    match cli.command {
        Command::Demo(arguments) => run_demo(&arguments, cli.quiet),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fleet", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

fn run_demo(arguments: &DemoArguments, quiet: bool) -> ExitCode {
    let options = DemoOptions {
        source: match arguments.features {
            Some(spec) => Source::Synthetic { spec, samples_per_device: arguments.samples as usize },
            None => Source::Digits,
        },
        devices: arguments.devices as usize,
        participants: arguments.participants.map(|count| count as usize),
        rounds: arguments.rounds,
        methods: arguments.method.clone(),
        imbalance_ratio: arguments.imbalance,
        alpha: arguments.alpha,
        partition: arguments.partition,
        seed: arguments.seed,
        broker: arguments.broker.clone(),
        lambda: arguments.lambda,
        command: command_line(),
    };
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&error),
    };
    let mut screen = Screen::new(quiet);
    let result = demo::run(&options, &shutdown, &mut |progress| screen.show(progress));
    screen.clear();
    match result {
        Ok(report) => match show(&report, arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => fail(&message),
        },
        Err(DemoError::Stopped) => {
            eprintln!("stopped; nothing was written");
            ExitCode::from(130)
        }
        Err(error) => fail(&error),
    }
}

fn show(report: &Report, arguments: &DemoArguments) -> Result<(), String> {
    let json = report.to_json().map_err(|error| format!("the results cannot be written as JSON: {error}"))?;
    let to_standard_output = arguments.json.as_deref() == Some(Path::new("-"));
    if to_standard_output {
        writeln!(std::io::stdout(), "{json}").map_err(|error| format!("cannot write to standard output: {error}"))?;
    } else {
        println!("{}", table::render(report));
        if let Some(bytes) = memory::peak_bytes() {
            println!("Peak memory of broker, aggregator and all devices together: {}.", units::bytes(bytes));
        }
    }
    if let Some(path) = arguments.json.as_deref().filter(|_| !to_standard_output) {
        files::write_atomic(path, json.as_bytes()).map_err(|error| error.to_string())?;
    }
    files::write_atomic(&arguments.report, html::render(report).as_bytes()).map_err(|error| error.to_string())?;
    if !to_standard_output {
        println!("Accuracy by round, by class and the devices' data: {}", arguments.report.display());
    }
    Ok(())
}

/// The command as it would be typed again.
fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("fleet {}", arguments.join(" "))
}

fn fail(error: &dyn core::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Shows progress: a bar on a terminal, a line per round elsewhere.
struct Screen {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Screen {
    fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix:>14} {bar:30} {pos}/{len}  {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, quiet }
    }

    fn show(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        match (progress, &self.bar) {
            (Progress::Preparing { done, devices }, Some(bar)) => {
                bar.set_prefix("extracting");
                bar.set_length(*devices as u64);
                bar.set_position(*done as u64);
            }
            (Progress::Preparing { done, devices }, None) if done == devices => {
                eprintln!("{devices} devices have their features");
            }
            (Progress::Preparing { .. }, None) => {}
            (Progress::Begins { method, rounds }, Some(bar)) => {
                bar.set_prefix(method.name());
                bar.set_message("");
                bar.set_length(u64::from(*rounds));
                bar.set_position(0);
            }
            (Progress::Begins { .. }, None) => {}
            (Progress::Round { method, done, rounds, updates, balanced_accuracy, elapsed }, bar) => {
                let text = round_text(*updates, *balanced_accuracy, *elapsed);
                match bar {
                    Some(bar) => {
                        bar.set_position(u64::from(*done));
                        bar.set_message(text);
                        if done == rounds {
                            bar.println(format!("{:>14} {done} rounds  {}", method.name(), bar.message()));
                        }
                    }
                    None => eprintln!("{method} round {done}/{rounds}: {text}"),
                }
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn round_text(updates: (usize, usize), balanced_accuracy: Option<f64>, elapsed: Duration) -> String {
    let accuracy = balanced_accuracy.map_or_else(String::new, |share| format!("balanced {:.1} %, ", 100.0 * share));
    format!("{accuracy}{} of {} updates, {:.1} s", updates.0, updates.1, elapsed.as_secs_f64())
}
