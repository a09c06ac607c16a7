use core::cell::RefCell;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::fs;
use std::sync::Arc;

use grapevine_host::Shutdown;
use grapevine_host::clock::unix_ms;
use grapevine_models::Shape;
use grapevine_vision::manifest::Manifest;
use image::GrayImage;
use tempfile::TempDir;

use super::*;
use crate::store::tests::disk::{Disk, Room, open_on};
use crate::store::{StoreIdentity, StoreLimits};
use crate::watch::{PATIENCE, SETTLE, Watch};

struct Device {
    folder: TempDir,
    input: ImageInput,
    extractor: Extractor,
    store: Store,
    classes: Vec<String>,
    throttle: Throttle,
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
    Device { input: ImageInput::new(&manifest.input), folder, extractor, store, classes, throttle: Throttle::default() }
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

    fn ingest_until(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<Report, IngestError> {
        ingest(&self.images(), &self.classes, &self.input, &self.extractor, &self.store, &|_| {}, stop)
    }

    fn following(&self, cores: Cores) -> Ingest<'_> {
        let Self { classes, input, extractor, store, throttle, .. } = self;
        Ingest { classes, input, extractor, store, throttle, cores }
    }
}

#[test]
fn images_are_stored_under_their_class() {
    let device = device();
    device.write_images("zero", 5);
    device.write_images("two", 3);
    let seen = RefCell::new(Vec::new());
    let progress = |progress: Progress| seen.borrow_mut().push((progress.done, progress.total));
    let Device { classes, input, extractor, store, .. } = &device;
    let report = ingest(&device.images(), classes, input, extractor, store, &progress, &|| false);
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
    // On a slow machine the files are old enough to be known without reading them.
    assert_eq!(report, Report { images: 6, duplicates: 6, unread: report.unread, ..Report::default() });
}

#[test]
fn what_cannot_be_used_is_reported_by_name() {
    let device = device();
    device.write_images("zero", 2);
    device.write_images("cats", 2);
    fs::write(device.images().join("zero/broken.jpeg"), b"not an image").unwrap();
    fs::write(device.images().join("zero/notes.txt"), b"not considered").unwrap();
    fs::write(device.images().join("zero/.hidden.png"), b"not considered").unwrap();
    fs::create_dir(device.images().join("zero/folder.png")).unwrap();
    let report = device.ingest().unwrap();
    assert_eq!((report.images, report.added), (4, 2));
    assert_eq!(report.unknown_classes, ["cats"]);
    let [(broken, why), (folder, why_not)] = report.unreadable.as_slice() else { panic!("{:?}", report.unreadable) };
    assert!(broken.ends_with("zero/broken.jpeg") && why.contains("neither a PNG nor a JPEG"), "{broken}: {why}");
    assert!(folder.ends_with("zero/folder.png") && why_not.contains("no regular file"), "{folder}: {why_not}");
}

#[test]
fn stopping_keeps_what_was_done() {
    let device = device();
    device.write_images("zero", 200);
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 100;
    let first = device.ingest_until(&stop).unwrap();
    assert!(first.stopped && first.added > 0 && first.added < 200, "{first:?}");
    assert_eq!(device.store.counts().unwrap()[0], first.added);
    let second = device.ingest().unwrap();
    assert_eq!((second.added, second.duplicates, second.stopped), (200 - first.added, first.added, false));
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
    assert!(message.contains("one folder per class"), "{message}");
    device.write_images("cats", 1);
    let message = device.ingest().unwrap_err().to_string();
    assert!(message.contains("zero/1.png (found folders of no class: cats)"), "{message}");
    fs::remove_dir_all(device.images()).unwrap();
    assert!(matches!(device.ingest(), Err(IngestError::Source(_))));
}

#[test]
fn a_split_is_chosen_by_name() {
    let device = device();
    device.write_images("train/zero", 4);
    device.write_images("test/zero", 2);
    let path = device.images();
    let Source::Images(source) = Source::open(&path).unwrap() else { panic!("a folder holds images") };
    let plan = Plan::new(&path, &source, Split::Test, &device.classes).unwrap();
    let report = device.following(Cores::One).images(&plan, &|_| {}, &|| false).unwrap();
    assert_eq!((plan.total(), report.added), (2, 2));
    let error = Plan::new(&path, &source, Split::Validation, &device.classes).unwrap_err().to_string();
    assert!(error.contains("has no validation split, only train and test"), "{error}");
    assert_eq!(device.ingest().unwrap().added, 4, "the training split unless asked otherwise");
}

/// Follows the folder until `done` says that the report is complete.
fn follow(device: &Device, cores: Cores, watch: &mut Watch, done: &dyn Fn(&Report) -> bool) -> Report {
    let shutdown = Shutdown::manual();
    device
        .following(cores)
        .follow(watch, &shutdown, &mut |report| {
            if done(report) {
                shutdown.request();
            }
        })
        .unwrap()
}

