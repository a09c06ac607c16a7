//! `edge-client classify`: images in, classes out, one line each as soon as it is known.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use grapevine_edge_client::classify::{Classifier, LatestHead, Prediction, visit_images};
use grapevine_host::sentence::{one_line, sentence};
use grapevine_host::{Shutdown, printable_lines};
use grapevine_vision::image_input::{MAX_IMAGE_BYTES, read_image_file};
use serde::Serialize;

use super::setup::Setup;
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  edge-client classify new.png
  edge-client classify --top 1 pictures/ more/*.jpg      # a folder stands for every image below it
  ssh camera cat newest.jpg | edge-client classify -
  edge-client classify new.png --json | jq -r '.predictions[0].class'

A probability is not calibrated: it says which class the head prefers, not how often that is right. None is shown beyond
99 %. After it comes how many samples of the class this device has: the fewer, the less the probability means.

A class of which no device has enough samples to share is never learned by the fleet. If this device has samples of
it, its own predictions use them; otherwise the class is never predicted, and a line says so.

Works beside `edge-client run`: each image is classified with the head that is the newest in that moment.
Exit code 1 if an image could not be classified; all others are.";

/// Standard input.
const STANDARD_INPUT: &str = "-";

/// Classify images with the newest head.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// PNG or JPEG files, folders of them, or `-` for one image on standard input.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Classes to print per image, the likeliest first.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Print JSON Lines: one object per image.
    #[arg(long)]
    json: bool,
}

#[derive(Default, Serialize)]
struct Classified {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How many rounds went before the head that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u32>,
    /// Whether a probability says how often the class is right. No head of this version does.
    calibrated: bool,
    /// Samples that this device holds.
    samples: u64,
    predictions: Vec<Prediction>,
    /// Classes that neither the fleet nor this device has learned: none of them is ever named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    never_learned: Vec<String>,
}

/// What is said about one image.
struct Seen {
    round: u32,
    samples: u64,
    predictions: Vec<Prediction>,
    never_learned: Vec<String>,
}

pub(super) fn classify(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let setup = Setup::load(common.configuration()?)?;
    let mut latest = LatestHead::of(Arc::new(setup.read_store()?));
    latest.now()?.context(
        "this device has no head yet; `edge-client run` gets the fleet's, `edge-client train --save` makes its own",
    )?;
    let classes = setup.config.classes.clone();
    let classifier = Classifier::new(setup.extractor(&Shutdown::manual())?, setup.config.classes)?;
    let mut work = Work { classifier, classes, latest, arguments, complaints: Vec::new(), is_heard: Ok(()) };
    for image in &arguments.images {
        work.take(image);
    }
    let Work { complaints, is_heard, .. } = work;
    match is_heard {
        // The reader had enough, as in `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        heard => heard.context("cannot write the result; check where the output goes")?,
    }
    Ok(Answer { code: u8::from(!complaints.is_empty()), complaints, ..Answer::default() })
}

struct Work<'a> {
    classifier: Classifier,
    classes: Vec<String>,
    latest: LatestHead,
    arguments: &'a Arguments,
    complaints: Vec<String>,
    /// The first failure of the output ends all.
    is_heard: io::Result<()>,
}

impl Work<'_> {
    fn take(&mut self, argument: &Path) {
        if argument.as_os_str() == STANDARD_INPUT {
            let bytes = read_input();
            return self.look_at(STANDARD_INPUT.to_owned(), bytes);
        }
        let visited = visit_images(argument, &mut |path| {
            let bytes = || read_image_file(path).map_err(|error| sentence(&error));
            if self.is_heard.is_ok() {
                self.look_at(path.display().to_string(), bytes());
            }
        });
        let name = argument.display();
        match visited {
            Ok(true) => {}
            Ok(false) => self.complaints.push(format!("no PNG or JPEG image in {name}; name a file or another folder")),
            Err(error) => self.complaints.push(format!("cannot list {name}: {error}; check its permissions")),
        }
    }

    fn look_at(&mut self, image: String, bytes: Result<Vec<u8>, String>) {
        let nothing = |line| Classified { error: Some(line), ..Classified::default() };
        let classified = match bytes.and_then(|bytes| self.likely(&bytes)) {
            Ok(Seen { round, samples, predictions, never_learned }) => {
                Classified { round: Some(round), samples, predictions, never_learned, ..Classified::default() }
            }
            Err(line) if line.contains(&image) => nothing(line),
            Err(line) => nothing(format!("{image}: {line}")),
        };
        self.complaints.extend(classified.error.clone());
        let classified = Classified { image, ..classified };
        let line = if self.arguments.json { json(&classified) } else { render(&classified) };
        let mut output = io::stdout().lock();
        self.is_heard = write!(output, "{}", printable_lines(&line)).and_then(|()| output.flush());
    }

    fn likely(&mut self, image: &[u8]) -> Result<Seen, String> {
        let samples = self.latest.samples().map_err(|error| sentence(&error))?;
        let Some(inference_head) = self.latest.inference_head().map_err(|error| sentence(&error))? else {
            return Err("the head is gone; `edge-client run` gets the fleet's".into());
        };
        let mut predictions =
            self.classifier.classify(inference_head, &samples, image).map_err(|error| sentence(&error))?;
        let name = |class: u16| self.classes.get(usize::from(class)).cloned().unwrap_or_default();
        let never_learned = inference_head.never_learned().map(name).collect();
        predictions.truncate(usize::from(self.arguments.top));
        let samples = samples.iter().copied().map(u64::from).sum();
        Ok(Seen { round: inference_head.round, samples, predictions, never_learned })
    }
}

fn read_input() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(format!("standard input is larger than {MAX_IMAGE_BYTES} bytes; scale the image down"));
    }
    Ok(bytes)
}

fn json(classified: &Classified) -> String {
    serde_json::to_string(classified).expect("texts and finite numbers are JSON") + "\n"
}

/// Nothing for an image that could not be classified: that is said on standard error.
fn render(classified: &Classified) -> String {
    if classified.error.is_some() {
        return String::new();
    }
    let likely = classified.predictions.iter().map(|each| format!("{} {}", each.class, each.percent()));
    let likely = likely.collect::<Vec<_>>().join(", ");
    let basis = classified.predictions.first().map_or_else(String::new, |likeliest| {
        let Prediction { class, samples, .. } = likeliest;
        format!("; {samples} of this device's {} samples are {class}", classified.samples)
    });
    let own = classified.predictions.first().is_some_and(|likeliest| likeliest.own);
    let own = if own { ", which the fleet never learned" } else { "" };
    let never = match classified.never_learned.as_slice() {
        [] => String::new(),
        classes => format!("; never learned: {}", classes.join(", ")),
    };
    format!("{}: {likely} (not calibrated{basis}{own}{never})\n", one_line(&classified.image))
}
