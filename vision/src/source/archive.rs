//! Archives: `.tar`, alone or compressed, of class folders or of CIFAR's binary files.
//!
//! Nothing is unpacked to disk. Members are read as the archive's own headers give them; the long names and extended
//! headers are followed here, because the library would take as much memory for one as an archive asks for.

use core::ops::ControlFlow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use grapevine_host::class_list::canonical;
use tar::{Archive, PaxExtensions};

use super::cifar::{self, Cifar};
use super::error::{EntryError, SourceError};
use super::limits::{MAX_ARCHIVE_FOLDERS, MAX_EXTENDED_HEADER_BYTES, MAX_MEMBER_NAME_BYTES};
use super::names::printable_bytes;
use super::{
    Content, Counts, Images, Split, Surveyed, Visit, class_index, is_hidden, is_image_name, leave_out_unlabelled,
    means_splits, stream,
};
use crate::image_input::MAX_IMAGE_BYTES;
use crate::source::passed_over::{PassedOver, Reason};

/// An archive of class folders.
#[derive(Debug)]
struct Folders {
    path: PathBuf,
    layout: Layout,
    index: BTreeMap<String, u16>,
}

/// An archive of CIFAR's binary files.
#[derive(Debug)]
struct Records {
    path: PathBuf,
}

/// Which folder of a member's path means what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// The folder that names the split.
    split: Option<usize>,
    /// The folder that names the class.
    class: usize,
}

/// One member of an archive.
struct Member<'a> {
    /// The folders and the name, none of them empty, `.` or `..`.
    parts: Vec<String>,
    size: u64,
    is_file: bool,
    reader: &'a mut dyn Read,
}

/// Images per folder, of which the first three levels are told apart.
type Listed = BTreeMap<Vec<String>, u64>;
const LISTED_LEVELS: usize = 3;

