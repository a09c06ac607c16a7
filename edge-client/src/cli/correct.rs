//! `edge-client relabel` and `edge-client forget`: stored samples put right by hand.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf, absolute};

use clap::Args;
use grapevine_edge_client::store::{Digest, Intake, NewLabel, Store, StoreError};
use grapevine_host::class_list::canonical;
use grapevine_vision::image_input::read_image_file;
use grapevine_vision::source::Content;
use serde::Serialize;

use super::failure::UsageError;
use super::setup::Setup;
use super::{Answer, Common};

const RELABEL_EXAMPLES: &str = "\
Examples:
  edge-client relabel pictures/two/0007.png one
  edge-client relabel a.png b.png c.png one
  edge-client relabel 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef one
  edge-client relabel new/*.png one --json | jq .relabelled

An image is named by its file, by the path that it was ingested from even if nothing lies there any more, or by the SHA-256
of its file's bytes, as predictions give it. The new label counts until the image is listed anew under another class: move
its file, too, or correct its table. Exit code 1 if an image is not stored; the others are relabelled.";

const FORGET_EXAMPLES: &str = "\
Examples:
  edge-client forget pictures/two/0007.png
  edge-client forget --class two                # all samples of a class
  edge-client forget --source pictures/         # all that came from a folder, an archive or an .npz
  edge-client forget --all yes                  # every sample

Removes samples from the store; files stay where they are and come back with the next ingest of their source, so move them
away, too. A file that is deleted from its folder does not take its sample with it: that is what this command is for.
Exit code 1 if an image is not stored; the others are forgotten.";

/// Give stored samples another class.
#[derive(Debug, Args)]
#[command(after_help = RELABEL_EXAMPLES)]
pub(super) struct RelabelArguments {
    /// Image files, or SHA-256 digests of image files.
    #[arg(value_name = "IMAGE", required = true, num_args = 1..)]
    images: Vec<String>,
    /// A class of the configuration.
    #[arg(value_name = "CLASS", required = true)]
    class: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Remove samples from the store.
#[derive(Debug, Args)]
#[command(after_help = FORGET_EXAMPLES)]
pub(super) struct ForgetArguments {
    /// Image files, or SHA-256 digests of image files.
    #[arg(value_name = "IMAGE", required_unless_present_any = ["class", "source", "all"])]
    images: Vec<String>,
    /// Every sample of this class.
    #[arg(long, value_name = "CLASS", conflicts_with_all = ["images", "source", "all"])]
    class: Option<String>,
    /// Every sample that came from this folder, table, archive or .npz.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["images", "all"])]
    source: Option<PathBuf>,
    /// Every sample; the word `yes` shows that it is meant.
    #[arg(long, value_name = "yes", conflicts_with = "images")]
    all: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Relabelled {
    class: String,
    relabelled: Vec<Change>,
    /// Images that were of the class already.
    unchanged: Vec<String>,
    not_stored: Vec<String>,
}

#[derive(Serialize)]
struct Change {
    image: String,
    from: String,
}

#[derive(Serialize)]
struct Forgotten {
    forgotten: u32,
    by_class: Vec<OfClass>,
    not_stored: Vec<String>,
    /// Samples that are left.
    stored: u32,
}

#[derive(Serialize)]
struct OfClass {
    class: String,
    samples: u32,
}

pub(super) fn relabel(common: &Common, arguments: &RelabelArguments) -> anyhow::Result<Answer> {
    let setup = Setup::load(common.configuration()?)?;
    let label = label(&setup, &arguments.class)?;
    let store = setup.open_filled_store()?;
    let class = |label: u16| setup.config.classes.get(usize::from(label)).cloned().unwrap_or_default();
    let mut report =
        Relabelled { class: class(label), relabelled: Vec::new(), unchanged: Vec::new(), not_stored: Vec::new() };
    let mut labels = Vec::new();
    let mut chosen = BTreeMap::new();
    for (image, found) in arguments.images.iter().zip(find(&store, &arguments.images)?) {
        match found {
            None => report.not_stored.push(image.clone()),
            Some((_, former)) if former == label => report.unchanged.push(image.clone()),
            Some((digest, former)) => {
                // The same image may be named twice.
                if chosen.insert(digest, former).is_none() {
                    labels.push(NewLabel { digest, label, origin: String::new() });
                    report.relabelled.push(Change { image: image.clone(), from: class(former) });
                }
            }
        }
    }
    let stored = store.take_in(&Intake { labels: &labels, ..Intake::default() })?;
    let mut answer = Answer::of(&report, arguments.json, |report| render_relabelled(report, stored.refused))?;
    answer.complaints.extend(not_stored(&report.not_stored));
    answer.code = u8::from(!answer.complaints.is_empty());
    Ok(answer)
}

pub(super) fn forget(common: &Common, arguments: &ForgetArguments) -> anyhow::Result<Answer> {
    if arguments.all.as_deref().is_some_and(|word| word != "yes") {
        return Err(UsageError("`--all` forgets every sample; write `--all yes` if that is meant".into()).into());
    }
    let setup = Setup::load(common.configuration()?)?;
    let class = arguments.class.as_ref().map(|class| label(&setup, class)).transpose()?;
    let store = setup.open_filled_store()?;
    let mut missing = Vec::new();
    let by_class = if let Some(class) = class {
        store.forget(&|_, label, _| label == class)?
    } else if let Some(source) = &arguments.source {
        let source = absolute(source)?;
        store.forget(&|_, _, origin| !origin.is_empty() && Path::new(origin).starts_with(&source))?
    } else if arguments.all.is_some() {
        store.forget(&|_, _, _| true)?
    } else {
        let found = find(&store, &arguments.images)?;
        let images = arguments.images.iter().zip(&found);
        missing.extend(images.filter(|(_, found)| found.is_none()).map(|(image, _)| image.clone()));
        let chosen: BTreeMap<Digest, u16> = found.into_iter().flatten().collect();
        store.forget(&|digest, _, _| chosen.contains_key(digest))?
    };
    let classes = by_class.iter().zip(&setup.config.classes).filter(|(samples, _)| **samples > 0);
    let by_class: Vec<OfClass> = classes.map(|(&samples, class)| OfClass { class: class.clone(), samples }).collect();
    let forgotten = by_class.iter().map(|of_class| of_class.samples).sum();
    let report = Forgotten { forgotten, by_class, not_stored: missing, stored: store.counts()?.iter().sum() };
    let mut answer = Answer::of(&report, arguments.json, render_forgotten)?;
    answer.complaints.extend(not_stored(&report.not_stored));
    if let Some(source) = arguments.source.as_ref().filter(|_| forgotten == 0) {
        answer
            .complaints
            .push(format!("no stored sample came from {}; `status` shows what is stored", source.display()));
    }
    answer.code = u8::from(!answer.complaints.is_empty());
    Ok(answer)
}

fn label(setup: &Setup, class: &str) -> Result<u16, UsageError> {
    let name = canonical(class);
    let known = (0_u16..).zip(&setup.config.classes).find(|(_, known)| **known == name);
    known.map(|(label, _)| label).ok_or_else(|| {
        UsageError(format!(
            "`{class}` is no class of the configuration; its classes are {}",
            setup.config.classes.join(", ")
        ))
    })
}

/// The samples that are meant, and their labels: by digest, by a file's content, or by where they came from.
fn find(store: &Store, images: &[String]) -> Result<Vec<Option<(Digest, u16)>>, StoreError> {
    let mut by_origin: BTreeMap<String, (Digest, u16)> = BTreeMap::new();
    let mut found = Vec::with_capacity(images.len());
    for image in images {
        let named = grapevine_protocol::Digest::from_hex(image).map(|digest| digest.0);
        let content = || Some(Content::Encoded(read_image_file(Path::new(image)).ok()?).digest());
        let digest = named.or_else(content);
        let label = digest.map(|digest| store.label_of(&digest)).transpose()?.flatten();
        if let (Some(digest), Some(label)) = (digest, label) {
            found.push(Some((digest, label)));
            continue;
        }
        if by_origin.is_empty() {
            store.visit_samples(&mut |digest, label, origin| {
                by_origin.insert(origin.to_owned(), (*digest, label));
            })?;
        }
        let origin = absolute(image).unwrap_or_default().to_string_lossy().into_owned();
        found.push(by_origin.get(&origin).copied().filter(|_| !origin.is_empty()));
    }
    Ok(found)
}

fn not_stored(images: &[String]) -> Option<String> {
    let what = match images {
        [] => return None,
        [one] => format!("{one} is not stored"),
        several => format!("{} images are not stored", several.len()),
    };
    Some(format!("{what}; name a file, the path it was ingested from, or the SHA-256 of its bytes"))
}

fn render_relabelled(report: &Relabelled, left_out: u32) -> String {
    let mut text = format!(
        "{} relabelled as {}, {} were so before",
        report.relabelled.len(),
        report.class,
        report.unchanged.len()
    );
    if left_out > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {left_out} of them found no room in a full class");
    }
    text.push('\n');
    for Change { image, from } in &report.relabelled {
        let _ = writeln!(text, "  {image}: was {from}");
    }
    report.not_stored.iter().for_each(|image| text.push_str(&format!("  not stored: {image}\n")));
    text
}

fn render_forgotten(report: &Forgotten) -> String {
    let mut text = format!("{} samples forgotten, {} are left\n", report.forgotten, report.stored);
    for OfClass { class, samples } in &report.by_class {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {class}: {samples}");
    }
    report.not_stored.iter().for_each(|image| text.push_str(&format!("  not stored: {image}\n")));
    text
}
