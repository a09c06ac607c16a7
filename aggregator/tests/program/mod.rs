//! The `aggregator` program in a folder of its own.

#![allow(dead_code, reason = "every test uses some of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) struct Program {
    folder: TempDir,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every name in the folder, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = self.folder.path().read_dir().unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program with only our own environment, in the folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator"));
        let strays = std::env::vars_os().map(|(name, _)| name);
        for name in strays.filter(|name| name.to_string_lossy().starts_with("GRAPEVINE_")) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a success.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard output of a command that has something to complain about: exit code 1.
    pub(crate) fn complain(&self, arguments: &[&str], complaint: &str) -> String {
        let output = self.run(arguments);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(complaints.contains(complaint), "{arguments:?}: {complaints}");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaints}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line on standard error of a failure with this exit code.
    pub(crate) fn fail(&self, arguments: &[&str], code: i32) -> String {
        refused(arguments, &self.run(arguments), code)
    }
}

/// The one line on standard error of a failure with this exit code.
pub(crate) fn refused(arguments: &[&str], output: &Output, code: i32) -> String {
    let complaint = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(complaint.lines().count(), 1, "{arguments:?}: {complaint}");
    let line = complaint.trim_end().strip_prefix("error: ");
    line.unwrap_or_else(|| panic!("{arguments:?}: {complaint}")).to_owned()
}

/// The shipped extractor's manifest.
pub(crate) fn extractor() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx/digits.toml");
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}
