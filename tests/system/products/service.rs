//! What the programs tell the service manager that started them.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use grapevine_models::Method;
use grapevine_tests::fleet;
use grapevine_tests::programs::{PATIENCE, Running, Workplace};

/// Half of it is the pause between two signs of life.
const WATCHDOG_USEC: &str = "400000";

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Starts a program as a service.
    fn start(place: &Workplace, command: &mut Command) -> (Self, Running) {
        let socket = UnixDatagram::bind(place.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", WATCHDOG_USEC);
        (Self { socket, heard: Vec::new() }, Running::start(command))
    }

    /// Listens until something begins like this.
    fn hear(&mut self, beginning: &str) {
        let mut buffer = [0; 1_024];
        loop {
            let heard = &self.heard;
            let length =
                self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{beginning}: {error}: {heard:?}"));
            self.heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            if self.heard.last().is_some_and(|last| last.starts_with(beginning)) {
                return;
            }
        }
    }
}

/// The life of a service: `status` begins the line that it tells while nothing happens.
fn check(place: &Workplace, command: &mut Command, status: &str) {
    let (mut manager, running) = Manager::start(place, command);
    manager.hear("READY=1");
    assert_eq!(manager.heard, ["READY=1"], "nothing comes before it is ready");
    manager.hear(&format!("STATUS={status}"));
    for _ in 0..5 {
        manager.hear("WATCHDOG=1");
    }
    running.signal("TERM");
    manager.hear("STOPPING=1");
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn an_aggregator_says_that_it_is_ready_and_well_and_about_to_end() {
    let place = fleet::aggregator(None, 1, 1, Method::FedAvg);
    check(&place, &mut place.command("aggregator", &["serve"]), "waiting for devices");
}

#[test]
fn a_device_says_so_too_and_needs_no_broker_for_it() {
    let place = fleet::device(0, "mqtt://127.0.0.1:9");
    check(&place, &mut place.command("edge-client", &["run"]), "no connection to the broker");
}
