//! A folder that a camera writes into: which of its images are complete.
//!
//! The folder is looked through again and again. That costs a little work, and works everywhere: notices from the system
//! (inotify) do not come for what another machine writes to a network mount, are dropped when a queue is full, and are
//! limited per user. A file counts as complete when its size and time have not changed between looks for [`SETTLE`], by
//! our own clock; a file that is moved in under its final name is complete from the start and is only met a moment later.
//!
//! One [`Watch::look`] after another, [`Watch::pause`] apart, gives every image once, and again after it changed. What it
//! does not give (other files, closed folders) is counted, see [`Watch::tally`].

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use grapevine_host::class_list::canonical;
use grapevine_host::clock::unix_ms;

use grapevine_vision::source::passed_over::{PassedOver, Reason};
use grapevine_vision::source::{MAX_FOLDER_DEPTH, Mark, is_hidden, is_image_name, printable};

/// How long a file stays the same before it counts as complete.
pub const SETTLE: Duration = Duration::from_secs(2);
/// How long a file that was given back stays the same before it is given a last time.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Most images of one look.
pub const MAX_BATCH: usize = 64;
/// Most images of a folder; each takes some 60 bytes of memory.
pub const MAX_FILES: usize = 1_000_000;

/// Shortest time between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest time between two looks, however large the folder is.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between looks passes so many times the time that a look takes: 5 % of one core at most.
const REST: u32 = 20;
/// Most complete images that wait to be given.
const MAX_READY: usize = 4_096;

/// A folder that is being watched.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    files: BTreeMap<u64, File>,
    ready: VecDeque<Arrival>,
    tally: Tally,
    /// What was passed over and has been said.
    said: PassedOver,
    looks: u32,
    pause: Duration,
}

/// An image that is complete, as far as its size and time tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The file.
    pub path: PathBuf,
    /// The folder right below the watched one that it lies in; `None` if it lies in the watched folder itself.
    pub class: Option<String>,
    /// Whether it was given before, and has not changed for [`PATIENCE`].
    pub last_try: bool,
    /// Its path and state when it was met.
    pub mark: Mark,
}

/// What the last look through the folder met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What cannot be given.
    pub passed_over: PassedOver,
    /// Images in each folder right below the watched one; those in itself are under `None`.
    pub by_folder: BTreeMap<Option<String>, u64>,
}

/// Whether an image need not be given when it is met first, by its class folder and its mark.
type Known<'a> = dyn FnMut(Option<&str>, Mark) -> bool + 'a;

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The folder itself cannot be listed.
    #[error("cannot watch {}: {source}; check that the folder exists and may be read", printable(path))]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too many images to remember.
    #[error("{} holds more than {limit} images; move those away that were taken", printable(path), limit = MAX_FILES)]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

/// What is remembered of a file, under [`Mark::file`], 64 bits of its path's hash: a path itself takes several times the memory. Two paths
/// of one hash would look like one file that never settles; a million paths hold such a pair once in 30 million folders.
#[derive(Clone, Copy, Debug)]
struct File {
    /// [`Mark::stamp`].
    stamp: u64,
    /// When the stamp was first met.
    since: Duration,
    state: State,
    /// The last look that met the file.
    look: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Settling,
    Given,
    GivenBack,
}

