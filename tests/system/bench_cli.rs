//! `fleet bench` as people and scripts meet it, and that it gives the heads and bytes of a real federation.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::io::Write;
use std::path::Path;

use grapevine_host::Shutdown;
use grapevine_models::Method;
use grapevine_protocol::Encoding;
use grapevine_simulator::bench::{self, BenchOptions, LogitOffsetOptions};
use grapevine_simulator::data::digits::Digits;
use grapevine_simulator::data::partition::Partition;
use grapevine_simulator::demo::{self, DemoOptions};
use grapevine_simulator::report::results::Report;
use grapevine_tests::programs::{Running, Workplace, complaint, extractor};

/// All but those that need samples of the aggregator's own, which the demo has none of.
fn methods() -> Vec<Method> {
    Method::ALL.into_iter().filter(|method| method.auxiliary().is_none()).collect()
}

/// The same federation over real MQTT and in the bench.
fn both(source: (demo::Source, bench::Source), participants: Option<usize>, seed: u64) -> (Report, Report) {
    let over_mqtt = DemoOptions {
        source: source.0,
        devices: 6,
        participants,
        rounds: 3,
        methods: methods(),
        imbalance: Some(50.0),
        alpha: 1.0,
        partition: Partition::GlobalPrior,
        seed,
        broker: None,
        lambda: Some(1.0),
        command: "fleet demo".into(),
    };
    let in_process = BenchOptions {
        source: source.1,
        imbalance: Some(50.0),
        partition: Partition::GlobalPrior,
        alpha: 1.0,
        devices: 6,
        participants,
        rounds: 3,
        seeds: vec![seed],
        methods: methods(),
        settings: vec!["lambda=1".parse().unwrap()],
        grid: Vec::new(),
        logit_offset: LogitOffsetOptions::default(),
        folds: 1,
        encoding: Encoding::F32,
        command: "fleet bench".into(),
    };
    let demo = demo::run(&over_mqtt, &Shutdown::manual(), &mut |_| ()).unwrap();
    let bench = bench::run(&in_process, &Shutdown::manual(), &|_| ()).unwrap();
    (demo, bench)
}

#[test]
fn the_bench_gives_the_heads_and_the_bytes_of_a_real_federation() {
    let made_up = "synthetic:64x20".parse().unwrap();
    let sources = [
        (demo::Source::Digits, bench::Source::Digits),
        (
            demo::Source::Synthetic { spec: made_up, samples_per_device: 60 },
            bench::Source::Synthetic { spec: made_up, samples_per_device: 60 },
        ),
    ];
    for (source, (participants, seed)) in sources.into_iter().zip([(None, 5), (Some(4), 6)]) {
        let (demo, bench) = both(source, participants, seed);
        assert_eq!(demo.class_counts, bench.class_counts);
        assert_eq!(demo.device_class_counts, bench.device_class_counts);
        for (real, counted) in demo.runs.iter().zip(&bench.runs) {
            let method = &real.method;
            assert_eq!((method, &real.head_digest), (&counted.method, &counted.head_digest));
            assert_eq!(real.accuracy_by_class, counted.accuracy_by_class, "{method}");
            assert_eq!(real.participation, counted.participation, "{method}");
            let ratio = |real: u64, counted: u64| real as f64 / counted as f64;
            let (up, down) = (real.bytes_up_per_device_round, real.bytes_down_per_device_round);
            let sent = ratio(up, counted.bytes_up_per_device_round);
            // A device that is connected before the aggregator says hello twice.
            assert!((0.9..1.15).contains(&sent), "{method} sends {up}: {counted:?}");
            // A device that asks late on a busy machine has a block sent again to all.
            let received = ratio(down, counted.bytes_down_per_device_round);
            assert!((0.9..2.0).contains(&received), "{method} receives {down}: {counted:?}");
        }
    }
}