/// Reads the archive through once for its names.
pub(super) fn survey(path: &Path, known: &[String]) -> Result<Surveyed, SourceError> {
    let mut listed = Listed::new();
    let mut passed_over = PassedOver::default();
    let mut cifar = Cifar::default();
    each_member(path, &mut |member| {
        if member.is_file && cifar.survey(path, &member.name(), member.reader)? {
            return Ok(ControlFlow::Continue(()));
        }
        if member.is_image() {
            let folders = &member.parts[..member.parts.len() - 1];
            let key = &folders[..folders.len().min(LISTED_LEVELS)];
            if !listed.contains_key(key) && listed.len() == MAX_ARCHIVE_FOLDERS {
                let reason = format!("it has more than {MAX_ARCHIVE_FOLDERS} folders; put images into class folders");
                return Err(SourceError::whole(path, reason));
            }
            *listed.entry(key.to_vec()).or_default() += 1;
        } else if !member.is_hidden() {
            passed_over.note(Reason::Ending, &member.name());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some((classes, counts)) = cifar.finish(path)? {
        return Ok(Surveyed {
            classes,
            counts,
            passed_over: PassedOver::default(),
            images: Box::new(Records { path: path.to_owned() }),
        });
    }
    let layout = Layout::of(&listed, known);
    for (folders, &count) in listed.iter().filter(|(folders, _)| layout.place(folders).is_none()) {
        passed_over.note_many(Reason::NoClass, &folders.join("/"), count);
    }
    let places = || listed.iter().filter_map(|(folders, &count)| Some((layout.place(folders)?, count)));
    let index = class_index(places().map(|((_, class), _)| class));
    let mut counts = Counts::new();
    for ((split, class), count) in places() {
        let Some(&class) = index.get(&class) else { return Err(SourceError::TooManyClasses { path: path.to_owned() }) };
        counts.entry(split).or_insert_with(|| vec![0; index.len()])[usize::from(class)] += count;
    }
    leave_out_unlabelled(&mut counts, |_| true);
    let classes = index.keys().cloned().collect();
    Ok(Surveyed { classes, counts, passed_over, images: Box::new(Folders { path: path.to_owned(), layout, index }) })
}

impl Images for Folders {
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError> {
        each_member(&self.path, &mut |mut member| {
            let place = self.layout.place(&member.parts[..member.parts.len() - 1]);
            let class = place.filter(|place| place.0 == split).and_then(|(_, class)| self.index.get(&class).copied());
            let Some(class) = class.filter(|&class| member.is_image() && visit.wants(class)) else {
                return Ok(ControlFlow::Continue(()));
            };
            let name = member.name();
            let content = member.read().map_err(|error| SourceError::reading(&self.path, Some(&name), &error))?;
            Ok(visit.give(name, class, content))
        })
    }
}

impl Images for Records {
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError> {
        each_member(&self.path, &mut |member| match cifar::Batch::of(member.file_name()) {
            Some(batch) if member.is_file && batch.split() == split => {
                batch.visit(&self.path, &member.name(), member.reader, visit)
            }
            Some(_) | None => Ok(ControlFlow::Continue(())),
        })
    }
}

impl Layout {
    /// A folder around everything means nothing.
    fn of(listed: &Listed, known: &[String]) -> Self {
        let is_split = |level: usize| {
            let names_split = |folders: &Vec<String>| folders.get(level).is_some_and(|f| Split::of_name(f).is_some());
            listed.keys().any(|folders| names_split(folders) && folders.len() > level + 1)
                && means_splits(&folders_at(listed, level), known)
        };
        let first = listed.keys().find_map(|folders| folders.first());
        let has_root = listed.keys().all(|folders| folders.first() == first && folders.len() > 1);
        if is_split(0) {
            Self { split: Some(0), class: 1 }
        } else if has_root && is_split(1) {
            Self { split: Some(1), class: 2 }
        } else {
            Self { split: None, class: usize::from(has_root) }
        }
    }

    /// Split and class of an image in these folders.
    fn place(self, folders: &[String]) -> Option<(Split, String)> {
        let split = match self.split {
            None => Split::Train,
            Some(level) => Split::of_name(folders.get(level)?)?,
        };
        Some((split, canonical(folders.get(self.class)?)))
    }
}

/// The folders at one level, and those in each of them.
fn folders_at(listed: &Listed, level: usize) -> BTreeMap<String, BTreeSet<String>> {
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in listed.keys() {
        let Some(name) = path.get(level) else { continue };
        folders.entry(canonical(name)).or_default().extend(path.get(level + 1).map(|inner| canonical(inner)));
    }
    folders
}

impl Member<'_> {
    fn name(&self) -> String {
        self.parts.join("/")
    }

    fn file_name(&self) -> &str {
        self.parts.last().map_or("", String::as_str)
    }

    fn is_image(&self) -> bool {
        is_image_name(Path::new(self.file_name())) && !self.is_hidden()
    }

    fn is_hidden(&self) -> bool {
        self.parts.iter().any(|part| is_hidden(part.as_ref()))
    }

    fn read(&mut self) -> io::Result<Result<Content, EntryError>> {
        if !self.is_file {
            let reason = "it is no regular file";
            return Ok(Err(io::Error::new(io::ErrorKind::InvalidInput, reason).into()));
        }
        if self.size > MAX_IMAGE_BYTES {
            return Ok(Err(EntryError::TooLarge));
        }
        Ok(Ok(Content::Encoded(read_exactly(self.reader, self.size)?)))
    }
}

/// Calls `visitor` with every member that is no folder, until it breaks off.
fn each_member(
    path: &Path,
    visitor: &mut dyn FnMut(Member<'_>) -> Result<ControlFlow<()>, SourceError>,
) -> Result<(), SourceError> {
    let mut archive = Archive::new(stream::open(path)?);
    // The name of the member before the one that cannot be read says where that is.
    let mut last: Option<String> = None;
    let mut long_name: Option<Vec<u8>> = None;
    let failed = |last: &Option<String>, error: &io::Error| {
        let place = last.as_ref().map(|name| format!("after {name}"));
        SourceError::reading(path, place.as_deref(), error)
    };
    for entry in archive.entries().map_err(|error| failed(&last, &error))?.raw(true) {
        let mut entry = entry.map_err(|error| failed(&last, &error))?;
        let (kind, size) = (entry.header().entry_type(), entry.size());
        if kind.is_gnu_longname() {
            let name = read_header(&mut entry, size, MAX_MEMBER_NAME_BYTES);
            let mut name = name.map_err(|error| failed(&last, &error))?;
            name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
            long_name = Some(name);
            continue;
        }
        if kind.is_pax_local_extensions() {
            let header = read_header(&mut entry, size, MAX_EXTENDED_HEADER_BYTES);
            let header = header.map_err(|error| failed(&last, &error))?;
            long_name = extended_name(&header).map_err(|error| failed(&last, &error))?.or(long_name);
            continue;
        }
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let parts = parts(path, &name)?;
        if kind.is_dir() || parts.is_empty() {
            continue;
        }
        last = Some(parts.join("/"));
        let is_file = kind.is_file() || kind.is_contiguous();
        if visitor(Member { parts, size, is_file, reader: &mut entry })?.is_break() {
            return Ok(());
        }
    }
    // What follows the last member is read too: a compressed archive ends with the checksum of all of it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| failed(&last, &error))?;
    Ok(())
}

/// The folders and the name of a member; refuses one that leads out of the archive.
fn parts(path: &Path, name: &[u8]) -> Result<Vec<String>, SourceError> {
    let refuse = |reason| Err(SourceError::part(path, printable_bytes(name), reason));
    if name.len() as u64 > MAX_MEMBER_NAME_BYTES {
        return refuse("this name is too long to be meant".to_owned());
    }
    if name.starts_with(b"/") || name.split(|&byte| byte == b'/').any(|part| part == b"..") {
        return refuse("this name leads out of the archive; pack it again with relative names".to_owned());
    }
    let parts = name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    Ok(parts.map(printable_bytes).collect())
}

fn read_header(entry: &mut dyn Read, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    if size > limit {
        let reason = format!("a member's header has {size} bytes, more than {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    read_exactly(entry, size)
}

fn extended_name(header: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut name = None;
    for extension in PaxExtensions::new(header) {
        let extension = extension?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            // The real name and size of a file with holes lie elsewhere; no tool packs images so.
            key if key.starts_with(b"GNU.sparse") => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds a sparse file"));
            }
            _ => {}
        }
    }
    Ok(name)
}

/// `size` bytes, which are at most an image's.
fn read_exactly(reader: &mut dyn Read, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
