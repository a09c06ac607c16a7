use core::cell::{Cell, RefCell};

use grapevine_models::Shape;
use grapevine_models::manifest::Manifest;
use image::GrayImage;
use tempfile::TempDir;

use super::*;
use crate::store::{StoreIdentity, StoreLimits};

struct Device {
    folder: TempDir,
    input: ImageInput,
    extractor: Extractor,
    store: Store,
    classes: Vec<String>,
}

/// A device with the shipped digits extractor and an empty store.
fn device() -> Device {
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx");
    let manifest: Manifest = toml::from_str(&fs::read_to_string(onnx.join("digits.toml")).unwrap()).unwrap();
    let extractor = Extractor::load(&manifest, &onnx.join(&manifest.file)).unwrap();
    let classes: Vec<String> = ["zero", "one", "two"].map(String::from).into();
    let shape = Shape::new(3, extractor.features()).unwrap();
    let identity = StoreIdentity { extractor: [1; 32], classes: classes.clone(), shape };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    let store = Store::open(&folder.path().join("edge.redb"), &identity).unwrap();
    Device { input: ImageInput::new(&manifest.input), folder, extractor, store, classes }
}

impl Device {
    fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// Writes `count` different images.
    fn write_images(&self, class: &str, count: u8) {
        let folder = self.images().join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..count {
            let offset = class.len() as u32 * 31 + u32::from(index);
            let image = GrayImage::from_fn(8, 8, |x, y| image::Luma([((x * 29 + y * 13) ^ offset) as u8]));
            image.save(folder.join(format!("{index:03}.png"))).unwrap();
        }
    }

    fn ingest(&self) -> Result<Report, IngestError> {
        self.ingest_until(&|| false)
    }

    fn ingest_until(&self, stop: &dyn Fn() -> bool) -> Result<Report, IngestError> {
        ingest(&self.images(), &self.classes, &self.input, &self.extractor, &self.store, &|_| {}, stop)
    }
}

#[test]
fn images_are_stored_under_their_class() {
    let device = device();
    device.write_images("zero", 5);
    device.write_images("two", 3);
    let seen = RefCell::new(Vec::new());
    let progress = |progress: Progress| seen.borrow_mut().push((progress.done, progress.total));
    let report =
        ingest(&device.images(), &device.classes, &device.input, &device.extractor, &device.store, &progress, &|| {
            false
        });
    assert_eq!(report.unwrap(), Report { images: 8, added: 8, ..Report::default() });
    assert_eq!(seen.into_inner(), [(0, 8), (8, 8)]);
    assert_eq!(device.store.counts().unwrap(), [5, 0, 3]);

    let stored = device.store.load_all().unwrap();
    let image = device.input.load(&device.images().join("two/000.png")).unwrap();
    let features = device.extractor.extract(&image).unwrap();
    let near = |row: &[f32]| row.iter().zip(&features).all(|(a, b)| (a - b).abs() < 2e-3);
    assert!(stored.features.chunks(features.len()).zip(&stored.labels).any(|(row, &label)| label == 2 && near(row)));
}

#[test]
fn a_second_ingest_adds_nothing() {
    let device = device();
    device.write_images("zero", 5);
    device.ingest().unwrap();
    fs::copy(device.images().join("zero/001.png"), device.images().join("zero/copy.PNG")).unwrap();
    let report = device.ingest().unwrap();
    assert_eq!(report, Report { images: 6, duplicates: 6, ..Report::default() });
}

#[test]
fn what_cannot_be_used_is_reported_by_name() {
    let device = device();
    device.write_images("zero", 2);
    device.write_images("cats", 2);
    fs::write(device.images().join("zero/broken.jpeg"), b"not an image").unwrap();
    fs::write(device.images().join("zero/notes.txt"), b"not considered").unwrap();
    fs::write(device.images().join("zero/.hidden.png"), b"not considered").unwrap();
    let report = device.ingest().unwrap();
    assert_eq!((report.images, report.added), (3, 2));
    assert_eq!(report.unknown_folders, [device.images().join("cats")]);
    assert_eq!(report.unreadable.len(), 1);
    assert!(report.unreadable[0].0.ends_with("zero/broken.jpeg"));
    assert!(report.unreadable[0].1.contains("neither a PNG nor a JPEG"), "{}", report.unreadable[0].1);
}

#[test]
fn stopping_keeps_what_was_done() {
    let device = device();
    device.write_images("zero", 100);
    let asked = Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) == 1;
    let report = device.ingest_until(&stop).unwrap();
    assert_eq!((report.added, report.stopped), (CHUNK_IMAGES as u32, true));
    assert_eq!(device.store.counts().unwrap()[0], CHUNK_IMAGES as u32);
    let report = device.ingest().unwrap();
    assert_eq!(
        (report.added, report.duplicates, report.stopped),
        (100 - CHUNK_IMAGES as u32, CHUNK_IMAGES as u32, false)
    );
}

#[test]
fn a_full_store_leaves_images_out_before_extracting_them() {
    let mut device = device();
    device.store = device.store.with_limits(StoreLimits { max_samples: 10, ..StoreLimits::default() });
    device.write_images("zero", 30);
    let first = device.ingest().unwrap();
    assert_eq!(first.added - first.evicted, 10);
    assert_eq!(first.added + first.left_out, 30);
    let again = device.ingest().unwrap();
    assert_eq!((again.added, again.duplicates, again.left_out), (0, 10, 20));
}

#[test]
fn a_folder_without_images_is_explained() {
    let device = device();
    let message = device.ingest().unwrap_err().to_string();
    assert!(message.contains("one folder per class") && message.contains("zero"), "{message}");
    device.write_images("cats", 1);
    assert!(device.ingest().unwrap_err().to_string().contains("cats"));
    fs::remove_dir_all(device.images()).unwrap();
    assert!(matches!(device.ingest(), Err(IngestError::Folder { .. })));
}
