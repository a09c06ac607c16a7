//! IDX files, as the MNIST family comes in: `<set>-images-idx3-ubyte` and `<set>-labels-idx1-ubyte`, compressed or not.
//!
//! Classes are called by their numbers unless a file `classes.txt` beside them lists names, one a line.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use grapevine_host::class_list;

use super::error::SourceError;
use super::limits::MAX_NAMES_BYTES;
use super::{Content, Images, Pixels, Split, Surveyed, Visit, printable, stream};
use crate::image_input::{MAX_IMAGE_BYTES, MAX_IMAGE_SIDE};
use crate::source::passed_over::PassedOver;

const IMAGES_MAGIC: [u8; 4] = [0, 0, 8, 3];
const LABELS_MAGIC: [u8; 4] = [0, 0, 8, 1];
const NAMES_FILE: &str = "classes.txt";
const LABELS: usize = 1 << 8;

#[derive(Debug)]
struct Files {
    pairs: BTreeMap<Split, Pair>,
}

/// Images and their labels.
#[derive(Debug)]
struct Pair {
    images: PathBuf,
    labels: PathBuf,
}

/// Looks at a folder; `None` if it holds no such files.
pub(super) fn survey_folder(path: &Path) -> Result<Option<Surveyed>, SourceError> {
    let mut pairs: BTreeMap<Split, Pair> = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(|source| SourceError::list(path, source))? {
        let images = entry.map_err(|source| SourceError::list(path, source))?.path();
        let Some(pair) = Pair::of(&images) else { continue };
        let split = split_of(&pair.images);
        match pairs.get(&split).map(|other| without_gz(&other.images)) {
            None => drop(pairs.insert(split, pair)),
            // The same file as it was downloaded and unpacked: either will do.
            Some(other) if other == without_gz(&images) => {}
            Some(_) => {
                let reason = format!("it holds several sets of {split} images; name one of the files");
                return Err(SourceError::whole(path, reason));
            }
        }
    }
    if pairs.is_empty() { Ok(None) } else { survey(path, pairs).map(Some) }
}

/// A file of images that was named itself.
pub(super) fn survey_file(path: &Path) -> Result<Surveyed, SourceError> {
    let Some(pair) = Pair::of(path) else {
        let reason = "a file of IDX images is called `<set>-images-idx3-ubyte`, beside it `<set>-labels-idx1-ubyte`";
        return Err(SourceError::whole(path, reason));
    };
    survey(path.parent().unwrap_or(Path::new("")), BTreeMap::from([(split_of(path), pair)]))
}

fn survey(folder: &Path, pairs: BTreeMap<Split, Pair>) -> Result<Surveyed, SourceError> {
    let counts = pairs.iter().map(|(&split, pair)| Ok((split, pair.survey()?))).collect::<Result<_, SourceError>>()?;
    let mut counts: BTreeMap<Split, Vec<u64>> = counts;
    let used = counts.values().filter_map(|counts| counts.iter().rposition(|&count| count > 0)).max();
    let used = used.map_or(0, |last| last + 1);
    let path = folder.join(NAMES_FILE);
    let classes: Vec<String> = match read_names(&path)? {
        None => (0..used).map(|label| label.to_string()).collect(),
        Some(names) if (used..=LABELS).contains(&names.len()) => names,
        Some(names) => {
            let reason = format!("it lists {} classes, but the labels go from 0 to {}", names.len(), used - 1);
            return Err(SourceError::whole(&path, reason));
        }
    };
    counts.values_mut().for_each(|counts| counts.truncate(classes.len()));
    Ok(Surveyed { classes, counts, passed_over: PassedOver::default(), images: Box::new(Files { pairs }) })
}

