//! `fleet extractor` and `fleet demo --data` as people and scripts meet them, on images and models made here.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use std::fs::{self, File};
use std::path::Path;
use std::process::Output;

use grapevine_simulator::data::digits::Digits;
use grapevine_tests::programs::{Running, Workplace, complaint, extractor, root};
use serde_json::Value;

/// The digits as images under `digits/train` and `digits/test`, and a cache folder of its own.
fn place_with_images() -> Workplace {
    let place = Workplace::default();
    let digits = Digits::load();
    let split = digits.split();
    digits.write_folder(&place.path("digits/train"), &split.pool).unwrap();
    digits.write_folder(&place.path("digits/test"), &split.held_out).unwrap();
    place
}

fn run(place: &Workplace, arguments: &[&str]) -> Output {
    place.command("fleet", arguments).env("XDG_CACHE_HOME", place.path("cache")).output().unwrap()
}

fn succeed(place: &Workplace, arguments: &[&str]) -> String {
    let output = run(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(place: &Workplace, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(place, arguments)).unwrap()
}

fn fail(place: &Workplace, arguments: &[&str], code: i32) -> String {
    complaint(&run(place, arguments), code).unwrap_or_else(|text| panic!("{arguments:?}: {text}"))
}

fn onnx() -> Vec<u8> {
    fs::read(Path::new(&extractor()).with_extension("onnx")).unwrap()
}

#[test]
fn a_model_is_described_and_timed() {
    let place = Workplace::default();
    let digits = extractor();
    let text = succeed(&place, &["extractor", "inspect", &digits, "--images", "5"]);
    for part in ["image [1, 1, 8, 8] f32", "features [1, 64] f32", "Conv 1", "runs here   yes"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let inspected = json(&place, &["extractor", "inspect", &digits, "--json"]);
    assert_eq!((&inspected["parameters"], &inspected["opset"]), (&160.into(), &13.into()));
    assert_eq!((&inspected["trial"]["features"], &inspected["trial"]["multiply_adds"]), (&64.into(), &5184.into()));
    assert!(inspected["trial"]["image_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(inspected["sha256"].as_str().unwrap().len(), 64);
    // A model alone has no manifest to say what its output should be; it is its own.
    fs::write(place.path("alone.onnx"), onnx()).unwrap();
    assert_eq!(json(&place, &["extractor", "inspect", "alone.onnx", "--json"])["trial"]["features"], 64);
}

#[test]
fn what_is_no_model_is_one_sentence() {
    let place = Workplace::default();
    let whole = onnx();
    fs::write(place.path("text.onnx"), "this is no model\n".repeat(50)).unwrap();
    fs::write(place.path("empty.onnx"), "").unwrap();
    fs::write(place.path("cut.onnx"), &whole[..whole.len() / 2]).unwrap();
    fs::create_dir(place.path("folder.onnx")).unwrap();
    File::create(place.path("huge.onnx")).unwrap().set_len(2 << 30).unwrap();
    File::create(place.path("zeros.onnx")).unwrap().set_len(200 << 20).unwrap();
    let expectations = [
        ("text.onnx", "is not an ONNX model"),
        ("empty.onnx", "it is empty"),
        ("cut.onnx", "is not an ONNX model"),
        ("folder.onnx", "cannot read the extractor folder.onnx: is a directory"),
        ("huge.onnx", "larger than 268435456 bytes"),
        ("zeros.onnx", "is not an ONNX model"),
        ("missing.onnx", "cannot read the extractor missing.onnx"),
    ];
    for (file, expected) in expectations {
        let line = fail(&place, &["extractor", "inspect", file], 1);
        assert!(line.to_lowercase().contains(&expected.to_lowercase()), "{file}: {line}");
    }
}

/// Models that ask for gigabytes or minutes, and one whose names would colour the terminal.
#[test]
fn hostile_models_are_refused_in_one_sentence_whatever_command_they_come_to() {
    let place = place_with_images();
    let folder = root().join("edge-client/tests/models");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    for (name, expected) in [
        ("transpose_dup", "`perm` of its Transpose"),
        ("resize1e7", "takes more than"),
        ("expandconst2_28", "takes more memory than it may"),
        ("range2_28", "takes more memory than it may"),
        ("gridsample", "`pads` of its AveragePool"),
    ] {
        let (onnx, toml) = (format!("{name}.onnx"), format!("{name}.toml"));
        for arguments in [
            &["extractor", "manifest", &onnx, "--images", "digits", "--force"][..],
            &["extractor", "probe", "--data", "digits", "--extractor", &toml],
            &["demo", "--data", "digits", "--extractor", &toml],
            &["bench", "--data", "digits", "--extractor", &toml],
        ] {
            let line = fail(&place, arguments, 1);
            assert!(line.contains(expected), "{arguments:?}: {line}");
        }
        // What can be read is described, too.
        for file in [&onnx, &toml] {
            let output = run(&place, &["extractor", "inspect", file]);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.code() == Some(1) && said.contains(expected), "{file}: {said}");
            assert!(file.ends_with("toml") || !said.contains("manifest"), "{file}: {said}");
        }
    }
    let output = run(&place, &["extractor", "inspect", "escape_in_op.onnx"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("does not know \\u001b[2J\\u001b[31mRED") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_manifest_is_made_and_used() {
    let place = place_with_images();
    fs::write(place.path("mine.onnx"), onnx()).unwrap();
    let normalise = ["--mean", "0.305796", "--std", "0.375334"];
    let make = [&["extractor", "manifest", "mine.onnx", "--images", "digits"][..], &normalise].concat();
    let text = succeed(&place, &make);
    assert!(
        text.starts_with("mine.toml written: 64 features, measured on 1297 images of 8x8x1, NCHW\none image takes "),
        "{text}"
    );
    let line = fail(&place, &make, 1);
    assert!(line.contains("mine.toml is there already; --force replaces it"), "{line}");
    let made = json(&place, &[&make[..], &["--force", "--json", "--name", "mine", "--license", "CC BY 4.0"]].concat());
    assert_eq!((&made["images"], &made["still_features"]), (&1297.into(), &0.into()));
    // The shipped manifest was measured on the same images, by other means.
    let number = |path: &Path, list: &str, at: usize| {
        let table: Value = toml_of(path);
        table["output"][list][at].as_f64().unwrap()
    };
    for (list, at) in [("mean", 0), ("mean", 63), ("std", 17)] {
        let (made, shipped) = (number(&place.path("mine.toml"), list, at), number(Path::new(&extractor()), list, at));
        assert!((made - shipped).abs() < 2e-3, "{list} {at}: {made} instead of {shipped}");
    }
    let inspected = json(&place, &["extractor", "inspect", "mine.toml", "--json"]);
    assert_eq!(inspected["trial"]["features"], 64);
    for (arguments, expected) in [
        (&["--out", "elsewhere/mine.toml"][..], "lies in the folder of its ONNX file"),
        (&["--output", "logits"], "no output `logits`, only [\"features\"]"),
        (&["--size", "9x9"], "its images have 8 columns and 8 rows and no other size"),
        (&["--mean", "1,2,3"], "--mean has 3 numbers, but the model takes 1 channels"),
    ] {
        let make = ["extractor", "manifest", "mine.onnx", "--images", "digits", "--force"];
        let line = fail(&place, &[&make[..], arguments].concat(), 1);
        assert!(line.contains(expected), "{arguments:?}: {line}");
    }
}

/// A manifest's numbers, read by the program itself.
fn toml_of(path: &Path) -> Value {
    let (manifest, _) = grapevine_vision::manifest::load(path).unwrap();
    serde_json::to_value(manifest).unwrap()
}

#[test]
fn features_are_probed_and_the_second_time_known() {
    let place = place_with_images();
    let digits = extractor();
    let probe = ["extractor", "probe", "--data", "digits", "--extractor", &digits, "--json", "-"];
    let first = json(&place, &probe);
    assert_eq!((&first["train_images"], &first["test_images"]), (&1297.into(), &500.into()));
    assert_eq!((&first["extracted_images"], &first["held_out"]), (&1797.into(), &false.into()));
    let accuracy = |probed: &Value, at: usize| probed["probes"][at]["balanced_accuracy"].as_f64().unwrap();
    println!("ridge {:.3}, lda {:.3}", accuracy(&first, 0), accuracy(&first, 1));
    assert!(accuracy(&first, 0) > 0.9 && accuracy(&first, 1) > 0.9);
    let second = json(&place, &probe);
    assert_eq!(second["extracted_images"], 0);
    assert_eq!(second["probes"], first["probes"]);
    let anew = json(&place, &[&probe[..], &["--no-cache"]].concat());
    assert_eq!((&anew["extracted_images"], &anew["probes"]), (&1797.into(), &first["probes"]));
    let text =
        succeed(&place, &["extractor", "probe", "--data", "digits/train", "--extractor", &digits, "--per-class"]);
    assert!(text.contains("a fifth of each class was held out") && text.contains("class  ridge %"), "{text}");
    assert_eq!(place.names(), ["cache", "digits"]);
}

#[test]
fn wrong_extractors_and_data_are_one_sentence() {
    let place = place_with_images();
    let shipped = extractor();
    let manifest = fs::read_to_string(&shipped).unwrap();
    let write = |name: &str, manifest: String, onnx: &[u8]| {
        fs::write(place.path(name).with_extension("toml"), manifest.replace("digits.onnx", &format!("{name}.onnx")))
            .unwrap();
        fs::write(place.path(name).with_extension("onnx"), onnx).unwrap();
    };
    write("digest", manifest.clone(), b"another");
    write(
        "channels",
        manifest
            .replace("channels = 1", "channels = 3")
            .replace("mean = [0.305796]", "mean = [0, 0, 0]")
            .replace("std = [0.375334]", "std = [1, 1, 1]"),
        &onnx(),
    );
    write("output", manifest.replace("name = \"features\"", "name = \"logits\""), &onnx());
    fs::write(place.path("alone.onnx"), onnx()).unwrap();
    fs::write(place.path("features.npz"), b"PK\x03\x04").unwrap();
    for (data, extractor, expected) in [
        ("digits", "digest.toml", "has SHA-256"),
        ("digits", "channels.toml", "correct `[input]` in the manifest"),
        ("digits", "output.onnx", "no output `logits`, only [\"features\"]"),
        ("digits", "alone.onnx", "make one with `fleet extractor manifest alone.onnx --images PATH`"),
        ("digits", "none.toml", "there is no extractor manifest at none.toml"),
        ("none", &shipped, "none"),
    ] {
        for command in [&["extractor", "probe"][..], &["demo"]] {
            let arguments = [command, &["--data", data, "--extractor", extractor]].concat();
            let line = fail(&place, &arguments, 1);
            assert!(line.contains(expected), "{arguments:?}: {line}");
        }
    }
}

#[test]
fn a_demo_on_images_takes_them_from_the_cache_the_second_time() {
    let place = place_with_images();
    let digits = extractor();
    let demo =
        ["demo", "--data", "digits", "--extractor", &digits, "--imbalance", "50", "--rounds", "2", "--json", "-"];
    let (first, second) = (json(&place, &demo), json(&place, &demo));
    assert_eq!((&first["devices"], &first["features"], &first["classes"]), (&10.into(), &64.into(), &10.into()));
    let digests = |report: &Value| {
        report["runs"].as_array().unwrap().iter().map(|run| run["head_digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&first).len(), 4);
    assert_eq!(digests(&first), digests(&second));
    // The same images as the demo on the digits has.
    let class_counts: Vec<u64> =
        first["class_counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
    assert_eq!((class_counts[0], class_counts[9]), (128, 2));
    let held_out = json(&place, &[&["demo", "--data", "digits/train"][..], &demo[3..], &["--method", "lda"]].concat());
    assert!(held_out["notes"].to_string().contains("a fifth of each class"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_images_are_read_leaves_nothing_but_the_cache() {
    let place = place_with_images();
    let mut command =
        place.command("fleet", &["demo", "--data", "digits", "--extractor", &extractor(), "--rounds", "10000"]);
    let mut demo = Running::start(command.env("XDG_CACHE_HOME", place.path("cache")));
    demo.line("images extracted");
    demo.signal("INT");
    let (code, log) = demo.end();
    assert_eq!(code, Some(130), "{log}");
    assert_eq!(place.names(), ["cache", "digits"]);
}

#[test]
fn help_has_examples() {
    let place = Workplace::default();
    for command in [&["extractor", "inspect"][..], &["extractor", "manifest"], &["extractor", "probe"]] {
        let help = place.succeed("fleet", &[command, &["--help"]].concat());
        assert!(help.contains(&format!("Examples:\n  fleet {} ", command.join(" "))), "{help}");
    }
    let usage = place.fail("fleet", &["extractor", "inspect", "a.onnx", "--size", "big"], 2);
    assert!(usage.contains("write 224x224"), "{usage}");
    assert!(!place.succeed("fleet", &["extractor", "--help"]).contains("trial"));
}

/// The shipped extractor on the data set it is meant for, where that is there.
#[test]
fn the_shipped_extractor_does_well_on_photographs() {
    let Some(data) = std::env::var_os("GRAPEVINE_TEST_IMAGES") else {
        return println!("skipped: GRAPEVINE_TEST_IMAGES names no data set, such as CIFAR-10 in class folders");
    };
    let place = Workplace::default();
    let probed = json(&place, &["extractor", "probe", "--data", data.to_str().unwrap(), "--json", "-"]);
    println!("{}", serde_json::to_string_pretty(&probed["probes"]).unwrap());
    let balanced = probed["probes"][1]["balanced_accuracy"].as_f64().unwrap();
    let classes = probed["classes"].as_array().unwrap().len() as f64;
    assert!(balanced > 3.0 / classes, "{balanced}");
    assert!(root().join("models/onnx/general.toml").exists());
}
