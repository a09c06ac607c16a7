//! An image becomes the tensor the extractor expects: decode, turn upright, resize, normalise.
//!
//! PNG and JPEG, and plain pixels. The way of the pixels is that of Pillow's `exif_transpose`, `convert("L" or "RGB")`
//! and `resize(size, BILINEAR)`, version 13, bit for bit, so that features agree with those of the scripts that made the
//! extractor. So transparency is dropped, and of 16 bits the upper 8 count.

mod jpeg;
mod orientation;
mod resample;

use core::panic::AssertUnwindSafe;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::manifest::{Input, Layout};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, guess_format};
use libjpeg_turbo_rs::JpegError;

use crate::source::{Content, Pixels};

/// Largest image file, in bytes.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;
/// Largest side of an image file, in pixels.
pub const MAX_IMAGE_SIDE: u32 = 16_384;
/// Most memory one decoded image may take, in bytes: 64 million RGB pixels.
pub const MAX_DECODED_BYTES: u64 = 192 << 20;

/// Prepares images for one extractor.
#[derive(Clone, Debug)]
pub struct ImageInput {
    width: u32,
    height: u32,
    channels: usize,
    layout: Layout,
    /// Per channel: `pixel * scale + offset` is `(pixel / 255 - mean) / std`.
    scale: Vec<f32>,
    offset: Vec<f32>,
}

/// Why a file is not an image this device can use.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is over [`MAX_IMAGE_BYTES`].
    #[error("{path} is larger than {limit} bytes; scale the image down", limit = MAX_IMAGE_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not an image, or one over the limits.
    #[error("cannot use {path}: {source}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
}

/// Why bytes are not an image this device can use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Neither PNG nor JPEG; the name of what it is, if it is known.
    #[error("it is neither a PNG nor a JPEG image{}; convert it, or have the camera write JPEG", found(.0))]
    Format(Option<String>),
    /// A JPEG image without its end: what is missing would become a grey area.
    #[error("the JPEG image ends in the middle; copy it again")]
    CutShort,
    /// Damaged, cut short, or beyond the limits on sides and memory.
    #[error("{0}; save the image again, at most {side} pixels a side", side = MAX_IMAGE_SIDE)]
    Image(#[from] image::ImageError),
    /// The same of a JPEG image.
    #[error("{0}; save the image again, at most {side} pixels a side", side = MAX_IMAGE_SIDE)]
    Jpeg(#[from] JpegError),
    /// Pixels of another size than they should be.
    #[error("{bytes} bytes are no picture of {} x {} pixels", size[0], size[1])]
    Pixels {
        /// Bytes there are.
        bytes: usize,
        /// Pixels across and down.
        size: [u32; 2],
    },
    /// Too many pixels.
    #[error("it takes {bytes} bytes of memory, the limit is {limit}; scale the image down", limit = MAX_DECODED_BYTES)]
    Memory {
        /// Bytes of the decoded image.
        bytes: u64,
    },
    /// The decoder gave up in an unforeseen way.
    #[error("the decoder failed on it; save the image again")]
    Decoder,
}

impl ImageInput {
    /// Takes the sizes and the normalisation from a manifest that was checked.
    pub fn new(input: &Input) -> Self {
        let scale = input.std.iter().map(|std| 1.0 / (255.0 * std)).collect();
        let offset = input.mean.iter().zip(&input.std).map(|(mean, std)| -mean / std).collect();
        Self {
            width: input.width,
            height: input.height,
            channels: input.channels as usize,
            layout: input.layout,
            scale,
            offset,
        }
    }

    /// Numbers in one tensor.
    pub fn tensor_len(&self) -> usize {
        self.width as usize * self.height as usize * self.channels
    }

    /// Reads an image file and gives its tensor, normalised, in the manifest's layout.
    ///
    /// # Errors
    /// If the file cannot be read, is no PNG or JPEG image, or is damaged or too large.
    pub fn load(&self, path: &Path) -> Result<Vec<f32>, ImageError> {
        let bytes = read_image_file(path)?;
        self.decode(&bytes).map_err(|source| ImageError::Decode { path: path.to_owned(), source })
    }

    /// [`ImageInput::load`] for bytes that were read already.
    ///
    /// # Errors
    /// If the bytes are no PNG or JPEG image, or one that is damaged or too large.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<f32>, DecodeError> {
        // Image files come from anywhere. Nothing the decoder touched is used after a panic.
        let image = catch_unwind(AssertUnwindSafe(|| decode_upright(bytes))).map_err(|_| DecodeError::Decoder)??;
        let size = [image.width() as usize, image.height() as usize];
        Ok(if image.color().has_color() { self.tensor(rgb(image), size, 3) } else { self.tensor(grey(image), size, 1) })
    }

    /// The tensor of an image from a source of data.
    ///
    /// # Errors
    /// If the bytes cannot be decoded, or the pixels do not fit their size.
    pub fn prepare(&self, content: &Content) -> Result<Vec<f32>, DecodeError> {
        match content {
            Content::Encoded(bytes) => self.decode(bytes),
            Content::Pixels(Pixels { width, height, channels, bytes }) => {
                let size = [*width as usize, *height as usize];
                let fits = [1, 3].contains(channels) && size[0] * size[1] * usize::from(*channels) == bytes.len();
                if !fits || bytes.is_empty() {
                    return Err(DecodeError::Pixels { bytes: bytes.len(), size: [*width, *height] });
                }
                Ok(self.tensor(bytes.clone(), size, usize::from(*channels)))
            }
        }
    }

    /// `pixels` are `[row][column][channel]` in 1 or 3 channels.
    fn tensor(&self, pixels: Vec<u8>, size: [usize; 2], channels: usize) -> Vec<f32> {
        let new_size = [self.width as usize, self.height as usize];
        match (channels, self.channels) {
            (1, 1) => self.normalise(&resample::resize::<1>(pixels, size, new_size)),
            (1, _) => {
                // Three equal channels stay equal.
                let levels = resample::resize::<1>(pixels, size, new_size);
                self.normalise(&levels.into_iter().flat_map(|level| [level; 3]).collect::<Vec<u8>>())
            }
            (_, 1) => {
                let (colours, _) = pixels.as_chunks::<3>();
                let levels = colours.iter().copied().map(luma).collect();
                self.normalise(&resample::resize::<1>(levels, size, new_size))
            }
            _ => self.normalise(&resample::resize::<3>(pixels, size, new_size)),
        }
    }

    /// `pixels` are `[row][column][channel]`.
    fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let value = |channel: usize, pixel: u8| f32::from(pixel) * self.scale[channel] + self.offset[channel];
        match self.layout {
            Layout::Nhwc => pixels.iter().enumerate().map(|(i, &pixel)| value(i % self.channels, pixel)).collect(),
            Layout::Nchw => (0..self.channels)
                .flat_map(|c| pixels.iter().skip(c).step_by(self.channels).map(move |&pixel| value(c, pixel)))
                .collect(),
        }
    }
}

