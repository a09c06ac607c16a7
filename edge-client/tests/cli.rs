//! The program as people and scripts meet it: arguments in, text and an exit code out. No broker is needed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which a panic is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Child;
use std::process::{Command, Stdio};

use image::GrayImage;
use serde_json::Value;
use tempfile::TempDir;

const CLASSES: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const SIDE: usize = 8;

/// What one call of the program gave.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A device in a folder of its own, in which the program runs.
struct Device {
    folder: TempDir,
}

impl Device {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A device with a configuration.
    fn configured() -> Self {
        let device = Self::new();
        device.init(&[]).succeeds();
        device
    }

    /// A device with a configuration and `count` stored images.
    fn filled(count: usize) -> Self {
        let device = Self::configured();
        device.write_digits("pictures", 0, count);
        device.call(&["ingest", "pictures"]).succeeds();
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn call(&self, arguments: &[&str]) -> Outcome {
        self.call_with(arguments, &[])
    }

    fn call_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.command(arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A call in the device's folder, without the settings of whoever runs the tests.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-client"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GRAPEVINE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// `init` with the shipped extractor and what else is given.
    fn init(&self, more: &[&str]) -> Outcome {
        let extractor = shipped("digits.toml").to_str().unwrap().to_owned();
        self.init_with(&extractor, &CLASSES.join(","), more)
    }

    fn init_with(&self, extractor: &str, classes: &str, more: &[&str]) -> Outcome {
        let broker = "mqtt://broker.invalid";
        let mut arguments = vec!["init", "--fleet", "north", "--device", "camera-1", "--broker", broker];
        arguments.extend(["--extractor", extractor, "--classes", classes]);
        arguments.extend(more);
        self.call(&arguments)
    }

    /// Writes the shipped digits from `first` on as `folder/<class>/<index>.png`.
    fn write_digits(&self, folder: &str, first: usize, count: usize) -> Vec<(PathBuf, &'static str)> {
        let write = |(index, (label, pixels)): (usize, (u8, Vec<u8>))| {
            let class = CLASSES[usize::from(label)];
            let path = self.path(folder).join(class).join(format!("{index:04}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).unwrap().save(&path).unwrap();
            (path, class)
        };
        digits().into_iter().enumerate().skip(first).take(count).map(write).collect()
    }

    /// Copies the shipped extractor here, so that it can be spoilt.
    fn own_extractor(&self) -> PathBuf {
        for name in ["digits.toml", "digits.onnx"] {
            fs::copy(shipped(name), self.path(name)).unwrap();
        }
        self.path("digits.toml")
    }

    fn edit_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("edge-client.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.path("edge-client.toml"), text.replace(from, to)).unwrap();
    }

    /// Names of everything in the device's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Outcome {
    #[track_caller]
    fn succeeds(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self
    }

    /// Exactly one line on standard error, which says `expected`.
    #[track_caller]
    fn fails(&self, code: i32, expected: &str) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert!(lines[0].starts_with("error: ") && lines[0].contains(expected), "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Killed when a test ends early.
#[cfg(unix)]
struct Running(Child);

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already in a test that passed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx").join(name).canonicalize().unwrap()
}

/// The shipped digits as label and pixels, see `models/export/digits_data.py` for the format.
fn digits() -> Vec<(u8, Vec<u8>)> {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/data/digits.bin")).unwrap();
    let (head, body) = bytes.split_at(16);
    assert!(head.starts_with(b"GVDIGITS1\n"));
    let count = u32::from_le_bytes(head[10..14].try_into().unwrap()) as usize;
    let (labels, pixels) = body.split_at(count);
    labels.iter().copied().zip(pixels.chunks_exact(SIDE * SIDE).map(<[u8]>::to_vec)).collect()
}

#[test]
fn a_device_goes_from_init_to_a_classified_image() {
    let device = Device::new();
    assert!(device.init(&[]).succeeds().stdout.contains("camera-1 of fleet north, 10 classes"));
    device.write_digits("pictures", 0, 300);
    let ingested = device.call(&["ingest", "pictures", "--json"]).succeeds().json();
    assert_eq!((&ingested["images"], &ingested["added"]), (&300.into(), &300.into()), "{ingested}");
    let again = device.call(&["ingest", "pictures"]);
    assert!(again.succeeds().stdout.starts_with("300 images: 0 added, 300 duplicates; 300 stored"), "{again:?}");
    let trained = device.call(&["train", "--rounds", "10", "--save", "--json"]).succeeds().json();
    assert!(trained["balanced_accuracy"].as_f64().unwrap() > 0.95, "{trained}");
    let unseen = device.write_digits("unseen", 1_400, 100);
    let mut arguments = vec!["classify", "--top", "1", "--json"];
    arguments.extend(unseen.iter().map(|(path, _)| path.to_str().unwrap()));
    let classified = device.call(&arguments).succeeds().json();
    let right = unseen.iter().zip(classified.as_array().unwrap()).filter(|((_, class), image)| {
        assert_eq!(image["predictions"].as_array().unwrap().len(), 1);
        image["predictions"][0]["class"] == *class
    });
    assert!(right.count() > 80, "{classified}");
    let line = device.call(&["classify", unseen[0].0.to_str().unwrap()]);
    assert_eq!(line.succeeds().stdout.matches(" %").count(), 3, "three classes unless asked otherwise: {line:?}");
}

#[test]
fn status_tells_what_a_device_has() {
    let device = Device::configured();
    let fresh = device.call(&["status"]);
    assert!(fresh.succeeds().stdout.contains("run `edge-client ingest DIR`"), "{fresh:?}");
    device.write_digits("pictures", 0, 50);
    device.call(&["ingest", "pictures"]).succeeds();
    let status = device.call(&["status", "--json"]).succeeds().json();
    assert_eq!(status["store"]["samples"], 50);
    assert_eq!(status["extractor"]["name"], "digits");
    assert_eq!(status["store"]["newest_head"], Value::Null);
    assert_eq!(status["running"], Value::Null);
    let classes = status["store"]["by_class"].as_array().unwrap();
    assert_eq!(classes.iter().map(|class| class["samples"].as_u64().unwrap()).sum::<u64>(), 50);
    device.call(&["train", "--save"]).succeeds();
    let people = device.call(&["status"]);
    let text = &people.succeeds().stdout;
    assert!(text.contains("made by this device") && text.contains("█") && text.contains("never ran"), "{text}");
}

#[test]
fn training_without_save_writes_nothing_and_every_method_works() {
    let device = Device::filled(60);
    let store = || fs::read(device.path("state/store.redb")).unwrap();
    let before = store();
    for method in ["fedavg", "logit-adjusted", "redgrape", "redgrape-no-prototypes", "redgrape-live", "ncm", "ridge"] {
        let trained = device.call(&["train", "--method", method, "--json"]).succeeds().json();
        assert_eq!((&trained["method"], &trained["saved"]), (&method.into(), &false.into()), "{trained}");
        assert!(trained["ms_per_round"].as_f64().unwrap() > 0.0);
    }
    assert!(device.call(&["train"]).succeeds().stdout.contains("not saved"));
    assert!(store() == before);
    device.call(&["train", "--method", "lda", "--rounds", "2"]).fails(2, "leave out --rounds");
    device.call(&["train", "--method", "sgd"]).fails(2, "the methods are fedavg, ");
}

#[test]
fn init_writes_nothing_that_would_not_work() {
    let device = Device::new();
    let shipped = shipped("digits.toml").to_str().unwrap().to_owned();
    device.init_with("none.toml", "a,b", &[]).fails(1, "there is no extractor manifest at none.toml");
    device.init_with(&shipped, "a,b,a", &[]).fails(1, "`classes` lists `a` twice");
    device.init_with(&shipped, "a", &[]).fails(1, "`classes` lists 1 names");
    device.init_with(&shipped, "a,b/c", &[]).fails(1, "`b/c` cannot be a class");
    device.init_with(&shipped, "a,b", &["--classes-file", "x"]).fails(2, "cannot be used with");
    device.call(&["init"]).fails(2, "required arguments were not provided: --fleet <NAME>");
    let wrong_name = ["init", "--fleet", "North", "--device", "d", "--broker", "mqtt://b", "--extractor", &shipped];
    device.call(&wrong_name).fails(2, "`North` is not a name");
    let wrong_broker = ["init", "--fleet", "n", "--device", "d", "--broker", "mqtts://b", "--extractor", &shipped];
    device.call(&wrong_broker).fails(2, "TLS is not built into this version");
    assert_eq!(device.names(), Vec::<String>::new());
}

#[test]
fn init_loads_the_extractor_before_it_trusts_it() {
    let device = Device::new();
    let manifest = device.own_extractor();
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(device.path("digits.onnx"), "this is a text file\n").unwrap();
    device.init_with("digits.toml", "a,b", &[]).fails(1, "but its manifest says");
    let digest = grapevine_host::manifest::sha256_file(&device.path("digits.onnx")).unwrap();
    let sha256 = text.lines().find(|line| line.starts_with("sha256")).unwrap();
    fs::write(&manifest, text.replace(sha256, &format!("sha256 = \"{digest}\""))).unwrap();
    device.init_with("digits.toml", "a,b", &[]).fails(1, "is not an ONNX model");
    fs::remove_file(device.path("digits.onnx")).unwrap();
    device.init_with("digits.toml", "a,b", &[]).fails(1, "put the ONNX file beside its manifest");
    assert_eq!(device.names(), ["digits.toml"]);
}

#[test]
fn init_overwrites_only_when_told_and_keeps_passwords_private() {
    let device = Device::configured();
    let text = || fs::read_to_string(device.path("edge-client.toml")).unwrap();
    let before = text();
    device.init(&[]).fails(1, "give --force to replace it");
    assert_eq!(text(), before);
    fs::write(device.path("classes.txt"), "  cat\n\ndog \n").unwrap();
    let extractor = shipped("digits.toml").to_str().unwrap().to_owned();
    let mut arguments = vec!["init", "--force", "--fleet", "south", "--device", "d", "--broker", "mqtt://me:secret@b"];
    arguments.extend(["--extractor", &extractor, "--classes-file", "classes.txt"]);
    device.call(&arguments).succeeds();
    assert!(text().contains("classes = [\"cat\", \"dog\"]"), "{}", text());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(device.path("edge-client.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let status = device.call(&["status"]);
    assert!(!status.succeeds().stdout.contains("secret"), "{status:?}");
}

#[test]
fn a_configuration_elsewhere_finds_its_files() {
    let device = Device::new();
    fs::create_dir_all(device.path("etc")).unwrap();
    device.own_extractor();
    device.init_with("digits.toml", &CLASSES.join(","), &["--config", "etc/device.toml", "--state", "var"]).succeeds();
    device.write_digits("pictures", 0, 10);
    device.call_with(&["ingest", "pictures"], &[("GRAPEVINE_CONFIG", "etc/device.toml")]).succeeds();
    assert!(device.path("var/store.redb").exists(), "{:?}", device.names());
    let elsewhere = device.call(&["status", "--config", "etc/device.toml", "--state", "other", "--json"]);
    assert_eq!(elsewhere.succeeds().json()["store"], Value::Null, "flags go over the file");
}

#[test]
fn mistakes_in_the_configuration_name_line_and_remedy() {
    let device = Device::new();
    device.call(&["status"]).fails(1, "run `edge-client init` to write one");
    device.init(&[]).succeeds();
    device.edit_config("max_samples", "max_sample");
    device.call(&["status"]).fails(1, "unknown key `max_sample`; did you mean `max_samples`?");
    device.edit_config("max_sample ", "max_samples ");
    let overridden = device.call_with(&["status", "--json"], &[("GRAPEVINE_DEVICE", "camera-9")]);
    assert_eq!(overridden.succeeds().json()["device"], "camera-9", "the environment goes over the file");
    let misspelt = device.call_with(&["status"], &[("GRAPEVINE_MQTT__KEEPALIVE", "5s")]);
    misspelt.fails(1, "GRAPEVINE_MQTT__KEEPALIVE: unknown key `keepalive`; did you mean `keep_alive`?");
    device.edit_config("keep_alive = \"60s\"", "keep_alive = \"1s\"");
    device.call(&["ingest", "pictures"]).fails(1, "`mqtt.keep_alive` is 1s; it must be");
    assert_eq!(device.names(), ["edge-client.toml"]);
}

#[test]
fn a_wrong_folder_costs_nothing_even_with_reset() {
    let device = Device::configured();
    device.call(&["ingest", "nowhere"]).fails(1, "cannot list nowhere");
    fs::create_dir(device.path("empty")).unwrap();
    device.call(&["ingest", "empty"]).fails(1, "no PNG or JPEG image in empty; put images into one folder per class");
    device.write_digits("pictures", 0, 20);
    fs::rename(device.path("pictures/zero"), device.path("other")).unwrap();
    fs::create_dir_all(device.path("wrong")).unwrap();
    fs::rename(device.path("other"), device.path("wrong/nought")).unwrap();
    device.call(&["ingest", "wrong"]).fails(1, "found folders of no class: nought");
    assert!(!device.path("state").exists(), "nothing half-written");
    device.call(&["ingest", "pictures"]).succeeds();
    device.call(&["ingest", "empty", "--reset"]).fails(1, "no PNG or JPEG image");
    let samples = device.call(&["status", "--json"]).succeeds().json()["store"]["samples"].as_u64().unwrap();
    assert!(samples > 10, "{samples}");
}

#[test]
fn what_cannot_be_ingested_is_named_and_the_rest_is_stored() {
    let device = Device::configured();
    device.write_digits("pictures", 0, 20);
    fs::write(device.path("pictures/one/broken.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
    let broken = device.call(&["ingest", "pictures"]);
    broken.fails(1, "pictures/one/broken.png could not be used; the rest is stored");
    assert!(broken.stdout.contains("unusable: pictures/one/broken.png: "), "{broken:?}");
    assert!(broken.stdout.contains("20 added"), "{broken:?}");
    fs::remove_file(device.path("pictures/one/broken.png")).unwrap();
    fs::create_dir(device.path("pictures/eleven")).unwrap();
    let unknown = device.call(&["ingest", "pictures", "--json"]);
    unknown.fails(1, "pictures/eleven is no class of the configuration");
    assert_eq!(unknown.json()["unknown_folders"][0], "pictures/eleven");
}

#[test]
fn classify_says_what_is_missing() {
    let device = Device::configured();
    device.call(&["classify", "a.png"]).fails(1, "run `edge-client ingest` first");
    device.call(&["train"]).fails(1, "run `edge-client ingest` first");
    device.call(&["train", "--save"]).fails(1, "run `edge-client ingest` first");
    assert!(!device.path("state").exists(), "nothing half-written");
    let pictures = device.write_digits("pictures", 0, 20);
    device.call(&["ingest", "pictures"]).succeeds();
    let picture = pictures[0].0.to_str().unwrap();
    device.call(&["classify", picture]).fails(1, "no head yet; `edge-client run` gets the fleet's");
    device.call(&["train", "--save"]).succeeds();
    fs::write(device.path("text.png"), "no image").unwrap();
    let mixed = device.call(&["classify", "text.png", picture, "--json"]);
    mixed.fails(1, "text.png: it is neither a PNG nor a JPEG image; convert it");
    assert_eq!(mixed.json()[1]["predictions"].as_array().unwrap().len(), 3, "the others are classified");
    device.call(&["classify", "none.png"]).fails(1, "cannot read none.png");
    device.call(&["classify"]).fails(2, "<IMAGE>");
}

#[test]
fn a_changed_class_list_is_refused_until_a_reset() {
    let device = Device::filled(20);
    device.edit_config("\"zero\", \"one\"", "\"one\", \"zero\"");
    for command in [&["ingest", "pictures"][..], &["train"], &["classify", "x.png"], &["status"], &["run"]] {
        device.call(command).fails(1, "run `edge-client ingest --reset`");
    }
    device.call(&["ingest", "pictures", "--reset"]).succeeds();
    assert_eq!(device.call(&["status", "--json"]).succeeds().json()["store"]["samples"], 20);
}

#[test]
fn a_damaged_store_is_one_sentence() {
    let device = Device::filled(20);
    let store = device.path("state/store.redb");
    let length = fs::metadata(&store).unwrap().len() as usize;
    fs::write(&store, vec![0x5a; length]).unwrap();
    device.call(&["status"]).fails(1, "is damaged or not a store");
    device.call(&["train"]).fails(1, "is damaged or not a store");
    device.call(&["ingest", "pictures", "--reset"]).succeeds();
}

#[test]
fn wrong_usage_is_one_sentence_and_help_has_examples() {
    let device = Device::new();
    device.call(&[]).fails(2, "no command was given");
    device.call(&["ingset"]).fails(2, "unrecognized subcommand 'ingset'; tip: ");
    device.call(&["status", "--jsn"]).fails(2, "unexpected argument '--jsn' found; tip: a similar argument exists");
    for command in ["init", "ingest", "run", "train", "classify", "status", "completions"] {
        let help = device.call(&[command, "--help"]);
        assert!(help.succeeds().stdout.contains("Examples:\n  edge-client "), "{help:?}");
    }
    assert!(device.call(&["--version"]).succeeds().stdout.starts_with("edge-client "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(device.call(&["completions", shell]).succeeds().stdout.contains("until-finished"));
    }
    device.call(&["completions", "cobol"]).fails(2, "invalid value 'cobol'");
}

#[cfg(unix)]
#[test]
fn run_without_a_broker_waits_and_leaves_in_good_order() {
    let device = Device::filled(20);
    device.edit_config("mqtt://broker.invalid", "mqtt://127.0.0.1:9");
    let mut run = Running(device.command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
    // Every call takes a moment, and the program below is given many of them to start.
    let running = (0..1_000).find_map(|_| {
        let status = device.call(&["status", "--json"]).json();
        (status["running"]["state"] == "connecting").then_some(status)
    });
    let status = running.expect("`run` writes its status when it starts");
    assert_eq!((&status["running"]["alive"], &status["running"]["pid"]), (&true.into(), &run.0.id().into()));
    assert_eq!(status["store"]["samples"], 20, "the store can be read beside `run`");
    device.call(&["ingest", "pictures"]).fails(1, "is held by another edge-client");
    Command::new("kill").args(["-TERM", &run.0.id().to_string()]).status().unwrap();
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let status = device.call(&["status", "--json"]).succeeds().json();
    assert_eq!((&status["running"]["state"], &status["running"]["alive"]), (&"stopped".into(), &false.into()));
}
