//! The command line: what each command says, and that every mistake is one sentence and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use program::{Program, extractor, refused};

fn init(program: &Program, more: &[&str]) -> String {
    let extractor = extractor();
    let mut arguments = vec!["init", "--fleet", "north", "--extractor", &extractor, "--classes", "zero,one,two"];
    arguments.extend(more);
    program.succeed(&arguments)
}

#[test]
fn init_writes_a_configuration_that_the_other_commands_read() {
    let program = Program::new();
    let said = init(&program, &["--embedded", "--port", "0"]);
    assert!(
        said.contains(
            "wrote aggregator.toml: fleet north, redgrape-plus, 3 classes, extractor digits with 64 features"
        )
    );
    assert_eq!(program.files(), ["aggregator.toml"]);
    let text = fs::read_to_string(program.path("aggregator.toml")).unwrap();
    assert!(text.contains("embedded = true") && text.contains("port = 0") && text.contains("so may anyone"), "{text}");
    let line = program.fail(&["status"], 1);
    assert!(line.contains("there is no ledger at state/ledger.sqlite yet; start `aggregator serve`"), "{line}");
    assert_eq!(program.files(), ["aggregator.toml"]);
}

#[test]
fn init_keeps_what_exists_and_protects_a_password() {
    let program = Program::new();
    init(&program, &["--broker", "mqtt://me:secret@broker.local"]);
    let path = program.path("aggregator.toml");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&path).unwrap();
    let extractor = extractor();
    let again = ["init", "--fleet", "south", "--extractor", &extractor, "--classes", "a,b"];
    assert!(program.fail(&again, 1).contains("aggregator.toml exists; give --force"));
    assert_eq!(fs::read(&path).unwrap(), before);
    program.succeed(&[&again[..], &["--force", "--method", "redgrape-live", "--state", "elsewhere"]].concat());
    let text = fs::read_to_string(&path).unwrap();
    for line in
        ["fleet = \"south\"", "url = \"mqtt://localhost:1883\"", "name = \"redgrape-live\"", "state = \"elsewhere\""]
    {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
}

