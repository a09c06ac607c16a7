//! `fleet demo`: a federation here, compared over methods.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::{Answer, BrokerAddress, Shutdown, files};
use grapevine_models::{Method, Params};
use grapevine_protocol::largest_aid;
use grapevine_simulator::data::long_tail::LongTailError;
use grapevine_simulator::data::partition::{MAX_ALPHA, MIN_ALPHA, Partition, PartitionError};
use grapevine_simulator::data::synthetic::SyntheticSpec;
use grapevine_simulator::demo::{self, DIGITS_ROUNDS, DemoError, DemoOptions, IMAGES_ROUNDS, Source};
use grapevine_simulator::report::results::Report;
use grapevine_simulator::report::{html, table, units};

use super::extractor::{self, CacheArguments};
use super::screen::Screen;
use super::usage::parsed;

const EXAMPLES: &str = "\
Examples:
  fleet demo                                         # ten devices, three methods, some seconds
  fleet demo --method redgrape,redgrape-live --rounds 30 --seed 1
  fleet demo --broker mqtt://192.168.1.5 --json demo.json
  fleet demo --data cifar10.tar.gz --devices 50 --participants 10
  fleet demo --data pictures/ --extractor resnet.toml   # train/<class>/*.jpg, test/<class>/*.jpg
  fleet demo --features synthetic:512x100 --devices 200 --rounds 3 --method fedavg

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";

/// Imbalance ratio of the long tail on the digits, and on images, of which there are more.
const DIGITS_IMBALANCE: f64 = 50.0;
const IMAGES_IMBALANCE: f64 = 100.0;
/// Rounds on made-up features, which only speed, memory and bytes are read from.
const SYNTHETIC_ROUNDS: u32 = 5;
const STOPPED: &str = "stopped; nothing was written";
/// Above this `redgrape` is not run unless it is asked for.
const LARGE_AID_BYTES: usize = 4 << 20;

/// Run a federation here, over real MQTT, and compare methods.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Devices of the fleet.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5000))]
    devices: u32,
    /// Devices chosen for each round; all, if it is not given.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=5000))]
    participants: Option<u32>,
    /// Rounds of every method that trains [default: 20, with --features 5].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Methods, separated by commas [default: fedavg,redgrape,lda, with large --features redgrape-live for redgrape].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parsed::<Method>)]
    method: Vec<Method>,
    /// Samples of the most frequent class per sample of the rarest [default: 50, with --data 100].
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true, value_parser = parse_imbalance)]
    imbalance: Option<f64>,
    /// Concentration of the partition: the smaller, the more devices differ.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = parse_alpha)]
    alpha: f64,
    /// How samples are dealt to devices.
    #[arg(long, value_enum, default_value_t = Partition::GlobalPrior)]
    partition: Partition,
    /// Decides everything random: equal seeds give equal heads, to the byte.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Weight of the balanced step, instead of the method's own.
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true, value_parser = parse_lambda)]
    lambda: Option<f32>,
    /// Images instead of the digits: class folders, an archive, or any other source that `ingest` takes.
    #[arg(long, value_name = "PATH", conflicts_with = "features")]
    data: Option<PathBuf>,
    /// A manifest, or an ONNX file with its manifest beside it, instead of the shipped extractor for photographs.
    #[arg(long, value_name = "FILE", requires = "data")]
    extractor: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArguments,
    /// Made-up features instead of the digits: synthetic:<features>x<classes>.
    #[arg(long, value_name = "SPEC", value_parser = parsed::<SyntheticSpec>)]
    features: Option<SyntheticSpec>,
    /// Samples per device of made-up features.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 200,
        requires = "features",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    samples: u32,
    /// A broker such as mqtt://localhost:1883, instead of one inside this process.
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<BrokerAddress>,
    /// Write the results as JSON; `-` for standard output, which then holds nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as one HTML page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    report: PathBuf,
}

pub(super) fn demo(arguments: &Arguments, quiet: bool) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    if arguments.json_file() == Some(&arguments.report) {
        return Ok(Answer::complaint("--json and --report name the same file; give each its own", 2));
    }
    // Before the run: half a minute of work must not end at a misspelt folder.
    for path in arguments.json_file().into_iter().chain([arguments.report.as_path()]) {
        files::check_writable(path)?;
    }
    let source = match arguments.source(&shutdown) {
        Err(_) if shutdown.is_requested() => return Ok(Answer::complaint(STOPPED, INTERRUPTED)),
        source => source?,
    };
    let mut screen = Screen::new(quiet);
    let result = demo::run(&arguments.options(source), &shutdown, &mut |progress| screen.show(progress));
    screen.clear();
    match result {
        Ok(report) => arguments.write(&report),
        Err(DemoError::Stopped) => Ok(Answer::complaint(STOPPED, INTERRUPTED)),
        Err(error) => Err(error.into()),
    }
}

impl Arguments {
    fn source(&self, shutdown: &Shutdown) -> anyhow::Result<Source> {
        Ok(match (&self.data, self.features) {
            (Some(path), _) => Source::Images {
                path: path.clone(),
                cache: self.cache.open()?,
                extractor: Arc::new(extractor::open(self.extractor.as_deref(), shutdown)?),
            },
            (None, Some(spec)) => Source::Synthetic { spec, samples_per_device: self.samples as usize },
            (None, None) => Source::Digits,
        })
    }

