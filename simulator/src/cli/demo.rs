//! `fleet demo`: a federation here, compared over methods.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use grapevine_aggregator::config::DEFAULT_METHOD;
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::{Answer, BrokerAddress, Shutdown, files};
use grapevine_models::{Method, Params};
use grapevine_protocol::largest_side_information;
use grapevine_simulator::data::is_npz;
use grapevine_simulator::data::long_tail::LongTailError;
use grapevine_simulator::data::partition::{MAX_ALPHA, MIN_ALPHA, Partition, PartitionError};
use grapevine_simulator::demo::{self, DIGITS_ROUNDS, DemoError, DemoOptions, OWN_ROUNDS, Source};
use grapevine_simulator::report::results::Report;
use grapevine_simulator::report::{html, table, units};

use super::data::{Data, check_made_up, samples};
use super::extractor::{self, CacheArguments};
use super::screen::Screen;
use super::usage::parsed;

const EXAMPLES: &str = "\
Examples:
  fleet demo                                         # ten devices, four methods, some seconds
  fleet demo --methods redgrape-plus,redgrape-live --rounds 30 --seed 1
  fleet demo --broker mqtt://192.168.1.5 --json demo.json
  fleet demo --data cifar10.tar.gz --devices 50 --participants 10
  fleet demo --data pictures/ --extractor resnet.toml   # train/<class>/*.jpg, test/<class>/*.jpg
  fleet demo --data features.npz                     # features that were extracted elsewhere
  fleet demo --data synthetic:512x100 --devices 200 --rounds 3 --methods fedavg

Head, mid and tail are classes by their number of training samples. Data of your own that have three times as many samples
of one class as of another, or more, are kept as they are; others are cut to a long tail. The demo says which.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";

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
    /// Rounds of every method that trains [default: 20, on made-up features 5].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Methods, separated by commas [default: fedavg,redgrape,lda,redgrape-plus; on large made-up features redgrape-live
    /// for redgrape].
    #[arg(long, visible_alias = "method", value_name = "NAMES", value_delimiter = ',', value_parser = parsed::<Method>)]
    methods: Vec<Method>,
    /// Samples of the most frequent class per sample of the rarest [default: 50; on data of your own 100, or as they are if
    /// they are long-tailed already].
    #[arg(long, visible_alias = "imbalance-ratio", value_name = "RATIO", allow_negative_numbers = true, value_parser = parse_imbalance)]
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
    /// Data instead of the digits: images (class folders, an archive, whatever `ingest` takes), features in an .npz, or
    /// made-up features, synthetic:<features>x<classes>.
    #[arg(long, visible_alias = "features", value_name = "PATH|SPEC", value_parser = parsed::<Data>)]
    data: Option<Data>,
    /// A manifest, or an ONNX file with its manifest beside it, instead of the shipped extractor for photographs.
    #[arg(long, value_name = "FILE", requires = "data")]
    extractor: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArguments,
    /// Samples per device of made-up features [default: 200].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: Option<u32>,
    /// A broker such as mqtt://localhost:1883, instead of one inside this process.
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<BrokerAddress>,
    /// Write the results as JSON; `-` for standard output, which then holds nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as one HTML page.
    #[arg(long, visible_alias = "html", value_name = "FILE", default_value = "report.html")]
    report: PathBuf,
}

pub(super) fn demo(arguments: &Arguments, quiet: bool) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    if arguments.json_file() == Some(&arguments.report) {
        return Ok(Answer::complaint("--json and --report name the same file; give each its own", 2));
    }
    if let Err(complaint) = arguments.check() {
        return Ok(Answer::complaint(complaint, 2));
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
    /// Refuses options that mean nothing together.
    fn check(&self) -> Result<(), String> {
        samples(self.samples, self.data.as_ref())?;
        match &self.data {
            Some(Data::MadeUp(_)) => check_made_up(&[("--extractor", self.extractor.is_some())]),
            Some(Data::Files(path)) if self.extractor.is_some() && is_npz(path).unwrap_or(false) => {
                let path = path.display();
                Err(format!("{path} holds features that were extracted already; leave out --extractor"))
            }
            Some(Data::Files(_)) | None => Ok(()),
        }
    }

    fn source(&self, shutdown: &Shutdown) -> anyhow::Result<Source> {
        Ok(match &self.data {
            Some(Data::Files(path)) if is_npz(path).unwrap_or(false) => Source::Features { path: path.clone() },
            // What cannot be read is told with its reason when it is opened.
            Some(Data::Files(path)) => Source::Images {
                path: path.clone(),
                cache: self.cache.open()?,
                extractor: Arc::new(extractor::open(self.extractor.as_deref(), shutdown)?),
            },
            Some(Data::MadeUp(spec)) => {
                let samples_per_device = samples(self.samples, self.data.as_ref()).map_err(anyhow::Error::msg)?;
                Source::Synthetic { spec: *spec, samples_per_device }
            }
            None => Source::Digits,
        })
    }

    fn options(&self, source: Source) -> DemoOptions {
        let rounds = match &source {
            Source::Digits => DIGITS_ROUNDS,
            Source::Images { .. } | Source::Features { .. } => OWN_ROUNDS,
            Source::Synthetic { .. } => SYNTHETIC_ROUNDS,
        };
        DemoOptions {
            source,
            devices: self.devices as usize,
            participants: self.participants.map(|count| count as usize),
            rounds: self.rounds.unwrap_or(rounds),
            methods: self.methods(),
            imbalance: self.imbalance,
            alpha: self.alpha,
            partition: self.partition,
            seed: self.seed,
            broker: self.broker.clone(),
            lambda: self.lambda,
            command: command_line(env::args_os().skip(1)),
        }
    }

    /// The default method last, below those it is compared with. Dense prototypes of a large shape are tens of megabytes per device and round; whoever wants that asks for it.
    fn methods(&self) -> Vec<Method> {
        if !self.methods.is_empty() {
            return each_once(&self.methods);
        }
        let is_large = match self.data {
            Some(Data::MadeUp(spec)) => largest_side_information(spec.shape, Method::RedGrape) > LARGE_AID_BYTES,
            Some(Data::Files(_)) | None => false,
        };
        let balanced = if is_large { Method::RedGrapeLive } else { Method::RedGrape };
        vec![Method::FedAvg, balanced, Method::Lda, DEFAULT_METHOD]
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
        let notes: String = report.notes.iter().map(|note| format!("{note}\n")).collect();
        Ok(Answer::text(format!(
            "{}\n{notes}{}Accuracy by round, by class and the devices' data: {}\n",
            table::render(report),
            memory.unwrap_or_default(),
            self.report.display()
        )))
    }
}

/// A method that is named twice runs once.
pub(super) fn each_once(named: &[Method]) -> Vec<Method> {
    let mut methods: Vec<Method> = Vec::new();
    for &method in named {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods
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
