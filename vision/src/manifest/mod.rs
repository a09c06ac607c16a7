//! What is known about a frozen extractor: the file `<name>.toml` beside `<name>.onnx`.

mod file;

use grapevine_models::limits::MAX_FEATURES;
use serde::{Deserialize, Serialize};

pub use file::{MAX_EXTRACTOR_BYTES, MAX_MANIFEST_BYTES, ManifestLoadError, beside, load, parse, sha256_file};

/// Largest side of an input image, in pixels.
pub const MAX_INPUT_SIDE: u32 = 1_024;

/// A frozen extractor's manifest. Parse it from TOML, then [`Manifest::check`] it.
///
/// ```
/// use grapevine_vision::manifest::{Input, Layout, Manifest, ManifestError, Output};
///
/// let manifest = Manifest {
///     name: "grey".into(),
///     file: "grey.onnx".into(),
///     sha256: "0".repeat(64),
///     license: "MIT".into(),
///     made_by: "by hand".into(),
///     input: Input { width: 8, height: 8, channels: 1, layout: Layout::Nchw, mean: vec![0.5], std: vec![0.25] },
///     output: Output { name: "features".into(), features: 2, mean: vec![1.0, 0.0], std: vec![2.0, 1.0] },
/// };
/// assert_eq!(manifest.check(), Ok(()));
/// // A manifest names a file beside it, and nothing else on the machine.
/// let elsewhere = Manifest { file: "../grey.onnx".into(), ..manifest };
/// assert_eq!(elsewhere.check(), Err(ManifestError::File));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// A short name for people.
    pub name: String,
    /// The ONNX file, relative to the manifest.
    pub file: String,
    /// SHA-256 of the ONNX file, 64 lower-case hexadecimal digits. This is the extractor's identity in a fleet.
    pub sha256: String,
    /// Licence of the weights and of the data they were made from.
    pub license: String,
    /// How the file was made: the command, or a sentence.
    pub made_by: String,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
}

/// The extractor's input tensor, with batch 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: u32,
    /// Order of the axes.
    pub layout: Layout,
    /// Per channel, subtracted from `pixel / 255`.
    pub mean: Vec<f32>,
    /// Per channel, divides after the mean is subtracted.
    pub std: Vec<f32>,
}

/// Order of the axes of an image tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Batch, channel, row, column.
    #[serde(rename = "NCHW")]
    Nchw,
    /// Batch, row, column, channel.
    #[serde(rename = "NHWC")]
    Nhwc,
}

/// The extractor's feature tensor and its standardisation `(P(x) - mean) / std / sqrt(d / 16)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the output tensor.
    pub name: String,
    /// Features per image, `d`.
    pub features: usize,
    /// Per feature, measured on the extractor's own training data.
    pub mean: Vec<f32>,
    /// Per feature, above zero.
    pub std: Vec<f32>,
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The digest is not 64 hexadecimal digits.
    #[error("`sha256` must be 64 lower-case hexadecimal digits; run `sha256sum` on the ONNX file")]
    Digest,
    /// The file is not a plain name.
    #[error("`file` must be a plain file name beside the manifest")]
    File,
    /// Sides or channels out of range.
    #[error("`input` must be 1 to {side} pixels a side with 1 or 3 channels", side = MAX_INPUT_SIDE)]
    Input,
    /// A mean or std of the wrong length, not finite, or a std not above zero.
    #[error("`{field}` must hold {expected} finite numbers, `std` above zero")]
    Normalisation {
        /// Which field.
        field: &'static str,
        /// How many numbers it must hold.
        expected: usize,
    },
    /// Feature count out of range.
    #[error("`output.features` must be 1 to {max}", max = MAX_FEATURES)]
    Features,
}

impl Manifest {
    /// Refuses anything that could not be run.
    ///
    /// # Errors
    /// If the digest is malformed, the file is no plain name, or a size, a mean or a deviation is out of its range.
    pub fn check(&self) -> Result<(), ManifestError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hex) {
            return Err(ManifestError::Digest);
        }
        if self.file.is_empty() || self.file.contains(['/', '\\']) || self.file.starts_with('.') {
            return Err(ManifestError::File);
        }
        let input = &self.input;
        let side = 1..=MAX_INPUT_SIDE;
        if !side.contains(&input.width) || !side.contains(&input.height) || ![1, 3].contains(&input.channels) {
            return Err(ManifestError::Input);
        }
        if !(1..=MAX_FEATURES).contains(&self.output.features) {
            return Err(ManifestError::Features);
        }
        let channels = input.channels as usize;
        check_numbers("input.mean", &input.mean, channels, f32::NEG_INFINITY)?;
        check_numbers("input.std", &input.std, channels, 0.0)?;
        check_numbers("output.mean", &self.output.mean, self.output.features, f32::NEG_INFINITY)?;
        check_numbers("output.std", &self.output.std, self.output.features, 0.0)
    }

    /// Standardises raw extractor output in place: `(raw - mean) / std / sqrt(d / 16)`, see DESIGN.md on feature scale.
    pub fn standardise(&self, raw: &mut [f32]) {
        let scale = (self.output.features as f32 / 16.0).sqrt();
        for ((value, mean), std) in raw.iter_mut().zip(&self.output.mean).zip(&self.output.std) {
            *value = (*value - mean) / std / scale;
        }
    }
}

fn check_numbers(field: &'static str, numbers: &[f32], expected: usize, above: f32) -> Result<(), ManifestError> {
    if numbers.len() == expected && numbers.iter().all(|n| n.is_finite() && *n > above) {
        return Ok(());
    }
    Err(ManifestError::Normalisation { field, expected })
}
