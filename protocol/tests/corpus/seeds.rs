//! The seeds of the fuzz targets: every example as it is, and broken in one named way.

use std::collections::BTreeMap;

use grapevine_protocol::encode;
use grapevine_protocol::limits::BLOCK_BYTES;

use crate::examples;

/// Seed by name.
pub type Seeds = BTreeMap<String, Vec<u8>>;

/// The seeds of every target.
pub fn all() -> BTreeMap<&'static str, Seeds> {
    BTreeMap::from([
        ("side_information", aids()),
        ("assembler", assembler()),
        ("heads", heads()),
        ("server_state", memories()),
        ("device_state", device_states()),
        ("to_aggregator", to_aggregator()),
        ("to_device", to_device()),
        ("update", updates()),
    ])
}

fn to_aggregator() -> Seeds {
    let mut seeds = named(examples::to_aggregator().iter().map(|f| (f.name, encode(&f.message, f.block))));
    break_one(&mut seeds, "hello", "truncated", |bytes| bytes.truncate(40));
    break_one(&mut seeds, "hello", "version-2", |bytes| bytes[0] = 2);
    break_one(&mut seeds, "hello", "endless-label", |bytes| {
        let length = bytes.len() - "north".len() - 1;
        bytes.splice(length.., [0xff, 0xff, 0xff, 0xff, 0x0f]);
    });
    break_one(&mut seeds, "leaving", "with-block", |bytes| bytes.push(7));
    break_one(&mut seeds, "offer", "without-block", |bytes| bytes.truncate(bytes.len() - 5));
    // The claim of an offer: 200 MB.
    break_one(&mut seeds, "offer", "200mb-claim", |bytes| {
        bytes.splice(37..40, [0x80, 0x84, 0xaf, 0x5f]);
    });
    break_one(&mut seeds, "want", "truncated", |bytes| bytes.truncate(bytes.len() - 1));
    // The bitmap ends the message: blocks, bytes, bits.
    break_one(&mut seeds, "want", "more-blocks-than-bits", |bytes| {
        let blocks = bytes.len() - 4;
        bytes[blocks] = 100;
    });
    seeds.insert("unknown-message".into(), vec![1, 200, 1, 1]);
    seeds
}

fn to_device() -> Seeds {
    let mut seeds = named(examples::to_device().iter().map(|f| (f.name, encode(&f.message, f.block))));
    break_one(&mut seeds, "announcement-train", "truncated", |bytes| bytes.truncate(60));
    // The learning rate follows run, round, task, shape and method.
    break_one(&mut seeds, "announcement-train", "nan", |bytes| {
        let at = bytes.windows(4).position(|window| window == 0.125_f32.to_le_bytes()).expect("the learning rate");
        bytes.splice(at..at + 4, f32::NAN.to_le_bytes());
    });
    break_one(&mut seeds, "refused", "unknown-reason", |bytes| bytes[2] = 99);
    break_one(&mut seeds, "welcome", "version-2", |bytes| bytes[0] = 2);
    seeds
}

fn updates() -> Seeds {
    // The first byte is the request's place among those of the checks; the shape of two by two comes first.
    let rounds: [(&str, u8); 11] = [
        ("trained-f32", 0),
        ("trained-f16", 0),
        ("trained-int8", 0),
        ("trained-plain", 1),
        ("trained-with-loss", 8),
        ("gradient", 7),
        ("gradients-alone", 9),
        ("statistics-counts", 4),
        ("statistics-means", 5),
        ("statistics-second-moment", 6),
        ("scaffold", 10),
    ];
    let answers = examples::answers();
    let mut seeds = named(answers.iter().zip(rounds).map(|(answer, (name, round))| {
        assert_eq!(answer.name, name);
        (name, [&[round], &answer.update.encode(examples::shape(), answer.encoding)[..]].concat())
    }));
    break_one(&mut seeds, "trained-f32", "nan", |bytes| put(bytes, 13, f32::NAN));
    break_one(&mut seeds, "trained-f32", "absurd", |bytes| put(bytes, 13, 1e9));
    break_one(&mut seeds, "trained-f32", "truncated", |bytes| bytes.truncate(50));
    break_one(&mut seeds, "trained-f32", "one-byte-more", |bytes| bytes.push(0));
    break_one(&mut seeds, "trained-f32", "wrong-shape", |bytes| bytes[2] = 3);
    break_one(&mut seeds, "trained-f32", "wrong-method", |bytes| bytes[0] = 1);
    break_one(&mut seeds, "trained-f32", "wrong-task", |bytes| bytes[0] = 7);
    break_one(&mut seeds, "trained-f32", "classes-descending", |bytes| {
        bytes.splice(61..65, [1, 0, 0, 0]).for_each(drop)
    });
    break_one(&mut seeds, "trained-int8", "infinite-scale", |bytes| put(bytes, 13, f32::INFINITY));
    break_one(&mut seeds, "trained-with-loss", "nan-loss", |bytes| put(bytes, 11, f32::NAN));
    break_one(&mut seeds, "gradients-alone", "without-any", |bytes| bytes.truncate(10));
    break_one(&mut seeds, "trained-plain", "no-samples", |bytes| bytes[3] = 0);
    break_one(&mut seeds, "statistics-means", "sum-too-large", |bytes| put(bytes, 16, 1e6));
    break_one(&mut seeds, "statistics-counts", "too-many", |bytes| bytes[11] = 0xff);
    break_one(&mut seeds, "scaffold", "format-2", |bytes| bytes[9] = 2);
    break_one(&mut seeds, "scaffold", "truncated", |bytes| bytes.truncate(bytes.len() - 1));
    break_one(&mut seeds, "scaffold", "nan", |bytes| put(bytes, 17, f32::NAN));
    seeds
}

