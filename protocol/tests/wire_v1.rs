//! These bytes are version 1 of the wire. Do not change the test: add a version.

use grapevine_models::Method;
use grapevine_protocol::{
    DeviceId, FleetId, HeadsBody, Refusal, Refused, RoundId, SideInformationBody, ToDevice, Update, class_list_digest,
    decode_to_aggregator, decode_to_device, encode, selection_draw, topics,
};

pub mod examples;

#[test]
fn what_devices_say() {
    let frozen = [
        (
            "hello",
            concat!(
                "0100888e98a8c0e08081017488d73850bf2009e6762d270ba53bb4e2f88ec77d3dcebeeed21ebac43dca241237dae11b",
                "7231781f796ace8a7a0fc1ee76d1b85445a2126e53507191bbd6e20a40e1218d98ac500305636f7265730107056d6169",
                "6e730001047369746502056e6f727468",
            ),
        ),
        ("want", "01012937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4e0dc2a040b020904"),
        (
            "offer",
            concat!(
                "01024dac022937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4e0dc2a04effdb6f50d6669",
                "727374",
            ),
        ),
        ("block", "01032937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce40ae78a8d097365636f6e64"),
        ("leaving", "0104a846"),
    ];
    let messages = examples::to_aggregator();
    assert_eq!(messages.len(), frozen.len());
    for (framed, frozen) in messages.iter().zip(frozen) {
        let bytes = encode(&framed.message, framed.block);
        assert_frozen(framed.name, &bytes, frozen);
        assert_eq!(decode_to_aggregator(&bytes), Ok((framed.message.clone(), framed.block)));
    }
}

#[test]
fn what_the_aggregator_says() {
    let frozen = [
        ("welcome", "0100a8464d01"),
        ("refused", "010101820215"),
        (
            "announcement-train",
            concat!(
                "0102d1a20190e4d0b287d3aeeefe01110101010100e80780100c0000003e0000003f0000403f080000c03f2003050200",
                "00c03e01000080be0000003f000000000000000000000000000000000000000002015c0bc2423c1af18cd0172a4d1f84",
                "c01af25a3ee3c5ccd217e8e8a48924fe414ec5bee8070401109d79437bb9079b50bca1cf364a334ff8edbd7bab38997d",
                "73e8450e7122a9e58a27022ad5aad5aad5aad5aa5500e0d403",
            ),
        ),
        (
            "announcement-statistics",
            concat!(
                "0102d1a20190e4d0b287d3aeeefe0111010003e80780100c0000003e0000003f0000403f080000c03f200305020000c0",
                "3e01000080be0000003f000000000000000000000000000000000000000002015c0bc2423c1af18cd0172a4d1f84c01a",
                "f25a3ee3c5ccd217e8e8a48924fe414ec5bee8070401109d79437bb9079b50bca1cf364a334ff8edbd7bab38997d73e8",
                "450e7122a9e58a27022ad5aad5aad5aad5aa5500e0d403",
            ),
        ),
        (
            "announcement-rest",
            concat!(
                "0102d1a20190e4d0b287d3aeeefe011102e80780100c0000003e0000003f0000403f080000c03f200305020000c03e01",
                "000080be0000003f000000000000000000000000000000000000000002015c0bc2423c1af18cd0172a4d1f84c01af25a",
                "3ee3c5ccd217e8e8a48924fe414ec5bee8070401109d79437bb9079b50bca1cf364a334ff8edbd7bab38997d73e8450e",
                "7122a9e58a27022ad5aad5aad5aad5aa5500e0d403",
            ),
        ),
        (
            "announcement-only",
            concat!(
                "0102d1a20190e4d0b287d3aeeefe0111010003e80780100c0000003e0000003f0000403f080000c03f200305020000c0",
                "3e01000080be0000003f000000000000000000000000000000000000000002015c0bc2423c1af18cd0172a4d1f84c01a",
                "f25a3ee3c5ccd217e8e8a48924fe414ec5bee8070401109d79437bb9079b50bca1cf364a334ff8edbd7bab38997d73e8",
                "450e7122a9e58a27022ad5aad5aad5aad5aa550207ffffffff0fe0d403",
            ),
        ),
        (
            "announcement-wait",
            concat!(
                "0102d1a20190e4d0b287d3aeeefe011100e80780100c0000003e0000003f0000403f080000c03f200305020000c03e01",
                "000080be0000003f00000000000000000000000000000000000000000200002ad5aad5aad5aad5aa5500e0d403",
            ),
        ),
        ("want", "01032937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4e0dc2a040b020904"),
        ("block", "01042937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce40ae78a8d097365636f6e64"),
        ("receipt", "01054dac022937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce400"),
        ("receipt-refused", "01054dac022937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce40112"),
    ];
    let messages = examples::to_device();
    assert_eq!(messages.len(), frozen.len());
    for (framed, frozen) in messages.iter().zip(frozen) {
        let bytes = encode(&framed.message, framed.block);
        assert_frozen(framed.name, &bytes, frozen);
        assert_eq!(decode_to_device(&bytes), Ok((framed.message.clone(), framed.block)));
    }
}

