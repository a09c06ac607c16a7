//! `classify` and `status` as people meet them: folders, standard input, and the store of a device that was killed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which a panic is a failed test")]

mod device;

use std::fs;
use std::fs::File;
use std::process::Stdio;

use device::*;

/// A device with a head of its own, and two images that it has not seen.
fn trained() -> (Device, Vec<(std::path::PathBuf, &'static str)>) {
    let device = Device::filled(200);
    device.call(&["train", "--rounds", "5", "--save"]).succeeds();
    let unseen = device.write_digits("unseen", 1_400, 12);
    (device, unseen)
}

#[test]
fn a_folder_stands_for_its_images_and_each_has_a_line() {
    let (device, unseen) = trained();
    fs::write(device.path("unseen/notes.txt"), "no image").unwrap();
    let lines = device.call(&["classify", "unseen", "--json", "--top", "2"]).succeeds().json_lines();
    let mut expected: Vec<String> = unseen
        .iter()
        .map(|(path, _)| path.strip_prefix(device.path("")).unwrap().to_str().unwrap().to_owned())
        .collect();
    expected.sort();
    assert_eq!(lines.iter().map(|line| line["image"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    for line in &lines {
        assert_eq!((&line["calibrated"], &line["samples"]), (&false.into(), &200.into()), "{line}");
        let likeliest = &line["predictions"][0];
        let probability = likeliest["probability"].as_f64().unwrap();
        assert!((0.001..=0.999).contains(&probability) && likeliest["samples"].as_u64().unwrap() <= 200, "{line}");
        assert_eq!((1_000.0 * probability).round() / 1_000.0, probability, "three digits: {line}");
        assert_eq!((line["predictions"].as_array().unwrap().len(), &line["round"]), (2, &0.into()));
    }
    let text = device.call(&["classify", "unseen", "--top", "1"]);
    assert_eq!(text.succeeds().stdout.lines().count(), 12);
    for line in text.stdout.lines() {
        assert!(line.contains(" (not calibrated; ") && line.contains(" of this device's 200 samples are "), "{line}");
        assert!(!line.contains("100.0 %"), "{line}");
    }
    assert!(device.call(&["classify", "--help"]).succeeds().stdout.contains("not calibrated"));

    fs::create_dir(device.path("empty")).unwrap();
    let first = unseen[0].0.to_str().unwrap();
    let mixed = device.call(&["classify", "empty", first]);
    mixed.fails(1, "no PNG or JPEG image in empty; name a file or another folder");
    assert_eq!(mixed.stdout.lines().count(), 1, "the rest is classified");
}

#[test]
fn one_image_may_come_on_standard_input() {
    let (device, unseen) = trained();
    let (path, _) = &unseen[0];
    let by_name = device.call(&["classify", path.to_str().unwrap(), "--json"]).succeeds().json_lines();
    let image = File::open(path).unwrap();
    let output = device.command(&["classify", "-", "--json"]).stdin(Stdio::from(image)).output().unwrap();
    let piped: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&piped["image"], &piped["predictions"]), (&"-".into(), &by_name[0]["predictions"]));
    device.call(&["classify", "-"]).fails(1, "-: it is neither a PNG nor a JPEG image");
}

#[cfg(unix)]
#[test]
fn a_killed_device_can_be_looked_at_and_used_at_once() {
    let (device, unseen) = trained();
    device.edit_config("mqtt://broker.invalid", "mqtt://127.0.0.1:9");
    let mut run = Running(device.command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
    // Every call takes a moment, and the program below is given many of them to start.
    let started = (0..1_000).any(|_| device.call(&["status", "--json"]).json()["running"]["state"] == "connecting");
    assert!(started);
    run.0.kill().unwrap();
    run.0.wait().unwrap();

    let status = device.call(&["status", "--json"]);
    status.fails(1, "was killed or lost its power; nothing stored is lost, start it again");
    let status = status.json();
    assert_eq!((&status["store"]["samples"], &status["running"]["alive"]), (&200.into(), &false.into()));
    assert!(status["store"]["newest_head"].is_object(), "{status}");
    let line = device.call(&["classify", unseen[0].0.to_str().unwrap()]);
    assert_eq!(line.succeeds().stdout.lines().count(), 1);
    device.call(&["ingest", "pictures"]).succeeds();
    device.call(&["status"]).fails(1, "this device does not run");
}

/// A file's name is anybody's text: it may colour a terminal, write from right to left, or hide characters.
#[cfg(unix)]
#[test]
fn foreign_names_reach_the_terminal_escaped() {
    let (device, images) = trained();
    let content = fs::read(&images[0].0).unwrap();
    let name = "a\u{1b}[31m\u{9b}b\u{202e}gnp\u{200b}.png";
    fs::create_dir(device.path("foreign")).unwrap();
    fs::write(device.path("foreign").join(name), content).unwrap();
    fs::write(device.path("foreign/\u{1b}]0;title\u{7}.png"), "no image").unwrap();
    for arguments in [&["classify", "foreign"][..], &["classify", "foreign", "--json"]] {
        let outcome = device.call(arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{200b}', '\u{7}']), "{text:?}");
        }
        assert!(outcome.stdout.contains("a\\u001b[31m\\u009bb\\u202egnp\\u200b.png"), "{outcome:?}");
        assert!(outcome.stderr.contains("\\u001b]0;title\\u0007.png"), "{outcome:?}");
    }
    let json = device.call(&["classify", "foreign", "--json"]).json_lines();
    assert!(json.iter().any(|image| image["image"].as_str().unwrap().ends_with(name)), "{json:?}");
}
