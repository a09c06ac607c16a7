//! `intake.json`: what `ingest` and `run` left aside, for `status`. Written in place, so that it can also be written when
//! the disk has no room for another file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, absolute};
use std::process;

use grapevine_edge_client::ingest::Report;
use grapevine_host::files;
use grapevine_vision::source::passed_over::{PassedOver, Reason};
use serde::{Deserialize, Serialize};

const FILE: &str = "intake.json";
/// The file's room is taken when it is made, for the day when the disk is full.
const FILE_BYTES: usize = 16 << 10;
/// Most sources that are remembered.
const MAX_SOURCES: usize = 16;

/// What is left aside, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intakes {
    /// By absolute path.
    sources: BTreeMap<String, PassedOver>,
    /// Why a process cannot store images now.
    #[serde(default)]
    failing: Option<Failing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failing {
    pid: u32,
    why: String,
}

impl Intakes {
    /// What is known in a state folder.
    pub(super) fn read(state: &Path) -> Self {
        files::read_json(&state.join(FILE)).unwrap_or_default()
    }

    /// Forgets all of it.
    pub(super) fn clear(state: &Path) {
        Self::default().write(state);
    }

    /// Notes what became of a source; written only if that is something new.
    pub(super) fn note(state: &Path, source: &Path, report: &Report) {
        let before = Self::read(state);
        let mut now = before.clone();
        now.sources.retain(|path, _| Path::new(path).exists());
        let source = absolute(source).unwrap_or_else(|_| source.to_owned()).to_string_lossy().into_owned();
        now.sources.remove(&source);
        if !report.passed_over.is_empty() {
            if now.sources.len() >= MAX_SOURCES {
                now.sources.pop_first();
            }
            now.sources.insert(source, report.passed_over.clone());
        }
        now.failing = report.storing_fails.clone().map(|why| Failing { pid: process::id(), why });
        if now != before || !state.join(FILE).exists() {
            now.write(state);
        }
    }

    /// Every source and what was left aside of it, the newest look at it.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &PassedOver)> {
        let is_there = |(path, _): &(&String, &PassedOver)| Path::new(path).exists();
        self.sources.iter().filter(is_there).map(|(path, passed_over)| (path.as_str(), passed_over))
    }

    /// What a person must look at.
    pub(super) fn problems(&self) -> Vec<String> {
        let failing = self.failing.iter().filter(|failing| is_alive(failing.pid));
        let mut problems: Vec<String> =
            failing.map(|failing| format!("no images are stored for now: {}", failing.why)).collect();
        for (source, passed_over) in self.sources() {
            // A single broken file is no reason to call somebody; it is shown all the same.
            let is_problem = |reason: &Reason| reason.is_trouble() && *reason != Reason::Unusable;
            let sentences = passed_over.sentences().filter(|(reason, _)| is_problem(reason));
            problems.extend(sentences.map(|(_, sentence)| format!("in {source}, {sentence}")));
        }
        problems
    }

    fn write(&self, state: &Path) {
        if let Err(error) = self.overwrite(state) {
            tracing::debug!("what was left aside is not noted for `status`: {error}");
        }
    }

    fn overwrite(&self, state: &Path) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(self).expect("numbers and texts are JSON");
        bytes.resize(bytes.len().next_multiple_of(FILE_BYTES), b' ');
        let mut options = OpenOptions::new();
        let mut file = files::private(options.write(true).create(true).truncate(false)).open(state.join(FILE))?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()
    }
}

/// Whether a process is there, where the system says so.
fn is_alive(pid: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_aside_is_known_until_it_is_not() {
        let state = tempfile::tempdir().unwrap();
        let source = state.path().join("images");
        std::fs::create_dir(&source).unwrap();
        let mut report = Report { storing_fails: Some("the disk is full".into()), ..Report::default() };
        report.passed_over.note(Reason::Permission, "a.png");
        report.passed_over.note(Reason::Unusable, "b.png");
        Intakes::note(state.path(), &source, &report);
        let problems = Intakes::read(state.path()).problems();
        assert_eq!(problems[0], "no images are stored for now: the disk is full");
        assert!(
            problems[1].contains("images, 1 file may not be read by this user (a.png); let the user"),
            "{problems:?}"
        );
        assert_eq!(problems.len(), 2, "a broken file is shown and no problem");
        report.storing_fails = None;
        report.passed_over = PassedOver::default();
        Intakes::note(state.path(), &source, &report);
        assert_eq!(Intakes::read(state.path()), Intakes::default());
        assert_eq!(std::fs::metadata(state.path().join(FILE)).unwrap().len(), FILE_BYTES as u64);
    }
}