impl Watch {
    /// A watch over `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: BTreeMap::new(),
            ready: VecDeque::new(),
            tally: Tally::default(),
            said: PassedOver::default(),
            looks: 0,
            pause: SHORTEST_PAUSE,
        }
    }

    /// The watched folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses a folder that cannot be listed now.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn check(&self) -> Result<(), WatchError> {
        let listed = fs::read_dir(&self.folder).map(|_| ());
        listed.map_err(|source| WatchError::List { path: self.folder.clone(), source })
    }

    /// Gives up to [`MAX_BATCH`] images that are complete and were not given yet, or have changed since. `now` is the time
    /// since any fixed moment. An error is about the whole folder and may pass: a mount can come back.
    ///
    /// # Errors
    /// If the folder cannot be listed, or holds too many images.
    pub fn look(&mut self, now: Duration) -> Result<Vec<Arrival>, WatchError> {
        let arrivals = self.look_but(now, &mut |_, _| false)?;
        for reason in [Reason::ClosedFolder, Reason::Permission] {
            let (named, said) = (self.tally.passed_over.of(reason), self.said.of(reason));
            if let Some(named) = named.filter(|named| said != Some(*named)) {
                tracing::warn!("{}", named.sentence(reason));
            }
        }
        self.said.clone_from(&self.tally.passed_over);
        Ok(arrivals)
    }

    /// As [`Watch::look`], but leaves out an image that `known` says yes to when it is met first.
    ///
    /// # Errors
    /// If the folder cannot be listed, or holds too many images.
    pub fn look_but(
        &mut self,
        now: Duration,
        known: &mut dyn FnMut(Option<&str>, Mark) -> bool,
    ) -> Result<Vec<Arrival>, WatchError> {
        if self.ready.is_empty() {
            let started = clock();
            let looked = self.look_through(now, known);
            self.pause = (started.elapsed() * REST).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            looked?;
        }
        Ok(self.ready.drain(..self.ready.len().min(MAX_BATCH)).collect())
    }

    /// An image turned out to be unusable, perhaps because it is still being written. It is given again when it has
    /// changed, and else once more after [`PATIENCE`]; what is given back a second time is not given again.
    pub fn give_back(&mut self, arrival: &Arrival) {
        if arrival.last_try {
            return;
        }
        if let Some(file) = self.files.get_mut(&arrival.mark.file) {
            file.state = State::GivenBack;
        }
    }

    /// Gives an image again with the next look, whatever became of it.
    pub fn give_again(&mut self, file: u64) {
        if let Some(file) = self.files.get_mut(&file) {
            file.state = State::Settling;
        }
    }

    /// Whether the last look met this file, see [`Mark::file`].
    pub fn holds(&self, file: u64) -> bool {
        self.files.contains_key(&file)
    }

    /// How many images the last look met.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// What the last look met and could not give.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How long to wait before the next look: nothing while more images are ready.
    pub fn pause(&self) -> Duration {
        if self.ready.is_empty() { self.pause } else { Duration::ZERO }
    }

    fn look_through(&mut self, now: Duration, known: &mut Known<'_>) -> Result<(), WatchError> {
        self.looks = self.looks.wrapping_add(1);
        self.tally = Tally::default();
        let folder = self.folder.clone();
        let list_error = |source| WatchError::List { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            if is_hidden(&entry.file_name()) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => {
                    let class = canonical(&printable(Path::new(&entry.file_name())));
                    self.look_into(&entry.path(), &class, 0, now, known)?;
                }
                Ok(metadata) => self.meet(&entry, &metadata, None, now, known)?,
                Err(error) => self.tally.note_error(&entry.path(), &error),
            }
        }
        let look = self.looks;
        self.files.retain(|_, file| file.look == look);
        Ok(())
    }

    fn look_into(
        &mut self,
        folder: &Path,
        class: &str,
        depth: usize,
        now: Duration,
        known: &mut Known<'_>,
    ) -> Result<(), WatchError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.tally.passed_over.note(Reason::ClosedFolder, &printable(folder));
                }
                return Ok(());
            }
        };
        for entry in entries.flatten().filter(|entry| !is_hidden(&entry.file_name())) {
            let Ok(kind) = entry.file_type() else { continue };
            // Links to folders are not followed here, so there are no loops.
            if kind.is_dir() && depth < MAX_FOLDER_DEPTH {
                self.look_into(&entry.path(), class, depth + 1, now, known)?;
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) => self.meet(&entry, &metadata, Some(class), now, known)?,
                Err(error) => self.tally.note_error(&entry.path(), &error),
            }
        }
        Ok(())
    }

    fn meet(
        &mut self,
        entry: &DirEntry,
        metadata: &Metadata,
        class: Option<&str>,
        now: Duration,
        known: &mut Known<'_>,
    ) -> Result<(), WatchError> {
        if !is_image_name(Path::new(&entry.file_name())) {
            self.tally.passed_over.note(Reason::Ending, &printable(&entry.path()));
            return Ok(());
        }
        if !metadata.is_file() {
            return Ok(());
        }
        match self.tally.by_folder.get_mut(&class.map(str::to_owned)) {
            Some(count) => *count += 1,
            None => drop(self.tally.by_folder.insert(class.map(str::to_owned), 1)),
        }
        let (path, look) = (entry.path(), self.looks);
        let mark = Mark::of(&path, metadata, unix_ms());
        let (key, stamp) = (mark.file, mark.stamp);
        let is_first = !self.files.contains_key(&key);
        if self.files.len() == MAX_FILES && is_first {
            return Err(WatchError::TooMany { path: self.folder.clone() });
        }
        let fresh = File { stamp, since: now, state: State::Settling, look };
        let file = self.files.entry(key).or_insert(fresh);
        if file.stamp != stamp {
            *file = fresh;
        }
        file.look = look;
        if is_first && known(class, mark) {
            file.state = State::Given;
        }
        let unchanged = now.saturating_sub(file.since);
        let (is_due, last_try) = match file.state {
            State::Settling => (unchanged >= SETTLE, false),
            State::GivenBack => (unchanged >= PATIENCE, true),
            State::Given => (false, false),
        };
        if is_due && self.ready.len() < MAX_READY {
            file.state = State::Given;
            self.ready.push_back(Arrival { path, class: class.map(str::to_owned), last_try, mark });
        }
        Ok(())
    }
}

