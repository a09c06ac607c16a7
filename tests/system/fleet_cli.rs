//! `fleet` as people and scripts meet it: wrong usage, results in files and on standard output, Ctrl-C.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;

use grapevine_models::Method;
use grapevine_simulator::data::digits::Digits;
use grapevine_simulator::report::results::Report;
use grapevine_tests::programs::{Running, Workplace, complaint, extractor, root};
use serde_json::Value;

/// The place where a demo keeps its devices, so that what is left of them is seen.
const SCRATCH: &str = "scratch";

#[test]
fn wrong_usage_is_one_line_and_writes_nothing() {
    let place = Workplace::default();
    let methods = Method::ALL.map(Method::name);
    for (arguments, expected) in [
        (&["--method", "sgd"][..], "`sgd` is not a method; the methods are fedavg, "),
        (&["--method", ""], "the methods are fedavg, "),
        (&["--devices", "0"], "0 is not in 1..=5000"),
        (&["--devices", "many"], "invalid value 'many' for '--devices <COUNT>'"),
        (&["--rounds", "0"], "0 is not in 1..=10000"),
        (&["--alpha", "-1"], "alpha -1: give a number from 0.000001"),
        (&["--alpha", "NaN"], "alpha NaN: give a number from 0.000001"),
        (&["--imbalance", "0.5"], "imbalance ratio 0.5: give a number of at least 1"),
        (&["--lambda", "-3"], "`lambda` is -3; it must be 0 to 1000"),
        (&["--features", "synthetic:9x"], "write synthetic:<features>x<classes>, for example synthetic:512x100"),
        (&["--features", "synthetic:0x9"], "synthetic data set out of range ("),
        (&["--samples", "9"], "--samples is for made-up features"),
        (&["--data", "synthetic:8x3", "--extractor", "x.toml"], "leave out --extractor"),
        (&["--partition", "random"], "possible values: global-prior, symmetric"),
        (&["--broker", "http://x"], "a broker address begins with `mqtt://`"),
        (&["--broker", "mqtts://x"], "TLS is not built into this version"),
        (&["--report", "same", "--json", "same"], "name the same file"),
        (&["--bogus"], "unexpected argument '--bogus' found"),
    ] {
        let line = place.fail("fleet", &[&["demo"], arguments].concat(), 2);
        assert!(line.contains(expected), "{arguments:?}: {line}");
        let lists_methods = methods.iter().all(|method| line.contains(method));
        assert!(lists_methods || arguments[0] != "--method", "{line}");
    }
    assert!(place.fail("fleet", &[], 2).contains("no command was given; `fleet --help` lists them"));
    assert!(place.fail("fleet", &["dmo"], 2).contains("unrecognized subcommand 'dmo'; tip: "));
    assert_eq!(place.names(), Vec::<String>::new());
    assert!(place.succeed("fleet", &["demo", "--help"]).contains("Examples:\n  fleet demo "));
    assert!(place.succeed("fleet", &["completions", "bash"]).contains("imbalance"));
}

#[test]
fn what_cannot_work_is_refused_before_the_run() {
    let place = scratch();
    for (arguments, expected) in [
        (&["--report", "none/x.html"][..], "could not write none/x.html; check that the folder exists"),
        (&["--json", "none/x.json"], "could not write none/x.json; check that the folder exists"),
        (&["--report", SCRATCH], "could not write scratch; "),
        (&["--devices", "5000"], "360 samples for 5000 devices: every device needs one"),
    ] {
        let arguments = [&["demo"], arguments].concat();
        let output = place.command("fleet", &arguments).env("TMPDIR", place.path(SCRATCH)).output().unwrap();
        let line = complaint(&output, 1).unwrap();
        assert!(line.contains(expected), "{arguments:?}: {line}");
        assert_eq!(left(&place), [SCRATCH]);
    }
}