#[test]
fn a_followed_folder_is_stored_as_it_fills() {
    let device = Arc::new(device());
    device.write_images("zero", 3);
    fs::write(device.images().join("stray.png"), b"of no class").unwrap();
    let writer = device.clone();
    let mut wrote = false;
    let shutdown = Shutdown::manual();
    let report =
        device.following(Cores::One).follow(&mut Watch::new(&device.images()), &shutdown, &mut |report| match report
            .added
        {
            3 if !wrote => {
                writer.write_images("two", 30);
                wrote = true;
            }
            33 => drop(shutdown.request()),
            _ => {}
        });
    let report = report.unwrap();
    assert_eq!((report.images, report.added, report.unreadable.len()), (33, 33, 0));
    assert_eq!(report.unknown_classes, ["."]);
    assert_eq!(device.store.counts().unwrap(), [3, 0, 30]);
    let again = follow(&device, Cores::All, &mut Watch::new(&device.images()), &|report| report.images == 33);
    assert_eq!((again.added, again.duplicates), (0, 33));
}

#[test]
fn a_half_written_image_is_taken_when_it_is_whole() {
    let device = device();
    device.write_images("zero", 1);
    let path = device.images().join("zero/000.png");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    // Long settled: the camera stopped in the middle for longer than it should.
    let mut watch = Watch::new(&device.images());
    watch.look(Duration::ZERO).unwrap();
    let arrivals = watch.look(SETTLE).unwrap();
    let mut following = follow::Following::default();
    let ingest = device.following(Cores::One);
    let shutdown = Shutdown::manual();
    assert!(!following.take(&ingest, &mut watch, &arrivals, &shutdown).unwrap());
    assert_eq!((following.report.images, following.report.unreadable.len()), (0, 0), "it is not called broken");
    fs::write(&path, &whole).unwrap();
    let mut now = SETTLE + Duration::from_secs(1);
    assert!(watch.look(now).unwrap().is_empty());
    now += SETTLE;
    let arrivals = watch.look(now).unwrap();
    assert!(following.take(&ingest, &mut watch, &arrivals, &shutdown).unwrap());
    assert_eq!((following.report.added, following.report.unreadable.len()), (1, 0));
}

#[test]
fn an_image_that_stays_broken_is_reported_once() {
    let device = device();
    fs::create_dir(device.images().join("one")).unwrap();
    fs::write(device.images().join("one/half.jpg"), b"\xff\xd8\xff\xe0").unwrap();
    let ingest = device.following(Cores::One);
    let (mut watch, mut following, shutdown) =
        (Watch::new(&device.images()), follow::Following::default(), Shutdown::manual());
    let mut reported = 0;
    for seconds in 0..3 * PATIENCE.as_secs() {
        let arrivals = watch.look(Duration::from_secs(seconds)).unwrap();
        following.take(&ingest, &mut watch, &arrivals, &shutdown).unwrap();
        let count = following.report.unreadable.len();
        assert!(count == 0 || seconds >= PATIENCE.as_secs());
        reported = count;
    }
    assert_eq!((reported, following.report.images), (1, 1));
    assert!(following.report.unreadable[0].0.ends_with("one/half.jpg"));
}

/// Looks once and deals with what is complete, so many seconds after the start.
fn look(ingest: &Ingest<'_>, watch: &mut Watch, following: &mut follow::Following, seconds: u64) {
    let now = Duration::from_secs(seconds);
    following.step(ingest, watch, now, &Shutdown::manual()).unwrap().unwrap();
}

#[test]
fn a_followed_image_that_moves_to_another_class_gets_its_label() {
    let device = device();
    device.write_images("zero", 3);
    let ingest = device.following(Cores::One);
    let (mut watch, mut following) = (Watch::new(&device.images()), follow::Following::default());
    for seconds in [0, 3] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    assert_eq!(device.store.counts().unwrap(), [3, 0, 0]);
    fs::create_dir(device.images().join("two")).unwrap();
    fs::rename(device.images().join("zero/001.png"), device.images().join("two/001.png")).unwrap();
    for seconds in [6, 9] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    assert_eq!((device.store.counts().unwrap(), following.report.relabelled), (vec![2, 0, 1], 1));
    fs::remove_file(device.images().join("zero/000.png")).unwrap();
    look(&ingest, &mut watch, &mut following, 12);
    assert_eq!(device.store.counts().unwrap(), [2, 0, 1], "a file that is deleted leaves its sample");
    assert!(following.report.conflicts.is_empty());
}

#[test]
fn a_followed_image_under_two_classes_waits_until_one_has_gone() {
    let device = device();
    device.write_images("zero", 2);
    let ingest = device.following(Cores::One);
    let (mut watch, mut following) = (Watch::new(&device.images()), follow::Following::default());
    for seconds in [0, 3] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    fs::create_dir(device.images().join("two")).unwrap();
    fs::copy(device.images().join("zero/000.png"), device.images().join("two/copy.png")).unwrap();
    for seconds in [6, 9, 12] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    let [conflict] = following.report.conflicts.as_slice() else { panic!("{:?}", following.report) };
    assert!(conflict.images[0].0.ends_with("zero/000.png") && conflict.images[1].0.ends_with("two/copy.png"));
    assert_eq!((conflict.kept.as_deref(), device.store.counts().unwrap()), (Some("zero"), vec![2, 0, 0]));
    assert_eq!(following.report.passed_over.of(Reason::Conflict).map(|named| named.count), Some(1));
    fs::remove_file(device.images().join("zero/000.png")).unwrap();
    for seconds in [15, 18, 21] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    assert_eq!(device.store.counts().unwrap(), [1, 0, 1], "the file that is left says what it is");
    assert_eq!(following.report.passed_over.of(Reason::Conflict), None);
}