#[test]
fn updates() {
    let frozen = [
        (
            "trained-f32",
            concat!(
                "0202e807ac020000010102000000fe3f000000bf0000803e0000febf0000c03f0000c0bf0000febf0000003e0000fe3f",
                "0000803f0000803e000000bf000001000000fe3f0000803c0000febf000080bc0000003f000000bf0000003d0000febf",
                "000000bd0000fe3f000040bf0000403f",
            ),
        ),
        (
            "trained-f16",
            concat!(
                "0202e807ac02000101010200f03f00b80034f0bf0000c03f0000c0bff0bf0030f03f003c0000803e000000bf00000100",
                "f03f0024f0bf00a40000003f000000bf0028f0bf00a8f03f000040bf0000403f",
            ),
        ),
        (
            "trained-int8",
            concat!(
                "0202e807ac020002010102000000803c7fe00000803c10810000c03f0000c0bf0000803c81080000803c7f400000803e",
                "000000bf000001000000803c7f010000803c81ff0000003f000000bf0000803c02810000803cfe7f000040bf0000403f",
            ),
        ),
        ("trained-plain", "020201ac0200000000000000fe3f000000bf0000803e0000febf0000c03f0000c0bf"),
        ("trained-with-loss", "020201ac0200000000010000203f0000fe3f000000bf0000803e0000febf0000c03f0000c0bf"),
        ("gradient", "020201ac0202000000fe3f000000bf0000803e0000febf0000c03f0000c0bf"),
        (
            "gradients-alone",
            concat!(
                "020201ac02030002000001000000fe3f0000803c0000febf000080bc0000003f000000bf0000003d0000febf000000bd",
                "0000fe3f000040bf0000403f",
            ),
        ),
        ("statistics-counts", "020205ac0201010200000001000000"),
        ("statistics-means", "020205ac02010202000000010000000000e03f0000c03f000080be00000040"),
        (
            "statistics-second-moment",
            "020205ac02010302000000010000000000e03f0000c03f000080be000000400000d03f0000403f0000a840",
        ),
        (
            "scaffold",
            concat!(
                "020201ac0204001101000000060000000000fe3f000000bf0000803e0000febf0000c03f0000c0bf0000febf0000003e",
                "0000fe3f0000803f0000803e000000bf",
            ),
        ),
    ];
    let answers = examples::answers();
    assert_eq!(answers.len(), frozen.len());
    for (answer, frozen) in answers.iter().zip(frozen) {
        let bytes = answer.update.encode(examples::shape(), answer.encoding);
        assert_frozen(answer.name, &bytes, frozen);
        let update = Update::decode(&bytes, examples::shape(), answer.request);
        assert_eq!(update.as_ref(), Ok(&answer.update));
    }
}

#[test]
fn heads() {
    let frozen = [
        (
            "heads-both",
            "0202010000fe3f000000bf0000803e0000febf0000c03f0000c0bf0000febf0000003e0000fe3f0000803f0000803e000000bf",
        ),
        ("heads-plain", "0202000000fe3f000000bf0000803e0000febf0000c03f0000c0bf"),
    ];
    let bodies = examples::heads_bodies();
    assert_eq!(bodies.len(), frozen.len());
    for ((name, body), frozen) in bodies.iter().zip(frozen) {
        let bytes = body.encode(examples::shape());
        assert_frozen(name, &bytes, frozen);
        assert_eq!(HeadsBody::decode(&bytes, examples::shape()).as_ref(), Ok(body));
    }
}

#[test]
fn aids() {
    let frozen = [
        (
            "prototypes-f32",
            concat!(
                "000002000001000000fe3f0000803c0000febf000080bc0000003f000000bf0000003d0000febf000000bd0000fe3f00",
                "0040bf0000403f",
            ),
        ),
        ("prototypes-f16", "00010200000100f03f0024f0bf00a40000003f000000bf0028f0bf00a8f03f000040bf0000403f"),
        (
            "prototypes-int8",
            "000202000001000000803c7f010000803c81ff0000003f000000bf0000803c02810000803cfe7f000040bf0000403f",
        ),
        ("means", "0102000001000000003f0000a0bf000000400000003e"),
        ("prior", "020000403f0000803e"),
        ("weights", "030000c03f0080fa43"),
        ("reference-point", "040000803f000000bf0000803e0000003e0000003f000000bf"),
        ("scaffold", "051101000000040302010000fe3f000000bf0000803e0000febf0000c03f0000c0bf"),
    ];
    let aids = examples::side_information();
    assert_eq!(aids.len(), frozen.len());
    for ((name, side_information, encoding), frozen) in aids.iter().zip(frozen) {
        let bytes = side_information.encode(*encoding);
        assert_frozen(name, &bytes, frozen);
        assert_eq!(SideInformationBody::decode(&bytes, examples::shape()).as_ref(), Ok(side_information));
    }
}