impl Tally {
    /// A file that has gone meanwhile, or a link to nothing, is not worth a word.
    fn note_error(&mut self, path: &Path, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.passed_over.note(Reason::Permission, &printable(path));
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "how long a look takes decides how often there is one")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Camera {
        folder: tempfile::TempDir,
        watch: Watch,
        seconds: u64,
    }

    impl Camera {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let watch = Watch::new(folder.path());
            Self { folder, watch, seconds: 100 }
        }

        fn write(&self, name: &str, content: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn arrivals(&mut self) -> Vec<Arrival> {
            let mut arrivals = self.watch.look(Duration::from_secs(self.seconds)).unwrap();
            arrivals.sort_by(|a, b| a.path.cmp(&b.path));
            arrivals
        }

        /// The names of a look after some more seconds.
        fn after(&mut self, seconds: u64) -> Vec<String> {
            self.seconds += seconds;
            let folder = self.folder.path().to_owned();
            let name = |arrival: Arrival| {
                let name = arrival.path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
                format!("{}{name}", if arrival.last_try { "last try of " } else { "" })
            };
            self.arrivals().into_iter().map(name).collect()
        }
    }

    #[test]
    fn files_are_given_once_when_they_have_settled() {
        let mut camera = Camera::new();
        camera.write("cat/1.png", "whole");
        camera.write("2.JPG", "whole");
        camera.write("cat/notes.txt", "no image");
        camera.write("cat/.hidden.png", "no image");
        assert!(camera.after(0).is_empty(), "they may still be growing");
        assert!(camera.after(1).is_empty());
        assert_eq!(camera.after(1), ["2.JPG", "cat/1.png"]);
        assert!(camera.after(5).is_empty());
        camera.write("dog/deep/3.png", "a folder that came later");
        assert!(camera.after(1).is_empty());
        assert_eq!(camera.after(2), ["dog/deep/3.png"]);
        assert!(camera.after(1_000).is_empty());
    }

    #[test]
    fn the_class_is_the_folder_below_the_watched_one() {
        let mut camera = Camera::new();
        camera.write("1.png", "");
        camera.write("cat/2026-01-01/2.png", "");
        camera.after(0);
        camera.seconds += 2;
        let classes: Vec<Option<String>> = camera.arrivals().into_iter().map(|arrival| arrival.class).collect();
        assert_eq!(classes, [None, Some("cat".to_owned())]);
    }

