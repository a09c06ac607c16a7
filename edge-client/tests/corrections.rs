//! Labels that change, images under two classes, and sources that are refused: nothing is lost, nothing is silent.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it skips")]

mod device;

use core::time::Duration;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use device::*;
use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Longest wait for a clock's grain to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Samples per class, of those that have any.
fn samples(device: &Device) -> Vec<(String, u64)> {
    let status = device.call(&["status", "--json"]).json();
    let class = |class: &Value| (class["class"].as_str().unwrap().to_owned(), class["samples"].as_u64().unwrap());
    let classes = status["store"]["by_class"].as_array().unwrap().iter().map(class);
    classes.filter(|(_, samples)| *samples > 0).collect()
}

fn of(class: &str, samples: u64) -> (String, u64) {
    (class.to_owned(), samples)
}

/// Writes so many different images of one class.
fn write_class(device: &Device, folder: &str, class: &str, first: usize, count: usize) {
    for number in first..first + count {
        let path = device.path(folder).join(class).join(format!("{number}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixels = (0..64).map(|pixel: usize| ((pixel * 3) ^ (number * 7)) as u8).collect();
        image::GrayImage::from_raw(8, 8, pixels).unwrap().save(path).unwrap();
    }
}

fn array(descr: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), numbers].concat()
}

