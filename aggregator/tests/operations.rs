//! Running a fleet: what is refused over a real broker, quarantine and release, backups and full disks.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that fails says where, one that skips says why")]

mod device;
mod program;
mod running;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use device::{Device, broker, fleet, json, update};
use grapevine_protocol::{BlobRef, Offer, Refusal, Request, RoundId, RunId, Task, ToAggregator, ToDevice, block};
use program::Program;
use running::Running;

/// Replaces a part of the configuration that is there.
fn set(program: &Program, from: &str, to: &str) {
    let path = program.path("aggregator.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// SHA-256 of the newest merged heads of a state folder.
fn head(program: &Program, state: &str) -> String {
    let rounds = json(program, &["rounds", "--json", "--state", state]);
    rounds.as_array().unwrap().last().unwrap()["heads"].as_str().unwrap().to_owned()
}

#[test]
fn updates_that_do_not_belong_are_counted_by_reason_and_change_no_head() {
    let mut heads = Vec::new();
    for is_disturbed in [false, true] {
        let program = fleet(2, 3);
        let mut aggregator = Running::start(&program, &["serve"]);
        let address = broker(&mut aggregator);
        let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
        for round in 0..2 {
            let announcement = devices[0].announcement(Task::Round(Request::MAIN_HEAD), round);
            devices.iter().for_each(|device| assert_eq!(device.answer(&announcement, 0.5).refused, None));
        }
        let announcement = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 2);
        assert_eq!(devices[0].answer(&announcement, 0.25).refused, None);
        if is_disturbed {
            let earlier =
                |round| grapevine_protocol::RoundAnnouncement { round: RoundId(round), ..announcement.clone() };
            let other_run = grapevine_protocol::RoundAnnouncement { run: RunId(1), ..announcement.clone() };
            for (device, announcement, value, refused) in [
                (0, &earlier(1), 7.0, Some(Refusal::Late)),
                (0, &earlier(0), 7.0, Some(Refusal::Stale)),
                (0, &announcement, 7.0, Some(Refusal::Duplicate)),
                (0, &announcement, 0.25, None),
                (1, &earlier(9), 7.0, Some(Refusal::WrongRound)),
                (1, &other_run, 7.0, Some(Refusal::WrongRun)),
                (1, &announcement, f32::NAN, Some(Refusal::NotFinite)),
            ] {
                assert_eq!(devices[device].answer(announcement, value).refused, refused);
            }
            let forger = Device::connect("camera-9", &address);
            let blob = BlobRef::of(b"anything");
            let (header, bytes) = block(&blob, b"anything", 0).unwrap();
            let offer = Offer { run: announcement.run, round: announcement.round, blob, crc: header.crc };
            forger.say(&ToAggregator::Offer(offer), bytes);
            let reason =
                forger.hear(
                    "a refusal",
                    |message| if let ToDevice::Refused(told) = message { Some(told.reason) } else { None },
                );
            assert_eq!(reason, Refusal::UnknownDevice);
        }
        assert_eq!(devices[1].answer(&announcement, 0.75).refused, None);
        devices[0].announcement(Task::Rest, 3);
        aggregator.terminate();
        assert_eq!(aggregator.exit_code(), Some(0));
        heads.push(head(&program, "state"));
        let refusals = json(&program, &["status", "--json"])["refusals"].clone();
        let expected = match is_disturbed {
            false => serde_json::json!({}),
            true => serde_json::json!({
                "late": 1, "stale": 1, "duplicate": 1, "replayed": 1, "wrong-round": 1, "wrong-run": 1, "not-finite": 1,
                "unknown-device": 1,
            }),
        };
        assert_eq!(refusals, expected);
        let failures = &json(&program, &["devices", "--json"])[0]["failures"];
        assert_eq!(failures["duplicate"], expected["duplicate"]);
    }
    assert_eq!(heads[0], heads[1]);
}

#[test]
fn a_device_with_bad_updates_is_quarantined_across_restarts_and_released_by_a_command() {
    let program = fleet(1, 1);
    set(&program, "after = 3", "after = 2");
    let mut aggregator = Running::start(&program, &["serve"]);
    let device = Device::join("camera-1", &broker(&mut aggregator));
    let announcement = device.announcement(Task::Round(Request::MAIN_HEAD), 0);
    assert_eq!(device.offer(&announcement, b"bad").refused, Some(Refusal::Content));
    assert_eq!(device.offer(&announcement, b"worse").refused, Some(Refusal::Content));
    let refused = |device: &Device| {
        device.hear("a refusal", |message| if let ToDevice::Refused(told) = message { Some(told.reason) } else { None })
    };
    assert_eq!(refused(&device), Refusal::Quarantined);
    let line = aggregator.line("quarantined after repeated bad updates");
    assert!(line.contains("aggregator release camera-1") && line.contains("reason=content"), "{line}");
    let listed = &json(&program, &["devices", "--json", "--sort", "state"])[0];
    assert_eq!((&listed["state"], &listed["quarantined_for"]), (&"quarantined".into(), &"content".into()));
    assert_eq!((&listed["failures"]["content"], &listed["attributes"]["site"]), (&2.into(), &"by hand".into()));
    assert!(program.succeed(&["devices"]).contains("quarantined (content)"));
    let elsewhere = program.succeed(&["devices", "--select", "site = \"south\""]);
    assert!(elsewhere.contains("none that fits"), "{elsewhere}");
    // Killed, not stopped: it was durable before it was told.
    drop(aggregator);
    drop(device);

    let mut aggregator = Running::start(&program, &["serve"]);
    let device = Device::connect("camera-1", &broker(&mut aggregator));
    device.say(&ToAggregator::Hello(device.hello()), &[]);
    assert_eq!(refused(&device), Refusal::Quarantined);
    let line = program.fail(&["release", "camera-9"], 1);
    assert!(line.contains("no device `camera-9` ever said a fitting hello"), "{line}");
    assert_eq!(program.succeed(&["release", "camera-1"]), "released camera-1\n");
    let line = program.fail(&["release", "camera-1"], 1);
    assert!(line.contains("`camera-1` is not quarantined"), "{line}");
    device.say(&ToAggregator::Hello(device.hello()), &[]);
    let announcement = device.announcement(Task::Round(Request::MAIN_HEAD), 0);
    assert_eq!(device.answer(&announcement, 1.0).refused, None);
    device.announcement(Task::Rest, 1);
}

#[test]
fn a_release_without_a_serving_aggregator_holds_at_the_next_start() {
    let program = fleet(1, 1);
    set(&program, "after = 3", "after = 1");
    let mut aggregator = Running::start(&program, &["serve"]);
    let device = Device::join("camera-1", &broker(&mut aggregator));
    assert_eq!(
        device.offer(&device.announcement(Task::Round(Request::MAIN_HEAD), 0), b"bad").refused,
        Some(Refusal::Content)
    );
    aggregator.line("quarantined after repeated bad updates");
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    assert!(program.complain(&["status"], "1 device is quarantined").contains("1 quarantined"));
    assert_eq!(program.succeed(&["release", "camera-1"]), "released camera-1\n");
    let mut aggregator = Running::start(&program, &["serve"]);
    Device::join("camera-1", &broker(&mut aggregator));
}

#[test]
fn a_backup_taken_in_the_middle_of_a_round_goes_on_to_the_same_head() {
    let program = fleet(2, 2);
    let mut aggregator = Running::start(&program, &["serve"]);
    let address = broker(&mut aggregator);
    let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
    let first = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 0);
    devices.iter().for_each(|device| assert_eq!(device.answer(&first, 0.5).refused, None));
    let second = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 1);
    assert_eq!(devices[0].answer(&second, 0.3).refused, None);
    let written = json(&program, &["backup", "north.tar", "--json"]);
    assert_eq!(written["blobs"], 2, "the first round's heads and the second round's one update");
    assert_eq!(devices[1].answer(&second, 0.7).refused, None);
    devices[0].announcement(Task::Rest, 2);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));

    let restored = program.path("restored");
    tar::Archive::new(File::open(program.path("north.tar")).unwrap()).unpack(&restored).unwrap();
    let mut aggregator = Running::start(&program, &["serve", "--state", "restored"]);
    let device = Device::join("camera-2", &broker(&mut aggregator));
    let resumed = device.announcement(Task::Round(Request::MAIN_HEAD), 1);
    assert_eq!((resumed.run, resumed.heads), (second.run, second.heads));
    assert_eq!(device.answer(&resumed, 0.7).refused, None);
    device.announcement(Task::Rest, 2);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    assert_eq!(head(&program, "restored"), head(&program, "state"));
    let line = program.fail(&["backup", "no/north.tar"], 1);
    assert!(line.contains("cannot write no/north.tar"), "{line}");
}

