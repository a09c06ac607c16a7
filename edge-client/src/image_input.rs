//! An image file becomes the tensor the extractor expects: decode, turn upright, resize, normalise.
//!
//! PNG and JPEG with 8 or 16 bits; 16 bits are rounded to 8. Transparent pixels are laid over black. The way of the
//! pixels is that of Pillow's `convert("L" or "RGB").resize(size, BILINEAR)`, within one level of 255, so that
//! features agree with those of the scripts that made the extractor.

use core::panic::AssertUnwindSafe;
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use grapevine_models::manifest::{Input, Layout};
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

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
        source: std::io::Error,
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
    /// Neither PNG nor JPEG.
    #[error("it is neither a PNG nor a JPEG image; convert it")]
    Format,
    /// Damaged, cut short, or beyond the limits on sides and memory.
    #[error("{0}; save the image again, at most {side} pixels a side", side = MAX_IMAGE_SIDE)]
    Image(#[from] image::ImageError),
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
    pub fn load(&self, path: &Path) -> Result<Vec<f32>, ImageError> {
        let bytes = read_image_file(path)?;
        self.decode(&bytes).map_err(|source| ImageError::Decode { path: path.to_owned(), source })
    }

    /// [`ImageInput::load`] for bytes that were read already.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<f32>, DecodeError> {
        // Image files come from anywhere. Nothing the decoder touched is used after a panic.
        let image = catch_unwind(AssertUnwindSafe(|| decode_upright(bytes))).map_err(|_| DecodeError::Decoder)??;
        Ok(if self.channels == 1 {
            self.normalise(self.resize(grey(image)).as_raw())
        } else {
            self.normalise(self.resize(rgb(image)).as_raw())
        })
    }

    fn resize<P>(&self, image: image::ImageBuffer<P, Vec<u8>>) -> image::ImageBuffer<P, Vec<u8>>
    where
        P: image::Pixel<Subpixel = u8> + 'static,
    {
        if image.dimensions() == (self.width, self.height) {
            return image;
        }
        imageops::resize(&image, self.width, self.height, FilterType::Triangle)
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
pub fn read_image_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(ImageError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn decode_upright(bytes: &[u8]) -> Result<DynamicImage, DecodeError> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(image::ImageError::from)?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err(DecodeError::Format);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_IMAGE_SIDE);
    limits.max_image_height = Some(MAX_IMAGE_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let decoded_bytes = decoder.total_bytes();
    if decoded_bytes > MAX_DECODED_BYTES {
        return Err(DecodeError::Memory { bytes: decoded_bytes });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn rgb(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0;
        image::Rgb([over_black(red, alpha), over_black(green, alpha), over_black(blue, alpha)])
    })
}

fn grey(image: DynamicImage) -> GrayImage {
    match (image.color().has_color(), image.color().has_alpha()) {
        (false, false) => image.into_luma8(),
        (false, true) => {
            let image = image.into_luma_alpha8();
            let (width, height) = image.dimensions();
            GrayImage::from_fn(width, height, |x, y| {
                let [luma, alpha] = image.get_pixel(x, y).0;
                image::Luma([over_black(luma, alpha)])
            })
        }
        (true, _) => {
            let image = rgb(image);
            let (width, height) = image.dimensions();
            let pixels = image.pixels().map(|pixel| luma(pixel.0)).collect();
            GrayImage::from_raw(width, height, pixels).expect("one byte per pixel")
        }
    }
}

fn over_black(value: u8, alpha: u8) -> u8 {
    ((u16::from(value) * u16::from(alpha) + 127) / 255) as u8
}

/// ITU-R 601 in 16-bit fixed point: `0.299 R + 0.587 G + 0.114 B`, rounded.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests;
