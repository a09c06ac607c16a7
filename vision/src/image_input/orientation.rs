//! Which way up an image is, as Pillow's `exif_transpose` reads it: the orientation of its Exif data or, only where they
//! have none, of its XMP packet.
//!
//! Sources: `Image.getexif` and `PngImagePlugin` of Pillow; Exif 2.32, section 4.6.4; PNG, section 11.3.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;

/// Tag of the orientation in the first directory of Exif data.
const ORIENTATION: u16 = 0x0112;
/// What Exif data begin with, once or twice, before their TIFF header.
const EXIF_HEADER: &[u8] = b"Exif\0\0";
/// How an XMP packet names it, as an attribute or as an element.
const XMP_NAMES: [&[u8]; 2] = [b"tiff:Orientation=\"", b"tiff:Orientation>"];
const PNG_SIGNATURE_BYTES: usize = 8;
/// Most bytes of a compressed text that are looked at.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// How to turn an image upright by its metadata. A value that means nothing turns nothing.
pub(super) fn upright(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let value = exif.and_then(of_exif).or_else(|| xmp.and_then(of_xmp));
    value.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// The same of a PNG file. Texts may come after the pixels; of several the last counts.
pub(super) fn of_png(bytes: &[u8]) -> Orientation {
    let (mut exif, mut profile, mut xmp) = (None, None, None);
    for (kind, content) in chunks(bytes) {
        if kind == b"eXIf" {
            exif = Some(content.to_vec());
        } else if let Some((keyword, text)) = text(kind, content) {
            match keyword {
                b"Raw profile type exif" => profile = Some(text),
                b"XML:com.adobe.xmp" => xmp = Some(text),
                b"exif" if kind == b"tEXt" => exif = Some(text),
                _ => {}
            }
        }
    }
    let exif = exif.or_else(|| profile.as_deref().and_then(unhexed));
    upright(exif.as_deref(), xmp.as_deref())
}

/// `Some` if there is an orientation, valid or not.
fn of_exif(exif: &[u8]) -> Option<u8> {
    let exif = exif.strip_prefix(EXIF_HEADER).unwrap_or(exif);
    let tiff = exif.strip_prefix(EXIF_HEADER).unwrap_or(exif);
    let is_big_endian = match tiff.first_chunk()? {
        b"MM\0\x2a" => true,
        b"II\x2a\0" => false,
        _ => return None,
    };
    let two = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let four = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = four(4)? as usize;
    let count = usize::from(two(directory)?);
    let mut found = None;
    for entry in (0..count).map(|index| directory + 2 + 12 * index) {
        // A directory that is cut short holds what it holds.
        let (Some(tag), Some(format), Some(values), Some(_)) =
            (two(entry), two(entry + 2), four(entry + 4), four(entry + 8))
        else {
            break;
        };
        if tag == ORIENTATION {
            let value = match format {
                1 | 6 => tiff.get(entry + 8).copied().map(u32::from),
                3 | 8 => two(entry + 8).map(u32::from),
                4 | 9 => four(entry + 8),
                _ => None,
            };
            let value = value.filter(|_| values == 1).and_then(|value| u8::try_from(value).ok());
            found = Some(value.unwrap_or_default());
        }
    }
    found
}

fn of_xmp(xmp: &[u8]) -> Option<u8> {
    (0..xmp.len()).find_map(|at| {
        let digit = XMP_NAMES.iter().find_map(|name| xmp[at..].strip_prefix(*name))?.first()?;
        digit.is_ascii_digit().then(|| digit - b'0')
    })
}

/// Kind and content of the chunks of a PNG file, to its end or to where it is broken.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(PNG_SIGNATURE_BYTES..).unwrap_or_default();
    core::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let (kind, after) = after.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let content = after.get(..length)?;
        // Four bytes of checksum: pixels behind a wrong one are refused by the decoder.
        rest = after.get(length..)?.get(4..).unwrap_or_default();
        Some((kind, content))
    })
}

