//! JPEG as libjpeg-turbo has it, bit for bit, because Pillow and so the scripts that make extractors decode with that.
//!
//! An image has to be there to its end: decoders make grey areas of what is missing, which is right for a viewer and
//! wrong for training; and a camera may be in the middle of writing the file.
//!
//! One kind of damage is decoded differently. Where a byte 0xFF of the data is followed by a second one before its zero,
//! both decoders read one byte 0xFF. But libjpeg-turbo first tries its fast way, gives up at that place, and decodes the
//! block of pixels anew without clearing the coefficients of the first attempt; so this block comes out wrong. Here it
//! is what libjpeg-turbo makes of the same data without the second byte.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, JpegError, PixelFormat};

use super::{DecodeError, MAX_DECODED_BYTES, MAX_IMAGE_SIDE, orientation};

/// Scans of one image. Progressive images have about ten; each costs a pass over all of the image.
const MAX_SCANS: usize = 100;
/// Memory of the decoder beside the pixels it gives, in bytes: planes, and in progressive images coefficients.
const MAX_WORKING_BYTES: u64 = 3 * MAX_DECODED_BYTES;

const MARKER: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
/// The kind of segments that hold Exif data or an XMP packet, each told by what it begins with.
const METADATA: u8 = 0xe1;
const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Kind and content of a part of the file.
type Segment<'a> = (u8, &'a [u8]);

/// The image as it is stored, and how to turn it upright.
pub(super) fn decode(bytes: &[u8]) -> Result<(DynamicImage, Orientation), DecodeError> {
    let (segments, scan) = head(bytes).ok_or(DecodeError::CutShort)?;
    if !is_whole(scan) {
        return Err(DecodeError::CutShort);
    }
    let limits = DecodeLimits {
        max_width: MAX_IMAGE_SIDE as usize,
        max_height: MAX_IMAGE_SIDE as usize,
        max_pixels: MAX_DECODED_BYTES / 3,
        max_scans: MAX_SCANS,
        max_memory: Some(MAX_WORKING_BYTES),
    };
    let mut decoder = Decoder::new_with_limits(bytes, limits)?;
    let colours = decoder.jpeg_color_space();
    decoder.set_output_format(match colours {
        ColorSpace::Grayscale => PixelFormat::Grayscale,
        ColorSpace::Cmyk | ColorSpace::Ycck => PixelFormat::Cmyk,
        ColorSpace::YCbCr | ColorSpace::Rgb | ColorSpace::Unknown => PixelFormat::Rgb,
    });
    let image = decoder.decode_image()?;
    let [width, height] = [image.width as u32, image.height as u32];
    let pixels = match colours {
        ColorSpace::Grayscale => GrayImage::from_raw(width, height, image.data).map(DynamicImage::from),
        ColorSpace::Cmyk | ColorSpace::Ycck => {
            RgbImage::from_raw(width, height, inks_to_rgb(&image.data)).map(DynamicImage::from)
        }
        ColorSpace::YCbCr | ColorSpace::Rgb | ColorSpace::Unknown => {
            RgbImage::from_raw(width, height, image.data).map(DynamicImage::from)
        }
    };
    let incomplete = || JpegError::CorruptData("its size and its pixels do not fit".into());
    Ok((pixels.ok_or_else(incomplete)?, upright(&segments)))
}

/// Four inks, stored inverted, as Pillow turns them into colours: `K - (255 - ink) * K / 255`, rounded.
fn inks_to_rgb(inks: &[u8]) -> Vec<u8> {
    let (pixels, _) = inks.as_chunks::<4>();
    let colour = |ink: u8, black: u8| {
        let product = u32::from(255 - ink) * u32::from(black) + 128;
        black - ((product + (product >> 8)) >> 8) as u8
    };
    pixels
        .iter()
        .flat_map(|&[cyan, magenta, yellow, black]| [cyan, magenta, yellow].map(|ink| colour(ink, black)))
        .collect()
}

/// Long Exif data lie in several segments, one after the other; of several XMP packets the last counts.
fn upright(segments: &[Segment<'_>]) -> Orientation {
    let metadata = || segments.iter().filter(|(kind, _)| *kind == METADATA).map(|(_, content)| *content);
    let exif: Vec<u8> = metadata().filter_map(|content| content.strip_prefix(EXIF)).flatten().copied().collect();
    orientation::upright(Some(&exif), metadata().rev().find_map(|content| content.strip_prefix(XMP)))
}

/// Kinds and contents of the segments before the first scan, and all that follows the scan's marker; `None` without a
/// scan.
fn head(bytes: &[u8]) -> Option<(Vec<Segment<'_>>, &[u8])> {
    let mut rest = bytes.strip_prefix(&[MARKER, START_OF_IMAGE])?;
    let mut segments = Vec::new();
    loop {
        let start = rest.windows(2).position(|pair| pair[0] == MARKER && ![0, MARKER].contains(&pair[1]))?;
        let kind = rest[start + 1];
        rest = &rest[start + 2..];
        match kind {
            START_OF_SCAN => return Some((segments, rest)),
            END_OF_IMAGE => return None,
            // Markers without a segment: restarts, and one for private use.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let (length, _) = rest.split_first_chunk()?;
                let (segment, after) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)).max(2))?;
                segments.push((kind, &segment[2..]));
                rest = after;
            }
        }
    }
}

/// Whether the end marker follows the first scan; a thumbnail before it has an end of its own. In a scan's data the
/// marker cannot occur.
fn is_whole(scan: &[u8]) -> bool {
    scan.windows(2).any(|pair| pair == [MARKER, END_OF_IMAGE])
}

#[cfg(test)]
mod tests {
    use libjpeg_turbo_rs::{Subsampling, compress};

    use super::*;

    fn jpeg() -> Vec<u8> {
        let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        compress(image.as_raw(), 40, 30, PixelFormat::Rgb, 90, Subsampling::S420).unwrap()
    }

    fn is_whole(bytes: &[u8]) -> bool {
        head(bytes).is_some_and(|(_, scan)| super::is_whole(scan))
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
    fn a_doubled_byte_of_the_data_changes_nothing() {
        // Rough enough for the byte that begins a marker to stand in the data.
        let rough = RgbImage::from_fn(120, 90, |x, y| {
            image::Rgb([1, 5, 9].map(|by| ((x * 37) ^ (y * 91) ^ (x * y * by)) as u8))
        });
        let clean = compress(rough.as_raw(), 120, 90, PixelFormat::Rgb, 90, Subsampling::S420).unwrap();
        let (_, scan) = head(&clean).unwrap();
        let start = clean.len() - scan.len();
        let pixels = |bytes: &[u8]| decode(bytes).unwrap().0.into_bytes();
        let places = (start..clean.len() - 1).filter(|&at| clean[at..].starts_with(&[MARKER, 0])).collect::<Vec<_>>();
        assert!(!places.is_empty(), "this image must have the byte {MARKER:#x} in its data");
        for at in places {
            let doubled = [&clean[..at], &[MARKER], &clean[at..]].concat();
            assert_eq!(pixels(&doubled), pixels(&clean), "byte {at}");
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