#[test]
fn old_heads_are_let_go_and_their_names_stay() {
    let program = fleet(1, 4);
    set(&program, "kept_heads = 100", "kept_heads = 2");
    let mut aggregator = Running::start(&program, &["serve"]);
    let device = Device::join("camera-1", &broker(&mut aggregator));
    for round in 0..4_u8 {
        let announcement = device.announcement(Task::Round(Request::MAIN_HEAD), round.into());
        assert_eq!(device.answer(&announcement, f32::from(round)).refused, None);
    }
    device.announcement(Task::Rest, 4);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    let rounds = json(&program, &["rounds", "--json"]);
    let kept: Vec<bool> =
        rounds.as_array().unwrap().iter().map(|round| round["heads_kept"].as_bool().unwrap()).collect();
    assert_eq!(kept, [false, false, true, true]);
    assert!(rounds[0]["heads"].is_string());
    program.succeed(&["export", "--output", "two.onnx", "--round", "2"]);
    let line = program.fail(&["export", "--output", "one.onnx", "--round", "1"], 1);
    assert!(line.contains("the heads of round 1 were let go; `limits.kept_heads`"), "{line}");
}

/// A file system of a few megabytes, gone when it is dropped.
struct TinyDisk(PathBuf);

impl TinyDisk {
    /// None where this process may not mount anything.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    /// Takes all room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
        path
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // Lazily: the aggregator may hold files on it for another moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk, the aggregator whose state is on it, and its broker's address; `None`, said, where nothing may be mounted.
fn serve_on_a_tiny_disk(program: &Program) -> Option<(TinyDisk, Running, String)> {
    let Some(disk) = TinyDisk::mount(program.path("state")) else {
        println!("skipped: this process may not mount a tmpfs");
        return None;
    };
    let mut aggregator = Running::start(program, &["serve"]);
    let address = broker(&mut aggregator);
    Some((disk, aggregator, address))
}

fn merged_head(program: &Program) -> serde_json::Value {
    program.succeed(&["export", "--output", "north.onnx", "--head-json", "head.json"]);
    serde_json::from_slice(&fs::read(program.path("head.json")).unwrap()).unwrap()
}

#[test]
fn a_disk_that_is_full_at_the_merge_keeps_the_round_until_there_is_room() {
    let program = fleet(2, 1);
    set(&program, "deadline = \"10m\"", "deadline = \"3s\"");
    set(&program, "quorum = 0.8", "quorum = 0.5");
    let Some((disk, mut aggregator, address)) = serve_on_a_tiny_disk(&program) else { return };
    let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
    let announcement = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 0);
    assert_eq!(devices[0].answer(&announcement, 1.0).refused, None);
    let ballast = disk.fill();
    // The deadline passes, half of the updates are enough, and there is no room for the merged head.
    let line = aggregator.line("the disk is full");
    assert!(line.contains("nothing is lost"), "{line}");
    fs::remove_file(ballast).unwrap();
    aggregator.line("there is room on the disk again");
    devices[0].announcement(Task::Rest, 1);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    let rounds = json(&program, &["rounds", "--json"]);
    assert_eq!((&rounds[0]["phase"], &rounds[0]["updates"]), (&"merged".into(), &1.into()));
    assert_eq!(merged_head(&program)["weight"][0][0], 1.0);
}

