//! Class folders: `<class>/**/*.png`.
//!
//! Files are taken in the order the file system gives them: sorting would hold all their names in memory.

use core::ops::ControlFlow;
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use grapevine_host::class_list::canonical;

use super::error::{EntryError, SourceError};
use super::limits::{MAX_CLASSES, MAX_FOLDER_DEPTH};
use super::{Content, Visit, is_hidden, is_image_name, printable};
use crate::image_input::read_limited;
use crate::source::passed_over::{PassedOver, Reason};

/// A folder and the name of its class.
#[derive(Debug)]
pub(super) struct ClassFolder {
    pub(super) class: String,
    path: PathBuf,
}

/// The folders right below `folder`, by name. A link to a folder is one. What lies beside them is of no class.
pub(super) fn class_folders(folder: &Path, passed_over: &mut PassedOver) -> Result<Vec<ClassFolder>, SourceError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| SourceError::list(folder, source))? {
        let entry = entry.map_err(|source| SourceError::list(folder, source))?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        if !entry.path().is_dir() {
            let is_image = is_image_name(Path::new(&entry.file_name()));
            passed_over.note(if is_image { Reason::NoClass } else { Reason::Ending }, &printable(&entry.path()));
            continue;
        }
        if folders.len() == MAX_CLASSES {
            return Err(SourceError::TooManyClasses { path: folder.to_owned() });
        }
        let class = canonical(&printable(Path::new(&entry.file_name())));
        folders.push(ClassFolder { class, path: entry.path() });
    }
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(folders)
}

impl ClassFolder {
    /// How many images [`ClassFolder::visit`] would give. Notes what it would not.
    pub(super) fn count(&self, passed_over: &mut PassedOver) -> Result<u64, SourceError> {
        let mut count = 0;
        // Never breaks off.
        let _ = each_image(&self.path, 0, passed_over, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    pub(super) fn visit(&self, class: u16, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, SourceError> {
        // What is passed over was noted when the folder was counted.
        let mut noted = PassedOver::default();
        each_image(&self.path, 0, &mut noted, &mut |path| visit.give_file(printable(path), class, path))
    }
}

/// Reads one image file, within [`crate::image_input::MAX_IMAGE_BYTES`].
///
/// # Errors
/// If the file is too large, or cannot be read.
pub fn read_image(path: &Path) -> Result<Content, EntryError> {
    read_limited(path)?.map(Content::Encoded).ok_or(EntryError::TooLarge)
}

/// Everything below `folder` under an image's name, whatever it is. Links to folders are not followed here, so there are
/// no loops.
fn each_image(
    folder: &Path,
    depth: usize,
    passed_over: &mut PassedOver,
    visitor: &mut dyn FnMut(&Path) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, SourceError> {
    let entries = match fs::read_dir(folder) {
        // A folder inside a class may go while it is looked at.
        Err(error) if depth > 0 && error.kind() == ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
        // One closed folder does not keep the others from being read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            passed_over.note(Reason::ClosedFolder, &printable(folder));
            return Ok(ControlFlow::Continue(()));
        }
        entries => entries.map_err(|source| SourceError::list(folder, source))?,
    };
    for entry in entries {
        let entry = entry.map_err(|source| SourceError::list(folder, source))?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let step = if is_image_name(Path::new(&entry.file_name())) {
            visitor(&entry.path())
        } else if is_plain_folder(&entry) {
            if depth == MAX_FOLDER_DEPTH {
                let reason = format!("it lies more than {MAX_FOLDER_DEPTH} folders below its class; move it up");
                return Err(SourceError::whole(&entry.path(), reason));
            }
            each_image(&entry.path(), depth + 1, passed_over, visitor)?
        } else {
            passed_over.note(Reason::Ending, &printable(&entry.path()));
            ControlFlow::Continue(())
        };
        if step.is_break() {
            return Ok(step);
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn is_plain_folder(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}
