//! `fleet extractor manifest`: a manifest for a model that has none.

use core::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use grapevine_host::sentence::one_line;
use grapevine_host::{Answer, Shutdown, files};
use grapevine_simulator::extractor::draft::{self, Moments};
use grapevine_vision::extractor::Extractor;
use grapevine_vision::extractor::inspect::{Trial, layout_of};
use grapevine_vision::extractor::trial::{Try, layout_name, parse_layout, parse_size, slowness};
use grapevine_vision::manifest::{self, Input, Layout, MAX_EXTRACTOR_BYTES, Manifest, Output};
use grapevine_vision::source::{ImageSource, Source};
use serde::Serialize;

use super::super::images_bar::ImagesBar;
use super::TRIER;

const EXAMPLES: &str = "\
Examples:
  fleet extractor manifest resnet.onnx --images pictures/ --size 224x224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --license 'weights: BSD-3; data: ImageNet'
  fleet extractor manifest tiny.onnx --images cifar10.tar.gz --layout NHWC --output features

The images should be like those the extractor was made from, and public: the features' means and deviations are part of
the manifest and go to every device. A few thousand are enough. Of a data set in parts the training part is used.
--mean and --std are those the model was trained with, of pixel / 255.";

/// Measure a model's features on images and write its manifest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The ONNX file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Images in class folders, an archive of them, or any other source that `ingest` takes.
    #[arg(long, value_name = "PATH")]
    images: PathBuf,
    /// Size of an image, where the model takes any.
    #[arg(long, value_name = "COLUMNSxROWS", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Subtracted from pixel / 255: one number, or one per channel [default: 0].
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_negative_numbers = true)]
    mean: Vec<f32>,
    /// Divides what is left: one number, or one per channel [default: 1].
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_negative_numbers = true)]
    std: Vec<f32>,
    /// Order of the axes, NCHW or NHWC [default: as the model's shape suggests].
    #[arg(long, value_name = "LAYOUT", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// The output that holds the features [default: the first].
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Name for people [default: that of the file].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Licence of the weights and of the data they were made from.
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    license: String,
    /// How the file was made: a command, or a sentence.
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    made_by: String,
    /// The manifest, in the folder of the ONNX file [default: FILE with the ending toml].
    #[arg(long, value_name = "FILE.toml")]
    out: Option<PathBuf>,
    /// Replace a manifest that is there.
    #[arg(long)]
    force: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Written {
    manifest: PathBuf,
    sha256: String,
    images: usize,
    features: usize,
    still_features: usize,
    width: u32,
    height: u32,
    channels: u32,
    layout: Layout,
    image_ms: f64,
    plain_pixels: bool,
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Unreadable {
    image: String,
    reason: String,
}

pub(super) fn manifest(arguments: &Arguments, quiet: bool, shutdown: &Shutdown) -> anyhow::Result<Answer> {
    let out = arguments.out.clone().unwrap_or_else(|| arguments.file.with_extension("toml"));
    // Before anything that takes long.
    arguments.check_place(&out)?;
    let images = arguments.source()?;
    let what = Try {
        size: arguments.size,
        layout: arguments.layout,
        output: arguments.output.as_deref(),
        images: 1,
        ..Try::default()
    };
    let inspection = TRIER.inspect(&arguments.file, &what, shutdown)?;
    let tried = match (inspection.trial, inspection.failure) {
        (Some(tried), _) => tried,
        (None, failure) => bail!(failure.unwrap_or_default()),
    };
    let first = inspection.outputs.first().map(|output| output.name.clone()).unwrap_or_default();
    if let Some(line) = slowness(&tried) {
        tracing::warn!("{line}");
    }
    let mut draft = arguments.draft(&tried, arguments.output.clone().unwrap_or(first))?;
    let extractor = Extractor::load(&draft, &arguments.file)?;
    let mut bar = ImagesBar::new(quiet);
    let measured = draft::measure(&extractor, &images, &mut |progress| bar.show(progress), shutdown);
    bar.clear();
    let moments = measured?;
    draft.output.mean.clone_from(&moments.mean);
    draft.output.std.clone_from(&moments.std);
    draft.check().context("the measured numbers make no manifest")?;
    files::write_atomic(&out, draft::render(&draft).as_bytes())?;
    Answer::of(&Written::new(out, draft, (moments, tried), arguments), arguments.json, render).map_err(Into::into)
}

impl Arguments {
    fn check_place(&self, out: &Path) -> anyhow::Result<()> {
        let folder = |path: &Path| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::canonicalize(parent).ok()
        };
        // Said first, since everything else would be said of a file that is not there.
        let length = fs::metadata(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?.len();
        if length > MAX_EXTRACTOR_BYTES {
            bail!("{} is larger than {MAX_EXTRACTOR_BYTES} bytes; use a smaller model", self.file.display());
        }
        if folder(out) != folder(&self.file) {
            bail!("a manifest lies in the folder of its ONNX file: put {} there", out.display());
        }
        if out.exists() && !self.force {
            bail!("{} is there already; --force replaces it, --out writes another", out.display());
        }
        Ok(files::check_writable(out)?)
    }

    fn source(&self) -> anyhow::Result<ImageSource> {
        match Source::open(&self.images)? {
            Source::Images(images) => Ok(images),
            Source::Features(_) => bail!("{} holds features, not images", self.images.display()),
        }
    }

    /// The manifest before the features were measured.
    fn draft(&self, tried: &Trial, output: String) -> anyhow::Result<Manifest> {
        let (layout, [channels, height, width]) = layout_of(tried.input_shape, self.layout);
        let per_channel = |name: &str, given: &[f32], default: f32| match given {
            [] => Ok(vec![default; channels]),
            [one] => Ok(vec![*one; channels]),
            several if several.len() == channels => Ok(several.to_vec()),
            several => bail!("{name} has {} numbers, but the model takes {channels} channels", several.len()),
        };
        let file = self.file.file_name().and_then(|name| name.to_str());
        let stem = self.file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let manifest = Manifest {
            name: one_line(self.name.as_deref().unwrap_or(stem)),
            file: file.context("the ONNX file's name is not UTF-8; rename it")?.to_owned(),
            sha256: manifest::sha256_file(&self.file)?,
            license: one_line(&self.license),
            made_by: one_line(&self.made_by),
            input: Input {
                width: side(width),
                height: side(height),
                channels: side(channels),
                layout,
                mean: per_channel("--mean", &self.mean, 0.0)?,
                std: per_channel("--std", &self.std, 1.0)?,
            },
            output: Output {
                name: output,
                features: tried.features,
                mean: vec![0.0; tried.features],
                std: vec![1.0; tried.features],
            },
        };
        manifest.check().with_context(|| format!("{} is no extractor for a fleet", self.file.display()))?;
        Ok(manifest)
    }
}

impl Written {
    fn new(manifest: PathBuf, draft: Manifest, (moments, tried): (Moments, Trial), arguments: &Arguments) -> Self {
        let Input { width, height, channels, layout, .. } = draft.input;
        let unreadable = |(image, reason)| Unreadable { image, reason };
        Self {
            manifest,
            sha256: draft.sha256,
            images: moments.images,
            features: draft.output.features,
            still_features: moments.still,
            width,
            height,
            channels,
            layout,
            image_ms: tried.image_ms,
            plain_pixels: arguments.mean.is_empty() && arguments.std.is_empty(),
            unreadable: moments.unreadable.into_iter().map(unreadable).collect(),
        }
    }
}

fn render(written: &Written) -> String {
    let Written { manifest, images, features, width, height, channels, .. } = written;
    let layout = layout_name(written.layout);
    let mut text = format!(
        "{} written: {features} features, measured on {images} images of {width}x{height}x{channels}, {layout}\n\
         one image takes {:.2} ms here\n",
        manifest.display(),
        written.image_ms
    );
    if written.plain_pixels {
        text.push_str("pixels go in as pixel / 255; if the model was trained otherwise, give --mean and --std\n");
    }
    if written.still_features > 0 {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{} features (almost) never change on these images", written.still_features);
    }
    for Unreadable { image, reason } in written.unreadable.iter().take(10) {
        let _ = writeln!(text, "  unusable: {image}: {reason}");
    }
    if let Some(more @ 1..) = written.unreadable.len().checked_sub(10) {
        let _ = writeln!(text, "  and {more} more");
    }
    text
}
