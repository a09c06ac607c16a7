//! The house rules that can be read off the files.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use grapevine_models::HyperParameter;
use grapevine_models::hyper_parameters::COMMON;

const LONGEST_FILE: usize = 500;
/// A library is named in these files and nowhere else.
const HOMES: [(&str, &[&str]); 5] = [
    ("tract_onnx", &["vision/src/extractor"]),
    // The broker uses its packets and their codec, and no client.
    ("rumqttc", &["host/src/transport", "aggregator/src/broker"]),
    ("rusqlite", &["aggregator/src/store/sqlite"]),
    ("redb", &["edge-client/src/store"]),
    ("tokio", &["host/src/transport", "aggregator/src/broker"]),
];
/// What decides: no thread, file, socket or clock.
const PURE: [&str; 7] = [
    "models/src",
    "protocol/src",
    "edge-client/src/session",
    "edge-client/src/work.rs",
    "edge-client/src/resources/pause_rule.rs",
    "aggregator/src/round",
    "aggregator/src/broker/router",
];
const IMPURE: [&str; 8] =
    ["std::fs", "std::net", "std::thread", "std::process", "Instant::", "SystemTime", "grapevine_host", "crossbeam"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// Every file below the root with one of these endings, as a path relative to it and its text.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

/// The part of a source file before its tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.take_while(|(_, line)| *line != "#[cfg(test)]").filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn files_are_short() {
    for (path, text) in files(&[".rs", ".py", ".sh"]) {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{path} has {lines} lines; split it at {LONGEST_FILE}");
    }
}

#[test]
fn every_library_has_one_home() {
    let is_code = |path: &str| path.contains("/src/") && !is_test(path);
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| is_code(path)) {
        for (library, homes) in HOMES {
            let is_home = homes.iter().any(|home| path.starts_with(home));
            let path_of = format!("{library}::");
            let names = |line: &str| line.contains(&path_of) || line.contains(&format!("use {library};"));
            if let Some((number, _)) = code(text).find(|(_, line)| !is_home && names(line)) {
                panic!("{path}:{number} names {library}, which belongs into {homes:?}");
            }
        }
    }
}

/// The aggregator's storage is an interface: nothing outside its folder says which database is behind it.
#[test]
fn nothing_but_the_store_names_its_database() {
    let home = "aggregator/src/store/";
    let is_source = |path: &str| ["aggregator/", "simulator/", "tests/"].iter().any(|room| path.starts_with(room));
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| is_source(path) && !path.ends_with("tidy.rs")) {
        let names = |line: &str| ["rusqlite", "SqliteLedger", "sqlite::"].iter().any(|name| line.contains(name));
        let found = code(text).find(|(_, line)| names(line));
        assert!(found.is_none() || path.starts_with(home), "{path}:{} names the database", found.unwrap().0);
    }
    // Who asks for a ledger gets the interface.
    let door = fs::read_to_string(root().join(home).join("mod.rs")).unwrap();
    let opened: Vec<&str> = code(&door).map(|(_, line)| line).filter(|line| line.starts_with("pub fn open")).collect();
    assert!(opened.len() == 2 && opened.iter().all(|line| line.contains("Box<dyn ")), "{opened:?}");
}

#[test]
fn what_decides_is_pure() {
    PURE.iter().for_each(|pure| assert!(root().join(pure).exists(), "{pure} is named here and is not there"));
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| !is_test(path)) {
        if PURE.iter().any(|pure| path.starts_with(pure)) {
            for word in IMPURE {
                let found = code(text).find(|(_, line)| line.contains(word));
                assert!(found.is_none(), "{path}:{} uses {word}", found.unwrap().0);
            }
        }
    }
}

/// Floors: a file of the mathematics imports only files below it. A folder and the files in it are one floor.
#[test]
fn no_file_of_the_mathematics_imports_one_that_imports_it() {
    let imports = imports("models/src/");
    for start in imports.keys() {
        // Every file that can be reached over imports, with the way to it.
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop() {
            for next in &imports[*way.last().unwrap()] {
                assert!(next != start, "a circle of files: {way:?} and back to {next}");
                if seen.insert(next) {
                    ways.push([&way[..], &[next]].concat());
                }
            }
        }
    }
}

/// Which modules below a folder each module there imports, parents and children left out.
fn imports(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sources: BTreeMap<String, String> = files(&[".rs"])
        .into_iter()
        .filter_map(|(path, text)| Some((module(path.strip_prefix(folder)?)?, text)))
        .collect();
    let of = |module: &String, text: &String| {
        let paths = code(text).flat_map(|(_, line)| line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':'));
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let absolute = paths.filter_map(|path| match path.split_once("::") {
            Some(("crate", rest)) => Some(rest.to_owned()),
            Some(("super", rest)) => Some(format!("{parent}::{rest}")),
            _ => None,
        });
        // The longest beginning that is a module.
        let found = absolute.filter_map(|path| {
            let parts: Vec<&str> = path.trim_matches(':').split("::").collect();
            (1..=parts.len()).rev().map(|count| parts[..count].join("::")).find(|name| sources.contains_key(name))
        });
        let is_family = |other: &String| {
            format!("{other}::").starts_with(&format!("{module}::"))
                || format!("{module}::").starts_with(&format!("{other}::"))
        };
        found.filter(|other| !is_family(other)).collect::<BTreeSet<String>>()
    };
    sources.iter().map(|(module, text)| (module.clone(), of(module, text))).collect()
}

