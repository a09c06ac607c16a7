//! The program as people and scripts meet it: arguments in, text and an exit code out. No broker is needed.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which a panic is a failed test")]

mod device;

use std::fs;
#[cfg(unix)]
use std::process::Command;
use std::process::Stdio;

use device::*;
use serde_json::Value;

#[test]
fn a_device_goes_from_init_to_a_classified_image() {
    let device = Device::new();
    let made = device.init(&[]);
    assert!(made.succeeds().stdout.contains("camera-1 of fleet north, 10 classes"), "{made:?}");
    assert!(made.stdout.contains("64 features, ") && made.stdout.contains(" ms an image here"), "{made:?}");
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
    let classified = device.call(&arguments).succeeds().json_lines();
    let right = unseen.iter().zip(&classified).filter(|((_, class), image)| {
        assert_eq!(image["predictions"].as_array().unwrap().len(), 1);
        image["predictions"][0]["class"] == *class
    });
    assert!(right.count() > 80, "{classified:?}");
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
    let shares = classes.iter().map(|class| class["share"].as_f64().unwrap()).sum::<f64>();
    assert!((shares - 1.0).abs() < 1e-9 && status["store"]["imbalance_ratio"].as_f64().unwrap() > 1.0, "{status}");
    device.call(&["train", "--save"]).succeeds();
    let people = device.call_with(&["status"], &[("LC_ALL", "C.UTF-8"), ("COLUMNS", "70")]);
    let text = &people.succeeds().stdout;
    assert!(text.contains("made by this device") && text.contains("█") && text.contains("never ran"), "{text}");
    assert!(text.contains("imbalance ratio"), "{text}");
    let plain = device.call_with(&["status"], &[("LC_ALL", "C"), ("COLUMNS", "70")]);
    assert!(plain.succeeds().stdout.is_ascii() && plain.stdout.contains("####"), "{plain:?}");
    let widest = plain.stdout.lines().filter(|line| line.contains('#')).map(str::len).max();
    assert_eq!(widest, Some(70), "{plain:?}");
    device.edit_config("# max_samples_per_class = 1000", "max_samples_per_class = 9");
    assert!(device.call(&["status"]).succeeds().stdout.contains("at most 20000 and 9 per class"));
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
    let digest = grapevine_vision::manifest::sha256_file(&device.path("digits.onnx")).unwrap();
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
    device.call(&["ingest", "nowhere"]).fails(1, "cannot open nowhere");
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
    let one = fs::read_dir(device.path("pictures/one")).unwrap().next().unwrap().unwrap().path();
    fs::copy(one, device.path("pictures/eleven/1.png")).unwrap();
    let unknown = device.call(&["ingest", "pictures", "--json"]);
    unknown.fails(1, "`eleven` is no class of the configuration");
    assert_eq!(unknown.json()["unknown_classes"][0], "eleven");
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
    let lines = mixed.json_lines();
    assert_eq!(lines[1]["predictions"].as_array().unwrap().len(), 3, "the others are classified");
    assert!(lines[0]["error"].as_str().unwrap().starts_with("text.png: it is neither"), "{lines:?}");
    device.call(&["classify", "none.png"]).fails(1, "cannot read none.png");
    device.call(&["classify"]).fails(2, "<IMAGE>");
}

#[test]
fn another_order_of_classes_keeps_the_samples_and_a_missing_class_is_refused() {
    let device = Device::filled(20);
    let samples = |status: &Value| {
        let class = |class: &Value| (class["class"].as_str().unwrap().to_owned(), class["samples"].as_u64().unwrap());
        let mut classes: Vec<_> = status["store"]["by_class"].as_array().unwrap().iter().map(class).collect();
        classes.sort();
        classes
    };
    let before = samples(&device.call(&["status", "--json"]).succeeds().json());
    device.edit_config("\"zero\", \"one\"", "\"one\", \"ten\", \"zero\"");
    for command in [&["train"][..], &["classify", "x.png"], &["status"]] {
        device.call(command).fails(1, "`edge-client run` or `edge-client ingest` takes its samples over by name");
    }
    let ingested = device.call(&["ingest", "pictures"]);
    assert!(ingested.code == Some(0) && ingested.stderr.contains("taken over by name"), "{ingested:?}");
    assert!(ingested.stdout.contains("20 images: 0 added, 20 duplicates"), "{ingested:?}");
    let after = samples(&device.call(&["status", "--json"]).succeeds().json());
    assert_eq!(after.iter().filter(|(class, _)| class != "ten").cloned().collect::<Vec<_>>(), before);

    device.edit_config("\"zero\"", "\"nought\"");
    for command in [&["ingest", "pictures"][..], &["run"], &["train", "--save"]] {
        device.call(command).fails(1, "samples of `zero`, which the configuration no longer lists");
    }
    fs::rename(device.path("pictures/zero"), device.path("pictures/nought")).unwrap();
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
    for command in ["init", "ingest", "run", "train", "classify", "status", "completions", "man"] {
        let help = device.call(&[command, "--help"]);
        assert!(help.succeeds().stdout.contains("Examples:\n  edge-client "), "{help:?}");
    }
    assert!(device.call(&["--version"]).succeeds().stdout.starts_with("edge-client "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(device.call(&["completions", shell]).succeeds().stdout.contains("until-finished"));
    }
    device.call(&["completions", "cobol"]).fails(2, "invalid value 'cobol'");
    assert!(device.call(&["man"]).succeeds().stdout.contains(".TH edge-client 1"));
    assert!(device.call(&["man", "run"]).succeeds().stdout.contains(".TH edge-client-run 1"));
    device.call(&["man", "walk"]).fails(2, "there is no command 'walk'");
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
    // The clock is set while it runs. It writes the file anew at its next change.
    let status = (0..100).find_map(|_| {
        let path = device.path("state/status.json");
        let mut told: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        told["seen"] = (told["seen"].as_u64()? - 40_000).into();
        fs::write(&path, told.to_string()).unwrap();
        let status = device.call(&["status", "--json"]);
        status.stderr.contains("wrote no status for 4000").then_some(status)
    });
    let status = status.expect("`status` says that the times do not fit");
    assert!(status.code == Some(1) && status.stderr.contains("it hangs, or the clock was set"), "{status:?}");
    assert_eq!(status.json()["running"]["alive"], true, "it holds its lock");
    Command::new("kill").args(["-TERM", &run.0.id().to_string()]).status().unwrap();
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let status = device.call(&["status", "--json"]);
    status.fails(1, "this device does not run");
    let status = status.json();
    assert_eq!((&status["running"]["state"], &status["running"]["alive"]), (&"stopped".into(), &false.into()));
}
