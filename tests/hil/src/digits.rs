//! The shipped handwritten digits as folders of image files, `FOLDER/<class>/<number>.png`.

use core::ops::Range;
use std::fs;
use std::path::Path;

use image::GrayImage;

use crate::trouble::Trouble;

/// See `simulator/src/data/digits.rs` for the file's form.
const SHIPPED: &[u8] = include_bytes!("../../../simulator/data/digits.bin");
const HEADER: &[u8] = b"GVDIGITS1\n";
const SIDE: u32 = 8;
const PIXELS: usize = 64;
/// The digits 0 to 9.
pub(crate) const CLASSES: usize = 10;

/// How many images there are.
pub(crate) fn count() -> usize {
    let (count, _) = SHIPPED[HEADER.len()..].split_first_chunk().expect("the shipped file has a header");
    usize::try_from(u32::from_le_bytes(*count)).expect("fewer images than addresses")
}

/// The class names, as `init` takes them.
pub(crate) fn class_names() -> String {
    (0..CLASSES).map(|class| class.to_string()).collect::<Vec<_>>().join(",")
}

/// Writes these images into a folder.
pub(crate) fn write(folder: &Path, images: Range<usize>) -> Result<(), Trouble> {
    let labels = HEADER.len() + 4 + 2;
    let pixels = labels + count();
    for number in images {
        let class = folder.join(SHIPPED[labels + number].to_string());
        fs::create_dir_all(&class).map_err(|error| Trouble::file(&class, "make", &error))?;
        let start = pixels + number * PIXELS;
        let image = GrayImage::from_raw(SIDE, SIDE, SHIPPED[start..start + PIXELS].to_vec());
        let path = class.join(format!("{number}.png"));
        let saved = image.expect("an image has 64 pixels").save(&path);
        saved.map_err(|error| Trouble::Host(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_in_the_folders_of_their_classes() {
        assert!(SHIPPED.starts_with(HEADER));
        assert_eq!(count(), 1797);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 0..60).unwrap();
        let classes: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|class| class.unwrap().path()).collect();
        assert_eq!(classes.len(), CLASSES);
        let images = classes.iter().map(|class| fs::read_dir(class).unwrap().count()).sum::<usize>();
        assert_eq!(images, 60);
        assert_eq!(class_names(), "0,1,2,3,4,5,6,7,8,9");
    }
}
