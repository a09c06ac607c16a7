//! `fleet extractor probe`: how good an extractor's features are for some data.

use core::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use grapevine_host::{Answer, Shutdown, files};
use grapevine_models::Shape;
use grapevine_simulator::data::images::{ImageData, Loaded};
use grapevine_simulator::extractor::probe::{self, Probe, VALIDATION_SHARE};
use grapevine_simulator::report::units;
use grapevine_vision::frozen::FrozenExtractor;
use serde::Serialize;

use super::super::images_bar::ImagesBar;
use super::CacheArguments;

const EXAMPLES: &str = "\
Examples:
  fleet extractor probe --data cifar10.tar.gz
  fleet extractor probe --data pictures/ --extractor resnet.onnx --per-class
  fleet extractor probe --data pictures/ --json - | jq .probes[].balanced_accuracy

Two linear heads in closed form, class-weighted ridge regression and LDA. How strongly they are regularised is chosen on a
fifth of each class of the training images; the test images (test/, else val/, else a fifth of each class) only measure.
Features are kept between runs, so the second one takes seconds.";

/// Measure an extractor on labelled images: balanced accuracy of linear heads on its features.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Images in class folders under train/ and test/, an archive of them, or any other source that `ingest` takes.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// A manifest, or an ONNX file with its manifest beside it, instead of the shipped extractor for photographs.
    #[arg(long, value_name = "FILE")]
    extractor: Option<PathBuf>,
    /// Show the accuracy of each class.
    #[arg(long)]
    per_class: bool,
    /// Write the results as JSON; `-` for standard output, which then holds nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Serialize)]
struct Probed {
    data: String,
    extractor: String,
    sha256: String,
    features: usize,
    classes: Vec<String>,
    train_images: usize,
    test_images: usize,
    held_out: bool,
    duplicates: usize,
    unreadable: Vec<(String, String)>,
    extracted_images: usize,
    images_per_second: Option<f64>,
    probes: [Probe; 2],
}

pub(super) fn probe(arguments: &Arguments, quiet: bool, shutdown: &Shutdown) -> anyhow::Result<Answer> {
    let file = arguments.json.as_deref().filter(|path| *path != Path::new("-"));
    if let Some(path) = file {
        files::check_writable(path)?;
    }
    let mut bar = ImagesBar::new(quiet);
    let probed = run(arguments, &mut bar, shutdown);
    bar.clear();
    let probed = probed?;
    let json = serde_json::to_string_pretty(&probed)? + "\n";
    if let Some(path) = file {
        files::write_atomic(path, json.as_bytes())?;
    }
    let is_for_machines = arguments.json.is_some() && file.is_none();
    Ok(Answer::text(if is_for_machines { json } else { render(&probed, arguments.per_class) }))
}

fn run(arguments: &Arguments, bar: &mut ImagesBar, shutdown: &Shutdown) -> anyhow::Result<Probed> {
    let cache = arguments.cache.open()?;
    let extractor = super::open(arguments.extractor.as_deref(), shutdown)?;
    let data = ImageData::open(&arguments.data, &mut |progress| bar.show(progress), shutdown)?;
    let shape = Shape::new(data.class_names.len(), extractor.manifest().output.features)?;
    let mut load = |set: &grapevine_simulator::data::images::ImageSet| {
        let all: Vec<u32> = (0..set.len() as u32).collect();
        set.features(&all, &extractor, &cache, &mut |progress| bar.show(progress), shutdown)
    };
    let (train, test) = (load(&data.train)?, load(&data.test)?);
    let probes = probe::probe(shape, &train.samples, &test.samples)?;
    Ok(Probed::new(data, &extractor, (train, test), bar.rate(), probes))
}

impl Probed {
    fn new(
        data: ImageData,
        extractor: &FrozenExtractor,
        (train, test): (Loaded, Loaded),
        rate: Option<(usize, f64)>,
        probes: [Probe; 2],
    ) -> Self {
        let manifest = extractor.manifest();
        Self {
            data: data.name,
            extractor: manifest.name.clone(),
            sha256: manifest.sha256.clone(),
            features: manifest.output.features,
            classes: data.class_names,
            train_images: train.samples.labels.len(),
            test_images: test.samples.labels.len(),
            held_out: data.held_out,
            duplicates: data.duplicates,
            unreadable: [data.unreadable, train.unreadable, test.unreadable].concat(),
            extracted_images: rate.map_or(0, |(images, _)| images),
            images_per_second: rate.map(|(_, rate)| rate),
            probes,
        }
    }
}

fn render(probed: &Probed, per_class: bool) -> String {
    let Probed { data, extractor, features, classes, train_images, test_images, probes, .. } = probed;
    let mut text = format!(
        "{data}: {} training and {} test images of {} classes; extractor {extractor}, {features} features\n",
        units::count(*train_images as u64),
        units::count(*test_images as u64),
        classes.len()
    );
    let mut note = |note: String| {
        text.push_str(&note);
        text.push('\n');
    };
    if probed.held_out {
        note("there is no test part: a fifth of each class was held out".to_owned());
    }
    if probed.duplicates > 0 {
        note(format!("{} images are there twice and count once", probed.duplicates));
    }
    for (image, reason) in probed.unreadable.iter().take(10) {
        note(format!("unusable: {image}: {reason}"));
    }
    if let Some(more @ 1..) = probed.unreadable.len().checked_sub(10) {
        note(format!("and {more} more"));
    }
    match probed.images_per_second {
        Some(rate) => note(format!("{} images extracted, {rate:.0} a second", probed.extracted_images)),
        None => note("all features were known from earlier runs".to_owned()),
    }
    note(format!(
        "\n{:<8}{:>12}{:>16}{:>26}",
        "method",
        "balanced %",
        "regularisation",
        format!("on {:.0} % of training", 100.0 * VALIDATION_SHARE)
    ));
    for probe in probes {
        note(format!(
            "{:<8}{:>12}{:>16}{:>26}",
            probe.method,
            units::percent(probe.balanced_accuracy),
            probe.regularisation,
            units::percent(probe.validation_accuracy)
        ));
    }
    if per_class {
        text.push('\n');
        text.push_str(&table(classes, probes));
    }
    text
}

/// One line per class.
fn table(classes: &[String], probes: &[Probe; 2]) -> String {
    let width = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$}{:>9}{:>9}\n",
        "class",
        format!("{} %", probes[0].method),
        format!("{} %", probes[1].method)
    );
    for (at, class) in classes.iter().enumerate() {
        let cell = |probe: &Probe| probe.accuracy_by_class[at].map_or_else(|| "-".to_owned(), units::percent);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{class:<width$}{:>9}{:>9}", cell(&probes[0]), cell(&probes[1]));
    }
    text
}
