//! Data for whole federations on one machine: where samples come from, which classes are rare, and who holds what.

pub mod digits;
pub mod dirichlet;
pub mod images;
pub mod long_tail;
pub mod partition;
mod samples;
pub mod synthetic;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use samples::SampleSet;

/// How an `.npz` begins.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// Whether a path holds features that were extracted elsewhere, and not images.
///
/// # Errors
/// If the file cannot be read.
pub fn is_npz(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path)?.take(ZIP.len() as u64).read_to_end(&mut start)?;
    Ok(start == ZIP)
}

/// Counts the samples of each class; a label outside `classes` is not counted.
pub fn class_counts(labels: impl IntoIterator<Item = u16>, classes: usize) -> Vec<u64> {
    let mut counts = vec![0; classes];
    for label in labels {
        if let Some(count) = counts.get_mut(usize::from(label)) {
            *count += 1;
        }
    }
    counts
}

/// The classes from the most frequent to the rarest; equally frequent ones by number.
pub fn by_frequency(counts: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&class| core::cmp::Reverse(counts[class]));
    order
}

/// The positions of each class's samples, in ascending order: `[class][..]`. The labels are checked by the caller.
fn indices_by_class(labels: &[u16], classes: usize) -> Vec<Vec<u32>> {
    let mut by_class = vec![Vec::new(); classes];
    for (index, &label) in (0u32..).zip(labels) {
        by_class[usize::from(label)].push(index);
    }
    by_class
}

/// The first label outside `classes`, with its position.
fn stray_label(labels: &[u16], classes: usize) -> Option<(usize, u16)> {
    labels.iter().copied().enumerate().find(|&(_, label)| usize::from(label) >= classes)
}
