//! A manifest for a model that has none: its features are measured on images.

use core::fmt::Write;
use core::ops::ControlFlow;

use grapevine_host::{Shutdown, draft};
use grapevine_vision::extractor::{Extractor, ExtractorError};
use grapevine_vision::image_input::ImageInput;
use grapevine_vision::manifest::{Layout, Manifest};
use grapevine_vision::source::{ImageSource, Split};

use crate::data::images::{ImageProgress, ImagesError, for_each_image};

/// Numbers on one line of a manifest.
const NUMBERS_PER_LINE: usize = 8;
/// Smallest deviation of a feature, as a share of the median one. A feature that hardly ever moves would otherwise be
/// thousands in the one image in which it does.
const SMALLEST_DEVIATION: f64 = 0.01;

/// Mean and standard deviation of every feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// `[d]`.
    pub mean: Vec<f32>,
    /// `[d]`, above zero.
    pub std: Vec<f32>,
    /// Images they were measured on.
    pub images: usize,
    /// Features whose deviation was raised, because they (almost) never change.
    pub still: usize,
    /// Images that could not be used, by name, and why.
    pub unreadable: Vec<(String, String)>,
}

/// Why features cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The images.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// The model fails whatever the image.
    #[error("the extractor cannot be used on these images: {0}")]
    Extractor(ExtractorError),
    /// Nothing to measure.
    #[error("a deviation needs at least two images that can be used, and {usable} of {images} can{}", because(reason))]
    TooFew {
        /// Images that can be used.
        usable: usize,
        /// Images tried.
        images: usize,
        /// What is wrong with the first that cannot.
        reason: Option<String>,
    },
    /// All images give the same.
    #[error(
        "the extractor gives the same features for every image; check `--mean`, `--std`, `--layout` and `--output`"
    )]
    Still,
}

