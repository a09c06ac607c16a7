//! A model file is tried in a process of its own, within limits of memory and time: whatever it does to the runtime, this
//! process goes on and says so.
//!
//! Constants and plans are computed while a model is loaded, so that a file of two hundred bytes can ask for gigabytes or
//! for hours. Every program that loads models which a person named calls [`Trier::vet`] before, and does what
//! [`here`] says when it is started as its own child.

use core::time::Duration;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use crate::manifest::{self, Layout};
use crossbeam_channel::{Receiver, bounded, select};
use grapevine_host::sentence::{one_line, sentence};
use grapevine_host::{Answer, Shutdown, memory};

use super::inspect::{Inspection, Question, Trial, inspect};

/// Memory that a trial may take besides what grows with the model's file.
const BYTES: u64 = 1 << 30;
/// Memory per byte of the model's file: as read, as parsed, as tensors, as laid out for the processor.
const BYTES_PER_BYTE: u64 = 8;
/// The least that a trial gets, however little is free: the program alone maps a good part of it.
const LEAST_BYTES: u64 = 192 << 20;
/// Boards with 32 bits are several times slower.
const SLOWNESS: u32 = if cfg!(target_pointer_width = "32") { 4 } else { 1 };
/// Longest that loading may compute, besides what grows with the model's file.
const LOADING: Duration = Duration::from_secs(8).saturating_mul(SLOWNESS);
/// The same per mebibyte of the file.
const LOADING_PER_MEBIBYTE: Duration = Duration::from_secs(1).saturating_mul(SLOWNESS);
/// Longest that the first images may compute.
const IMAGES: Duration = Duration::from_secs(30).saturating_mul(SLOWNESS);
/// How many times as long as it may compute a trial may take: other programs want the processor, too.
const PATIENCE: u32 = 4;
/// Most bytes that a trial may say.
const MOST_SAID: u64 = 4 << 20;
/// What a trial says when the model is loaded.
const LOADED: &str = "loaded";
/// What Rust's standard library says before it ends a process that gets no memory.
const NO_MEMORY: &str = "memory allocation of";
/// From here on people should know before they wait, in milliseconds an image.
const SLOW_MS: f64 = 1_000.0;

/// How a program starts itself to try a model: the words of the command line before those of [`Arguments`].
#[derive(Clone, Copy, Debug)]
pub struct Trier(pub &'static [&'static str]);

/// What is to be tried, for the other process.
#[derive(Debug, clap::Args)]
pub struct Arguments {
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
#[derive(Clone, Copy, Debug)]
pub struct Try<'a> {
    /// The manifest's path, whose ONNX file is tried.
    pub manifest: Option<&'a Path>,
    /// Columns and rows of an image, where the model takes any.
    pub size: Option<(u32, u32)>,
    /// Order of the axes, where they do not tell it themselves.
    pub layout: Option<Layout>,
    /// Name of the output; the first, if it is not given.
    pub output: Option<&'a str>,
    /// Images that are timed.
    pub images: usize,
}

impl Default for Try<'_> {
    fn default() -> Self {
        Self { manifest: None, size: None, layout: None, output: None, images: 1 }
    }
}

/// Why a model is not loaded into this process.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The other process cannot be started.
    #[error("cannot start a process to try the extractor in: {0}; check that the system has memory and processes left")]
    Start(io::Error),
    /// It asked for more memory than a model of its size may take.
    #[error("{path} was not loaded: it takes more than {} MiB of memory; {CURE}", bytes >> 20)]
    Memory {
        /// The ONNX file.
        path: PathBuf,
        /// What it may take.
        bytes: u64,
    },
    /// It was not ready in time.
    #[error("{path} was not loaded: the runtime computed for {} s and was not done; {CURE}", limit.as_secs())]
    Loading {
        /// The ONNX file.
        path: PathBuf,
        /// How long it may take.
        limit: Duration,
    },
    /// It was loaded, and an image takes for ever.
    #[error("{path} is too slow: one image takes more than {} s; {CURE}", limit.as_secs())]
    Image {
        /// The ONNX file.
        path: PathBuf,
        /// How long it may take.
        limit: Duration,
    },
    /// It brought the runtime down.
    #[error("{path} was not loaded: the runtime crashed on it ({how}); {CURE}")]
    Crash {
        /// The ONNX file.
        path: PathBuf,
        /// How the process ended.
        how: String,
    },
    /// It was refused; in a sentence of its own.
    #[error("{0}")]
    Refused(String),
    /// A person wants this process to stop.
    #[error("stopped while the extractor was tried; run it again")]
    Stopped,
}

/// What helps against every model that asks for too much.
const CURE: &str = "use a smaller extractor, or export it again with fixed shapes and plain operations";

impl Trier {
    /// Tries the model of a manifest and refuses what does not run, before it is loaded into this process.
    ///
    /// # Errors
    /// When the model cannot be loaded or run, takes too much memory or time, or `shutdown` is requested.
    pub fn vet(self, manifest: &Path, onnx: &Path, shutdown: &Shutdown) -> Result<Trial, TrialError> {
        let inspection = self.inspect(onnx, &Try { manifest: Some(manifest), ..Try::default() }, shutdown)?;
        inspection.trial.ok_or_else(|| TrialError::Refused(inspection.failure.unwrap_or_default()))
    }