    #[test]
    fn a_file_that_grows_is_not_given() {
        let mut camera = Camera::new();
        let mut content = String::new();
        for _ in 0..10 {
            content.push('x');
            camera.write("cat/1.png", &content);
            assert!(camera.after(1).is_empty());
        }
        assert_eq!(camera.after(2), ["cat/1.png"]);
        camera.write("cat/1.png", "taken again in place");
        assert!(camera.after(1).is_empty());
        assert_eq!(camera.after(2), ["cat/1.png"], "a changed file is another image");
    }

    #[test]
    fn what_is_given_back_comes_again_when_it_changed_or_a_last_time() {
        let mut camera = Camera::new();
        camera.write("cat/1.png", "half");
        camera.after(0);
        camera.seconds += 2;
        let half = camera.arrivals().remove(0);
        camera.watch.give_back(&half);
        assert!(camera.after(10).is_empty());
        camera.write("cat/1.png", "half and more");
        assert!(camera.after(1).is_empty());
        camera.seconds += 2;
        let more = camera.arrivals().remove(0);
        assert!(!more.last_try, "it changed, so it begins anew");
        camera.watch.give_back(&more);
        assert!(camera.after(27).is_empty());
        camera.seconds += 3;
        let last = camera.arrivals().remove(0);
        assert!(last.last_try);
        camera.watch.give_back(&last);
        assert!(camera.after(1_000).is_empty(), "there is no try after the last one");
    }

    #[test]
    fn files_and_folders_may_go_and_come_back() {
        let mut camera = Camera::new();
        camera.write("cat/1.png", "a");
        camera.after(0);
        fs::remove_dir_all(camera.folder.path().join("cat")).unwrap();
        assert!(camera.after(5).is_empty());
        assert!(camera.watch.files.is_empty(), "what is gone is forgotten");
        camera.write("cat/1.png", "a");
        assert!(camera.after(1).is_empty());
        assert_eq!(camera.after(2), ["cat/1.png"]);
        let path = camera.folder.path().to_owned();
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        let error = camera.watch.look(Duration::from_secs(1_000)).unwrap_err();
        assert!(error.to_string().contains("cannot watch"), "{error}");
        fs::rename(&aside, &path).unwrap();
        assert!(camera.after(1_000).is_empty(), "a mount that was away for a moment brings nothing twice");
    }

    #[test]
    fn a_full_folder_comes_in_batches_without_waiting() {
        let mut camera = Camera::new();
        for number in 0..150 {
            camera.write(&format!("cat/{number:03}.png"), "a");
        }
        camera.after(0);
        assert_eq!(camera.watch.pause(), SHORTEST_PAUSE);
        let mut given = BTreeSet::new();
        for (batch, pause) in [(64, Duration::ZERO), (64, Duration::ZERO), (22, SHORTEST_PAUSE)] {
            let names = camera.after(if given.is_empty() { 2 } else { 0 });
            assert_eq!((names.len(), camera.watch.pause()), (batch, pause));
            given.extend(names);
        }
        assert_eq!(given.len(), 150);
    }

    #[cfg(unix)]
    #[test]
    fn links_pipes_and_folders_under_image_names_are_passed_over() {
        let mut camera = Camera::new();
        let path = |name: &str| camera.folder.path().join(name);
        fs::create_dir_all(path("cat/folder.png")).unwrap();
        std::os::unix::fs::symlink("loop.png", path("cat/loop.png")).unwrap();
        std::os::unix::fs::symlink("..", path("cat/up")).unwrap();
        std::os::unix::fs::symlink("nothing", path("nothing.png")).unwrap();
        camera.write("dog/1.png", "a");
        std::os::unix::fs::symlink("../dog/1.png", camera.folder.path().join("cat/link.png")).unwrap();
        camera.after(0);
        assert_eq!(camera.after(2), ["cat/link.png", "dog/1.png"]);
    }
}
