//! Sentences of `aggregator status` about rounds that wait, and about an aggregator that does not serve.

use grapevine_models::Method;
use grapevine_tests::fleet;
use grapevine_tests::programs::{PATIENCE, Workplace, now};

use super::{address, complains, mosquitto};

/// Standard output of `status` as soon as it holds `part`.
fn shows(place: &Workplace, part: &str) -> String {
    let deadline = now() + PATIENCE;
    loop {
        let output = place.command("aggregator", &["status"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains(part) {
            return text;
        }
        assert!(now() < deadline, "`{part}` is not in: {text}");
    }
}

#[test]
fn an_open_round_shows_its_deadline_and_that_it_may_close_earlier() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 2, 50, Method::FedAvg);
    let serving = place.start("aggregator", &["serve"]);
    let cameras = [0, 1].map(|number| fleet::device(number, &address));
    let mut running = cameras.each_ref().map(|camera| camera.start("edge-client", &["run"]));
    running[0].line("round began");
    // It goes without a goodbye, and the round still waits for it.
    running[1].signal("STOP");
    let text = shows(&place, "is open with 1 of 2 updates; its deadline is in ");
    assert!(text.contains("it closes earlier if every device that is there has answered"), "{text}");
    drop(serving);
    let text = shows(&place, "it goes on with the next `aggregator serve`");
    assert!(text.contains("serving    no, killed, last seen "), "{text}");
    complains(&place, "aggregator", "nobody serves this fleet (killed, last seen ");
}

#[test]
fn an_aggregator_that_was_stopped_shows_since_when() {
    let Some(mosquitto) = mosquitto("") else { return };
    let place = fleet::aggregator(Some(&address(&mosquitto)), 2, 3, Method::FedAvg);
    let mut serving = place.start("aggregator", &["serve", "--rounds", "endless"]);
    let line = serving.line("serving");
    assert!(line.contains("rounds=\"endless\""), "{line}");
    shows(&place, "waiting for devices");
    serving.signal("TERM");
    assert_eq!(serving.end().0, Some(0));
    let text = shows(&place, "now        no rounds, because nobody serves");
    assert!(text.contains("serving    no, stopped ") && text.contains(" s ago"), "{text}");
    complains(&place, "aggregator", "nobody serves this fleet (stopped ");
}
