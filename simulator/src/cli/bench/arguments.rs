//! The options of `fleet bench`.

use std::env;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use grapevine_aggregator::config::DEFAULT_METHOD;
use grapevine_models::hyper_parameters::{COMMON, Kind};
use grapevine_models::{HyperParameter, Method};
use grapevine_protocol::{Encoding, largest_side_information};
use grapevine_simulator::bench::{
    Assignment, Axis, BenchOptions, Cache, LogitOffsetOptions, MAX_FOLDS, Source, USUAL_TAUS,
};
use grapevine_simulator::data::partition::Partition;

use super::Outputs;
use crate::cli::data::{Data, check_made_up, samples};
use crate::cli::demo::{each_once, parse_alpha, parse_imbalance};
use crate::cli::usage::parsed;

const EXAMPLES: &str = "\
Examples:
  fleet bench                                        # the shipped digits, six methods, three seeds
  fleet bench --data features.npz --methods fedavg,redgrape --rounds 60 --seeds 3 --json results.json
  fleet bench --data cifar10.tar.gz --imbalance 100  # images through the shipped extractor, each extracted once
  fleet bench --data images/ --extractor resnet.toml --imbalance 100
  fleet bench --data features.npz --devices 50 --participants 10 --partition symmetric --alpha 0.3
  fleet bench --methods redgrape,redgrape-live --grid lambda=0.1,0.3,1 --grid learning_rate=0.05,0.1
  fleet bench --data synthetic:512x100 --devices 50 --methods fedavg --rounds 20 --seeds 1
  fleet bench --report report.html --svg charts --csv results.csv

An .npz holds train_features, train_labels, test_features and test_labels, long-tailed or not; with --imbalance its
training samples are given a long tail. Head, mid and tail are classes by their number of training samples. Methods see the same fleets; a --grid is searched by each method for itself on a
fifth of the training samples, and what it chose is run on all of them. Ctrl-C keeps the runs that are over.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";

/// Imbalance ratio of the data that are balanced as they are shipped or made.
const USUAL_IMBALANCE: f64 = 50.0;
/// Above this `redgrape` is not run unless it is asked for.
const LARGE_SIDE_INFORMATION_BYTES: usize = 4 << 20;
/// What `--seeds 3` counts up to at most.
const MOST_SEEDS: u64 = 1_000;

/// Compare methods on the same fleets, in this process and without a broker.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Features in an .npz, images of any kind, or synthetic:<features>x<classes> [default: the shipped digits].
    #[arg(long, visible_alias = "features", value_name = "PATH|SPEC", value_parser = parsed::<Data>)]
    data: Option<Data>,
    /// Bring the features of an .npz to the scale that the learning rates assume.
    #[arg(long, value_enum, value_name = "BY", requires = "data")]
    standardise: Option<Standardise>,
    /// The manifest or ONNX file of the extractor for images [default: the shipped one].
    #[arg(long, value_name = "FILE", requires = "data")]
    extractor: Option<PathBuf>,
    /// Keep the features of images in this folder [default: grapevine in the user's cache folder].
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,
    /// Extract images anew, and keep no features.
    #[arg(long)]
    no_cache: bool,
    /// Samples of the most frequent class per sample of the rarest [default: 50 for digits and made-up features; other data are taken as they are].
    #[arg(long, visible_alias = "imbalance-ratio", value_name = "RATIO", allow_negative_numbers = true, value_parser = parse_imbalance)]
    imbalance: Option<f64>,
    /// Samples per device of made-up features [default: 200].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: Option<u32>,
    /// How samples are dealt to devices.
    #[arg(long, value_enum, default_value_t = Partition::GlobalPrior)]
    partition: Partition,
    /// Concentration of the partition: the smaller, the more devices differ.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = parse_alpha)]
    alpha: f64,
    /// Devices of the fleet.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    devices: u32,
    /// Devices chosen for each round; all, if it is not given.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    participants: Option<u32>,
    /// Rounds of every method that trains.
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// How many seeds, from 0 on, or the seeds themselves, separated by commas (7, for seed 7 alone).
    #[arg(long, value_name = "COUNT|LIST", default_value = "3", value_parser = parse_seeds)]
    seeds: Seeds,
    /// Methods, separated by commas [default: fedavg,logit-adjusted,redgrape,redgrape-live,lda,redgrape-plus].
    #[arg(long, visible_alias = "method", value_name = "NAMES", value_delimiter = ',', value_parser = parsed::<Method>)]
    methods: Vec<Method>,
    /// Choose a hyper-parameter among values, each method for itself; repeat for combinations.
    #[arg(long, value_name = "NAME=VALUES", value_parser = parsed::<Axis>)]
    grid: Vec<Axis>,
    /// Turn these methods' final heads to the frequent classes and to the rare ones by their logit offset tau, and compare
    /// each with the others at the tau chosen on held-out training samples.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parsed::<Method>)]
    logit_offset: Vec<Method>,
    /// The values of tau that --logit-offset goes through, separated by commas [default: 29 values from -1 to 5].
    #[arg(long, value_name = "NUMBERS", requires = "logit_offset", value_delimiter = ',', allow_hyphen_values = true, value_parser = parse_tau)]
    taus: Vec<f64>,
    /// How many fifths of the training samples --grid and --logit-offset hold out, one after another: more of them choose
    /// better where samples are few.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FOLDS)))]
    folds: u32,
    #[command(flatten)]
    training: Training,
    /// How updates are written: f32, f16 or int8.
    #[arg(long, value_name = "ENCODING", default_value = "f32", value_parser = parse_encoding)]
    encoding: Encoding,
    #[command(flatten)]
    pub(super) outputs: Outputs,
}

