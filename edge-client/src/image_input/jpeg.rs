//! Whether a JPEG image is there to its end.
//!
//! The decoder makes grey areas of what is missing, which is right for a viewer and wrong for training; and a camera may
//! be in the middle of writing the file.

const MARKER: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Whether the end marker follows the first scan. Before it, segments are stepped over: a thumbnail has an end of its
/// own. In a scan's data the marker cannot occur.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[MARKER, START_OF_IMAGE]) else { return false };
    loop {
        let Some(start) = rest.windows(2).position(|pair| pair[0] == MARKER && ![0, MARKER].contains(&pair[1])) else {
            return false;
        };
        let kind = rest[start + 1];
        rest = &rest[start + 2..];
        match kind {
            START_OF_SCAN => return rest.windows(2).any(|pair| pair == [MARKER, END_OF_IMAGE]),
            END_OF_IMAGE => return false,
            // Markers without a segment: restarts, and one for private use.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some((length, _)) = rest.split_first_chunk() else { return false };
                let Some(after) = rest.get(usize::from(u16::from_be_bytes(*length)).max(2)..) else { return false };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat, RgbImage};

    use super::*;

    fn jpeg() -> Vec<u8> {
        let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::from(image).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn no_beginning_of_an_image_is_whole() {
        let whole = jpeg();
        assert!(is_whole(&whole));
        assert!(is_whole(&[&whole[..], b"what a camera adds"].concat()));
        for length in 0..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_thumbnail_does_not_end_the_image() {
        let whole = jpeg();
        let thumbnail = jpeg();
        let length = (thumbnail.len() as u16 + 2).to_be_bytes();
        let with = [&whole[..2], &[MARKER, 0xe1], &length, &thumbnail, &whole[2..]].concat();
        assert!(is_whole(&with));
        assert!(!is_whole(&with[..with.len() - 40]));
    }
}