fn heads() -> Seeds {
    let bodies = examples::heads_bodies();
    let mut seeds =
        named(bodies.iter().map(|(name, body)| (*name, [&[0], &body.encode(examples::shape())[..]].concat())));
    break_one(&mut seeds, "heads-both", "nan", |bytes| put(bytes, 4, f32::NAN));
    break_one(&mut seeds, "heads-both", "truncated", |bytes| bytes.truncate(30));
    break_one(&mut seeds, "heads-plain", "wrong-shape", |bytes| bytes[0] = 1);
    seeds
}

fn aids() -> Seeds {
    let aids = examples::side_information();
    let mut seeds =
        named(aids.iter().map(|(name, side_information, encoding)| {
            (*name, [&[0], &side_information.encode(*encoding)[..]].concat())
        }));
    break_one(&mut seeds, "prior", "above-one", |bytes| put(bytes, 2, 1.5));
    break_one(&mut seeds, "weights", "below-zero", |bytes| put(bytes, 2, -1.5));
    break_one(&mut seeds, "reference-point", "half-a-bias", |bytes| bytes.truncate(bytes.len() - 6));
    break_one(&mut seeds, "reference-point", "nan", |bytes| put(bytes, 2, f32::NAN));
    break_one(&mut seeds, "means", "class-twice", |bytes| bytes[5] = 0);
    break_one(&mut seeds, "means", "nan", |bytes| put(bytes, 7, f32::NAN));
    break_one(&mut seeds, "prototypes-f32", "unknown-class", |bytes| bytes[6] = 2);
    break_one(&mut seeds, "prototypes-f32", "too-many-classes", |bytes| bytes[3] = 100);
    seeds
}

fn memories() -> Seeds {
    let memories = examples::server_states();
    let mut seeds = named(memories.iter().map(|(name, body)| (*name, [&[0], &body.encode()[..]].concat())));
    break_one(&mut seeds, "server-state-full", "truncated", |bytes| bytes.truncate(bytes.len() - 1));
    break_one(&mut seeds, "server-state-full", "one-byte-more", |bytes| bytes.push(0));
    // The header: the format, a flag, how many heads, and whose value is at the end.
    break_one(&mut seeds, "server-state-full", "format-2", |bytes| bytes[1] = 2);
    break_one(&mut seeds, "server-state-full", "prior-nan", |bytes| put(bytes, 6, f32::NAN));
    break_one(&mut seeds, "creff", "too-many-numbers", |bytes| drop(bytes.splice(10..14, [0xff, 0xff, 0xff, 0x7f])));
    break_one(&mut seeds, "redgrape-plus", "part-of-a-vector", |bytes| bytes[42] = 11);
    break_one(&mut seeds, "server-state-full", "device-infinite", |bytes| {
        let last = bytes.len() - 4;
        put(bytes, last, f32::INFINITY);
    });
    seeds
}

fn device_states() -> Seeds {
    let states = examples::device_states();
    let mut seeds = named(states.iter().map(|(name, body)| (*name, [&[0], &body.encode()[..]].concat())));
    // The method, then the format, the start, the version and the samples.
    break_one(&mut seeds, "scaffold", "format-2", |bytes| bytes[2] = 2);
    break_one(&mut seeds, "scaffold", "version-0", |bytes| bytes[10] = 0);
    break_one(&mut seeds, "scaffold", "nan", |bytes| put(bytes, 18, f32::NAN));
    break_one(&mut seeds, "scaffold", "truncated", |bytes| bytes.truncate(bytes.len() - 1));
    break_one(&mut seeds, "scaffold", "of-fedavg", |bytes| bytes[1] = 0);
    seeds
}

/// Scripts: digest, claimed length, then steps of four bytes.
fn assembler() -> Seeds {
    let three_blocks = 2 * BLOCK_BYTES as u32 + 100;
    let script =
        |lie: u8, claimed: u32, steps: &[[u8; 4]]| [&[lie], &claimed.to_le_bytes()[..], &steps.concat()].concat();
    let in_order = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]];
    named([
        ("blocks-in-order", script(0, three_blocks, &in_order)),
        ("blocks-backwards-and-twice", script(0, 70_000, &[[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])),
        ("blocks-missing", script(0, three_blocks, &in_order[1..])),
        ("blocks-damaged", script(0, 500, &[[2, 0, 0, 9], [3, 0, 0, 0], [0, 0, 0, 0]])),
        ("blocks-of-another-blob", script(0, 500, &[[4, 0, 0, 1], [0, 0, 0, 0]])),
        ("block-beyond-the-end", script(0, 500, &[[5, 0, 0, 0], [5, 0xff, 0xff, 0]])),
        ("block-200mb-claim", script(0, 200_000_000, &in_order)),
        ("block-empty-claim", script(0, 0, &in_order)),
        ("wrong-digest", script(1, three_blocks, &in_order)),
    ])
}

fn named<'a>(seeds: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Seeds {
    seeds.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect()
}

fn break_one(seeds: &mut Seeds, name: &str, how: &str, damage: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = seeds[name].clone();
    damage(&mut bytes);
    assert_ne!(bytes, seeds[name], "{name}-{how}");
    seeds.insert(format!("{name}-{how}"), bytes);
}

fn put(bytes: &mut [u8], at: usize, value: f32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
