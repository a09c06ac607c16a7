use image::{Rgb, RgbImage};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use serde::Deserialize;

use super::*;

fn input(width: u32, height: u32, channels: u32, layout: Layout) -> ImageInput {
    let mean = (0..channels).map(|c| 0.1 * c as f32).collect();
    let std = (0..channels).map(|c| 0.5 + c as f32).collect();
    ImageInput::new(&Input { width, height, channels, layout, mean, std })
}

/// Mean 0 and deviation 1/255: the tensor holds the pixels' levels.
fn levels(width: u32, height: u32, channels: u32) -> ImageInput {
    let count = channels as usize;
    let layout = Layout::Nhwc;
    let input = Input { width, height, channels, layout, mean: vec![0.0; count], std: vec![1.0 / 255.0; count] };
    ImageInput::new(&input)
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let [width, height] = [image.width() as usize, image.height() as usize];
    compress(image.as_raw(), width, height, PixelFormat::Rgb, 90, Subsampling::S444).unwrap()
}

/// The picture the reference values below were made from.
fn gradient() -> RgbImage {
    RgbImage::from_fn(13, 11, |x, y| Rgb([(x * 19 % 256) as u8, (y * 23 % 256) as u8, (x * y * 7 % 256) as u8]))
}

fn assert_levels(tensor: &[f32], expected: &[u8], tolerance: f32) {
    assert_eq!(tensor.len(), expected.len());
    for (index, (value, &level)) in tensor.iter().zip(expected).enumerate() {
        let difference = (value - f32::from(level)).abs();
        assert!(difference <= tolerance, "value {index} is {value}, expected {level}");
    }
}

#[test]
fn an_image_of_the_right_size_passes_exactly() {
    let image = gradient();
    let tensor = levels(13, 11, 3).decode(&png(image.clone())).unwrap();
    assert_levels(&tensor, image.as_raw(), 1e-4);
}

/// What Pillow made of an image, see `tests/pillow/make.py`.
#[derive(Deserialize)]
struct Case {
    file: String,
    width: u32,
    height: u32,
    channels: u32,
    /// `[row][column][channel]`, hexadecimal.
    levels: String,
}

impl Case {
    fn levels(&self) -> Vec<u8> {
        let digits: Vec<u8> = self.levels.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }
}

fn largest_difference(tensor: &[f32], expected: &[u8]) -> f32 {
    assert_eq!(tensor.len(), expected.len());
    tensor.iter().zip(expected).map(|(value, &level)| (value - f32::from(level)).abs()).fold(0.0, f32::max)
}

#[test]
fn images_become_what_pillow_makes_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pillow");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    assert!(cases.len() > 70);
    for case in cases {
        let Case { file, width, height, channels, .. } = &case;
        let tensor = levels(*width, *height, *channels).load(&folder.join(file)).unwrap();
        let largest = largest_difference(&tensor, &case.levels());
        assert!(largest <= 1e-4, "{file} as {width} x {height} x {channels} differs by {largest} levels");
    }
}

#[test]
fn plain_pixels_are_what_the_same_pixels_in_a_file_are() {
    let image = gradient();
    let [width, height] = [image.width(), image.height()];
    for channels in [1, 3] {
        let input = input(7, 5, channels, Layout::Nchw);
        let pixels = |bytes| Content::Pixels(Pixels { width, height, channels: 3, bytes });
        let expected = input.decode(&png(image.clone())).unwrap();
        assert_eq!(input.prepare(&pixels(image.as_raw().clone())).unwrap(), expected);
        assert_eq!(input.prepare(&Content::Encoded(png(image.clone()))).unwrap(), expected);
        assert!(matches!(input.prepare(&pixels(vec![0; 7])), Err(DecodeError::Pixels { bytes: 7, .. })));
        let empty = Pixels { width: 0, height: 0, channels: 1, bytes: Vec::new() };
        assert!(input.prepare(&Content::Pixels(empty)).is_err());
    }
}

#[test]
fn tensors_are_normalised_in_the_layout() {
    let image = RgbImage::from_raw(2, 1, vec![0, 51, 102, 153, 204, 255]).unwrap();
    let bytes = png(image);
    let value = |pixel: f32, c: f32| (pixel / 255.0 - 0.1 * c) / (0.5 + c);
    let by_pixel = [value(0., 0.), value(51., 1.), value(102., 2.), value(153., 0.), value(204., 1.), value(255., 2.)];
    let by_channel = [0, 3, 1, 4, 2, 5].map(|index: usize| by_pixel[index]);
    for (layout, expected) in [(Layout::Nhwc, by_pixel), (Layout::Nchw, by_channel)] {
        let tensor = input(2, 1, 3, layout).decode(&bytes).unwrap();
        assert!(tensor.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{tensor:?} {expected:?}");
    }
}

#[test]
fn a_jpeg_is_turned_as_its_camera_says() {
    let image = RgbImage::from_fn(16, 8, |x, _| if x < 8 { Rgb([250, 250, 250]) } else { Rgb([5, 5, 5]) });
    let plain = jpeg(&image);
    // Exif with one entry: orientation 6, "rotate by 90 degrees clockwise to view".
    let exif: &[u8] = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut turned = plain[..2].to_vec();
    turned.extend_from_slice(&[0xff, 0xe1]);
    turned.extend_from_slice(&(exif.len() as u16 + 2).to_be_bytes());
    turned.extend_from_slice(exif);
    turned.extend_from_slice(&plain[2..]);
    let tensor = levels(8, 16, 1).decode(&turned).unwrap();
    assert!(tensor[..8].iter().all(|&level| level > 200.0), "the bright half is on top: {tensor:?}");
    assert!(tensor[120..].iter().all(|&level| level < 50.0));
}

#[test]
fn files_that_are_no_images_are_named_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let input = levels(8, 8, 1);
    let whole = png(gradient());
    for (name, bytes) in [
        ("empty.png", Vec::new()),
        ("text.png", b"hello".to_vec()),
        ("gif.png", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec()),
        ("cut.png", whole[..whole.len() / 2].to_vec()),
        ("cut.jpg", jpeg(&gradient())[..600].to_vec()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let message = input.load(&path).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
    assert!(matches!(input.load(&folder.path().join("none.png")), Err(ImageError::Read { .. })));
}

#[test]
fn limits_hold_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.png");
    File::create(&path).unwrap().set_len(MAX_IMAGE_BYTES + 1).unwrap();
    assert!(matches!(levels(8, 8, 1).load(&path), Err(ImageError::TooLarge { .. })));

    // The header of a PNG claims any size; the checksum of the header has to fit.
    let claim = |width: u32, height: u32| {
        let mut header = b"IHDR".to_vec();
        header.extend_from_slice(&width.to_be_bytes());
        header.extend_from_slice(&height.to_be_bytes());
        header.extend_from_slice(&[8, 2, 0, 0, 0]);
        let checksum = crc32fast::hash(&header).to_be_bytes();
        let body = png(gradient());
        [&body[..8], &13_u32.to_be_bytes(), &header, &checksum, &body[33..]].concat()
    };
    assert!(levels(8, 8, 3).decode(&claim(13, 11)).is_ok());
    assert!(matches!(levels(8, 8, 3).decode(&claim(20_000, 1)), Err(DecodeError::Image(_))));
    assert!(levels(8, 8, 3).decode(&claim(16_384, 16_384)).is_err());
}