    fn options(&self, source: Source) -> DemoOptions {
        let (rounds, imbalance_ratio) = match &source {
            Source::Digits => (DIGITS_ROUNDS, DIGITS_IMBALANCE),
            Source::Images { .. } => (IMAGES_ROUNDS, IMAGES_IMBALANCE),
            Source::Synthetic { .. } => (SYNTHETIC_ROUNDS, DIGITS_IMBALANCE),
        };
        DemoOptions {
            source,
            devices: self.devices as usize,
            participants: self.participants.map(|count| count as usize),
            rounds: self.rounds.unwrap_or(rounds),
            methods: self.methods(),
            imbalance_ratio: self.imbalance.unwrap_or(imbalance_ratio),
            alpha: self.alpha,
            partition: self.partition,
            seed: self.seed,
            broker: self.broker.clone(),
            lambda: self.lambda,
            command: command_line(env::args_os().skip(1)),
        }
    }

    /// Dense prototypes of a large shape are tens of megabytes per device and round; whoever wants that asks for it.
    fn methods(&self) -> Vec<Method> {
        if !self.method.is_empty() {
            return self.method.clone();
        }
        let is_large = self.features.is_some_and(|spec| largest_aid(spec.shape, Method::RedGrape) > LARGE_AID_BYTES);
        let balanced = if is_large { Method::RedGrapeLive } else { Method::RedGrape };
        vec![Method::FedAvg, balanced, Method::Lda]
    }

    /// The file for the results as JSON; `None` also where they go to standard output.
    fn json_file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|path| *path != Path::new("-"))
    }

    fn write(&self, report: &Report) -> anyhow::Result<Answer> {
        let json = report.to_json()? + "\n";
        if let Some(path) = self.json_file() {
            files::write_atomic(path, json.as_bytes())?;
        }
        files::write_atomic(&self.report, html::render(report).as_bytes())?;
        if self.json.is_some() && self.json_file().is_none() {
            return Ok(Answer::text(json));
        }
        let memory = report.peak_memory_bytes.map(|bytes| {
            let bytes = units::bytes(bytes);
            format!("Peak memory of broker, aggregator and all devices together: {bytes}.\n")
        });
        Ok(Answer::text(format!(
            "{}\n{}Accuracy by round, by class and the devices' data: {}\n",
            table::render(report),
            memory.unwrap_or_default(),
            self.report.display()
        )))
    }
}

pub(super) fn parse_imbalance(text: &str) -> Result<f64, String> {
    let ratio = number(text)?;
    let fits = ratio.is_finite() && ratio >= 1.0;
    if fits { Ok(ratio) } else { Err(LongTailError::ImbalanceRatio(ratio).to_string()) }
}

pub(super) fn parse_alpha(text: &str) -> Result<f64, String> {
    let alpha = number(text)?;
    let fits = (MIN_ALPHA..=MAX_ALPHA).contains(&alpha);
    if fits { Ok(alpha) } else { Err(PartitionError::Alpha(alpha).to_string()) }
}

fn parse_lambda(text: &str) -> Result<f32, String> {
    let lambda = number(text)? as f32;
    let params = Params { lambda, ..Params::defaults(Method::RedGrape, 2) };
    params.check().map(|_| lambda).map_err(|error| error.to_string())
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

/// The command as it would be typed again, less the broker's password: the report may be shown to anyone.
fn command_line(arguments: impl Iterator<Item = OsString>) -> String {
    let shown = |argument: OsString| {
        let text = argument.to_string_lossy().into_owned();
        let address = text.strip_prefix("--broker=").unwrap_or(&text);
        match address.parse::<BrokerAddress>() {
            Ok(broker) if broker.login().is_some() => text.replace(address, &broker.to_string()),
            Ok(_) | Err(_) => text,
        }
    };
    let words: Vec<String> = ["fleet".to_owned()].into_iter().chain(arguments.map(shown)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_no_password() {
        let typed = ["demo", "--broker", "mqtt://me:secret@h:1", "--broker=mqtt://me:secret@h:1", "--seed", "1"];
        let line = command_line(typed.into_iter().map(OsString::from));
        assert_eq!(line, "fleet demo --broker mqtt://me@h:1 --broker=mqtt://me@h:1 --seed 1");
    }

    #[test]
    fn numbers_out_of_range_are_refused_before_anything_runs() {
        for (refused, expected) in [
            (parse_imbalance("0.5"), "imbalance ratio 0.5: give a number of at least 1"),
            (parse_imbalance("inf"), "imbalance ratio inf"),
            (parse_alpha("-1"), "alpha -1: give a number from"),
            (parse_alpha("NaN"), "alpha NaN"),
            (parse_alpha("one"), "`one` is not a number"),
        ] {
            let line = refused.unwrap_err();
            assert!(line.starts_with(expected), "{line}");
        }
        assert!(parse_lambda("-0.5").unwrap_err().contains("lambda"));
        assert_eq!((parse_imbalance("1"), parse_alpha("0.5"), parse_lambda("2")), (Ok(1.0), Ok(0.5), Ok(2.0)));
    }
}
