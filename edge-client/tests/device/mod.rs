//! A device in a folder of its own, in which the program is called as people and scripts call it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each file of tests uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Child;
use std::process::{Command, Stdio};

use image::GrayImage;
use serde_json::Value;
use tempfile::TempDir;

pub const CLASSES: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const SIDE: usize = 8;

/// What one call of the program gave.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A device in a folder of its own, in which the program runs.
pub struct Device {
    folder: TempDir,
}

impl Device {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A device with a configuration.
    pub fn configured() -> Self {
        let device = Self::new();
        device.init(&[]).succeeds();
        device
    }

    /// A device with a configuration and `count` stored images.
    pub fn filled(count: usize) -> Self {
        let device = Self::configured();
        device.write_digits("pictures", 0, count);
        device.call(&["ingest", "pictures"]).succeeds();
        device
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn call(&self, arguments: &[&str]) -> Outcome {
        self.call_with(arguments, &[])
    }

    pub fn call_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.command(arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A call in the device's folder, without the settings of whoever runs the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
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
    pub fn init(&self, more: &[&str]) -> Outcome {
        let extractor = shipped("digits.toml").to_str().unwrap().to_owned();
        self.init_with(&extractor, &CLASSES.join(","), more)
    }

    pub fn init_with(&self, extractor: &str, classes: &str, more: &[&str]) -> Outcome {
        let broker = "mqtt://broker.invalid";
        let mut arguments = vec!["init", "--fleet", "north", "--device", "camera-1", "--broker", broker];
        arguments.extend(["--extractor", extractor, "--classes", classes]);
        arguments.extend(more);
        self.call(&arguments)
    }

    /// Writes the shipped digits from `first` on as `folder/<class>/<index>.png`.
    pub fn write_digits(&self, folder: &str, first: usize, count: usize) -> Vec<(PathBuf, &'static str)> {
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
    pub fn own_extractor(&self) -> PathBuf {
        for name in ["digits.toml", "digits.onnx"] {
            fs::copy(shipped(name), self.path(name)).unwrap();
        }
        self.path("digits.toml")
    }

    pub fn edit_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("edge-client.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.path("edge-client.toml"), text.replace(from, to)).unwrap();
    }

    /// Names of everything in the device's folder.
    pub fn names(&self) -> Vec<String> {
        self.names_in(".")
    }

    /// Names of everything in a folder.
    pub fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Outcome {
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self
    }

    /// Exactly one line on standard error, which says `expected`.
    #[track_caller]
    pub fn fails(&self, code: i32, expected: &str) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert!(lines[0].starts_with("error: ") && lines[0].contains(expected), "{self:?}");
        self
    }

    /// The objects of JSON Lines.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Killed when a test ends early.
#[cfg(unix)]
pub struct Running(pub Child);

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already in a test that passed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx").join(name).canonicalize().unwrap()
}

/// The shipped digits as label and pixels, see `models/export/digits_data.py` for the format.
pub fn digits() -> Vec<(u8, Vec<u8>)> {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/data/digits.bin")).unwrap();
    let (head, body) = bytes.split_at(16);
    assert!(head.starts_with(b"GVDIGITS1\n"));
    let count = u32::from_le_bytes(head[10..14].try_into().unwrap()) as usize;
    let (labels, pixels) = body.split_at(count);
    labels.iter().copied().zip(pixels.chunks_exact(SIDE * SIDE).map(<[u8]>::to_vec)).collect()
}
