//! A device that is told to stop in the middle of a long round, or that must be spared in the middle of one.

use core::time::Duration;
use std::fs;
use std::path::Path;

use grapevine_models::Method;
use grapevine_tests::fleet;
use grapevine_tests::programs::{Running, Workplace, now};

/// A device ends within this, whatever it does.
const LONGEST_STOP: Duration = Duration::from_secs(2);

/// An aggregator of one device and one round, the device, and the broker of both.
struct Pair {
    aggregator: Workplace,
    serving: Running,
    device: Workplace,
}

impl Pair {
    /// A round of one sample a step, with these changes to the aggregator's configuration.
    fn start(method: Method, changes: &[(&str, &str)]) -> Self {
        let aggregator = fleet::aggregator(None, 1, 1, method);
        edit(&aggregator.path("aggregator.toml"), &[&[("# batch = 64", "batch = 1")], changes].concat());
        let mut serving = aggregator.start("aggregator", &["serve", "--until-finished"]);
        let line = serving.line("serving");
        let broker = line.split_once("broker=").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap();
        let device = fleet::device(0, broker);
        Self { aggregator, serving, device }
    }

    /// The round ends as if nothing had happened.
    fn finish(self, device: Running) {
        for running in [device, self.serving] {
            let (code, log) = running.end();
            assert_eq!(code, Some(0), "{log}");
        }
        let rounds = fleet::rounds(&self.aggregator);
        assert!(!rounds.is_empty());
        for round in &rounds {
            assert_eq!((&round["phase"], &round["updates"]), (&"merged".into(), &1.into()), "{rounds:?}");
        }
    }
}

fn edit(path: &Path, changes: &[(&str, &str)]) {
    let mut text = fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{text}");
        text = text.replace(from, to);
    }
    fs::write(path, text).unwrap();
}

/// Asks it to stop; gives its log.
fn stop(running: Running) -> String {
    let began = now();
    running.signal("TERM");
    let (code, log) = running.end();
    let took = now() - began;
    println!("ended {took:.2?} after the signal");
    assert_eq!(code, Some(0), "{log}");
    assert!(took < LONGEST_STOP, "{took:?}: {log}");
    log
}

#[test]
fn a_long_round_is_left_at_once_and_done_after_the_restart() {
    // Sums first, then steps that each balance with a set of many rows: seconds of work on a quick machine.
    let changes = [("# epochs = 5", "epochs = 1000"), ("# init = \"zeros\"", "init = \"lda\"")];
    let pair = Pair::start(Method::RedGrapeLive, &changes);
    let mut running = pair.device.start("edge-client", &["run"]);
    running.line("round began round=1");
    let log = stop(running);
    assert!(log.contains("work ended before its end"), "the round was too short to be left: {log}");
    let status = pair.device.status("edge-client");
    assert_eq!(status["running"]["state"], "stopped", "{status}");
    let again = pair.device.start("edge-client", &["run", "--until-finished"]);
    pair.finish(again);
}

#[test]
fn a_hot_device_pauses_and_goes_on_when_it_is_cool() {
    let pair = Pair::start(Method::RedGrape, &[("# epochs = 5", "epochs = 5")]);
    let zone = pair.device.path("sensors/thermal/thermal_zone0");
    fs::create_dir_all(&zone).unwrap();
    fs::write(zone.join("type"), "cpu-thermal\n").unwrap();
    fs::write(zone.join("temp"), "95000\n").unwrap();
    let sensors = format!("sensors = {:?}", pair.device.path("sensors"));
    edit(
        &pair.device.path("edge-client.toml"),
        &[("sensors = \"/sys/class\"", &sensors), ("check_every = \"5s\"", "check_every = \"1s\"")],
    );
    let mut running = pair.device.start("edge-client", &["run"]);
    running.line("work pauses: cpu-thermal is at 95 °C");
    let deadline = now() + grapevine_tests::programs::PATIENCE;
    while !pair.device.succeed("edge-client", &["status"]).contains("working, work pauses: cpu-thermal is at 95 °C") {
        assert!(now() < deadline, "`status` never showed the pause");
    }
    assert_eq!(nice_of_work(running.id()), Some(10));
    // A pause is no reason to stay.
    let log = stop(running);
    assert_eq!(log.matches("work pauses").count(), 1, "{log}");

    let mut running = pair.device.start("edge-client", &["run", "--until-finished"]);
    running.line("work pauses");
    fs::write(zone.join("temp"), "60000\n").unwrap();
    running.line("work goes on");
    pair.finish(running);
}

/// How far a program's working thread stands back; `None` where the system does not tell.
fn nice_of_work(pid: u32) -> Option<i64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let stat = stats.find(|stat| stat.contains("(work)"))?;
    // The 19th field; the second is the name.
    stat.rsplit_once(") ")?.1.split_whitespace().nth(16)?.parse().ok()
}
