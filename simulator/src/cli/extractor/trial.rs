//! A model file is tried in a process of its own, within limits of memory and time: whatever it does to the runtime, this
//! one goes on and says so.

use core::time::Duration;
use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, bail};
use clap::Args;
use crossbeam_channel::{bounded, select};
use grapevine_edge_client::extractor::inspect::{self, Inspection, Question};
use grapevine_host::{Answer, Shutdown, manifest, memory};
use grapevine_models::manifest::Layout;

/// Memory that a trial may take besides what grows with the model's file.
const BYTES: u64 = 1 << 30;
/// Memory per byte of the model's file: as read, as parsed, as tensors, as laid out for the processor.
const BYTES_PER_BYTE: u64 = 8;
/// Longest a trial may compute.
const CPU: Duration = Duration::from_secs(120);
/// Longest a trial may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is to be tried, for the other process.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    file: PathBuf,
    #[arg(long)]
    manifest: Option<PathBuf>,
    #[arg(long, value_parser = parse_size)]
    size: Option<(u32, u32)>,
    #[arg(long, value_parser = parse_layout)]
    layout: Option<Layout>,
    #[arg(long)]
    output: Option<String>,
    #[arg(long, default_value_t = 1)]
    images: usize,
}

/// The same, for this process.
#[derive(Debug, Default)]
pub(super) struct Try<'a> {
    /// The manifest's path, whose ONNX file is tried.
    pub(super) manifest: Option<&'a Path>,
    pub(super) size: Option<(u32, u32)>,
    pub(super) layout: Option<Layout>,
    pub(super) output: Option<&'a str>,
    pub(super) images: usize,
}

/// Refuses an extractor that a person named and that does not run, before it is loaded into this process.
pub(super) fn vet(path: &Path, shutdown: &Shutdown) -> anyhow::Result<()> {
    let manifest = manifest::beside(path);
    // Whether they belong together is the loader's business; here is only asked what loading would do.
    let Ok((_, onnx)) = manifest::load(&manifest) else { return Ok(()) };
    let inspection = trial(&onnx, &Try { manifest: Some(&manifest), images: 1, ..Try::default() }, shutdown)?;
    inspection.failure.map_or(Ok(()), |failure| bail!(failure))
}

/// Inspects a model file in a process of its own.
pub(super) fn trial(onnx: &Path, what: &Try<'_>, shutdown: &Shutdown) -> anyhow::Result<Inspection> {
    let mut command = Command::new(env::current_exe().context("this program cannot find itself")?);
    command.args(["--quiet", "extractor", "trial", "--images", &what.images.to_string()]);
    if let Some(manifest) = what.manifest {
        command.arg("--manifest").arg(manifest);
    }
    if let Some((width, height)) = what.size {
        command.arg("--size").arg(format!("{width}x{height}"));
    }
    if let Some(layout) = what.layout {
        command.arg("--layout").arg(layout_name(layout));
    }
    if let Some(output) = what.output {
        command.arg(format!("--output={output}"));
    }
    command.arg("--").arg(onnx).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start a process to try the model in")?;
    let answer = answer_of(&mut child, shutdown);
    // It has ended, or is not waited for any longer.
    let _ = child.kill();
    let status = child.wait();
    let said = serde_json::from_slice::<Result<Inspection, String>>(&answer?);
    match said {
        Ok(said) => said.map_err(anyhow::Error::msg),
        Err(_) => bail!(
            "the runtime {} while it tried {}; export the model with fixed shapes and plain operations",
            status.map_or_else(|_| "was lost".to_owned(), |status| format!("ended ({status})")),
            onnx.display()
        ),
    }
}

/// The other process: limits itself, tries, and says what it found as JSON.
pub(super) fn here(arguments: &Arguments) -> anyhow::Result<Answer> {
    let length = fs::metadata(&arguments.file).map_or(0, |metadata| metadata.len());
    memory::limit(BYTES.saturating_add(length.saturating_mul(BYTES_PER_BYTE)), CPU);
    let manifest = arguments.manifest.as_deref().map(manifest::load).transpose()?.map(|(manifest, _)| manifest);
    let question = Question {
        manifest: manifest.as_ref(),
        side: arguments.size,
        layout: arguments.layout,
        output: arguments.output.as_deref(),
        images: arguments.images,
    };
    let said = inspect::inspect(&arguments.file, &question).map_err(|error| grapevine_host::sentence::sentence(&error));
    Ok(Answer::text(serde_json::to_string(&said)?))
}

/// `32x24` or `32`: columns and rows.
pub(super) fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    match (width.trim().parse(), height.trim().parse()) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        (Err(_), _) | (_, Err(_)) => Err(format!("`{text}` is no image size: write 224x224, columns first")),
    }
}

/// `NCHW` or `NHWC`.
pub(super) fn parse_layout(text: &str) -> Result<Layout, String> {
    [Layout::Nchw, Layout::Nhwc]
        .into_iter()
        .find(|layout| layout_name(*layout).eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is no layout: NCHW (channels first) or NHWC (channels last)"))
}

pub(super) fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Nchw => "NCHW",
        Layout::Nhwc => "NHWC",
    }
}

/// Everything it writes, until it ends, takes too long, or is no longer wanted.
fn answer_of(child: &mut Child, shutdown: &Shutdown) -> anyhow::Result<Vec<u8>> {
    let mut output = child.stdout.take().context("its output is a pipe")?;
    let (sender, receiver) = bounded(1);
    thread::spawn(move || {
        let mut answer = Vec::new();
        let read: io::Result<usize> = output.read_to_end(&mut answer);
        // Nobody listens after a timeout.
        let _ = sender.send(read.map(|_| answer));
    });
    select! {
        recv(receiver) -> answer => Ok(answer??),
        recv(shutdown.receiver()) -> _ => bail!("stopped"),
        default(PATIENCE) => bail!("the model was still not loaded after {} s; use a smaller one", PATIENCE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_layouts_are_parsed() {
        assert_eq!((parse_size("32x24"), parse_size("96")), (Ok((32, 24)), Ok((96, 96))));
        for wrong in ["", "x", "32x", "32x-4", "a", "1x2x3"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_layout("nhwc"), Ok(Layout::Nhwc));
        assert!(parse_layout("CHW").unwrap_err().contains("NCHW"));
    }
}