#[test]
fn a_configuration_elsewhere_keeps_its_paths() {
    let program = Program::new();
    fs::create_dir(program.path("etc")).unwrap();
    fs::write(program.path("classes.txt"), "zero\n\none\n two \n").unwrap();
    let extractor = extractor();
    let arguments = ["init", "--fleet", "north", "--extractor", &extractor, "--classes-file", "classes.txt"];
    program.succeed(&[&arguments[..], &["--config", "etc/north.toml", "--state", "data"]].concat());
    let text = fs::read_to_string(program.path("etc/north.toml")).unwrap();
    assert!(text.contains(r#"classes = ["zero", "one", "two"]"#), "{text}");
    let line = program.fail(&["rounds", "--config", "etc/north.toml"], 1);
    assert!(line.contains("data/ledger.sqlite") && !line.contains("etc/data"), "{line}");
    let output = program.command(&["devices"]).env("GRAPEVINE_CONFIG", "etc/north.toml").output().unwrap();
    assert!(refused(&["devices"], &output, 1).contains("data/ledger.sqlite"));
}

#[test]
fn every_mistake_of_init_is_one_sentence_and_writes_nothing() {
    let program = Program::new();
    let extractor = extractor();
    fs::write(program.path("not.toml"), "name = [").unwrap();
    let many: Vec<String> = (0..1_001).map(|class| format!("c{class}")).collect();
    let many = many.join(",");
    let with = |fleet, extractor, classes| ["init", "--fleet", fleet, "--extractor", extractor, "--classes", classes];
    let good = with("north", &extractor, "a,b");
    for (arguments, code, expected) in [
        (good[..5].to_vec(), 2, "required arguments were not provided: --classes <NAMES>"),
        (with("North", &extractor, "a,b").to_vec(), 2, "`North` is not a name"),
        (with("north", "nowhere.toml", "a,b").to_vec(), 1, "there is no extractor manifest at nowhere.toml"),
        (with("north", "not.toml", "a,b").to_vec(), 1, "not.toml is not an extractor manifest: line 1"),
        (with("north", &extractor, "a").to_vec(), 1, "`classes` lists 1 names; a fleet has 2 to 1000"),
        (with("north", &extractor, "a,b,a").to_vec(), 1, "`classes` lists `a` twice"),
        (with("north", &extractor, "a,../b").to_vec(), 1, "`../b` cannot be a class"),
        (with("north", &extractor, &many).to_vec(), 1, "`classes` lists 1001 names"),
        ([&good[..], &["--method", "sgd"]].concat(), 2, "`sgd` is not a method; the methods are fedavg"),
        ([&good[..], &["--broker", "http://h"]].concat(), 2, "a broker address begins with `mqtt://`"),
        ([&good[..], &["--broker", "mqtts://h"]].concat(), 2, "TLS is not built into this version"),
        ([&good[..], &["--broker", "mqtt://h", "--embedded"]].concat(), 2, "cannot be used with"),
        ([&good[..], &["--port", "1"]].concat(), 2, "--embedded"),
        ([&good[..], &["--embedded", "--port", "65536"]].concat(), 2, "65536"),
        ([&good[..], &["--classes-file", "a.txt"]].concat(), 2, "cannot be used with"),
        ([&good[..5], &["--classes-file", "no.txt"]].concat(), 1, "cannot read no.txt; give a text file"),
        ([&good[..], &["--config", "no/folder.toml"]].concat(), 1, "could not write no/folder.toml; check that"),
    ] {
        let line = program.fail(&arguments, code);
        assert!(line.contains(expected), "{line}");
        assert_eq!(program.files(), ["not.toml"], "{arguments:?}");
    }
}

#[test]
fn a_wide_fleet_is_told_to_use_the_live_method() {
    let program = Program::new();
    let manifest = fs::read_to_string(extractor()).unwrap();
    let (head, _) = manifest.split_once("features = 64").unwrap();
    let numbers = |value: &str| vec![value; 2_048].join(", ");
    let text = format!("{head}features = 2048\nmean = [{}]\nstd = [{}]\n", numbers("0.0"), numbers("1.0"));
    fs::write(program.path("digits.toml"), text).unwrap();
    fs::copy(extractor().replace(".toml", ".onnx"), program.path("digits.onnx")).unwrap();
    let classes = (0..200).map(|class| format!("c{class}")).collect::<Vec<_>>().join(",");
    let arguments = ["init", "--fleet", "north", "--extractor", "digits.toml", "--classes", &classes];
    let line = program.fail(&[&arguments[..], &["--method", "redgrape"]].concat(), 1);
    assert!(
        line.contains("`redgrape` with 200 classes of 2048 features") && line.contains("use `redgrape-live`"),
        "{line}"
    );
    assert_eq!(program.files(), ["digits.onnx", "digits.toml"]);
    program.succeed(&[&arguments[..], &["--method", "redgrape-live"]].concat());
    program.succeed(&[&arguments[..], &["--force"]].concat());
}

#[test]
fn every_mistake_of_the_other_commands_is_one_sentence_and_leaves_nothing() {
    let program = Program::new();
    for command in ["serve", "status", "devices", "rounds"] {
        let line = program.fail(&[command], 1);
        assert!(line.contains("there is no configuration at aggregator.toml; run `aggregator init`"), "{line}");
    }
    init(&program, &["--embedded", "--port", "0"]);
    let line = program.fail(&["export", "--output", "a.onnx"], 1);
    assert!(line.contains("there is no ledger at state/ledger.sqlite yet"), "{line}");
    for (arguments, expected) in [
        (&["export"][..], "--output <FILE>"),
        (&["serve", "--rounds", "0"], "invalid value '0' for '--rounds <COUNT>'"),
        (&["serve", "--broker", "h:1"], "a broker address begins with `mqtt://`"),
        (&["stats"], "unrecognized subcommand 'stats'"),
        (&[], "no command was given"),
    ] {
        let line = program.fail(arguments, 2);
        assert!(line.contains(expected) && line.contains("--help"), "{line}");
    }
    for (name, value, expected) in [
        ("GRAPEVINE_ROUND__QUORUM", "1.5", "`round.quorum` is 1.5; it must be a share above 0, at most 1"),
        ("GRAPEVINE_ROUND__ROUNDS", "0", "`round.rounds` is 0; it must be 1 to"),
        ("GRAPEVINE_ROUND__ROUNDZ", "1", "unknown key `roundz`; did you mean `rounds`?"),
        ("GRAPEVINE_ROUND__DEADLINE", "soon", "GRAPEVINE_ROUND__DEADLINE"),
        ("GRAPEVINE_METHOD__MOMENTUM", "1.0", "`momentum` is 1; it must be at least 0, below 1"),
        ("GRAPEVINE_EXTRACTOR", "no.toml", "there is no extractor manifest at no.toml"),
        ("GRAPEVINE_BROKER__URL", "mqtt://h", "give either `broker.url` or `broker.embedded = true`, not both"),
    ] {
        let output = program.command(&["serve"]).env(name, value).output().unwrap();
        let line = refused(&["serve"], &output, 1);
        assert!(line.contains(expected), "{line}");
    }
    assert_eq!(program.files(), ["aggregator.toml"]);
}

#[test]
fn a_state_folder_that_is_something_else_is_refused() {
    let program = Program::new();
    init(&program, &["--embedded", "--port", "0"]);
    fs::write(program.path("file"), "").unwrap();
    let line = program.fail(&["serve", "--state", "file/state"], 1);
    assert!(line.contains("file/state; check its permissions"), "{line}");
    fs::create_dir(program.path("other")).unwrap();
    fs::write(program.path("other/ledger.sqlite"), vec![7; 8_192]).unwrap();
    for command in ["serve", "status"] {
        let line = program.fail(&[command, "--state", "other"], 1);
        assert!(line.contains("ledger.sqlite"), "{line}");
    }
}

#[test]
fn help_and_completions_are_whole() {
    let program = Program::new();
    for command in ["init", "serve", "status", "devices", "rounds", "export", "completions", "man"] {
        assert!(program.succeed(&[command, "--help"]).contains("Examples:\n  aggregator "), "{command}");
        assert!(program.succeed(&["--help"]).contains(command));
    }
    assert!(program.succeed(&["--version"]).starts_with("aggregator "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(program.succeed(&["completions", shell]).contains("until-finished"), "{shell}");
    }
    assert!(program.succeed(&["man"]).contains(".TH aggregator 1"));
    assert!(program.succeed(&["man", "serve"]).contains(".TH aggregator-serve 1"));
    assert!(program.fail(&["man", "reign"], 2).contains("there is no command 'reign'"));
    assert!(program.files().is_empty());
}