#[test]
fn a_disk_that_is_full_at_the_opening_of_a_round_opens_it_when_there_is_room() {
    let program = fleet(2, 1);
    let Some((disk, mut aggregator, address)) = serve_on_a_tiny_disk(&program) else { return };
    let ballast = disk.fill();
    let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
    aggregator.line("the disk is full");
    // Its status file has no room to be written anew, and says so all the same.
    // Every call takes a moment, and the file is written at most a second later.
    let is_said = (0..1_000).any(|_| program.command(&["status"]).output().is_ok_and(|output| says_full(&output)));
    assert!(is_said, "`status` does not say that the disk is full");
    fs::remove_file(ballast).unwrap();
    aggregator.line("there is room on the disk again");
    let announcement = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 0);
    devices.iter().for_each(|device| assert_eq!(device.answer(&announcement, 2.0).refused, None));
    let line = aggregator.line("round merged");
    assert!(line.contains("updates=2"), "{line}");
    devices[0].announcement(Task::Rest, 1);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
}

fn says_full(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.code() == Some(1) && text.contains("is full; make room, the round goes on by itself")
}

#[test]
fn a_full_disk_stops_the_round_and_loses_nothing() {
    let program = fleet(2, 1);
    let Some((disk, mut aggregator, address)) = serve_on_a_tiny_disk(&program) else { return };
    let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
    let announcement = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 0);
    assert_eq!(devices[0].answer(&announcement, 1.0).refused, None);
    let ballast = disk.fill();
    devices[1].send(&announcement, &update(3.0));
    let line = aggregator.line("the disk is full");
    assert!(line.contains("ERROR") && line.contains("nothing is lost, it goes on when there is room"), "{line}");
    fs::remove_file(ballast).unwrap();
    aggregator.line("there is room on the disk again");
    assert_eq!(devices[1].receipt(&announcement, &update(3.0)).refused, None);
    let line = aggregator.line("round merged");
    assert!(line.contains("updates=2"), "{line}");
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    assert_eq!(merged_head(&program)["weight"][0][0], 2.0, "both updates, the one before and the one that waited");
}