/// Writes features of one label a row, `scale` long in each of 64 directions.
fn write_npz(path: &Path, labels: &[u8], scale: f32, last: f32) {
    let mut numbers: Vec<f32> = (0..labels.len() * 64)
        .map(|place| if (place * 7_919 + place / 64) % 2 == 0 { scale } else { -scale } * (1.0 + (place / 64) as f32 / 1e3))
        .collect();
    *numbers.last_mut().unwrap() = last;
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    let rows = labels.len();
    for (name, bytes) in [
        ("features.npy", array("<f4", &format!("{rows}, 64"), &bytes)),
        ("labels.npy", array("|u1", &format!("{rows},"), labels)),
    ] {
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn an_image_in_another_class_folder_has_another_label() {
    let device = Device::configured();
    write_class(&device, "images", "two", 0, 6);
    device.call(&["ingest", "images"]).succeeds();
    fs::rename(device.path("images/two"), device.path("images/one")).unwrap();
    let moved = device.call(&["ingest", "images", "--json"]).succeeds().json();
    assert_eq!((&moved["relabelled"], &moved["added"]), (&6.into(), &0.into()), "{moved}");
    assert_eq!(samples(&device), [of("one", 6)]);
    fs::create_dir(device.path("table")).unwrap();
    fs::rename(device.path("images/one"), device.path("table/files")).unwrap();
    let rows: String = (0..6).map(|number| format!("files/{number}.png,three\r\n")).collect();
    fs::write(device.path("table/labels.csv"), format!("\u{feff}file,label\r\n{rows}")).unwrap();
    let listed = device.call(&["ingest", "table", "--json"]).succeeds().json();
    assert_eq!(listed["relabelled"], 6, "a table that begins with a mark of its editor counts, too: {listed}");
    let rows = rows.replace("three", "four");
    fs::write(device.path("table/labels.csv"), format!("file,label\r\n{rows}")).unwrap();
    let again = device.call(&["ingest", "table"]);
    assert!(again.succeeds().stdout.contains("6 images: 0 added, 0 duplicates, 6 of another class now"), "{again:?}");
    assert_eq!(samples(&device), [of("four", 6)]);
    write_npz(&device.path("rows.npz"), &[5; 9], 0.5, 0.5);
    device.call(&["ingest", "rows.npz"]).succeeds();
    write_npz(&device.path("rows.npz"), &[6; 9], 0.5, 0.5);
    assert_eq!(device.call(&["ingest", "rows.npz", "--json"]).succeeds().json()["relabelled"], 9);
    assert_eq!(samples(&device), [of("four", 6), of("six", 9)]);
}

#[test]
fn one_image_under_two_classes_is_named_and_not_decided() {
    let device = Device::configured();
    write_class(&device, "images", "one", 0, 3);
    write_class(&device, "images", "two", 2, 3);
    let both = device.call(&["ingest", "images", "--json"]);
    both.fails(1, "1 image lies under two classes; the rest is stored");
    let report = both.json();
    let conflict = &report["conflicts"][0];
    let images = conflict["images"].as_array().unwrap();
    let mut named: Vec<&str> = images.iter().map(|image| image["image"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["images/one/2.png", "images/two/2.png"], "{report}");
    assert_eq!((&conflict["kept"], &report["added"]), (&Value::Null, &4.into()), "it is new and left out: {report}");
    assert_eq!(samples(&device), [of("one", 2), of("two", 2)]);

    fs::remove_file(device.path("images/two/2.png")).unwrap();
    assert_eq!(device.call(&["ingest", "images", "--json"]).succeeds().json()["added"], 1);
    fs::copy(device.path("images/one/2.png"), device.path("images/two/2.png")).unwrap();
    let stays = device.call(&["ingest", "images"]);
    stays.fails(1, "1 image lies under two classes");
    assert!(stays.stdout.contains("are the same image; it stays in `one`"), "{stays:?}");
    assert_eq!(samples(&device), [of("one", 3), of("two", 2)]);
    let status = device.call(&["status"]);
    assert!(status.code == Some(1) && status.stderr.contains("1 image lies under two classes"), "{status:?}");
    fs::remove_file(device.path("images/one/2.png")).unwrap();
    assert_eq!(device.call(&["ingest", "images", "--json"]).succeeds().json()["relabelled"], 1);
    assert_eq!(samples(&device), [of("one", 2), of("two", 3)]);
    device.call(&["status"]).succeeds();
}

#[test]
fn labels_are_put_right_and_samples_forgotten_by_hand() {
    let device = Device::configured();
    write_class(&device, "images", "one", 0, 4);
    write_class(&device, "images", "two", 4, 4);
    device.call(&["relabel", "images/one/0.png", "two"]).fails(1, "run `edge-client ingest` first");
    device.call(&["ingest", "images"]).succeeds();
    let changed = device.call(&["relabel", "images/one/0.png", "images/two/4.png", "two", "--json"]).succeeds().json();
    assert_eq!(
        (&changed["relabelled"][0]["from"], &changed["unchanged"][0]),
        (&"one".into(), &"images/two/4.png".into())
    );
    let digest = grapevine_vision::manifest::sha256_file(&device.path("images/one/1.png")).unwrap().to_string();
    device.call(&["relabel", &digest, "three"]).succeeds();
    assert_eq!(samples(&device), [of("one", 2), of("two", 5), of("three", 1)]);
    device.call(&["relabel", "images/one/0.png", "eleven"]).fails(2, "`eleven` is no class of the configuration");
    let missing = device.call(&["relabel", "nowhere.png", "images/one/2.png", "two"]);
    missing.fails(1, "nowhere.png is not stored; name a file");
    fs::remove_file(device.path("images/one/3.png")).unwrap();
    device.call(&["forget", "images/one/3.png"]).succeeds();
    assert_eq!(samples(&device), [of("two", 6), of("three", 1)], "it is known by where it was");
    assert_eq!(device.call(&["forget", "--class", "three", "--json"]).succeeds().json()["forgotten"], 1);
    write_npz(&device.path("rows.npz"), &[5; 9], 0.5, 0.5);
    device.call(&["ingest", "rows.npz"]).succeeds();
    device.call(&["forget", "--source", "elsewhere"]).fails(1, "no stored sample came from elsewhere");
    assert_eq!(device.call(&["forget", "--source", "rows.npz", "--json"]).succeeds().json()["forgotten"], 9);
    assert_eq!(samples(&device), [of("two", 6)]);
    device.call(&["forget", "--all", "please"]).fails(2, "write `--all yes`");
    device.call(&["forget"]).fails(2, "required");
    assert!(device.call(&["forget", "--all", "yes"]).succeeds().stdout.starts_with("6 samples forgotten, 0 are left"));
}

#[test]
fn a_source_that_is_refused_costs_nothing() {
    let device = Device::filled(20);
    device.call(&["train", "--save"]).succeeds();
    let status = || {
        let status = device.call(&["status", "--json"]).succeeds().json();
        (status["store"]["samples"].clone(), status["store"]["newest_head"].clone())
    };
    let before = status();
    assert!(before.0 == 20 && before.1.is_object(), "{before:?}");
    write_npz(&device.path("nan.npz"), &[1; 5_000], 0.5, f32::NAN);
    fs::write(device.path("text.npz"), "PK\u{3}\u{4}no archive").unwrap();
    write_class(&device, "broken", "one", 0, 1);
    fs::write(device.path("broken/one/0.png"), "no image").unwrap();
    for source in ["nan.npz", "text.npz", "broken", "nowhere"] {
        for reset in [&["--reset"][..], &[]] {
            let refused = device.call(&[&["ingest", source], reset].concat());
            assert!(refused.code == Some(1) && !refused.stderr.is_empty(), "{source}: {refused:?}");
            assert_eq!(status(), before, "{source} {reset:?}");
        }
    }
    fs::remove_dir_all(device.path("broken")).unwrap();
    device.call(&["ingest", "nan.npz", "--reset"]).fails(1, "row 4999: feature 63 is NaN");
    assert_eq!(device.names_in("state"), ["extractor.json", "intake.json", "store.redb"], "nothing is left behind");
    write_class(&device, "good", "one", 0, 3);
    device.call(&["ingest", "good", "--reset"]).succeeds();
    assert_eq!(status(), (3.into(), Value::Null));
}

#[test]
fn features_on_another_scale_are_noticed() {
    let device = Device::configured();
    write_npz(&device.path("own.npz"), &[1; 30], 0.5, 0.5);
    let own = device.call(&["ingest", "own.npz", "--json"]).succeeds().json();
    assert_eq!(own["warnings"], Value::Array(Vec::new()), "{own}");
    write_npz(&device.path("raw.npz"), &[1], 1.6, 1.6);
    let raw = device.call(&["ingest", "raw.npz", "--json"]);
    let warning = raw.json()["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.contains("this device's own have 16") && warning.contains("times the scale"), "{warning}");
    assert!(raw.code == Some(0) && raw.stderr.contains("times the scale"), "{raw:?}");
}

#[test]
fn names_are_compared_as_people_read_them() {
    let device = Device::new();
    let extractor = shipped("digits.toml").to_str().unwrap().to_owned();
    let init = |classes: &str| {
        device.init_with(&extractor, classes, &["--force"]).succeeds();
        let _ = fs::remove_dir_all(device.path("images"));
        let _ = fs::remove_dir_all(device.path("state"));
    };
    init("caf\u{e9},dog");
    write_class(&device, "images", "cafe\u{301}", 0, 3);
    device.call(&["ingest", "images"]).succeeds();
    assert_eq!(samples(&device), [of("caf\u{e9}", 3)]);
    init("cafe\u{301},dog");
    write_class(&device, "images", "caf\u{e9}", 0, 3);
    device.call(&["ingest", "images"]).succeeds();
    init("car,bus,train");
    write_class(&device, "images", "car", 0, 2);
    write_class(&device, "images", "train/2026-01-01", 2, 3);
    device.call(&["ingest", "images"]).succeeds();
    assert_eq!(samples(&device), [of("car", 2), of("train", 3)], "a folder of a class is no split");
    init("car,bus,train");
    write_class(&device, "images/train", "car", 0, 2);
    write_class(&device, "images/train", "train", 2, 3);
    write_class(&device, "images/test", "train", 5, 3);
    device.call(&["ingest", "images"]).succeeds();
    assert_eq!(samples(&device), [of("car", 2), of("train", 3)], "folders of classes in every split are splits");
    let mut tar = std::process::Command::new("tar");
    init("car,bus,train");
    write_class(&device, "images", "car", 0, 2);
    write_class(&device, "images", "train/2026-01-01", 2, 3);
    assert!(tar.args(["-czf", "a.tgz", "images"]).current_dir(device.path(".")).status().unwrap().success());
    device.call(&["ingest", "a.tgz"]).succeeds();
    assert_eq!(samples(&device), [of("car", 2), of("train", 3)], "in archives, too");
}

#[test]
fn files_that_are_passed_over_are_counted_with_reason_and_cure() {
    let device = Device::configured();
    write_class(&device, "images", "one", 0, 2);
    for name in ["images/one/a.heif", "images/one/b.txt", "images/one/c.xml", "images/loose.png"] {
        fs::write(device.path(name), "no image").unwrap();
    }
    let outcome = device.call(&["ingest", "images", "--json"]);
    outcome.fails(1, "images/one/a.heif could not be used and 1 image lies in no class folder; the rest is stored");
    let report = outcome.json();
    let reasons = report["passed_over"].as_array().unwrap();
    let reason = |name: &str| reasons.iter().find(|aside| aside["reason"] == name).unwrap();
    assert_eq!((&reason("ending")["count"], &reason("no-class")["count"]), (&2.into(), &1.into()), "{report}");
    assert!(reason("ending")["cure"].as_str().unwrap().contains(".png"));
    let status = device.call(&["status"]);
    assert!(
        status.stdout.contains("2 files were passed over for their endings (") && status.code == Some(1),
        "{status:?}"
    );
    let json = device.call(&["status", "--json"]).json();
    assert_eq!(json["passed_over"][0]["passed_over"].as_array().unwrap().len(), 3, "{json}");
    for name in ["images/one/0.png", "images/one/1.png", "images/one/a.heif", "images/loose.png"] {
        fs::remove_file(device.path(name)).unwrap();
    }
    device.call(&["ingest", "images"]).fails(1, "2 files were passed over for their endings");
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_does_not_stop_the_rest() {
    use std::os::unix::fs::PermissionsExt;
    let device = Device::configured();
    let mode = |name: &str, mode| fs::set_permissions(device.path(name), fs::Permissions::from_mode(mode)).unwrap();
    write_class(&device, "images", "one", 0, 3);
    write_class(&device, "images", "two", 3, 3);
    mode("images/one/0.png", 0o000);
    mode("images/two", 0o000);
    if fs::read_dir(device.path("images/two")).is_ok() {
        println!("skipped: permissions do not bind the superuser");
        return;
    }
    let outcome = device.call(&["ingest", "images", "--json"]);
    mode("images/two", 0o755);
    outcome.fails(1, "images/one/0.png could not be used and 1 folder may not be listed; the rest is stored");
    let report = outcome.json();
    assert_eq!(report["added"], 2, "{report}");
    assert!(report["unreadable"][0]["reason"].as_str().unwrap().contains("chmod a+r"), "{report}");
    let status = device.call(&["status"]);
    assert!(status.code == Some(1) && status.stderr.contains("1 folder may not be listed by this user"), "{status:?}");
}

#[cfg(unix)]
#[test]
fn state_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let device = Device::filled(5);
    let mode = |name: &str| fs::metadata(device.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/store.redb"), mode("state/intake.json")), (0o700, 0o600, 0o600));
    fs::set_permissions(device.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    device.call(&["ingest", "pictures"]).succeeds();
    assert_eq!(mode("state"), 0o700, "what was wider is narrowed");
}

#[test]
fn a_file_that_has_not_changed_is_not_read_again() {
    let device = Device::configured();
    write_class(&device, "images", "one", 0, 5);
    // A file that was written a moment ago may change again without another time on it.
    let deadline = clock() + PATIENCE;
    while device.call(&["ingest", "images", "--json"]).succeeds().json()["unread"] != 5 {
        assert!(clock() < deadline, "the files stay unknown");
    }
    device.call(&["relabel", "images/one/0.png", "two"]).succeeds();
    let again = device.call(&["ingest", "images", "--json"]).succeeds().json();
    assert_eq!((&again["unread"], &again["relabelled"]), (&5.into(), &0.into()), "a person's word is newer: {again}");
    let time = fs::metadata(device.path("images/one/1.png")).unwrap().modified().unwrap();
    let other = fs::read(device.path("images/one/2.png")).unwrap();
    let same_length = fs::read(device.path("images/one/1.png")).unwrap().len();
    fs::write(device.path("images/one/1.png"), &other).unwrap();
    File::options().write(true).open(device.path("images/one/1.png")).unwrap().set_modified(time).unwrap();
    let changed = device.call(&["ingest", "images", "--json"]).succeeds().json();
    assert_eq!(changed["unread"], 4, "{same_length} and {} bytes: {changed}", other.len());
}

#[allow(clippy::disallowed_methods, reason = "a test waits for a clock's grain")]
fn clock() -> Instant {
    Instant::now()
}