#[test]
fn a_broker_that_is_not_there_ends_the_demo() {
    let place = Workplace::default();
    let output = place.command("fleet", &["demo", "--broker", "mqtt://me:secret@127.0.0.1:1"]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{log}");
    let errors: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    assert!(errors[0].starts_with("no broker answered within 20 s: no connection to mqtt://me@127.0.0.1:1"), "{log}");
    assert!(!log.contains("secret"), "{log}");
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn the_results_are_written_as_json_and_as_a_page() {
    let place = Workplace::default();
    let text = place.succeed(
        "fleet",
        &["demo", "--method", "fedavg", "--rounds", "2", "--json", "demo.json", "--report", "demo.html"],
    );
    assert!(text.contains("fedavg") && text.contains("demo.html"), "{text}");
    assert_eq!(place.names(), ["demo.html", "demo.json"]);
    let page = fs::read_to_string(place.path("demo.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    let report = Report::from_json(&fs::read_to_string(place.path("demo.json")).unwrap()).unwrap();
    assert_eq!((report.devices, report.rounds, report.classes, report.runs.len()), (10, 2, 10, 1));
    assert_eq!(report.runs[0].balanced_accuracy_by_round.len(), 2);
}

#[test]
fn json_on_standard_output_is_alone_there() {
    let place = Workplace::default();
    let arguments =
        ["demo", "--features", "synthetic:8x3", "--devices", "3", "--method", "fedavg,lda", "--rounds", "2"];
    let report = place.json("fleet", &[&arguments[..], &["--json", "-", "--seed", "4"]].concat());
    let documented = [
        "runs",
        "devices",
        "rounds",
        "classes",
        "features",
        "peak_memory_bytes",
        "data",
        "imbalance_ratio",
        "alpha",
        "class_counts",
        "device_class_counts",
        "class_names",
        "version",
        "command",
        "arguments",
        "data_digests",
        "test_class_counts",
        "trials",
        "logit_offsets",
        "notes",
        "stopped",
        "machine",
        "seconds",
    ];
    assert_fields(&report, &documented);
    let of_a_run = [
        "method",
        "seed",
        "partition",
        "participation",
        "balanced_accuracy",
        "head_accuracy",
        "mid_accuracy",
        "tail_accuracy",
        "accuracy_by_class",
        "balanced_accuracy_by_round",
        "bytes_up_per_device_round",
        "bytes_down_per_device_round",
        "seconds_per_round",
        "head_digest",
        "device_cpu_seconds_per_round",
        "aggregator_cpu_seconds_per_round",
        "head_accuracy_by_round",
        "mid_accuracy_by_round",
        "tail_accuracy_by_round",
        "rounds_to_95_percent",
        "bytes_up_per_device",
        "bytes_down_per_device",
        "bytes_per_device_by_round",
        "hyper_parameters",
        "chosen",
    ];
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    runs.iter().for_each(|run| assert_fields(run, &of_a_run));
    assert_eq!((&runs[0]["method"], &runs[0]["seed"]), (&"fedavg".into(), &4.into()));
    assert_eq!((&report["features"], &report["classes"], &report["devices"]), (&8.into(), &3.into(), &3.into()));
    assert!(report["command"].as_str().unwrap().starts_with("fleet demo --features synthetic:8x3"));
    assert_eq!(place.names(), ["report.html"]);
}

#[test]
fn the_default_method_stands_beside_the_others() {
    let place = Workplace::default();
    let text = place.succeed("fleet", &["demo", "--rounds", "1"]);
    let rows: Vec<&str> = text.lines().skip(2).take(4).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows, ["fedavg", "redgrape", "lda", "redgrape-plus"], "{text}");
    for expected in
        ["redgrape-plus (default)", "On the tail classes the default method, redgrape-plus, has ", "lambda is 1 here"]
    {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn demo_and_bench_are_spelt_alike() {
    let place = Workplace::default();
    for (command, fleet) in [("demo", &["--devices", "3"][..]), ("bench", &["--devices", "3", "--seeds", "1"])] {
        for (data, methods, page) in [("--data", "--methods", "--report"), ("--features", "--method", "--html")] {
            let spelt = [data, "synthetic:8x3", methods, "lda", page, "page.html", "--imbalance-ratio", "4"];
            let text = place.succeed("fleet", &[&[command], fleet, &spelt[..]].concat());
            assert!(text.contains("lda "), "{text}");
            fs::remove_file(place.path("page.html")).unwrap();
        }
    }
}

#[test]
fn images_of_ones_own_are_grouped_by_frequency_and_a_long_tail_is_not_cut_again() {
    let place = Workplace::default();
    // The rarest classes come first by the alphabet.
    let counts = [2, 3, 4, 30, 6, 8, 10, 40, 20, 12];
    write_images(&place, "tail", &counts);
    write_images(&place, "even", &[20; 10]);
    let run = |data: &str, more: &[&str]| {
        let extractor = extractor();
        let arguments = ["demo", "--data", data, "--extractor", &extractor, "--no-cache", "--devices", "3"];
        let arguments = [&arguments[..], &["--methods", "fedavg", "--rounds", "4", "--json", "-"], more].concat();
        Report::from_json(&place.json("fleet", &arguments).to_string()).unwrap()
    };
    let kept = run("tail", &[]);
    assert_eq!((kept.class_counts.as_slice(), kept.imbalance_ratio), (&counts.map(|count| count as u64)[..], 20.0));
    assert!(
        kept.notes[0].contains("kept as they are: already long-tailed, 20:1 (40 to 2 samples a class)"),
        "{:?}",
        kept.notes
    );
    let shares = &kept.runs[0].accuracy_by_class;
    let mean = |classes: [usize; 3]| classes.iter().map(|&class| shares[class]).sum::<f64>() / 3.0;
    let near = |left: f64, right: f64| (left - right).abs() < 1e-9;
    assert!(near(kept.runs[0].head_accuracy, mean([7, 3, 8])) && near(kept.runs[0].tail_accuracy, mean([0, 1, 2])));
    assert!(kept.runs[0].head_accuracy > kept.runs[0].tail_accuracy, "{shares:?}");

    let asked = run("tail", &["--imbalance", "40"]);
    assert_eq!((asked.class_counts[7], asked.class_counts[0], asked.imbalance_ratio), (40, 1, 40.0));
    let cut = run("even", &[]);
    assert!(
        cut.notes[0].contains("cut to a long tail of 100:1: ") && cut.notes[0].contains(" of 200 training"),
        "{:?}",
        cut.notes
    );
    assert_eq!((cut.class_counts[0], cut.class_counts[9]), (20, 1));
    let text = place
        .succeed("fleet", &["demo", "--data", "tail", "--extractor", &extractor(), "--no-cache", "--methods", "lda"]);
    assert!(text.contains("already long-tailed, 20:1"), "{text}");
}

/// Digits under `train`, so many of each class, and ten of each under `test`.
fn write_images(place: &Workplace, name: &str, counts: &[usize; 10]) {
    let digits = Digits::load();
    let split = digits.split();
    let some = |indices: &[u32], counts: [usize; 10]| -> Vec<u32> {
        let mut left = counts;
        let mut takes = |index: u32| {
            let left = &mut left[usize::from(digits.labels[index as usize])];
            let is_wanted = *left > 0;
            *left = left.saturating_sub(1);
            is_wanted
        };
        indices.iter().copied().filter(|&index| takes(index)).collect()
    };
    digits.write_folder(&place.path(&format!("{name}/train")), &some(&split.pool, *counts)).unwrap();
    digits.write_folder(&place.path(&format!("{name}/test")), &some(&split.held_out, [10; 10])).unwrap();
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_behind() {
    let place = scratch();
    let mut command = place.command("fleet", &["demo", "--method", "fedavg", "--rounds", "10000", "--json", "a.json"]);
    let mut demo = Running::start(command.env("TMPDIR", place.path(SCRATCH)));
    demo.line("fedavg round 2/10000");
    demo.signal("INT");
    let (code, log) = demo.end();
    assert_eq!(code, Some(130), "{log}");
    assert_eq!(log.lines().last(), Some("error: stopped; nothing was written"));
    assert_eq!(left(&place), [SCRATCH]);
}

/// A place with an empty folder for a demo's devices.
fn scratch() -> Workplace {
    let place = Workplace::default();
    fs::create_dir(place.path(SCRATCH)).unwrap();
    place
}

/// Commands change and documents stay: each command line of the README is one that its program understands.
#[test]
fn every_command_of_the_readme_is_understood() {
    let place = Workplace::default();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut understood = 0;
    for line in readme.lines().filter_map(|line| line.strip_prefix("    ").or_else(|| line.strip_prefix("$ "))) {
        let command = line.split(" #").next().unwrap().trim();
        let command =
            command.strip_prefix("cargo run --release -- ").map_or(command.to_owned(), |rest| format!("fleet {rest}"));
        let mut words = command.split_whitespace();
        let Some(program) = words.next().filter(|name| ["fleet", "aggregator", "edge-client"].contains(name)) else {
            continue;
        };
        // What comes before `--help` is read, and refused if it is wrong.
        let arguments: Vec<&str> = words.chain(["--help"]).collect();
        assert!(place.succeed(program, &arguments).contains("Usage: "), "{command}");
        understood += 1;
    }
    assert!(understood >= 15, "only {understood} command lines were found");
}

#[test]
fn every_command_has_examples() {
    let place = Workplace::default();
    for program in ["fleet", "aggregator", "edge-client"] {
        let help = place.succeed(program, &["--help"]);
        assert!(help.contains("Examples:"), "{program}");
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        for command in commands.filter_map(|line| line.split_whitespace().next()) {
            assert!(place.succeed(program, &[command, "--help"]).contains("Examples:"), "{program} {command}");
        }
    }
}

/// What is in the place, with what is in the folder for devices.
fn left(place: &Workplace) -> Vec<String> {
    let devices = fs::read_dir(place.path(SCRATCH)).unwrap();
    let devices = devices.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    place.names().into_iter().chain(devices).collect()
}

fn assert_fields(value: &Value, expected: &[&str]) {
    let names: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(expected.iter().all(|name| value.get(*name).is_some()), "{names:?}");
}