    /// Inspects a model file in a process of its own.
    ///
    /// # Errors
    /// When the file is no model, takes too much memory or time, brings the runtime down, or `shutdown` is requested.
    pub fn inspect(self, onnx: &Path, what: &Try<'_>, shutdown: &Shutdown) -> Result<Inspection, TrialError> {
        let mut child = self.command(onnx, what).spawn().map_err(TrialError::Start)?;
        let ended = wait(&mut child, Limits::of(onnx), shutdown);
        // It has ended, or is not waited for any longer.
        let _ = child.kill();
        let status = child.wait().map_err(TrialError::Start)?;
        ended.verdict(status, onnx)
    }

    fn command(self, onnx: &Path, what: &Try<'_>) -> Command {
        let mut command = Command::new(this_program());
        command.args(self.0).args(["--images", &what.images.to_string()]);
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
        command.arg("--").arg(onnx).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The other process: limits itself, tries, and says what it found as JSON.
///
/// # Errors
/// When the result is no JSON, which does not happen.
pub fn here(arguments: &Arguments) -> Result<Answer, serde_json::Error> {
    let limits = Limits::of(&arguments.file);
    memory::limit(limits.bytes, limits.loading, limits.loading + IMAGES);
    Ok(Answer::text(serde_json::to_string(&look(arguments))? + "\n"))
}

fn look(arguments: &Arguments) -> Result<Inspection, String> {
    let manifest = arguments.manifest.as_deref().map(manifest::load).transpose().map_err(|error| sentence(&error))?;
    let question = Question {
        manifest: manifest.as_ref().map(|(manifest, _)| manifest),
        side: arguments.size,
        layout: arguments.layout,
        output: arguments.output.as_deref(),
        images: arguments.images,
        loaded: || {
            memory::extend_time();
            let mut output = io::stdout().lock();
            // If nobody listens any longer, the result has no reader either.
            let _ = writeln!(output, "{LOADED}").and_then(|()| output.flush());
        },
    };
    inspect(&arguments.file, &question).map_err(|error| sentence(&error))
}

/// What people should know about a model before they wait for it; `None` where it is quick.
pub fn slowness(trial: &Trial) -> Option<String> {
    (trial.image_ms >= SLOW_MS).then(|| {
        format!(
            "the extractor takes {:.0} ms for one image here, so {:.0} minutes for 1,000; use a smaller one, or export \
             it in f32 with plain operations",
            trial.image_ms,
            (trial.image_ms / 60.0).max(1.0)
        )
    })
}

/// `32x24` or `32`: columns and rows.
///
/// # Errors
/// When the text is neither.
pub fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    match (width.trim().parse(), height.trim().parse()) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        (Err(_), _) | (_, Err(_)) => Err(format!("`{text}` is no image size: write 224x224, columns first")),
    }
}

/// `NCHW` or `NHWC`.
///
/// # Errors
/// When the text is neither.
pub fn parse_layout(text: &str) -> Result<Layout, String> {
    [Layout::Nchw, Layout::Nhwc]
        .into_iter()
        .find(|layout| layout_name(*layout).eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is no layout: NCHW (channels first) or NHWC (channels last)"))
}

/// As [`parse_layout`] reads it.
pub fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Nchw => "NCHW",
        Layout::Nhwc => "NHWC",
    }
}

/// What a trial of one file may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes: u64,
    loading: Duration,
}

impl Limits {
    fn of(onnx: &Path) -> Self {
        let length = fs::metadata(onnx).map_or(0, |metadata| metadata.len());
        let bytes = BYTES.saturating_add(length.saturating_mul(BYTES_PER_BYTE));
        let free = memory::available_bytes().unwrap_or(u64::MAX);
        let mebibytes = u32::try_from(length >> 20).unwrap_or(u32::MAX);
        let loading = LOADING.saturating_add(LOADING_PER_MEBIBYTE.saturating_mul(mebibytes));
        Self { bytes: bytes.min(free.max(LEAST_BYTES)), loading }
    }

    /// Longest that a trial may take, whatever it does.
    fn patience(self) -> Duration {
        (self.loading + IMAGES).saturating_mul(PATIENCE)
    }
}

/// How a trial came to its end.
#[derive(Debug)]
struct Ended {
    said: String,
    complained: String,
    why: Why,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    ByItself,
    OutOfPatience,
    Stopped,
}