/// Keyword and text of one of the three kinds of chunks with text.
fn text<'a>(kind: &[u8; 4], content: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, content) = split(content)?;
    let text = match kind {
        b"tEXt" => content.to_vec(),
        b"zTXt" => inflated(content.strip_prefix(b"\0")?)?,
        b"iTXt" => {
            let ([is_compressed, _method], content) = content.split_first_chunk()?;
            let (_language, content) = split(content)?;
            let (_translated, content) = split(content)?;
            if *is_compressed == 0 { content.to_vec() } else { inflated(content)? }
        }
        _ => return None,
    };
    Some((keyword, text))
}

/// What is before and after the first zero.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    ZlibDecoder::new(bytes).take(MAX_TEXT_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The bytes of a raw profile: an empty line, its name, its length, then hexadecimal digits.
fn unhexed(profile: &[u8]) -> Option<Vec<u8>> {
    let lines = profile.split(|&byte| byte == b'\n').skip(3);
    let digits: Vec<u8> = lines.flatten().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    let (pairs, rest) = digits.as_chunks();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exif data with one entry of four bytes.
    fn exif(format: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
        let entry = [&ORIENTATION.to_be_bytes()[..], &format.to_be_bytes(), &count.to_be_bytes(), &value].concat();
        [b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01", &entry[..], &[0; 4]].concat()
    }

    #[test]
    fn exif_data_go_before_an_xmp_packet() {
        let xmp = Some(&b"<rdf:Description tiff:Orientation=\"8\"/>"[..]);
        let six = exif(3, 1, [0, 6, 0, 0]);
        assert_eq!(upright(Some(&six), xmp), Orientation::Rotate90);
        assert_eq!(upright(Some(&[EXIF_HEADER, &six].concat()), xmp), Orientation::Rotate90);
        assert_eq!(upright(Some(&exif(4, 1, [0, 0, 0, 6])), xmp), Orientation::Rotate90);
        // There, and meaningless.
        for meaningless in [exif(3, 1, [0, 9, 0, 0]), exif(3, 2, [0, 6, 0, 6]), exif(2, 1, *b"6\0\0\0")] {
            assert_eq!(upright(Some(&meaningless), xmp), Orientation::NoTransforms);
        }
        for absent in [&b""[..], b"Exif\0\0", b"MM\0\x2a\0\0\0\x08\0\0", b"MM\0\x2a\xff\xff\xff\xff", b"JFIF"] {
            assert_eq!(upright(Some(absent), xmp), Orientation::Rotate270, "{absent:?}");
        }
    }

    #[test]
    fn xmp_packets_name_it_in_two_ways() {
        for (xmp, expected) in [
            ("<tiff:Orientation>6</tiff:Orientation>", Orientation::Rotate90),
            ("tiff:Orientation=\"3\"", Orientation::Rotate180),
            ("tiff:Orientation=\"x\" tiff:Orientation=\"2\"", Orientation::FlipHorizontal),
            ("tiff:Orientation=\"0\"", Orientation::NoTransforms),
            ("exif:Orientation=\"6\"", Orientation::NoTransforms),
            ("tiff:Orientation=\"", Orientation::NoTransforms),
        ] {
            assert_eq!(upright(None, Some(xmp.as_bytes())), expected, "{xmp}");
        }
    }

    #[test]
    fn a_raw_profile_is_hexadecimal() {
        assert_eq!(unhexed(b"\nexif\n      3\n45 78\n69\n"), Some(b"Exi".to_vec()));
        for broken in [&b"\nexif\n3\n4"[..], b"\nexif\n3\n4x"] {
            assert_eq!(unhexed(broken), None);
        }
    }

    #[test]
    fn a_broken_file_turns_nothing() {
        let text = b"\0\0\0\x05tEXtexif\0\0\0\0\0";
        for bytes in [&b"\x89PNG\r\n\x1a\n"[..], b"", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt", text] {
            assert_eq!(of_png(bytes), Orientation::NoTransforms);
        }
    }
}