/// A method has one set of hyper-parameters; where the demo has another lambda, both say so.
#[test]
fn the_demo_and_the_bench_have_the_same_hyper_parameters_or_say_why_not() {
    let place = Workplace::default();
    let names: Vec<&str> = methods().into_iter().map(Method::name).collect();
    let names = names.join(",");
    let more = ["--methods", &names, "--rounds", "1", "--devices", "2", "--json", "-"];
    let demo = place.json("fleet", &[&["demo"], &more[..]].concat());
    let bench = place.json("fleet", &[&["bench", "--seeds", "1"], &more[..]].concat());
    let mut differing = Vec::new();
    for (shown, benched) in demo["runs"].as_array().unwrap().iter().zip(bench["runs"].as_array().unwrap()) {
        assert_eq!(shown["method"], benched["method"]);
        let (shown, benched) = (&shown["hyper_parameters"], &benched["hyper_parameters"]);
        assert!(shown.as_object().is_some_and(|all| !all.is_empty()), "{shown}");
        for (name, value) in shown.as_object().unwrap() {
            if *value != benched[name] {
                assert_eq!(name, "lambda", "{shown} {benched}");
                differing.push(&shown["lambda"]);
            }
        }
    }
    assert!(!differing.is_empty(), "then nothing has to be said");
    for (report, expected) in
        [(&demo, "lambda is 1 here for redgrape, "), (&bench, "lambda is the published 0.1 for redgrape, ")]
    {
        let notes = report["notes"].as_array().unwrap();
        assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with(expected)), "{notes:?}");
    }
    let same = place.json("fleet", &[&["bench", "--seeds", "1", "--lambda", "1"], &more[..]].concat());
    let digests = |report: &serde_json::Value| {
        report["runs"].as_array().unwrap().iter().map(|run| run["head_digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&demo), digests(&same));
    assert!(!same["notes"].to_string().contains("lambda"), "{}", same["notes"]);
}

#[test]
fn a_long_tail_in_features_is_told_and_cut_once() {
    let place = Workplace::default();
    let counts = [3, 30, 12];
    let labels: Vec<i64> = (0..3).flat_map(|class| vec![class; counts[class as usize]]).collect();
    let train = (0..2 * labels.len()).map(|at| labels[at / 2] as f32 + at as f32 / 999.0).collect();
    Features { train, train_labels: labels, ..Features::default() }.write(&place.path("tail.npz"));
    let bench = ["bench", "--data", "tail.npz", "--devices", "2", "--rounds", "2", "--seeds", "1", "--methods", "lda"];
    let run = |more: &[&str]| place.json("fleet", &[&bench[..], more, &["--json", "-"]].concat());
    let kept = run(&[]);
    assert_eq!(kept["class_counts"], serde_json::json!(counts));
    assert!(
        kept["notes"][0].as_str().unwrap().contains("already long-tailed, 10:1 (30 to 3 samples a class)"),
        "{kept}"
    );
    let cut = run(&["--imbalance-ratio", "15"]);
    assert_eq!(cut["class_counts"], serde_json::json!([2, 30, 7]));
    assert!(cut["notes"][0].as_str().unwrap().contains("a long tail of 15:1: 39 of 45"), "{cut}");
    // The demo takes the same file, and the same heads come out of it.
    let demo = ["demo", "--data", "tail.npz", "--devices", "2", "--rounds", "2", "--methods", "lda", "--json", "-"];
    let demo = place.json("fleet", &demo);
    assert_eq!(
        (&demo["class_counts"], &demo["runs"][0]["head_digest"]),
        (&kept["class_counts"], &kept["runs"][0]["head_digest"])
    );
    assert_eq!(demo["notes"][0], kept["notes"][0]);
    let line = place.fail("fleet", &["demo", "--data", "tail.npz", "--extractor", "x.toml"], 2);
    assert!(line.contains("leave out --extractor"), "{line}");
}

#[test]
fn wrong_usage_is_one_line_and_writes_nothing() {
    let place = Workplace::default();
    for (arguments, expected) in [
        (&["--methods", "sgd"][..], "`sgd` is not a method; the methods are fedavg, "),
        (&["--grid", "lamda=1,2"], "`lamda` is not a hyper-parameter; they are learning_rate, momentum, "),
        (&["--grid", "lambda"], "write for example lambda=0.1,0.3,1"),
        (&["--grid", "learning_rate=a"], "`a` is no value of learning_rate"),
        (&["--methods", "fedavg", "--grid", "lambda=1,2"], "no method of this bench reads `lambda`"),
        (&["--set", "mu=1", "--methods", "fedavg"], "no method of this bench reads `mu`"),
        (&["--learning-rate", "-1"], "it must be above 0, at most 100"),
        (&["--learning-rate", "0.1", "--set", "learning_rate=0.2"], "`learning_rate` is set twice"),
        (&["--epochs", "2.5"], "must be a whole number"),
        (&["--devices", "1"], "1 is not in 2..=10000"),
        (&["--devices", "4", "--participants", "5"], "5 participants of 4 devices"),
        (&["--rounds", "0"], "0 is not in 1..=100000"),
        (&["--seeds", "0"], "1 to 1000 seeds are possible"),
        (&["--seeds", "1,1"], "seed 1 stands twice"),
        (&["--alpha", "0"], "alpha 0: give a number from 0.000001"),
        (&["--imbalance", "NaN"], "imbalance ratio NaN: give a number of at least 1"),
        (&["--encoding", "f8"], "the encodings are f32, f16 and int8"),
        (&["--init", "sgd"], "it must be zeros or ncm or lda or posterior"),
        (&["--standardise", "train"], "required arguments were not provided: --data <PATH|SPEC>"),
        (&["--samples", "9"], "--samples is for made-up features"),
        (&["--data", "synthetic:8x1"], "synthetic data set out of range ("),
        (&["--data", "synthetic:8x3", "--standardise", "train"], "leave out --standardise"),
        (&["--logit-offset", "lda", "--methods", "fedavg"], "lda does not run; name it in --methods too"),
        (&["--taus", "0,1"], "required arguments were not provided: --logit-offset <NAMES>"),
        (&["--logit-offset", "lda", "--taus", "0,11"], "tau 11: give numbers from -10 to 10"),
        (&["--csv", "same", "--report", "same"], "named for two results"),
    ] {
        let line = place.fail("fleet", &[&["bench"], arguments].concat(), 2);
        assert!(line.contains(expected), "{arguments:?}: {line}");
    }
    assert_eq!(place.names(), Vec::<String>::new());
    assert!(place.succeed("fleet", &["bench", "--help"]).contains("Examples:\n  fleet bench "));
}

#[test]
fn every_result_is_written() {
    let place = Workplace::default();
    let arguments =
        ["bench", "--data", "synthetic:8x4", "--rounds", "3", "--seeds", "2", "--methods", "fedavg,redgrape"];
    let outputs = ["--json", "b.json", "--csv", "b.csv", "--html", "b.html", "--svg", "charts"];
    let grid = ["--grid", "learning_rate=0.001,0.1"];
    let text = place.succeed("fleet", &[&arguments[..], &outputs, &grid].concat());
    assert!(text.contains("redgrape ") && text.contains(" ± ") && text.contains("learning_rate=0."), "{text}");
    assert_eq!(place.names(), ["b.csv", "b.html", "b.json", "charts"]);
    let report = Report::from_json(&fs::read_to_string(place.path("b.json")).unwrap()).unwrap();
    assert_eq!((report.runs.len(), report.trials.len()), (4, 4));
    assert!(report.runs.iter().all(|run| run.balanced_accuracy_by_round.len() == 3 && run.chosen == ["learning_rate"]));
    assert_eq!(fs::read_to_string(place.path("b.csv")).unwrap().lines().count(), 1 + 4 * 3);
    let page = fs::read_to_string(place.path("b.html")).unwrap();
    assert!(page.contains("Balanced accuracy for a device&#39;s traffic") || page.contains("device's traffic"));
    let mut charts: Vec<_> =
        fs::read_dir(place.path("charts")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    charts.sort();
    assert_eq!(charts, ["accuracy-by-bytes.svg", "accuracy-by-class.svg", "accuracy-by-round.svg"]);
    // The same again, to the bit.
    let again = place.json("fleet", &[&arguments[..], &grid, &["--json", "-"]].concat());
    let digests = |runs: &serde_json::Value| {
        runs.as_array().unwrap().iter().map(|run| run["head_digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&again["runs"]), digests(&serde_json::to_value(&report.runs).unwrap()));
}

#[test]
fn features_in_an_npz_are_read_and_refused_in_one_sentence() {
    let place = Workplace::default();
    let bench = |name: &str| {
        ["bench", "--data", name, "--rounds", "2", "--devices", "3", "--methods", "fedavg"].map(str::to_owned)
    };
    let run = |name: &str, more: &[&str]| {
        let arguments = bench(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        place.command("fleet", &arguments).output().unwrap()
    };
    let good = Features::default();
    good.write(&place.path("good.npz"));
    for more in [&[][..], &["--imbalance", "5"], &["--standardise", "train", "--partition", "symmetric"]] {
        let output = run("good.npz", more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut nan = good.clone();
    nan.train[5] = f32::NAN;
    let mut gap = good.clone();
    gap.train_labels.iter_mut().for_each(|label| *label = if *label == 1 { 2 } else { *label });
    for (name, features, expected) in [
        ("nan.npz", nan, "feature 1 is NaN"),
        ("gap.npz", gap, "class 1 of 3 has no training sample"),
        (
            "stray.npz",
            Features { test_labels: vec![0, 1, 2, 3, 0, 1, 2, 0, 1], ..good.clone() },
            "row 3: no training sample has label 3",
        ),
        ("flat.npz", Features { width: 0, ..good.clone() }, "[samples, features]"),
        ("short.npz", Features { train_labels: good.train_labels[1..].to_vec(), ..good.clone() }, "rows for"),
        ("alone.npz", Features { test: Vec::new(), test_labels: Vec::new(), ..good.clone() }, "has no test samples"),
        (
            "many.npz",
            Features { test_labels: vec![1_000; 9], ..good.clone() },
            "1001 classes: a fleet has 2 to 1000 classes",
        ),
    ] {
        features.write(&place.path(name));
        let output = run(name, &[]);
        let line = complaint(&output, 1).unwrap();
        assert!(line.contains(expected), "{name}: {line}");
    }
    let line = place.fail("fleet", &["bench", "--data", "none.npz"], 1);
    assert!(line.contains("cannot read none.npz"), "{line}");
    let line = place.fail("fleet", &["bench", "--data", "good.npz", "--extractor", "x.toml"], 2);
    assert!(line.contains("leave out --extractor"), "{line}");
}

#[test]
fn images_go_through_an_extractor_once() {
    let place = Workplace::default();
    let digits = Digits::load();
    let split = digits.split();
    let part = |indices: &[u32], count: usize| {
        let mut left = [count; 10];
        let mut chosen = indices.to_vec();
        chosen.retain(|&index| {
            let left = &mut left[usize::from(digits.labels[index as usize])];
            *left = left.saturating_sub(1);
            *left > 0
        });
        chosen
    };
    digits.write_folder(&place.path("images/train"), &part(&split.pool, 31)).unwrap();
    digits.write_folder(&place.path("images/test"), &part(&split.held_out, 11)).unwrap();
    let extractor = extractor();
    let bench = ["bench", "--data", "images", "--extractor", &extractor, "--cache", "features", "--imbalance", "10"];
    let more = ["--devices", "3", "--rounds", "3", "--seeds", "2", "--methods", "redgrape,lda", "--json", "-"];
    let arguments = [&bench[..], &more].concat();
    let run = || {
        let output = place.command("fleet", &arguments).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{log}");
        (Report::from_json(core::str::from_utf8(&output.stdout).unwrap()).unwrap(), log)
    };
    let (report, log) = run();
    assert!(log.contains("images extracted"), "{log}");
    assert_eq!((report.class_counts[0], report.class_counts[9]), (30, 3));
    assert_eq!((report.test_class_counts.as_slice(), report.data_digests.len()), (&[10; 10][..], 2));
    assert!(report.runs.iter().all(|run| run.balanced_accuracy > 0.5), "{:?}", report.runs);
    let (again, log) = run();
    assert!(!log.contains("images extracted"), "{log}");
    assert_eq!(again.runs[3].head_digest, report.runs[3].head_digest);
    let line = place.fail("fleet", &["bench", "--data", "images", "--standardise", "train"], 2);
    assert!(line.contains("leave out --standardise"), "{line}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_runs_that_are_over() {
    let place = Workplace::default();
    let arguments = ["bench", "--data", "synthetic:8x3", "--methods", "ncm,fedavg", "--seeds", "1"];
    let more = ["--rounds", "100000", "--json", "b.json"];
    let mut running = Running::start(&mut place.command("fleet", &[&arguments[..], &more].concat()));
    running.line("run 1/2: ncm seed 0");
    running.signal("INT");
    let (code, log) = running.end();
    assert_eq!(code, Some(130), "{log}");
    assert_eq!(log.lines().last(), Some("error: stopped; the results hold the 1 runs that were over"));
    let report = Report::from_json(&fs::read_to_string(place.path("b.json")).unwrap()).unwrap();
    assert_eq!((report.runs.len(), report.stopped, report.runs[0].method.as_str()), (1, true, "ncm"));
}

/// The four arrays of a small data set: three classes of four, two features each.
#[derive(Clone)]
struct Features {
    train: Vec<f32>,
    train_labels: Vec<i64>,
    test: Vec<f32>,
    test_labels: Vec<i64>,
    /// 0 writes the features as a flat array.
    width: usize,
}

impl Default for Features {
    fn default() -> Self {
        let labels = |count: i64| (0..count).map(|index| index % 3).collect::<Vec<i64>>();
        let features =
            |count: usize| (0..2 * count).map(|at| ((at / 2 % 3) as f32 - 1.0) * (1.0 + at as f32 / 99.0)).collect();
        Self { train: features(30), train_labels: labels(30), test: features(9), test_labels: labels(9), width: 2 }
    }
}

impl Features {
    fn write(&self, path: &Path) {
        let mut arrays =
            vec![("train_features", floats(&self.train, self.width)), ("train_labels", integers(&self.train_labels))];
        if !self.test_labels.is_empty() {
            arrays.extend([
                ("test_features", floats(&self.test, self.width)),
                ("test_labels", integers(&self.test_labels)),
            ]);
        }
        fs::write(path, npz(&arrays)).unwrap();
    }
}

fn floats(values: &[f32], width: usize) -> Vec<u8> {
    let shape = match values.len().checked_div(width) {
        None => format!("({},)", values.len()),
        Some(rows) => format!("({rows}, {width})"),
    };
    npy("<f4", &shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

fn integers(values: &[i64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("<i8", &format!("({},)", values.len()), &bytes)
}

fn npy(number: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{number}', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = header.len().div_ceil(64) * 64 + 53;
    let header = format!("{header:<padded$}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

/// A zip archive without compression.
fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in arrays {
        let name = format!("{name}.npy");
        let length = (content.len() as u32).to_le_bytes();
        let mut entry = [20_u16, 0, 0, 0, 33].iter().flat_map(|field| field.to_le_bytes()).collect::<Vec<u8>>();
        entry.write_all(&crc32(content).to_le_bytes()).unwrap();
        entry.extend([length, length].concat());
        entry.extend((name.len() as u16).to_le_bytes());
        entry.extend([0, 0]);
        let offset = (archive.len() as u32).to_le_bytes();
        archive.extend([b"PK\x03\x04", &entry[..], name.as_bytes(), content].concat());
        directory
            .extend([b"PK\x01\x02", &20_u16.to_le_bytes()[..], &entry, &[0; 10], &offset, name.as_bytes()].concat());
    }
    let count = (arrays.len() as u16).to_le_bytes();
    let (start, size) = ((archive.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    archive.extend(directory);
    archive.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &start, &[0; 2]].concat());
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