/// The module that a file is; `None` for tests and the crate itself.
fn module(path: &str) -> Option<String> {
    let name = path.trim_end_matches(".rs").trim_end_matches("/mod");
    (name != "lib" && !is_test(&format!("/{path}"))).then(|| name.replace('/', "::"))
}

/// A hyper-parameter of more than one method is spelled in the table, and nowhere else.
#[test]
fn every_hyper_parameter_has_one_spelling() {
    let homes = ["models/src/hyper_parameters.rs"];
    // Both programs have a command of this name.
    let is_a_command = |parameter: &&HyperParameter| parameter.name == "init";
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| path.contains("/src/") && !is_test(path)) {
        if homes.iter().any(|home| path.starts_with(home)) {
            continue;
        }
        for parameter in COMMON.iter().filter(|parameter| !is_a_command(parameter)) {
            let spelled =
                [parameter.name.to_owned(), parameter.name.replace('_', "-")].map(|name| format!("\"{name}\""));
            let found = code(text).find(|(_, line)| spelled.iter().any(|name| line.contains(name)));
            assert!(found.is_none(), "{path}:{} spells {}; take it from the table", found.unwrap().0, parameter.name);
        }
    }
}

#[test]
fn unsafe_code_has_its_places() {
    let homes = ["models/neon/src/lib.rs", "cross/nostd-check/src/arena.rs", "tests/system/tidy.rs"];
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| !homes.contains(&path.as_str())) {
        let found = code(text).find(|(_, line)| line.contains("unsafe ") || line.contains("unsafe("));
        assert!(found.is_none(), "{path}:{} is unsafe", found.unwrap().0);
    }
}

/// What `cross` reads: every target that is shipped, each from an image of one known content.
#[test]
fn images_for_cross_are_pinned() {
    let config: toml::Table = fs::read_to_string(root().join("Cross.toml")).unwrap().parse().unwrap();
    let targets = config["target"].as_table().unwrap();
    let wanted = ["aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl", "armv7-unknown-linux-gnueabihf"];
    assert_eq!(targets.keys().collect::<Vec<_>>(), wanted);
    for (target, settings) in targets {
        let dockerfile = settings["dockerfile"].as_table().unwrap();
        let aim = dockerfile["build-args"]["ZIG_TARGET"].as_str().unwrap();
        assert_eq!(aim.split('-').next(), Some(target.split('-').next().unwrap().trim_end_matches("v7")), "{target}");
        assert!(aim.ends_with("2.28") || target.ends_with("musl"), "{target} is built for {aim}");
        let text = fs::read_to_string(root().join(dockerfile["file"].as_str().unwrap())).unwrap();
        let base = text.lines().find_map(|line| line.strip_prefix("ARG BASE=")).unwrap();
        let digest = base.split_once("@sha256:").map(|(_, digest)| digest);
        assert!(digest.is_some_and(|digest| digest.len() == 64), "{target} is built from {base}, which may change");
        let variable = target.to_uppercase().replace('-', "_");
        assert!(text.contains(&format!("CARGO_TARGET_{variable}_LINKER")), "{target} has no linker in its image");
    }
    let wheels = fs::read_to_string(root().join("cross/requirements.txt")).unwrap();
    assert!(wheels.contains("ziglang==") && wheels.contains("--hash=sha256:"), "the linker's version is open");
}

#[test]
fn nothing_is_left_undone() {
    let marks =
        ["todo!(", "unimplemented!(", "#[ignore", concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    for (path, text) in
        files(&[".rs", ".py", ".sh", ".toml", ".md"]).iter().filter(|(path, _)| !path.ends_with("tidy.rs"))
    {
        for mark in marks {
            assert!(!text.contains(mark), "{path} contains {mark}");
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for (path, text) in files(&[".md"]) {
        let folder = root().join(&path).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !file.contains("://") && !file.contains(' ');
            assert!(!is_local || folder.join(file).exists(), "{path}: the link to {file} leads nowhere");
        }
    }
}

/// A source in backticks, such as `models/src/run.rs`, is there, seen from the root or from a folder below it.
#[test]
fn sources_in_documents_are_there() {
    let sources: Vec<String> = files(&[".rs", ".py"]).into_iter().map(|(path, _)| path).collect();
    for (path, text) in files(&[".md"]) {
        for name in text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && !name.contains(' ')) {
            let is_source = [".rs", ".py"].iter().any(|ending| name.ends_with(ending)) && !name.starts_with("foo/");
            let is_there = || sources.iter().any(|source| source == name || source.ends_with(&format!("/{name}")));
            assert!(!is_source || is_there(), "{path} names {name}, which is not there");
        }
    }
}

#[test]
fn tests_do_not_sleep() {
    for (path, text) in files(&[".rs"]).iter().filter(|(path, _)| path.contains("tests") && !path.ends_with("tidy.rs"))
    {
        assert!(!text.contains("thread::sleep") && !text.contains("time::sleep"), "{path} sleeps");
    }
}
