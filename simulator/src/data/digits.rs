//! The shipped data set: 1,797 handwritten digits of 8x8 grey pixels, compiled into the program.
//!
//! The file is `GVDIGITS1\n`, a little-endian `u32` count, one byte each of height and width (8 and 8), then `count`
//! label bytes, then `count * 64` pixel bytes. `data/digits.LICENSE.md` names its source.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageFormat};

/// Classes of the data set: the digits 0 to 9.
pub const CLASSES: usize = 10;
/// Height and width of an image.
pub const SIDE: usize = 8;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// Images of each class set aside for testing.
pub const TEST_PER_CLASS: usize = 50;
/// Images of each class set aside, from the training pool, for tuning.
pub const VALIDATION_PER_CLASS: usize = 20;

const MAGIC: &[u8] = b"GVDIGITS1\n";
const HEADER_BYTES: usize = MAGIC.len() + 4 + 2;
/// The file as it is compiled in.
pub const SHIPPED: &[u8] = include_bytes!("../../data/digits.bin");

/// Images and their labels, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digits {
    /// Grey pixels, 0 is black: `[image][row * 8 + column]`.
    pub images: Vec<[u8; PIXELS]>,
    /// The digit that each image shows.
    pub labels: Vec<u8>,
}

/// Two disjoint sets of images, as indices into [`Digits`]: class after class, in file order within a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What training may draw from.
    pub pool: Vec<u32>,
    /// What is set aside: equally many images of every class.
    pub held_out: Vec<u32>,
}

/// Why bytes are not a digits file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigitsError {
    /// The file starts differently.
    #[error("not a digits file: it does not begin with GVDIGITS1; write it again with models/export/digits_data.py")]
    Magic,
    /// The images have another size.
    #[error("images of {height}x{width} pixels: only 8x8 is supported")]
    Size {
        /// Rows per image.
        height: u8,
        /// Columns per image.
        width: u8,
    },
    /// The file is cut off or has bytes to spare.
    #[error("{actual} bytes where {expected} were announced: the file is damaged, fetch it again")]
    Length {
        /// Bytes that the header announces.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// A label is not a digit.
    #[error("image {index} has label {label}: labels are 0 to 9, the file is damaged, fetch it again")]
    Label {
        /// Position of the image.
        index: usize,
        /// Its label.
        label: u8,
    },
    /// A class cannot be split.
    #[error("{count} images of digit {class}: the splits need more than {needed}, fetch the whole file again")]
    TooFew {
        /// The digit.
        class: usize,
        /// Images of it.
        count: usize,
        /// Images that the splits set aside.
        needed: usize,
    },
}

/// Why images could not be written to a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A folder cannot be made.
    #[error("cannot make the folder {path}: check the permissions and the free space", path = .path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An image cannot be written.
    #[error("cannot write {path}: check the permissions and the free space", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such image.
    #[error("image {index} of {count}: indices come from a split of the same data")]
    Index {
        /// The index asked for.
        index: u32,
        /// Images of the data set.
        count: usize,
    },
}

impl Digits {
    /// The shipped data set.
    pub fn load() -> Self {
        Self::parse(SHIPPED).expect("the compiled-in file is whole: a test parses it")
    }

    /// Parses a digits file and checks every length and label.
    ///
    /// # Errors
    /// If the bytes are no digits file or not as long as they should be, the images are not 8x8, a label is no digit,
    /// or a digit has too few images.
    pub fn parse(bytes: &[u8]) -> Result<Self, DigitsError> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(DigitsError::Magic)?;
        let fields = header.strip_prefix(MAGIC).ok_or(DigitsError::Magic)?;
        let [count @ .., height, width] = fields else { return Err(DigitsError::Magic) };
        if (usize::from(*height), usize::from(*width)) != (SIDE, SIDE) {
            return Err(DigitsError::Size { height: *height, width: *width });
        }
        let count = u32::from_le_bytes(count.try_into().expect("the header has four bytes of count")) as usize;
        let expected = count.saturating_mul(1 + PIXELS).saturating_add(HEADER_BYTES);
        if expected != bytes.len() {
            return Err(DigitsError::Length { expected, actual: bytes.len() });
        }
        let (labels, pixels) = body.split_at(count);
        check_labels(labels)?;
        let (images, _) = pixels.as_chunks::<PIXELS>();
        Ok(Self { images: images.to_vec(), labels: labels.to_vec() })
    }

    /// The training pool and the test set: the last 50 images of each class in file order are for testing.
    pub fn split(&self) -> Split {
        let mut split = Split { pool: Vec::new(), held_out: Vec::new() };
        for class in self.by_class() {
            let (pool, test) = class.split_at(class.len().saturating_sub(TEST_PER_CLASS));
            split.pool.extend(pool);
            split.held_out.extend(test);
        }
        split
    }

    /// Splits the training pool once more, for tuning: the last 20 of each class of it are set aside. No test image is
    /// in either part.
    pub fn validation_split(&self) -> Split {
        let mut split = Split { pool: Vec::new(), held_out: Vec::new() };
        for class in self.by_class() {
            let pool = &class[..class.len().saturating_sub(TEST_PER_CLASS)];
            let (train, validation) = pool.split_at(pool.len().saturating_sub(VALIDATION_PER_CLASS));
            split.pool.extend(train);
            split.held_out.extend(validation);
        }
        split
    }

    /// The labels of some images, in the order of `indices`; an index outside the data set is left out.
    pub fn labels_of(&self, indices: &[u32]) -> Vec<u16> {
        indices.iter().filter_map(|&index| self.labels.get(index as usize).copied().map(u16::from)).collect()
    }

    /// Writes images as `<folder>/<digit>/<index>.png`, 8-bit grey, the index with four figures so that names sort in
    /// file order.
    ///
    /// # Errors
    /// If an index is of no image, or a folder or a file cannot be written.
    pub fn write_folder(&self, folder: &Path, indices: &[u32]) -> Result<(), FolderError> {
        for &index in indices {
            let missing = || FolderError::Index { index, count: self.images.len() };
            let label = self.labels.get(index as usize).ok_or_else(missing)?;
            let class_folder = folder.join(label.to_string());
            fs::create_dir_all(&class_folder)
                .map_err(|source| FolderError::Create { path: class_folder.clone(), source })?;
            let path = class_folder.join(format!("{index:04}.png"));
            fs::write(&path, self.png(index)).map_err(|source| FolderError::Write { path, source })?;
        }
        Ok(())
    }

    /// An image as a PNG file, 8-bit grey.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn png(&self, index: u32) -> Vec<u8> {
        let pixels = self.images[index as usize].to_vec();
        let image = GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).expect("64 pixels are an image of 8x8");
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png).expect("memory takes any image");
        png.into_inner()
    }

    fn by_class(&self) -> Vec<Vec<u32>> {
        let labels: Vec<u16> = self.labels.iter().copied().map(u16::from).collect();
        super::indices_by_class(&labels, CLASSES)
    }
}

