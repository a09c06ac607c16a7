//! `fleet extractor inspect`: what is in a model file, and whether and how fast it runs here.

use core::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use grapevine_host::{Answer, Shutdown};
use grapevine_simulator::report::units;
use grapevine_vision::extractor::inspect::{Inspection, Port, Side};
use grapevine_vision::extractor::trial::{Try, parse_layout, parse_size, slowness};
use grapevine_vision::manifest::{self, Layout};
use serde::Serialize;

use super::TRIER;

const EXAMPLES: &str = "\
Examples:
  fleet extractor inspect models/onnx/general.toml       # as its manifest says, digest checked
  fleet extractor inspect resnet.onnx --size 224x224     # rows and columns that the file leaves open
  fleet extractor inspect resnet.onnx --json | jq .trial.image_ms

Exit code 1 if the model cannot be read or does not run here.";

/// Show what is in an ONNX file, whether it runs here, how fast, and what memory it takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// An ONNX file, or the manifest beside one.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Size of an image, where the model takes any.
    #[arg(long, value_name = "COLUMNSxROWS", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Order of the axes, NCHW or NHWC, where the model does not tell.
    #[arg(long, value_name = "LAYOUT", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// The output to run, instead of the first.
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Images to time, one after the other on one thread.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    images: u32,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    file: PathBuf,
    sha256: String,
    #[serde(flatten)]
    inspection: Inspection,
}

pub(super) fn inspect(arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<Answer> {
    let has_manifest = arguments.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
    let manifest = has_manifest.then_some(arguments.file.as_path());
    let onnx = match manifest {
        Some(path) => manifest::load(path)?.1,
        None => arguments.file.clone(),
    };
    let what = Try {
        manifest,
        size: arguments.size,
        layout: arguments.layout,
        output: arguments.output.as_deref(),
        images: arguments.images as usize,
    };
    let inspection = TRIER.inspect(&onnx, &what, shutdown)?;
    let sha256 = manifest::sha256_file(&onnx)?;
    let code = u8::from(inspection.failure.is_some());
    let inspected = Inspected { file: onnx, sha256, inspection };
    Ok(Answer { code, ..Answer::of(&inspected, arguments.json, render)? })
}

fn render(inspected: &Inspected) -> String {
    let Inspected { file, sha256, inspection } = inspected;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10}  {value}");
    };
    line("file", format!("{}, {}", file.display(), units::bytes(inspection.bytes)));
    line("sha256", sha256.clone());
    let opset = inspection.opset.map_or_else(|| "unknown".to_owned(), |opset| opset.to_string());
    let producer = Some(inspection.producer.as_str()).filter(|producer| !producer.is_empty()).unwrap_or("unknown");
    line("format", format!("ONNX {}, opset {opset}, written by {producer}", inspection.ir_version));
    inspection.inputs.iter().for_each(|input| line("input", port(input)));
    inspection.outputs.iter().for_each(|output| line("output", port(output)));
    let operations =
        inspection.operations.iter().map(|(name, count)| match inspection.unknown_operations.contains(name) {
            true => format!("{name} {count} (unknown here)"),
            false => format!("{name} {count}"),
        });
    line("operations", operations.collect::<Vec<_>>().join(", "));
    line("parameters", units::count(inspection.parameters));
    if let Some(trial) = &inspection.trial {
        let count = trial
            .multiply_adds
            .map_or_else(|| "unknown".to_owned(), |count| format!("{} an image", units::count(count)));
        line("mult-adds", count);
        line("features", format!("{} from an input of {:?}", trial.features, trial.input_shape));
        let speed = units::seconds(trial.image_ms / 1e3);
        let load = units::seconds(trial.load_ms / 1e3);
        line("speed", format!("{speed} an image, median of {} on one thread; {load} to load", trial.images));
        if let Some(bytes) = trial.peak_bytes {
            line("memory", format!("{} at most, to load and to run", units::bytes(bytes)));
        }
    }
    let slow = inspection.trial.as_ref().and_then(slowness);
    let runs = match (&inspection.failure, slow) {
        (Some(reason), _) => format!("no: {reason}"),
        (None, Some(slow)) => format!("yes, but slowly: {slow}"),
        (None, None) => "yes".to_owned(),
    };
    line("runs here", runs);
    text
}

fn port(port: &Port) -> String {
    let side = |side: &Side| match side {
        Side::Fixed(side) => side.to_string(),
        Side::Any(name) => name.clone(),
    };
    let shape = port.shape.as_ref().map_or_else(
        || "of any shape".to_owned(),
        |shape| format!("[{}]", shape.iter().map(side).collect::<Vec<_>>().join(", ")),
    );
    format!("{} {shape} {}", port.name, port.kind)
}
