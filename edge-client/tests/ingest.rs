//! `edge-client ingest` as a process: killed at any moment, fed with broken and hostile files, following a camera.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

mod device;

use core::time::Duration;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, after, unbounded};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use device::{Device, digits};

/// Longest wait for anything: far beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Fifty kills instead of a few.
const LONG: &str = "GRAPEVINE_LONG";

fn samples(device: &Device) -> u64 {
    device.call(&["status", "--json"]).json()["store"]["samples"].as_u64().unwrap()
}

/// The calling thread goes on at a moment of its choice, which is the point of this test.
fn pass(time: Duration) {
    after(time).recv().unwrap();
}

#[test]
fn a_kill_at_any_moment_neither_loses_nor_doubles_an_image() {
    let kills = if std::env::var_os(LONG).is_some() { 50 } else { 8 };
    let device = Device::configured();
    // Each digit several times, every time with another corner.
    let digits = digits();
    let images: Vec<(u8, Vec<u8>)> = (0..8_000_u32)
        .map(|number| {
            let (label, mut pixels) = digits[number as usize % digits.len()].clone();
            pixels[..4].copy_from_slice(&number.to_le_bytes());
            (label, pixels)
        })
        .collect();
    write_idx(&device, "train", &images);
    let count = images.len() as u64;
    let start = || device.command(&["ingest", "mnist"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let finish = || {
        let last = device.call(&["ingest", "mnist", "--json"]).succeeds().json();
        assert_eq!(last["added"].as_u64().unwrap() + last["duplicates"].as_u64().unwrap(), count);
        assert_eq!(samples(&device), count);
        assert_eq!(device.call(&["ingest", "mnist", "--json"]).succeeds().json()["added"], 0);
        let trained = device.call(&["train", "--method", "ncm", "--json"]).succeeds().json();
        assert_eq!(trained["samples"], count, "every one can be read");
        println!("the run after the last kill added {}", last["added"]);
    };
    let whole = (0..2).map(|_| {
        // Nothing is there the first time.
        let _ = fs::remove_dir_all(device.path("state"));
        let started = clock();
        assert!(start().wait().unwrap().success());
        started.elapsed()
    });
    let whole = whole.min().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for kill in 0..kills {
        // Kills in a row go on from one another; every second time it begins anew.
        if kill % 2 == 0 {
            finish();
            fs::remove_dir_all(device.path("state")).unwrap();
        }
        let mut running = start();
        pass(whole.mul_f64(rng.random_range(0.0..1.0)));
        running.kill().unwrap();
        running.wait().unwrap();
        let status = device.call(&["status", "--json"]);
        // A store that was being written is repaired by the next writer; a reader says so.
        let what = status.code.filter(|&code| code == 0).map(|_| status.json()["store"]["samples"].to_string());
        println!("kill {kill}: {} of {count} stored", what.unwrap_or(status.stderr));
    }
    finish();
}

/// Writes `mnist/<set>-images-idx3-ubyte` and its labels.
fn write_idx(device: &Device, set: &str, images: &[(u8, Vec<u8>)]) {
    let count = (images.len() as u32).to_be_bytes();
    let side = 8_u32.to_be_bytes();
    let pixels = [&[0, 0, 8, 3], &count[..], &side, &side].concat().into_iter();
    let pixels: Vec<u8> = pixels.chain(images.iter().flat_map(|(_, pixels)| pixels.clone())).collect();
    let labels = [&[0, 0, 8, 1], &count[..]].concat().into_iter().chain(images.iter().map(|(label, _)| *label));
    fs::create_dir_all(device.path("mnist")).unwrap();
    fs::write(device.path("mnist/classes.txt"), device::CLASSES.join("\n")).unwrap();
    fs::write(device.path(&format!("mnist/{set}-images-idx3-ubyte")), pixels).unwrap();
    fs::write(device.path(&format!("mnist/{set}-labels-idx1-ubyte")), labels.collect::<Vec<u8>>()).unwrap();
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../vision/tests/pillow").join(name)).unwrap()
}

/// A PNG whose header claims another size, with a checksum that fits.
fn claiming(width: u32, height: u32) -> Vec<u8> {
    let png = fixture("colour.png");
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    [&png[..12], &header, &crc32fast::hash(&header).to_be_bytes(), &png[33..]].concat()
}

/// A JPEG whose frame header claims another size.
fn jpeg_claiming(side: u16) -> Vec<u8> {
    let mut jpeg = fixture("full-colour.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    jpeg
}

/// Writes files that cannot be images, and gives their names as far as they are text.
fn write_hopeless(folder: &Path) -> Vec<&'static str> {
    let png = fixture("colour.png");
    let jpeg = fixture("full-colour.jpg");
    let files: [(&str, Vec<u8>); 14] = [
        ("empty.png", Vec::new()),
        ("empty.jpg", Vec::new()),
        ("zeros.png", vec![0; 10_000]),
        ("text.jpg", b"this is a letter".to_vec()),
        (
            "really-a-gif.png",
            b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
                .to_vec(),
        ),
        ("a.gif", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec()),
        ("a.webp", b"RIFF\x1a\0\0\0WEBPVP8L".to_vec()),
        ("signature-only.png", png[..8].to_vec()),
        ("marker-only.jpg", jpeg[..2].to_vec()),
        ("huge.png", claiming(u32::MAX, u32::MAX)),
        ("wide.png", claiming(65_535, 1)),
        ("large.png", claiming(16_384, 16_384)),
        ("no-size.png", claiming(0, 0)),
        ("huge.jpg", jpeg_claiming(65_500)),
    ];
    let mut names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    File::create(folder.join("sparse.png")).unwrap().set_len((64 << 20) + 1).unwrap();
    fs::create_dir(folder.join("folder.png")).unwrap();
    symlink("loop.png", folder.join("loop.png")).unwrap();
    symlink("nowhere", folder.join("dangling.jpg")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe.png")).status().unwrap().success());
    fs::write(folder.join("new\nline.png"), b"text").unwrap();
    fs::write(folder.join(OsStr::from_bytes(b"no\xfftext.png")), b"text").unwrap();
    names.extend([
        "sparse.png",
        "folder.png",
        "loop.png",
        "dangling.jpg",
        "pipe.png",
        "new\\nline.png",
        "no\\xfftext.png",
    ]);
    fs::write(folder.join("private.png"), &png).unwrap();
    fs::set_permissions(folder.join("private.png"), fs::Permissions::from_mode(0o000)).unwrap();
    // Permissions do not bind the superuser.
    if File::open(folder.join("private.png")).is_err() {
        names.push("private.png");
    }
    names
}

#[test]
fn two_hundred_broken_and_hostile_files_are_each_named() {
    let device = Device::configured();
    let good = device.write_digits("pictures", 0, 12).len() as u64;
    let folder = device.path("pictures/zero");
    let mut named: Vec<String> = write_hopeless(&folder).into_iter().map(str::to_owned).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let bases =
        ["colour.png", "interlaced.png", "palette-alpha.png", "grey-16.png", "half-colour.jpg", "progressive.jpg"];
    let mut altered = 0;
    for number in 0..200 {
        let base = bases[number % bases.len()];
        let extension = base.rsplit('.').next().unwrap();
        let mut bytes = fixture(base);
        if number % 3 == 0 {
            // What is missing is never made up. Behind the last pixel a PNG has 12 bytes, and four of a checksum.
            bytes.truncate(rng.random_range(1..bytes.len() - 40));
            named.push(format!("cut-{number}.{extension}"));
            fs::write(folder.join(named.last().unwrap()), bytes).unwrap();
            continue;
        }
        for _ in 0..rng.random_range(1..20) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= rng.random_range(1..=255_u8);
        }
        altered += 1;
        fs::write(folder.join(format!("altered-{number}.{extension}")), bytes).unwrap();
    }
    let outcome = device.call(&["ingest", "pictures", "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report = outcome.json();
    let unreadable = report["unreadable"].as_array().unwrap();
    let number = |key: &str| report[key].as_u64().unwrap();
    for name in &named {
        let of_name = |entry: &&Value| entry["file"].as_str().unwrap().ends_with(&format!("pictures/zero/{name}"));
        let entry = unreadable.iter().find(of_name).unwrap_or_else(|| panic!("{name} is not named: {report:#}"));
        assert!(entry["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{entry}");
    }
    // An altered JPEG has no checksum and may be an image still; `private.png` is one for the superuser.
    let usable = number("added") + number("duplicates");
    assert_eq!(usable + unreadable.len() as u64, number("images"));
    assert!(usable >= good && unreadable.len() >= named.len() + altered / 3, "{report:#}");
    assert_eq!(samples(&device), number("added"));
    println!("{} files named, {usable} usable", unreadable.len());

    let people = device.call(&["ingest", "pictures"]);
    people.fails(1, &format!("{} images could not be used; the rest is stored", unreadable.len()));
    assert_eq!(people.stdout.matches("  unusable: ").count(), unreadable.len());
    assert!(people.stdout.contains("zero/folder.png: cannot be read: it is no regular file"), "{}", people.stdout);
    assert!(people.stdout.contains("zero/really-a-gif.png: it is neither a PNG nor a JPEG image but GIF"));
}

/// A program whose standard error is followed.
struct Following {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Following {
    fn start(device: &Device, arguments: &[&str]) -> Self {
        let mut command = device.command(arguments);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).env("NO_COLOR", "1").spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = unbounded();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, heard: Vec::new() }
    }

    fn line(&mut self, part: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no `{part}`: {:?}", self.heard));
            self.heard.push(line);
            if self.heard.last().unwrap().contains(part) {
                return;
            }
        }
    }

    fn terminate(mut self) -> (ExitStatus, String) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (status, std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It has ended already in a test that passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_folder_is_followed_until_a_signal() {
    let device = Device::configured();
    device.call(&["ingest", "--watch", "camera"]).fails(1, "cannot watch camera");
    device.write_digits("camera", 0, 5);
    let mut watch = Following::start(&device, &["ingest", "--watch", "camera", "--json"]);
    watch.line("added=5");
    // Half an image under its final name, and the rest of it later.
    let whole = fixture("colour.png");
    fs::create_dir_all(device.path("camera/late")).unwrap();
    fs::write(device.path("camera/zero/half.png"), &whole[..whole.len() / 2]).unwrap();
    device.write_digits("camera", 5, 5);
    watch.line("added=10");
    fs::write(device.path("camera/zero/half.png"), &whole).unwrap();
    fs::write(device.path("camera/zero/moved.tmp"), fixture("grey.png")).unwrap();
    fs::rename(device.path("camera/zero/moved.tmp"), device.path("camera/zero/moved.png")).unwrap();
    watch.line("added=12");
    let busy = device.call(&["ingest", "--watch", "camera"]);
    busy.fails(1, "under `[ingest]` in the configuration");
    assert!(busy.stderr.contains("is held by another edge-client"), "{busy:?}");
    let (status, report) = watch.terminate();
    assert_eq!(status.code(), Some(0));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["added"], &report["unreadable"]), (&12.into(), &Value::Array(Vec::new())), "{report}");
    assert_eq!(samples(&device), 12);
}

#[test]
fn a_watched_folder_replaces_the_store_as_a_whole_or_not_at_all() {
    let device = Device::configured();
    device.write_digits("first", 0, 6);
    device.call(&["ingest", "first"]).succeeds();
    fs::create_dir_all(device.path("camera/zero")).unwrap();
    fs::write(device.path("camera/zero/text.png"), "no image").unwrap();
    let refused = device.call(&["ingest", "--watch", "--reset", "camera"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(samples(&device), 6, "nothing is lost for a folder without one image");

    device.write_digits("camera", 6, 4);
    let mut watch = Following::start(&device, &["ingest", "--watch", "--reset", "camera"]);
    watch.line("added=4");
    device.write_digits("camera", 10, 2);
    watch.line("added=2");
    assert_eq!(watch.terminate().0.code(), Some(0));
    assert_eq!(samples(&device), 6, "the first six are forgotten");
}

#[test]
fn a_running_device_stores_what_its_camera_writes() {
    let device = Device::configured();
    device.edit_config("mqtt://broker.invalid", "mqtt://127.0.0.1:9");
    device.edit_config("# watch = \"labelled\"", "watch = \"labelled\"");
    let mut run = Following::start(&device, &["run"]);
    run.line("storing images as they come");
    run.line("cannot watch");
    device.write_digits("labelled", 0, 20);
    run.line("added=20");
    assert_eq!(samples(&device), 20, "the store can be read beside `run`");
    assert_eq!(run.terminate().0.code(), Some(0));
}

#[test]
fn every_kind_of_data_is_ingested_with_its_split() {
    let device = Device::configured();
    let digits = digits();
    let chosen = &digits[..40];
    write_idx(&device, "train", &chosen[..30]);
    write_idx(&device, "t10k", &chosen[30..]);
    let added = |arguments: &[&str]| device.call(arguments).succeeds().json()["added"].as_u64().unwrap();
    assert_eq!(added(&["ingest", "mnist", "--json"]), 30);
    assert_eq!(added(&["ingest", "mnist", "--split", "test", "--json"]), 10);
    device.call(&["ingest", "mnist", "--split", "val"]).fails(1, "has no validation split, only train and test");
    device.call(&["ingest", "mnist", "--split", "half"]).fails(2, "`half` is no split");

    let images = device.write_digits("table/images", 40, 6);
    let rows = images.iter().map(|(path, class)| {
        let folder = device.path("table");
        format!("{},{class}\n", path.strip_prefix(folder).unwrap().display())
    });
    fs::write(device.path("table/labels.csv"), format!("file,label\n{}", rows.collect::<String>())).unwrap();
    assert_eq!(added(&["ingest", "table", "--json"]), 6);
    assert_eq!(added(&["ingest", "table/labels.csv", "--json"]), 0);
    device.write_digits("packed/data", 46, 4);
    let mut tar = Command::new("tar");
    tar.args(["-czf", "data.tar.gz", "-C", "packed", "data"]).current_dir(device.path("."));
    assert!(tar.status().unwrap().success());
    assert_eq!(added(&["ingest", "data.tar.gz", "--json"]), 4);
    assert_eq!(samples(&device), 50);
}

#[allow(clippy::disallowed_methods, reason = "the kills are spread over the time that a run takes")]
fn clock() -> Instant {
    Instant::now()
}