/// The names of the classes, which are also the names of their folders.
pub fn class_names() -> Vec<String> {
    (0..CLASSES).map(|class| class.to_string()).collect()
}

fn check_labels(labels: &[u8]) -> Result<(), DigitsError> {
    let needed = TEST_PER_CLASS + VALIDATION_PER_CLASS;
    let mut counts = [0; CLASSES];
    for (index, &label) in labels.iter().enumerate() {
        *counts.get_mut(usize::from(label)).ok_or(DigitsError::Label { index, label })? += 1;
    }
    match counts.iter().position(|&count| count <= needed) {
        Some(class) => Err(DigitsError::TooFew { class, count: counts[class], needed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::class_counts;

    #[test]
    fn the_shipped_file_is_whole() {
        let digits = Digits::load();
        assert_eq!((digits.images.len(), digits.labels.len()), (1797, 1797));
        assert_eq!(&digits.labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(digits.images.iter().all(|image| image.iter().any(|&pixel| pixel > 200)));
    }

    #[test]
    fn splits_are_balanced_disjoint_and_complete() {
        let digits = Digits::load();
        let split = digits.split();
        assert_eq!(class_counts(digits.labels_of(&split.held_out), CLASSES), [50; CLASSES]);
        let mut all = [split.pool.clone(), split.held_out].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1797).collect::<Vec<u32>>());

        let validation = digits.validation_split();
        assert_eq!(class_counts(digits.labels_of(&validation.held_out), CLASSES), [20; CLASSES]);
        let mut pool = [validation.pool, validation.held_out].concat();
        pool.sort_unstable();
        let mut expected = split.pool;
        expected.sort_unstable();
        assert_eq!(pool, expected);
    }

    #[test]
    fn the_test_set_is_the_end_of_the_file() {
        let digits = Digits::load();
        let split = digits.split();
        let last_zero = digits.labels.iter().rposition(|&label| label == 0).map(|index| index as u32);
        assert_eq!(split.held_out.get(49).copied(), last_zero);
        assert!(split.pool[0] < split.held_out[0]);
    }

    #[test]
    fn damaged_files_are_refused() {
        let parse = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = SHIPPED.to_vec();
            change(&mut bytes);
            Digits::parse(&bytes).err().unwrap()
        };
        assert_eq!(parse(&|bytes| bytes.truncate(3)), DigitsError::Magic);
        assert_eq!(parse(&|bytes| bytes[0] = b'X'), DigitsError::Magic);
        assert_eq!(parse(&|bytes| bytes[14] = 9), DigitsError::Size { height: 9, width: 8 });
        assert!(matches!(parse(&|bytes| bytes.truncate(5000)), DigitsError::Length { actual: 5000, .. }));
        assert!(matches!(parse(&|bytes| bytes[10..14].fill(0xff)), DigitsError::Length { .. }));
        assert_eq!(parse(&|bytes| bytes[18] = 10), DigitsError::Label { index: 2, label: 10 });
        assert!(matches!(parse(&|bytes| bytes[16..16 + 1500].fill(3)), DigitsError::TooFew { class: 0, .. }));
    }

    #[test]
    fn images_are_written_by_class() {
        let folder = tempfile::tempdir().unwrap();
        let digits = Digits::load();
        digits.write_folder(folder.path(), &[0, 13]).unwrap();
        let image = image::open(folder.path().join("3/0013.png")).unwrap();
        assert_eq!(image.color(), image::ColorType::L8);
        assert_eq!(image.into_luma8().as_raw().as_slice(), digits.images[13]);
        assert!(folder.path().join("0/0000.png").exists());
        assert!(matches!(
            digits.write_folder(folder.path(), &[9999]),
            Err(FolderError::Index { index: 9999, count: 1797 })
        ));
    }
}