#[test]
fn topic_names() {
    let fleet: FleetId = "orchard-2".parse().unwrap();
    let device: DeviceId = "camera_7-north".parse().unwrap();
    assert_eq!(topics::announcement(&fleet), "grapevine/orchard-2/announcement");
    assert_eq!(topics::up(&fleet, &device), "grapevine/orchard-2/up/camera_7-north");
    assert_eq!(topics::up_filter(&fleet), "grapevine/orchard-2/up/+");
    assert_eq!(topics::down(&fleet, &device), "grapevine/orchard-2/down/camera_7-north");
    assert_eq!(topics::blob(&fleet, topics::BlobKind::Heads), "grapevine/orchard-2/blob/heads");
    assert_eq!(topics::speaker(&fleet, "grapevine/orchard-2/up/camera_7-north"), Some(device));
}

/// The first eight bytes, little-endian, of SHA-256 over seed, round and name.
#[test]
fn selection_draws() {
    for (seed, round, device, draw) in [
        (0, 0, "a", 0xda22_16ad_6a38_11b7),
        (42, 17, "camera_7-north", 0x6735_bc41_268e_b7ae),
        (u64::MAX, u32::MAX, &"z".repeat(64), 0xf526_54fc_c29a_4638),
    ] {
        let device: DeviceId = device.parse().unwrap();
        assert_eq!(selection_draw(seed, RoundId(round), &device), draw, "{seed} {round} {device}");
    }
}

/// SHA-256 over each name's length in eight bytes and the name.
#[test]
fn class_lists() {
    let digits = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    for (names, digest) in [
        (&["cat", "dog"][..], "1237dae11b7231781f796ace8a7a0fc1ee76d1b85445a2126e53507191bbd6e2"),
        (&["dog", "cat"], "41ed26315f7f1eef1e63a9ef182cf01416c63114e0a9bd1a50a7e08b9de5f720"),
        (&digits, "95bbd6fc787968aaa2a96a53d680316199f6963ca2a43bc2bc4c475750076ab6"),
        (&["poison ivy", "été"], "b09e0d496844949333dd8ac1ca8319a986e8ceac621faf4b5ce14b8a6488dcdd"),
    ] {
        assert_eq!(class_list_digest(names.iter().copied()).to_string(), digest, "{names:?}");
    }
}

/// Reasons are told to devices by their number and counted by their name.
#[test]
fn refusal_numbers() {
    let names = [
        "garbage",
        "version",
        "topic",
        "unknown-device",
        "extractor",
        "classes",
        "shape",
        "too-many-devices",
        "wrong-run",
        "wrong-round",
        "late",
        "not-selected",
        "duplicate",
        "too-large",
        "block",
        "crc",
        "digest",
        "content",
        "not-finite",
        "absurd",
        "samples",
        "storage",
        "stale",
        "replayed",
        "quarantined",
        "same-name",
    ];
    assert_eq!(Refusal::ALL.len(), names.len());
    for ((number, reason), name) in (0..).zip(Refusal::ALL).zip(names) {
        assert_eq!(reason.name(), name);
        assert_eq!(encode(&ToDevice::Refused(Refused { incarnation: None, reason }), b""), [1, 1, 0, number]);
    }
}

#[test]
fn method_numbers() {
    let names = [
        "fedavg",
        "fedprox",
        "fed-focal",
        "ratio-loss",
        "climb",
        "creff",
        "logit-adjusted",
        "post-hoc",
        "redgrape",
        "redgrape-no-prototypes",
        "redgrape-no-supplementary",
        "redgrape-live",
        "redgrape-plus",
        "ncm",
        "ridge",
        "ridge-plain",
        "lda",
        "scaffold",
    ];
    assert_eq!(Method::ALL.len(), names.len());
    for ((number, method), name) in (0..).zip(Method::ALL).zip(names) {
        assert_eq!(method.name(), name);
        assert_eq!(encode(&method, b""), [1, number]);
    }
}

fn assert_frozen(name: &str, bytes: &[u8], (frozen_name, frozen): (&str, &str)) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((name, hex.as_str()), (frozen_name, frozen), "{name} is written differently");
}
