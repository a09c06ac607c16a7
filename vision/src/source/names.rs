//! Names of files: which are images, and how to show them.

use core::fmt::Write as _;
use std::ffi::OsStr;
use std::path::Path;

/// Files that are read as images. Those of other formats are read too, so that their owner hears what to do with them.
const IMAGE_EXTENSIONS: [&str; 36] = [
    "png", "jpg", "jpeg", "jpe", "jfif", // understood
    "gif", "bmp", "webp", "tif", "tiff", "heic", "heif", "hif", "avif", "ppm", "pgm", "pbm", "pnm", "apng", "jp2",
    "j2k", "jxl", "tga", "ico", "psd", "svg", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "raw", "exr",
];

/// Whether a file of this name is meant to be an image.
pub fn is_image_name(name: &Path) -> bool {
    has_extension(name, &IMAGE_EXTENSIONS)
}

/// Whether the name ends in one of these extensions, whatever their case.
pub(super) fn has_extension(name: &Path, extensions: &[&str]) -> bool {
    let extension = name.extension().and_then(OsStr::to_str).unwrap_or_default();
    extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Files of editors, file managers and file systems.
pub fn is_hidden(name: &OsStr) -> bool {
    let of_systems = ["__MACOSX", "lost+found", "Thumbs.db", "desktop.ini"];
    name.as_encoded_bytes().starts_with(b".") || of_systems.iter().any(|of_system| name == *of_system)
}

/// A path on one line: control characters and bytes that are no text are escaped.
pub fn printable(path: &Path) -> String {
    printable_bytes(path.as_os_str().as_encoded_bytes())
}

/// [`printable`] for a name out of an archive.
pub(super) fn printable_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_on_one_line() {
        for (bytes, expected) in [
            (&b"pictures/caf\xc3\xa9.png"[..], "pictures/café.png"),
            (b"a\nb.png", "a\\nb.png"),
            (b"a\x1b[2Jb\xff\xfe.png", "a\\u{1b}[2Jb\\xff\\xfe.png"),
            (b"", ""),
        ] {
            assert_eq!(printable_bytes(bytes), expected);
        }
    }

    #[test]
    fn extensions_tell_images() {
        for name in ["a.png", "b.JPG", "c.Jpeg", "d.gif"] {
            assert!(is_image_name(Path::new(name)), "{name}");
        }
        for name in ["png", "a.txt", ".png", "a.png.tmp", "a."] {
            assert!(!is_image_name(Path::new(name)), "{name}");
        }
        assert!(is_hidden(OsStr::new("._0001.jpg")) && !is_hidden(OsStr::new("a.jpg")));
    }
}
