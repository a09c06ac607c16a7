//! `edge-client classify`: images in, classes out.

use core::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use grapevine_edge_client::classify::Classifier;
use grapevine_host::sentence::sentence;
use serde::Serialize;

use super::setup::Setup;
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client classify new.png
  edge-client classify --top 1 pictures/*.jpg
  edge-client classify new.png --json | jq -r '.[0].predictions[0].class'

Works beside `edge-client run`. Exit code 1 if an image could not be classified; all others are.";

/// Classify images with the newest head.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// PNG or JPEG files.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Classes to print per image, the likeliest first.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Print an array of images as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Classified {
    image: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    predictions: Vec<Likely>,
}

#[derive(Serialize)]
struct Likely {
    class: String,
    label: u16,
    probability: f64,
}

pub(super) fn classify(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let setup = Setup::load(common.configuration()?)?;
    let newest = setup.read_store()?.newest_head()?.context(
        "this device has no head yet; `edge-client run` gets the fleet's, `edge-client train --save` makes its own",
    )?;
    let classifier = Classifier::new(setup.extractor()?, newest.main, setup.config.classes)?;
    let classified: Vec<Classified> =
        arguments.images.iter().map(|image| look_at(&classifier, image, usize::from(arguments.top))).collect();
    let mut answer = Answer::of(&classified, arguments.json, |classified| render(classified))?;
    answer.complaints = classified.iter().filter_map(|image| image.error.clone()).collect();
    answer.code = u8::from(!answer.complaints.is_empty());
    Ok(answer)
}

fn look_at(classifier: &Classifier, image: &Path, top: usize) -> Classified {
    let mut classified = Classified { image: image.to_owned(), error: None, predictions: Vec::new() };
    match classifier.classify(image) {
        Ok(predictions) => {
            let likely = predictions.into_iter().take(top);
            classified.predictions = likely
                .map(|each| Likely { class: each.class, label: each.label, probability: each.probability })
                .collect();
        }
        Err(error) => {
            let line = sentence(&error);
            let name = image.display().to_string();
            classified.error = Some(if line.contains(&name) { line } else { format!("{name}: {line}") });
        }
    }
    classified
}

fn render(images: &[Classified]) -> String {
    let mut text = String::new();
    for image in images.iter().filter(|image| image.error.is_none()) {
        let likely = image.predictions.iter().map(|each| format!("{} {:.1} %", each.class, 100.0 * each.probability));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}", image.image.display(), likely.collect::<Vec<_>>().join(", "));
    }
    text
}
