//! Updates of several blocks whose devices go away in the middle.

use super::*;

/// Heads of this shape take seven blocks.
fn large() -> Shape {
    Shape::new(100, 1_000).unwrap()
}

/// A round of two devices with room for one update at a time.
fn harness() -> Harness {
    let params = Params::defaults(Method::FedAvg, 100).check().unwrap();
    let bounds =
        RoundConfig { shape: large(), params, min_devices: 2, upload_bytes: 500_000, ..config(Method::FedAvg) };
    let mut harness = Harness::new(RoundConfig { deadline: Duration::from_secs(3_600), ..bounds });
    for number in 0..2 {
        harness.say(number, ToAggregator::Hello(Hello { shape: large(), ..hello(number) }), &[]);
    }
    harness
}

fn content(number: u8) -> Vec<u8> {
    (0..400_000_u32).map(|at| (at / 3) as u8 ^ number).collect()
}

/// The blocks asked of a device since the last look.
fn wanted(harness: &mut Harness, number: u32) -> Vec<Vec<usize>> {
    let of = |(to, message): (DeviceId, ToDevice)| {
        let ToDevice::BlockRequest(request) = message else { return None };
        (to == device(number)).then(|| request.missing.iter().collect())
    };
    harness.sent.drain(..).filter_map(of).collect()
}

fn give(harness: &mut Harness, number: u32, content: &[u8], index: usize) {
    let (header, bytes) = block(&BlobRef::of(content), content, index).unwrap();
    harness.say(number, ToAggregator::Block(header), bytes);
}

#[test]
fn an_upload_goes_on_with_what_is_missing_however_long_its_device_was_away() {
    let mut harness = harness();
    let content = content(0);
    harness.offer(0, 0, &content);
    assert_eq!(wanted(&mut harness, 0), [[1, 2, 3, 4, 5, 6]]);
    give(&mut harness, 0, &content, 2);
    give(&mut harness, 0, &content, 5);
    for _ in 0..20 {
        harness.wait(Duration::from_secs(2));
    }
    let asked = wanted(&mut harness, 0);
    assert!((10..20).contains(&asked.len()) && asked.iter().all(|blocks| blocks == &[1, 3, 4, 6]), "{asked:?}");
    harness.wait(Duration::from_secs(600));
    assert!(wanted(&mut harness, 0).is_empty(), "nobody is there to hear it");
    harness.offer(0, 0, &content);
    assert_eq!(wanted(&mut harness, 0), [[1, 3, 4, 6]]);
}

#[test]
fn an_upload_of_a_device_that_is_away_gives_way_to_others() {
    let mut harness = harness();
    let (first, second) = (content(0), content(1));
    harness.offer(0, 0, &first);
    give(&mut harness, 0, &first, 2);
    harness.offer(1, 0, &second);
    assert!(wanted(&mut harness, 1).is_empty(), "there is no room for both");
    for _ in 0..20 {
        harness.wait(Duration::from_secs(2));
    }
    assert_eq!(harness.coordinator.upload_bytes(), 400_000);
    assert_eq!(wanted(&mut harness, 1).first(), Some(&vec![0, 1, 2, 3, 4, 5, 6]));
}