#[test]
fn what_is_passed_over_is_counted_while_it_is_there() {
    let device = device();
    device.write_images("zero", 1);
    device.write_images("cats", 2);
    fs::write(device.images().join("zero/notes.txt"), b"no image").unwrap();
    fs::write(device.images().join("zero/broken.png"), b"no image").unwrap();
    let ingest = device.following(Cores::One);
    let (mut watch, mut following) = (Watch::new(&device.images()), follow::Following::default());
    for seconds in [0, 3, 40, 80] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    let count =
        |following: &follow::Following, reason| following.report.passed_over.of(reason).map(|named| named.count);
    let counts = [Reason::Ending, Reason::NoClass, Reason::Unusable].map(|reason| count(&following, reason));
    assert_eq!(counts, [Some(1), Some(2), Some(1)], "{:?}", following.report);
    assert!(following.has_news() && !following.has_news(), "said once");
    fs::remove_dir_all(device.images().join("cats")).unwrap();
    fs::remove_file(device.images().join("zero/broken.png")).unwrap();
    for seconds in [83, 86] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    let counts = [Reason::Ending, Reason::NoClass, Reason::Unusable].map(|reason| count(&following, reason));
    assert_eq!(counts, [Some(1), None, None], "{:?}", following.report);
    assert!(following.has_news());
}

#[test]
fn a_full_disk_is_waited_for() {
    let mut device = device();
    let disk = Disk::default();
    let shape = device.store.shape();
    let identity = StoreIdentity { extractor: [1; 32], classes: device.classes.clone(), shape };
    device.store = open_on(&disk, &identity).unwrap();
    device.write_images("zero", 30);
    let changes = disk.count();
    disk.set_room(Room::NoneFrom(changes));
    let mut heard = Vec::new();
    let shutdown = Shutdown::manual();
    let report = device.following(Cores::One).follow(&mut Watch::new(&device.images()), &shutdown, &mut |report| {
        heard.push(report.storing_fails.clone());
        match report.storing_fails {
            Some(_) => disk.set_room(Room::Enough),
            None if report.added == 30 => drop(shutdown.request()),
            None => {}
        }
    });
    let report = report.unwrap();
    assert_eq!((report.added, device.store.counts().unwrap()), (30, vec![30, 0, 0]));
    assert!(heard[0].as_ref().is_some_and(|why| why.contains("the disk is full")), "{heard:?}");
    assert_eq!((heard.last().unwrap(), report.storing_fails), (&None, None), "it is over");
}

#[test]
fn a_partial_ingest_says_what_was_stored() {
    let mut device = device();
    let disk = Disk::default();
    let shape = device.store.shape();
    let identity = StoreIdentity { extractor: [1; 32], classes: device.classes.clone(), shape };
    device.store = open_on(&disk, &identity).unwrap();
    device.write_images("zero", 30);
    device.write_images("two", 30);
    disk.set_room(Room::NoneFrom(disk.count()));
    let error = device.ingest().unwrap_err();
    let stored: u32 = device.store.counts().unwrap().iter().sum();
    let IngestError::Partial { report, .. } = &error else { panic!("{error}") };
    assert!(stored < 60 && report.images > 0 && report.added <= stored, "{report:?}");
    let expected = format!("; before that, {} of {} images or rows were stored", report.added, report.images);
    assert!(error.to_string().contains("the disk is full") && error.to_string().ends_with(&expected), "{error}");
    disk.set_room(Room::Enough);
    let rest = device.ingest().unwrap();
    assert_eq!((rest.added + stored, device.store.counts().unwrap()), (60, vec![30, 0, 30]));
}

#[test]
fn a_first_look_at_known_files_reads_none_of_them() {
    let device = device();
    device.write_images("zero", 200);
    let ingest = device.following(Cores::One);
    let deadline = unix_ms() + 60_000;
    // A file that was written a moment ago may still change.
    while device.ingest().unwrap().unread < 200 {
        assert!(unix_ms() < deadline, "the files stay unknown");
    }
    let (mut watch, mut following) = (Watch::new(&device.images()), follow::Following::default());
    look(&ingest, &mut watch, &mut following, 0);
    assert_eq!((following.report.unread, following.report.duplicates), (200, 200));
    fs::write(device.images().join("zero/000.png"), fs::read(device.images().join("zero/001.png")).unwrap()).unwrap();
    for seconds in [3, 6] {
        look(&ingest, &mut watch, &mut following, seconds);
    }
    assert_eq!(following.report.images, 201, "one changed and is read");
}