/// Measures what the model gives, before it is standardised, over the training split of a source.
///
/// # Errors
/// If the images cannot be read, fewer than two can be used, the model fails or gives the same for all, or a stop is
/// requested.
pub fn measure(
    extractor: &Extractor,
    source: &ImageSource,
    progress: &mut dyn FnMut(ImageProgress),
    shutdown: &Shutdown,
) -> Result<Moments, MeasureError> {
    let input = ImageInput::new(&extractor.manifest().input);
    let mut sums = Sums::new(extractor.features());
    let mut unreadable = Vec::new();
    let mut broken = None;
    let total = source.counts(Split::Train).iter().sum::<u64>() as usize;
    let mut done = 0;
    progress(ImageProgress::Extracting { done, total });
    let result = for_each_image(
        source,
        Split::Train,
        &|_| true,
        &mut |_| true,
        &|image| {
            let tensor = input.prepare(&image.content).map_err(|error| Fault::Image(error.to_string()))?;
            extractor.extract_raw(&tensor).map_err(Fault::Extractor)
        },
        &mut |image, features| {
            done += 1;
            match features {
                Ok(features) => sums.add(&features),
                Err(Fault::Image(reason)) => unreadable.push((image.name, reason)),
                // One is enough: the model is no better for the next image.
                Err(Fault::Extractor(error)) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
            progress(ImageProgress::Extracting { done, total });
            ControlFlow::Continue(())
        },
        shutdown,
    );
    if let Some(error) = broken {
        return Err(MeasureError::Extractor(error));
    }
    result?;
    if sums.images < 2 {
        let reason = unreadable.first().map(|(name, reason)| format!("{name}: {reason}"));
        return Err(MeasureError::TooFew { usable: sums.images, images: done, reason });
    }
    sums.moments(unreadable)
}

/// The manifest as a file, numbers in lines of eight.
pub fn render(manifest: &Manifest) -> String {
    let Manifest { name, file, sha256, license, made_by, input, output } = manifest;
    let mut text = String::new();
    for (key, value) in [("name", name), ("file", file), ("sha256", sha256), ("license", license), ("made_by", made_by)]
    {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{key} = {}", draft::quoted(value));
    }
    let layout = match input.layout {
        Layout::Nchw => "NCHW",
        Layout::Nhwc => "NHWC",
    };
    let _ =
        writeln!(text, "\n[input]\nwidth = {}\nheight = {}\nchannels = {}", input.width, input.height, input.channels);
    let _ = writeln!(text, "layout = \"{layout}\"\nmean = {}\nstd = {}", numbers(&input.mean), numbers(&input.std));
    let _ = writeln!(text, "\n[output]\nname = {}\nfeatures = {}", draft::quoted(&output.name), output.features);
    let _ = writeln!(text, "mean = {}\nstd = {}", numbers(&output.mean), numbers(&output.std));
    text
}

/// What is wrong with one image's features.
enum Fault {
    Image(String),
    Extractor(ExtractorError),
}

/// Running moments, image by image in order, so that the result does not depend on threads (Welford, 1962).
struct Sums {
    images: usize,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Sums {
    fn new(features: usize) -> Self {
        Self { images: 0, mean: vec![0.0; features], squares: vec![0.0; features] }
    }

    fn add(&mut self, features: &[f32]) {
        self.images += 1;
        let share = 1.0 / self.images as f64;
        for ((mean, squares), &feature) in self.mean.iter_mut().zip(&mut self.squares).zip(features) {
            let away = f64::from(feature) - *mean;
            *mean += share * away;
            *squares += away * (f64::from(feature) - *mean);
        }
    }

    fn moments(&self, unreadable: Vec<(String, String)>) -> Result<Moments, MeasureError> {
        let deviations: Vec<f64> = self.squares.iter().map(|squares| (squares / self.images as f64).sqrt()).collect();
        let mut moving: Vec<f64> = deviations.iter().copied().filter(|deviation| *deviation > 0.0).collect();
        moving.sort_by(f64::total_cmp);
        let median = moving.get(moving.len() / 2).copied().ok_or(MeasureError::Still)?;
        let smallest = (SMALLEST_DEVIATION * median).max(f64::from(f32::MIN_POSITIVE));
        Ok(Moments {
            mean: self.mean.iter().map(|mean| *mean as f32).collect(),
            std: deviations.iter().map(|deviation| deviation.max(smallest) as f32).collect(),
            images: self.images,
            still: deviations.iter().filter(|deviation| **deviation < smallest).count(),
            unreadable,
        })
    }
}

/// As few digits as give the same numbers back.
fn numbers(values: &[f32]) -> String {
    let line = |values: &[f32]| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
    if values.len() <= NUMBERS_PER_LINE {
        return format!("[{}]", line(values));
    }
    let lines: String = values.chunks(NUMBERS_PER_LINE).map(|values| format!("  {},\n", line(values))).collect();
    format!("[\n{lines}]")
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

#[cfg(test)]
mod tests {
    use grapevine_vision::manifest::{Input, Output};

    use super::*;

    #[test]
    fn moments_are_those_of_the_images() {
        let mut sums = Sums::new(3);
        for features in [[1.0, 5.0, 0.0], [2.0, 5.0, 0.0], [6.0, 5.0, 0.0003]] {
            sums.add(&features);
        }
        let moments = sums.moments(Vec::new()).unwrap();
        assert_eq!((moments.images, moments.still), (3, 2));
        assert_eq!(moments.mean[..2], [3.0, 5.0]);
        assert!((moments.mean[2] - 0.0001).abs() < 1e-9, "{moments:?}");
        assert!((moments.std[0] - (14.0_f32 / 3.0).sqrt()).abs() < 1e-6, "{moments:?}");
        // Those that (almost) never move get a hundredth of the median, which here is that of the first.
        assert!((moments.std[1] - 0.01 * moments.std[0]).abs() < 1e-6, "{moments:?}");
        let mut still = Sums::new(2);
        still.add(&[1.0, 2.0]);
        still.add(&[1.0, 2.0]);
        assert!(matches!(still.moments(Vec::new()), Err(MeasureError::Still)));
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        let input =
            Input { width: 32, height: 24, channels: 3, layout: Layout::Nhwc, mean: vec![0.5; 3], std: vec![0.1; 3] };
        let mean: Vec<f32> = (0..21).map(|index| 1.0 / (index as f32 - 7.3)).collect();
        let std: Vec<f32> = (0..21).map(|index| 1e-20 * (1.0 + index as f32)).collect();
        let manifest = Manifest {
            name: "it's \"one\"".into(),
            file: "one.onnx".into(),
            sha256: "ab".repeat(32),
            license: "MIT\nand more".into(),
            made_by: "hand".into(),
            input,
            output: Output { name: "features".into(), features: 21, mean, std },
        };
        let text = render(&manifest);
        assert_eq!(toml::from_str::<Manifest>(&text).unwrap(), manifest, "{text}");
        manifest.check().unwrap();
    }
}
