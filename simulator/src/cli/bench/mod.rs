//! `fleet bench`: many methods on the same fleets, in this process.

mod arguments;
mod screen;

use std::path::{Path, PathBuf};

use grapevine_host::answer::INTERRUPTED;
use grapevine_host::{Answer, Shutdown, files, sentence};
use grapevine_simulator::bench::{self, BenchError, Source};
use grapevine_simulator::report::results::Report;
use grapevine_simulator::report::{csv, html, svg, table, units};
use grapevine_vision::extractor::trial::TrialError;

use super::extractor;
pub(super) use arguments::Arguments;
use screen::Screen;

const STOPPED: &str = "stopped; nothing was written";

pub(super) fn bench(arguments: &Arguments, quiet: bool) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    let outputs = &arguments.outputs;
    if let Some(path) = outputs.named_twice() {
        return Ok(Answer::complaint(format!("{} is named for two results; give each its own", path.display()), 2));
    }
    // Before the runs: minutes of work must not end at a misspelt folder.
    for path in outputs.files() {
        files::check_writable(path)?;
    }
    if let Some(folder) = &outputs.svg {
        std::fs::create_dir_all(folder).map_err(|source| FolderError { path: folder.clone(), source })?;
    }
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => return Ok(Answer::complaint(error, 2)),
    };
    match extractor::vet(named_extractor(&options.source), &shutdown) {
        Err(TrialError::Stopped) => return Ok(Answer::complaint(STOPPED, INTERRUPTED)),
        vetted => vetted?,
    }
    let screen = Screen::new(quiet);
    let result = bench::run(&options, &shutdown, &|progress| screen.show(progress));
    screen.clear();
    match result {
        Ok(report) => outputs.write(&report),
        Err(BenchError::Stopped) => Ok(Answer::complaint(STOPPED, INTERRUPTED)),
        Err(error) if is_usage(&error) => Ok(Answer::complaint(sentence::sentence(&error), 2)),
        Err(error) => Err(error.into()),
    }
}

/// One that a person named.
fn named_extractor(source: &Source) -> Option<&Path> {
    match source {
        Source::Files { extractor, .. } => extractor.as_deref(),
        Source::Digits | Source::Synthetic { .. } => None,
    }
}

/// Whether the command line is at fault, and not the data or the machine.
fn is_usage(error: &BenchError) -> bool {
    match error {
        BenchError::Devices(_)
        | BenchError::Participants { .. }
        | BenchError::NoMethod
        | BenchError::NoSeed
        | BenchError::Unread(_)
        | BenchError::Grid(_)
        | BenchError::LogitOffset(_)
        | BenchError::Params(_)
        | BenchError::NotFeatures { .. }
        | BenchError::Extracted { .. }
        | BenchError::TooLarge { .. } => true,
        BenchError::NoTest { .. }
        | BenchError::TestLabel { .. }
        | BenchError::EmptyClass { .. }
        | BenchError::Read { .. }
        | BenchError::Source(_)
        | BenchError::Shape(_)
        | BenchError::Decode(_)
        | BenchError::Extractor(_)
        | BenchError::FrozenExtractor(_)
        | BenchError::Cache(_)
        | BenchError::Images(_)
        | BenchError::LongTail(_)
        | BenchError::Partition(_)
        | BenchError::Synthetic(_)
        | BenchError::Federation(_)
        | BenchError::Stopped => false,
    }
}

/// Where results go.
#[derive(Debug, clap::Args)]
pub(super) struct Outputs {
    /// Write the results as JSON, with everything that is needed to run them again; `-` for standard output, which then
    /// holds nothing else.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a line for every run and round, separated by commas.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the results as one HTML page, with charts.
    #[arg(long = "report", visible_alias = "html", value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the charts as SVG files into this folder.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot make the folder {}: {source}; check its permissions", path.display())]
struct FolderError {
    path: PathBuf,
    source: std::io::Error,
}

impl Outputs {
    fn json_file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|path| *path != Path::new("-"))
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        [self.json_file(), self.csv.as_deref(), self.html.as_deref()].into_iter().flatten()
    }

    fn named_twice(&self) -> Option<&Path> {
        let files: Vec<&Path> = self.files().collect();
        files.iter().enumerate().find(|(position, file)| files[..*position].contains(file)).map(|(_, file)| *file)
    }

    fn write(&self, report: &Report) -> anyhow::Result<Answer> {
        let json = report.to_json()? + "\n";
        if let Some(path) = self.json_file() {
            files::write_atomic(path, json.as_bytes())?;
        }
        if let Some(path) = &self.csv {
            files::write_atomic(path, csv::render(report).as_bytes())?;
        }
        if let Some(path) = &self.html {
            files::write_atomic(path, html::render(report).as_bytes())?;
        }
        if let Some(folder) = &self.svg {
            for file in svg::render(report) {
                files::write_atomic(&folder.join(&file.name), file.content.as_bytes())?;
            }
        }
        let is_json_alone = self.json.is_some() && self.json_file().is_none();
        let text = if is_json_alone { json } else { self.text(report) };
        let mut answer = Answer::text(text);
        if report.stopped {
            let runs = report.runs.len();
            answer.complaints.push(format!("stopped; the results hold the {runs} runs that were over"));
            answer.code = INTERRUPTED;
        }
        Ok(answer)
    }

    fn text(&self, report: &Report) -> String {
        let mut text = table::render(report);
        for note in &report.notes {
            text += &format!("{note}\n");
        }
        let seconds = report.seconds.map(units::seconds).unwrap_or_default();
        let memory =
            report.peak_memory_bytes.map_or_else(String::new, |bytes| format!(", {} at most", units::bytes(bytes)));
        let partition = report.runs.first().map_or("", |run| run.partition.as_str());
        text += &format!(
            "{}, partition {partition}, alpha {}, {} training samples on {} devices; {} runs in {seconds}{memory}.\n",
            report.data,
            report.alpha,
            units::count(report.class_counts.iter().sum()),
            report.devices,
            report.runs.len(),
        );
        text
    }
}
