//! Reads a frozen extractor's manifest and makes sure that the ONNX file beside it is the one it describes.

use core::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Manifest, ManifestError};
use sha2::{Digest, Sha256};

/// Largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Largest ONNX file, in bytes.
pub const MAX_EXTRACTOR_BYTES: u64 = 256 << 20;

/// Read at a time while hashing.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why an extractor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestLoadError {
    /// There is no manifest.
    #[error("there is no extractor manifest at {}; give the path of the `.toml` file beside an `.onnx` file", path.display())]
    NoManifest {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Not TOML, or not a manifest.
    #[error("{} is not an extractor manifest: {reason}", path.display())]
    NotAManifest {
        /// The manifest.
        path: PathBuf,
        /// Line and fault.
        reason: String,
    },
    /// The values cannot be used.
    #[error("the manifest {} cannot be used", path.display())]
    Unusable {
        /// The manifest.
        path: PathBuf,
        /// The fault.
        source: ManifestError,
    },
    /// The ONNX file is missing.
    #[error("the manifest names {}, which does not exist; put the ONNX file beside its manifest", path.display())]
    NoExtractor {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The ONNX file is another one.
    #[error("{} has SHA-256 {found}, but its manifest says {expected}; copy the two files anew, together", path.display())]
    Digest {
        /// The ONNX file.
        path: PathBuf,
        /// What the manifest says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A file is too large to be what it should be.
    #[error("{} is larger than {limit} bytes, the most allowed here; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The operating system refused.
    #[error("could not read {}; check that it is a file and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Reads and checks the manifest at `path`, and checks the ONNX file's size and digest. Returns the manifest and where
/// the ONNX file is.
///
/// # Errors
/// If one of the two files is missing, too large or cannot be read, the manifest cannot be used, or the digests differ.
pub fn load(path: &Path) -> Result<(Manifest, PathBuf), ManifestLoadError> {
    let manifest = parse(&read_text(path)?, path)?;
    let extractor = path.with_file_name(&manifest.file);
    let found = match sha256_limited(&extractor, MAX_EXTRACTOR_BYTES) {
        Err(ManifestLoadError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ManifestLoadError::NoExtractor { path });
        }
        other => other?,
    };
    if found != manifest.sha256 {
        return Err(ManifestLoadError::Digest { path: extractor, expected: manifest.sha256, found });
    }
    Ok((manifest, extractor))
}

/// Parses and checks a manifest's text. `path` is for messages alone.
///
/// # Errors
/// If the text is no manifest, or a value in it cannot be used.
pub fn parse(text: &str, path: &Path) -> Result<Manifest, ManifestLoadError> {
    let not_one = |reason| ManifestLoadError::NotAManifest { path: path.to_owned(), reason };
    let manifest: Manifest = toml::from_str(text).map_err(|error| not_one(describe(&error, text)))?;
    manifest.check().map_err(|source| ManifestLoadError::Unusable { path: path.to_owned(), source })?;
    Ok(manifest)
}

/// Where the manifest of an extractor is: beside an `.onnx` file, or `path` itself.
pub fn beside(path: &Path) -> PathBuf {
    let is_onnx = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
    if is_onnx { path.with_extension("toml") } else { path.to_owned() }
}

/// SHA-256 of a file as 64 lower-case hexadecimal digits, read in pieces.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    digest(File::open(path)?)
}

fn read_text(path: &Path) -> Result<String, ManifestLoadError> {
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            return ManifestLoadError::NoManifest { path: path.to_owned() };
        }
        ManifestLoadError::Io { path: path.to_owned(), source }
    };
    let mut bytes = Vec::new();
    let file = open(path).map_err(failed)?;
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ManifestLoadError::TooLarge { path: path.to_owned(), limit: MAX_MANIFEST_BYTES });
    }
    String::from_utf8(bytes).map_err(|_| ManifestLoadError::NotAManifest {
        path: path.to_owned(),
        reason: "it is not text; give the path of the `.toml` file".to_owned(),
    })
}