/// Reads a whole image file, within [`MAX_IMAGE_BYTES`].
///
/// # Errors
/// If the file cannot be read, or is larger than [`MAX_IMAGE_BYTES`].
pub fn read_image_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let bytes = read_limited(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    bytes.ok_or_else(|| ImageError::TooLarge { path: path.to_owned() })
}

/// `None` if the file is over [`MAX_IMAGE_BYTES`].
pub(crate) fn read_limited(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe would wait for somebody who writes to it.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > MAX_IMAGE_BYTES {
        return Ok(None);
    }
    // It may still grow while it is read.
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= MAX_IMAGE_BYTES))
}

fn decode_upright(bytes: &[u8]) -> Result<DynamicImage, DecodeError> {
    let (mut image, orientation) = match guess_format(bytes).ok() {
        Some(ImageFormat::Png) => png(bytes)?,
        Some(ImageFormat::Jpeg) => jpeg::decode(bytes)?,
        other => return Err(DecodeError::Format(format_name(bytes, other))),
    };
    image.apply_orientation(orientation);
    Ok(image)
}

/// The image as it is stored, and how to turn it upright.
fn png(bytes: &[u8]) -> Result<(DynamicImage, Orientation), DecodeError> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_IMAGE_SIDE);
    limits.max_image_height = Some(MAX_IMAGE_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let decoded_bytes = decoder.total_bytes();
    if decoded_bytes > MAX_DECODED_BYTES {
        return Err(DecodeError::Memory { bytes: decoded_bytes });
    }
    Ok((DynamicImage::from_decoder(decoder)?, orientation::of_png(bytes)))
}

/// `[row][column][channel]` of an image in colour.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and grows")]
fn rgb(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|pixel| first_three(pixel.0)).collect(),
        DynamicImage::ImageRgb16(image) => image.iter().copied().map(upper).collect(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|pixel| first_three(pixel.0.map(upper))).collect(),
        image => image.into_rgb8().into_raw(),
    }
}

/// `[row][column]` of an image without colour.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and grows")]
fn grey(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageLumaA8(image) => image.pixels().map(|pixel| pixel.0[0]).collect(),
        DynamicImage::ImageLuma16(image) => image.iter().copied().map(upper).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().map(|pixel| upper(pixel.0[0])).collect(),
        image => image.into_luma8().into_raw(),
    }
}

fn first_three([red, green, blue, _]: [u8; 4]) -> [u8; 3] {
    [red, green, blue]
}

fn upper(level: u16) -> u8 {
    (level >> 8) as u8
}

/// ITU-R 601 in 16-bit fixed point: `0.299 R + 0.587 G + 0.114 B`, rounded.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

fn found(format: &Option<String>) -> String {
    format.as_ref().map(|name| format!(" but {name}")).unwrap_or_default()
}

/// What people call the format of a file that is not decoded here.
fn format_name(bytes: &[u8], guessed: Option<ImageFormat>) -> Option<String> {
    let brand = bytes.get(4..).and_then(|bytes| bytes.strip_prefix(b"ftyp")).and_then(<[u8]>::first_chunk);
    let known = match brand {
        Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => Some("HEIF"),
        Some(b"avif" | b"avis") => Some("AVIF"),
        _ if bytes.starts_with(b"\xff\x0a") || bytes.starts_with(b"\0\0\0\x0cJXL ") => Some("JPEG XL"),
        _ => guessed.and_then(|format| format.extensions_str().first().copied()),
    };
    known.map(str::to_uppercase)
}

#[cfg(test)]
mod tests;