impl Ended {
    fn verdict(&self, status: ExitStatus, onnx: &Path) -> Result<Inspection, TrialError> {
        let path = onnx.to_owned();
        let mut lines = self.said.lines();
        let is_loaded = lines.next() == Some(LOADED);
        let last = self.said.lines().last().unwrap_or_default();
        if let (Why::ByItself, Ok(said)) = (self.why, serde_json::from_str::<Result<Inspection, String>>(last)) {
            return said.map_err(TrialError::Refused);
        }
        let Limits { bytes, loading } = self.limits;
        let took_too_long = || match is_loaded {
            true => TrialError::Image { path: path.clone(), limit: IMAGES },
            false => TrialError::Loading { path: path.clone(), limit: loading },
        };
        Err(match (self.why, Cause::of(status)) {
            (Why::Stopped, _) => TrialError::Stopped,
            (Why::OutOfPatience, _) | (Why::ByItself, Cause::Time) => took_too_long(),
            // Nobody else ends it like this: the system had no memory left.
            (Why::ByItself, Cause::Killed) => TrialError::Memory { path, bytes },
            (Why::ByItself, Cause::Other) if self.complained.contains(NO_MEMORY) => TrialError::Memory { path, bytes },
            (Why::ByItself, Cause::Other) => TrialError::Crash { path, how: self.how(status) },
        })
    }

    /// How it ended, for people: its last words, if there are any.
    fn how(&self, status: ExitStatus) -> String {
        let last = self.complained.lines().last().map(one_line).filter(|line| !line.is_empty());
        last.map_or_else(|| status.to_string(), |line| format!("{status}: {line:.200}"))
    }
}

/// What ended a process that said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It used up its time.
    Time,
    /// The system ended it.
    Killed,
    Other,
}

#[cfg(unix)]
impl Cause {
    fn of(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        /// The same on every Unix, except SIGXCPU on some MIPS and PA-RISC machines.
        const SIGKILL: i32 = 9;
        const SIGXCPU: i32 = 24;
        match status.signal() {
            Some(SIGXCPU) => Self::Time,
            Some(SIGKILL) => Self::Killed,
            Some(_) | None => Self::Other,
        }
    }
}

#[cfg(not(unix))]
impl Cause {
    fn of(_status: ExitStatus) -> Self {
        Self::Other
    }
}

/// Everything it writes, until it ends, takes too long, or is no longer wanted.
fn wait(child: &mut Child, limits: Limits, shutdown: &Shutdown) -> Ended {
    let said = all_of(child.stdout.take());
    let complained = all_of(child.stderr.take());
    let (said, why) = select! {
        recv(said) -> said => (said.unwrap_or_default(), Why::ByItself),
        recv(shutdown.receiver()) -> _ => (String::new(), Why::Stopped),
        default(limits.patience()) => (String::new(), Why::OutOfPatience),
    };
    let complained = if why == Why::ByItself { complained.recv().unwrap_or_default() } else { String::new() };
    Ended { said, complained, why, limits }
}

/// What a process writes to a pipe, up to its end or to a limit.
fn all_of(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = bounded(1);
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before a failure is all there is.
            let _ = pipe.take(MOST_SAID).read_to_end(&mut bytes);
            // Nobody listens after a timeout.
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    receiver
}

/// The file that runs, also when another took its place since.
fn this_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() { link.to_owned() } else { env::current_exe().unwrap_or_default() }
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

    #[test]
    fn slow_models_are_told_with_their_figure() {
        let trial = |image_ms| Trial {
            input_shape: [1, 3, 32, 32],
            features: 64,
            multiply_adds: None,
            load_ms: 1.0,
            image_ms,
            images: 1,
            peak_bytes: None,
        };
        assert_eq!(slowness(&trial(999.0)), None);
        let line = slowness(&trial(18_400.0)).unwrap();
        assert!(line.contains("18400 ms for one image") && line.contains("307 minutes for 1,000"), "{line}");
    }

    #[cfg(unix)]
    #[test]
    fn each_end_has_its_own_sentence() {
        use std::os::unix::process::ExitStatusExt;
        let limits = Limits { bytes: 1 << 30, loading: LOADING };
        let sentence = |signal: i32, said: &str, complained: &str, why: Why| {
            let ended = Ended { said: said.into(), complained: complained.into(), why, limits };
            ended.verdict(ExitStatus::from_raw(signal), Path::new("m.onnx")).unwrap_err().to_string()
        };
        let aborted = "memory allocation of 8589934592 bytes failed\n";
        for (line, expected) in [
            (sentence(6, "", aborted, Why::ByItself), "takes more than 1024 MiB of memory"),
            (sentence(9, "", "", Why::ByItself), "takes more than 1024 MiB of memory"),
            (sentence(24, "", "", Why::ByItself), "computed for 8 s"),
            (sentence(9, "", "", Why::OutOfPatience), "computed for 8 s"),
            (sentence(24, "loaded\n", "", Why::ByItself), "one image takes more than 30 s"),
            (sentence(11, "", "", Why::ByItself), "the runtime crashed on it (signal: 11"),
            (sentence(6, "", "thread 'main' has overflowed its stack\n", Why::ByItself), "overflowed its stack"),
            (sentence(0, "{\"Err\":\"no model\"}\n", "", Why::ByItself), "no model"),
            (sentence(9, "", "", Why::Stopped), "stopped while the extractor was tried"),
        ] {
            assert!(line.contains(expected), "{line}");
        }
    }
}