fn sha256_limited(path: &Path, limit: u64) -> Result<String, ManifestLoadError> {
    let failed = |source| ManifestLoadError::Io { path: path.to_owned(), source };
    let file = open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > limit {
        return Err(ManifestLoadError::TooLarge { path: path.to_owned(), limit });
    }
    // A file that grows while it is read has another digest than its manifest says, so reading the limit is enough.
    digest(file.take(limit)).map_err(failed)
}

/// Opens a regular file. Others are not even opened: a pipe would wait for its other end.
fn open(path: &Path) -> io::Result<File> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if metadata.is_file() { File::open(path) } else { Err(io::Error::other("it is no regular file")) }
}

fn digest(mut reader: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn describe(error: &toml::de::Error, text: &str) -> String {
    match error.span() {
        Some(span) => format!("line {}: {}", grapevine_host::config::line_of(text, span.start), error.message()),
        None => error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of "abc", FIPS 180-4.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn text(sha256: &str) -> String {
        format!(
            "name = 'tiny'\nfile = 'tiny.onnx'\nsha256 = '{sha256}'\nlicense = 'MIT'\nmade_by = 'hand'\n\
             [input]\nwidth = 8\nheight = 8\nchannels = 1\nlayout = 'NCHW'\nmean = [0.0]\nstd = [1.0]\n\
             [output]\nname = 'features'\nfeatures = 2\nmean = [0.0, 0.0]\nstd = [1.0, 1.0]\n"
        )
    }

    fn folder(manifest: &str, onnx: Option<&[u8]>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.toml");
        fs::write(&path, manifest).unwrap();
        if let Some(bytes) = onnx {
            fs::write(folder.path().join("tiny.onnx"), bytes).unwrap();
        }
        (folder, path)
    }

    #[test]
    fn a_whole_extractor_loads() {
        let (folder, path) = folder(&text(ABC), Some(b"abc"));
        let (manifest, extractor) = load(&path).unwrap();
        assert_eq!(manifest.output.features, 2);
        assert_eq!(extractor, folder.path().join("tiny.onnx"));
        assert_eq!(sha256_file(&extractor).unwrap(), ABC);
    }

    #[test]
    fn each_fault_has_its_own_sentence() {
        let refused = |manifest: &str, onnx: Option<&[u8]>| {
            let (_folder, path) = folder(manifest, onnx);
            load(&path).unwrap_err()
        };
        assert!(matches!(load(Path::new("/nowhere/a.toml")), Err(ManifestLoadError::NoManifest { .. })));
        assert!(matches!(refused(&text(ABC), None), ManifestLoadError::NoExtractor { .. }));
        assert!(matches!(refused(&text("00"), Some(b"abc")), ManifestLoadError::Unusable { .. }));
        let wrong = refused(&text(ABC), Some(b"abd")).to_string();
        assert!(wrong.contains(ABC) && wrong.contains("a52d159f"), "{wrong}");
        let unknown = refused(&text(ABC).replace("width", "widht"), Some(b"abc")).to_string();
        assert!(unknown.contains("line 7") && unknown.contains("widht"), "{unknown}");
        assert!(refused("name = [", None).to_string().contains("line 1"));
        let large = " ".repeat(MAX_MANIFEST_BYTES as usize + 1);
        assert!(matches!(refused(&large, None), ManifestLoadError::TooLarge { .. }));
    }

    #[test]
    fn a_manifest_is_beside_its_extractor() {
        assert_eq!(beside(Path::new("a/b.onnx")), Path::new("a/b.toml"));
        assert_eq!(beside(Path::new("a/b.toml")), Path::new("a/b.toml"));
        assert_eq!(beside(Path::new("a/b")), Path::new("a/b"));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(load(folder.path()), Err(ManifestLoadError::Io { .. })));
        #[cfg(unix)]
        assert!(matches!(load(Path::new("/dev/zero")), Err(ManifestLoadError::Io { .. })));
    }

    #[test]
    fn a_huge_extractor_is_refused_unread() {
        let (folder, path) = folder(&text(ABC), None);
        let huge = File::create(folder.path().join("tiny.onnx")).unwrap();
        huge.set_len(MAX_EXTRACTOR_BYTES + 1).unwrap();
        assert!(matches!(load(&path), Err(ManifestLoadError::TooLarge { .. })));
    }
}
