//! A device that is configured to predict: an image comes into its folder, and what the fleet's newest head sees in it is
//! on the topic.

use std::collections::BTreeMap;
use std::fs;

use crossbeam_channel::{Receiver, unbounded};
use grapevine_host::transport::{Event, Options, Transport};
use grapevine_protocol::topics;
use grapevine_tests::fleet::{Fleet, ROUNDS, name, unseen};
use grapevine_tests::programs::PATIENCE;
use serde_json::Value;

/// Of 20 images that nobody trained on.
const LEAST_RIGHT: usize = 15;

#[test]
fn what_the_newest_head_sees_in_a_watched_folder_is_published() {
    let fleet = Fleet::of_one();
    let device = fleet.device(0);
    let config = fs::read_to_string(device.path("edge-client.toml")).unwrap();
    fs::write(device.path("edge-client.toml"), config.replace("# watch = ", "watch = ")).unwrap();
    let (_subscriber, messages) = subscribe(&fleet);

    let mut running = device.start("edge-client", &["run"]);
    running.line("predicting");
    running.line("the fleet rests");
    let images = unseen(device);
    fs::rename(device.path("unseen"), device.path("camera")).unwrap();
    fs::write(device.path("camera/notes.txt"), "no image").unwrap();
    let mut heard: BTreeMap<String, Value> = BTreeMap::new();
    while heard.len() < images.len() {
        let message: Value = serde_json::from_slice(&messages.recv_timeout(PATIENCE).unwrap()).unwrap();
        heard.insert(message["image"].as_str().unwrap().to_owned(), message);
    }

    let classified = device.succeed("edge-client", &["classify", "camera", "--json"]);
    let classified: Vec<Value> = classified.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(classified.len(), images.len());
    let mut right = 0;
    for classified in &classified {
        let image = classified["image"].as_str().unwrap().strip_prefix("camera/").unwrap();
        let message = &heard[image];
        assert_eq!(message["predictions"], classified["predictions"], "the same head, the same numbers: {message}");
        assert_eq!((&message["device"], &message["round"]), (&name(0).into(), &ROUNDS.into()), "{message}");
        right += usize::from(image.split('/').next() == message["class"].as_str());
    }
    println!("{right} of {} images were seen right", images.len());
    assert!(right >= LEAST_RIGHT, "only {right}");
    let figures = fleet.running_device(0, |running| running["predictions"]["published"] == images.len());
    assert_eq!((&figures["predictions"]["dropped"], &figures["predictions"]["unusable"]), (&0.into(), &0.into()));
}

/// Hears the predictions of the fleet's only device.
fn subscribe(fleet: &Fleet) -> (Transport, Receiver<Vec<u8>>) {
    let topic = topics::predictions(&"north".parse().unwrap(), &name(0).parse().unwrap());
    let mut options = Options::new(fleet.broker.parse().unwrap(), "dashboard");
    options.subscriptions = vec![topic];
    let (sender, messages) = unbounded();
    let (connected, is_connected) = unbounded();
    let transport = Transport::start(options, move |event| match event {
        Event::Connected => drop(connected.send(())),
        Event::Message { payload, .. } => drop(sender.send(payload)),
        Event::Disconnected { reason } | Event::Refused { reason } | Event::Trouble { reason, .. } => {
            println!("the dashboard: {reason}");
        }
        Event::Recovered => {}
    });
    is_connected.recv_timeout(PATIENCE).unwrap();
    (transport.unwrap(), messages)
}