/// Hyper-parameters in place of the methods' own: a flag for each of the table, and `--set` for all.
#[derive(Clone, Debug, Default)]
struct Training(Vec<Assignment>);

impl Args for Training {
    fn augment_args(command: Command) -> Command {
        let set = Arg::new(SET)
            .long(SET)
            .value_name("NAME=VALUE")
            .action(ArgAction::Append)
            .value_parser(parsed::<Assignment>)
            .help("Any hyper-parameter by name; repeat for several");
        let command = command.next_help_heading("Hyper-parameters, in place of the methods' own");
        COMMON.iter().map(flag).fold(command, Command::arg).arg(set)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Training {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = COMMON.iter().filter_map(|parameter| matches.get_one::<Assignment>(parameter.name));
        let set = matches.get_many::<Assignment>(SET).into_iter().flatten();
        Ok(Self(flags.chain(set).copied().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

const SET: &str = "set";

/// The flag of a hyper-parameter, with its name in the way of command lines.
fn flag(parameter: &'static HyperParameter) -> Arg {
    let parse = move |text: &str| match parameter.parse(text).filter(|value| parameter.allows(*value as f32)) {
        Some(value) => Ok(Assignment { parameter, value }),
        None => Err(format!("it must be {}", parameter.allowed())),
    };
    let arg = Arg::new(parameter.name)
        .long(parameter.name.replace('_', "-"))
        .help(parameter.sentence())
        .allow_negative_numbers(true)
        .value_parser(parse);
    match parameter.kind {
        Kind::Number(_) => arg.value_name("NUMBER"),
        Kind::Count(_) => arg.value_name("COUNT"),
        Kind::Choice(names) => arg.value_name(names.join("|")),
        Kind::Flag => arg.value_name("true|false").num_args(0..=1).default_missing_value("true"),
    }
}

/// By what features are standardised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Standardise {
    /// Mean and spread of the training features.
    Train,
}

/// What `--seeds` gives.
#[derive(Clone, Debug)]
struct Seeds(Vec<u64>);

impl Arguments {
    /// What is to be run, or a sentence about what cannot be.
    pub(super) fn options(&self) -> Result<BenchOptions, String> {
        let source = self.source()?;
        let usual = match &source {
            Source::Digits | Source::Synthetic { .. } => Some(USUAL_IMBALANCE),
            Source::Files { .. } => None,
        };
        Ok(BenchOptions {
            methods: self.methods(&source),
            source,
            imbalance: self.imbalance.or(usual),
            partition: self.partition,
            alpha: self.alpha,
            devices: self.devices as usize,
            participants: self.participants.map(|count| count as usize),
            rounds: self.rounds,
            seeds: self.seeds.0.clone(),
            settings: self.training.once()?,
            grid: self.grid.clone(),
            logit_offset: self.logit_offset(),
            folds: self.folds,
            encoding: self.encoding,
            command: env::args_os().skip(1).fold("fleet".to_owned(), |line, word| line + " " + &word.to_string_lossy()),
        })
    }

    fn source(&self) -> Result<Source, String> {
        let standardise = self.standardise.is_some();
        let samples_per_device = samples(self.samples, self.data.as_ref())?;
        let path = match &self.data {
            None => {
                if self.cache.is_some() {
                    return Err(
                        "`--cache` keeps the features of images, and the digits are none; give it with `--data PATH`"
                            .into(),
                    );
                }
                return Ok(Source::Digits);
            }
            Some(Data::MadeUp(spec)) => {
                check_made_up(&[
                    ("--standardise", standardise),
                    ("--extractor", self.extractor.is_some()),
                    ("--cache", self.cache.is_some()),
                ])?;
                return Ok(Source::Synthetic { spec: *spec, samples_per_device });
            }
            Some(Data::Files(path)) => path.clone(),
        };
        let cache = match (&self.cache, self.no_cache) {
            (_, true) => Cache::Nowhere,
            (Some(folder), false) => Cache::Folder(folder.clone()),
            (None, false) => Cache::Usual,
        };
        Ok(Source::Files { path, standardise, extractor: self.extractor.clone(), cache })
    }

    fn logit_offset(&self) -> LogitOffsetOptions {
        let taus = if self.taus.is_empty() { USUAL_TAUS.to_vec() } else { self.taus.clone() };
        LogitOffsetOptions {
            methods: self.logit_offset.clone(),
            taus: if self.logit_offset.is_empty() { Vec::new() } else { taus },
        }
    }

    /// Dense prototypes of a large shape are tens of megabytes per device and round; whoever wants that asks for it.
    fn methods(&self, source: &Source) -> Vec<Method> {
        if !self.methods.is_empty() {
            return each_once(&self.methods);
        }
        let mut methods = vec![
            Method::FedAvg,
            Method::LogitAdjusted,
            Method::RedGrape,
            Method::RedGrapeLive,
            Method::Lda,
            DEFAULT_METHOD,
        ];
        if let Source::Synthetic { spec, .. } = source {
            methods.retain(|method| largest_side_information(spec.shape, *method) <= LARGE_SIDE_INFORMATION_BYTES);
        }
        methods
    }
}

impl Training {
    /// What is set, each once.
    fn once(&self) -> Result<Vec<Assignment>, String> {
        let mut settings: Vec<Assignment> = Vec::new();
        for set in &self.0 {
            if settings.iter().any(|known| known.parameter == set.parameter) {
                return Err(format!("`{}` is set twice; give it once", set.parameter));
            }
            settings.push(*set);
        }
        Ok(settings)
    }
}

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no seed; seeds are whole numbers from 0"))
    };
    let Some((first, rest)) = text.split_once(',') else {
        let count = number(text)?;
        let fits = (1..=MOST_SEEDS).contains(&count);
        return if fits {
            Ok(Seeds((0..count).collect()))
        } else {
            Err(format!("1 to {MOST_SEEDS} seeds are possible"))
        };
    };
    let mut seeds = vec![number(first)?];
    for seed in rest.split(',').filter(|seed| !seed.trim().is_empty()) {
        let seed = number(seed)?;
        if seeds.contains(&seed) {
            return Err(format!("seed {seed} stands twice; give each once"));
        }
        seeds.push(seed);
    }
    Ok(Seeds(seeds))
}

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    match text {
        "f32" => Ok(Encoding::F32),
        "f16" => Ok(Encoding::F16),
        "int8" => Ok(Encoding::Int8),
        _ => Err("the encodings are f32, f16 and int8".to_owned()),
    }
}

fn parse_tau(text: &str) -> Result<f64, String> {
    let tau: f64 = text.trim().parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (-10.0..=10.0).contains(&tau) { Ok(tau) } else { Err(format!("tau {tau}: give numbers from -10 to 10")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_list() {
        let seeds = |text| parse_seeds(text).map(|seeds| seeds.0);
        assert_eq!(seeds("3"), Ok(vec![0, 1, 2]));
        assert_eq!(seeds("5,0, 9"), Ok(vec![5, 0, 9]));
        assert_eq!(seeds("7,"), Ok(vec![7]));
        for (text, expected) in [("0", "1 to 1000"), ("1,1", "twice"), ("-1", "no seed"), ("1,x", "`x` is no seed")] {
            assert!(seeds(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