impl Images for Files {
    fn visit(&self, split: Split, visit: &mut Visit<'_>) -> Result<(), SourceError> {
        let Some(pair) = self.pairs.get(&split) else { return Ok(()) };
        let file = pair.images.file_name().map_or_else(String::new, |name| printable(Path::new(name)));
        let (mut labels, count) = open_labels(&pair.labels)?;
        let mut images = OpenImages::open(&pair.images)?;
        for number in 0..count.min(images.count) {
            let mut label = [0];
            labels.read_exact(&mut label).map_err(|error| SourceError::reading(&pair.labels, None, &error))?;
            let class = u16::from(label[0]);
            let wanted = visit.wants(class);
            let pixels = images.next(wanted)?;
            if wanted && visit.give(format!("{file}#{number}"), class, Ok(Content::Pixels(pixels))).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Pair {
    /// By the name of the images' file.
    fn of(images: &Path) -> Option<Self> {
        let name = images.file_name()?.to_str()?;
        let plain = name.strip_suffix(".gz").unwrap_or(name);
        if !(plain.ends_with("images-idx3-ubyte") || plain.ends_with("images.idx3-ubyte")) {
            return None;
        }
        let labels = name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1");
        let beside = images.with_file_name(&labels);
        // One of the two may have been unpacked and the other not.
        let other = match labels.strip_suffix(".gz") {
            Some(plain) => plain.to_owned(),
            None => labels + ".gz",
        };
        let labels = if beside.exists() { beside } else { images.with_file_name(other) };
        Some(Self { images: images.to_owned(), labels })
    }

    /// Images per label; reads both files through.
    fn survey(&self) -> Result<Vec<u64>, SourceError> {
        let (mut labels, count) = open_labels(&self.labels)?;
        let mut images = OpenImages::open(&self.images)?;
        if images.count != count {
            let reason = format!("it holds {} images, but {} labels belong to it", images.count, count);
            return Err(SourceError::whole(&self.images, reason));
        }
        let mut counts = vec![0; LABELS];
        let mut label = [0];
        for _ in 0..count {
            labels.read_exact(&mut label).map_err(|error| SourceError::reading(&self.labels, None, &error))?;
            counts[usize::from(label[0])] += 1;
        }
        images.finish()?;
        expect_end(&mut *labels, &self.labels)?;
        Ok(counts)
    }
}

fn open_labels(path: &Path) -> Result<(Box<dyn Read>, u32), SourceError> {
    let mut stream = stream::open(path)?;
    let [count] = header(&mut *stream, path, LABELS_MAGIC)?;
    Ok((stream, count))
}

/// A file of images that is being read.
struct OpenImages<'a> {
    path: &'a Path,
    stream: Box<dyn Read>,
    count: u32,
    width: u32,
    height: u32,
}

impl<'a> OpenImages<'a> {
    fn open(path: &'a Path) -> Result<Self, SourceError> {
        let mut stream = stream::open(path)?;
        let [count, height, width] = header(&mut *stream, path, IMAGES_MAGIC)?;
        let sides = 1..=MAX_IMAGE_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) || u64::from(width) * u64::from(height) > MAX_IMAGE_BYTES
        {
            let reason = format!("its header claims images of {width} x {height} pixels");
            return Err(SourceError::damaged(path, None, reason));
        }
        Ok(Self { path, stream, count, width, height })
    }

    /// The next image, or one without pixels if nobody wants it.
    fn next(&mut self, wanted: bool) -> Result<Pixels, SourceError> {
        let size = u64::from(self.width) * u64::from(self.height);
        let mut bytes = Vec::new();
        let mut image = (&mut self.stream).take(size);
        let read = if wanted { image.read_to_end(&mut bytes).map(|_| ()) } else { drain(&mut image) };
        read.map_err(|error| SourceError::reading(self.path, None, &error))?;
        if image.limit() > 0 {
            return Err(SourceError::reading(self.path, None, &io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Pixels { width: self.width, height: self.height, channels: 1, bytes })
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        for _ in 0..self.count {
            self.next(false)?;
        }
        expect_end(&mut *self.stream, self.path)
    }
}

fn header<const NUMBERS: usize>(
    stream: &mut dyn Read,
    path: &Path,
    magic: [u8; 4],
) -> Result<[u32; NUMBERS], SourceError> {
    let mut number = || {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let failed = |error: io::Error| SourceError::reading(path, None, &error);
    if number().map_err(failed)? != magic {
        let what = if magic == LABELS_MAGIC { "labels" } else { "images" };
        return Err(SourceError::damaged(path, None, format!("it does not begin as a file of IDX {what} does")));
    }
    let mut numbers = [0; NUMBERS];
    for each in &mut numbers {
        *each = u32::from_be_bytes(number().map_err(failed)?);
    }
    Ok(numbers)
}

fn expect_end(stream: &mut dyn Read, path: &Path) -> Result<(), SourceError> {
    match stream::fill(stream, &mut [0]).map_err(|error| SourceError::reading(path, None, &error))? {
        0 => Ok(()),
        _ => Err(SourceError::damaged(path, None, "it is longer than its header says")),
    }
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    io::copy(reader, &mut io::sink()).map(|_| ())
}

fn split_of(path: &Path) -> Split {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if name.contains("t10k") || name.contains("test") {
        Split::Test
    } else if name.contains("val") {
        Split::Validation
    } else {
        Split::Train
    }
}

fn without_gz(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "gz") { path.with_extension("") } else { path.to_owned() }
}

fn read_names(path: &Path) -> Result<Option<Vec<String>>, SourceError> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    let read = stream::open(path)?.take(MAX_NAMES_BYTES).read_to_string(&mut text);
    read.map_err(|error| SourceError::reading(path, None, &error))?;
    Ok(Some(class_list::lines(&text)))
}
