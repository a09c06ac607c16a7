//! Bytes of the store's records. SD cards return wrong bytes without saying so: every record carries a checksum.

use grapevine_models::{Head, Shape};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Digest, NewestHead, OutboxEntry};

/// Bytes of a sample's key: label, then digest, so that the table is in the order of [`super::Store::load_all`].
pub(super) const SAMPLE_KEY_BYTES: usize = 2 + 32;
/// Bytes of disk that the path of a sample's image usually takes.
const ORIGIN_BYTES: usize = 160;
/// Bytes of a checksum.
const CHECKSUM_BYTES: usize = 4;

/// The key of one sample. The label is big-endian: keys are ordered as bytes.
pub(super) fn sample_key(label: u16, digest: &Digest) -> [u8; SAMPLE_KEY_BYTES] {
    let mut key = [0; SAMPLE_KEY_BYTES];
    key[..2].copy_from_slice(&label.to_be_bytes());
    key[2..].copy_from_slice(digest);
    key
}

/// The label and digest of one key.
pub(super) fn split_sample_key(key: &[u8; SAMPLE_KEY_BYTES]) -> (u16, Digest) {
    let mut digest = [0; 32];
    digest.copy_from_slice(&key[2..]);
    (u16::from_be_bytes([key[0], key[1]]), digest)
}

/// Bytes of disk that one sample of `features` features takes in its tables. Pages of trees are half empty at worst
/// and hold few records: measured were 1.8 to 2.4 times the records' bytes.
pub(super) fn sample_bytes(features: usize) -> u64 {
    let record_bytes = SAMPLE_KEY_BYTES + 2 * features + CHECKSUM_BYTES + 32 + 2;
    (record_bytes * 9 / 4 + 256 + ORIGIN_BYTES) as u64
}

/// Packs features as f16, with a checksum over key and features.
pub(super) fn pack_features(key: &[u8; SAMPLE_KEY_BYTES], features: &[f32], record: &mut Vec<u8>) {
    record.clear();
    for &feature in features {
        record.extend_from_slice(&f16::from_f32(feature).to_le_bytes());
    }
    let checksum = checksum_of(&[key, record]);
    record.extend_from_slice(&checksum);
}

/// Packs the features of an intact record for another key.
pub(super) fn relabel(key: &[u8; SAMPLE_KEY_BYTES], record: &[u8], relabelled: &mut Vec<u8>) {
    relabelled.clear();
    relabelled.extend_from_slice(&record[..record.len() - CHECKSUM_BYTES]);
    let checksum = checksum_of(&[key, relabelled]);
    relabelled.extend_from_slice(&checksum);
}

/// Whether a sample's record has its length and its checksum.
pub(super) fn is_intact(key: &[u8; SAMPLE_KEY_BYTES], record: &[u8], features: usize) -> bool {
    match record.split_last_chunk::<CHECKSUM_BYTES>() {
        Some((body, checksum)) => body.len() == 2 * features && checksum_of(&[key, body]) == *checksum,
        None => false,
    }
}

/// Appends the features of an intact record to `features`.
pub(super) fn unpack_features(record: &[u8], halves: &mut Vec<f16>, features: &mut Vec<f32>) {
    let body = &record[..record.len() - CHECKSUM_BYTES];
    halves.clear();
    halves.extend(body.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])));
    let start = features.len();
    features.resize(start + halves.len(), 0.0);
    halves.convert_to_f32_slice(&mut features[start..]);
}

/// Puts a checksum in front of a device record.
pub(super) fn seal(name: &str, payload: &[&[u8]]) -> Vec<u8> {
    let mut parts = vec![name.as_bytes()];
    parts.extend_from_slice(payload);
    let mut record = checksum_of(&parts).to_vec();
    for part in payload {
        record.extend_from_slice(part);
    }
    record
}

/// The payload of a device record, if its checksum fits.
pub(super) fn unseal<'a>(name: &str, record: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, payload) = record.split_first_chunk::<CHECKSUM_BYTES>()?;
    (checksum_of(&[name.as_bytes(), payload]) == *checksum).then_some(payload)
}

/// Run, round and digest in front of an update's bytes.
pub(super) fn outbox_header(entry: &OutboxEntry) -> [u8; ENTRY_HEADER_BYTES] {
    entry_header(entry.run, entry.round, &entry.digest)
}

/// Reads back what [`outbox_header`] and the bytes made.
pub(super) fn parse_outbox(payload: &[u8]) -> Option<OutboxEntry> {
    let (run, round, digest, bytes) = split_entry(payload)?;
    Some(OutboxEntry { run, round, digest, bytes: bytes.to_vec() })
}

/// Packs the newest head, f32 exact.
pub(super) fn pack_head(newest: &NewestHead) -> Vec<u8> {
    let mut payload = entry_header(newest.run, newest.round, &newest.digest).to_vec();
    for value in newest.main.weight.iter().chain(&newest.main.bias) {
        payload.extend_from_slice(&value.to_le_bytes());
    }
    payload
}

/// Reads back what [`pack_head`] made; `None` for another shape or an unusable head.
pub(super) fn parse_head(payload: &[u8], shape: Shape) -> Option<NewestHead> {
    let (run, round, digest, bytes) = split_entry(payload)?;
    if bytes.len() != 4 * shape.parameters() {
        return None;
    }
    let mut weight: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let bias = weight.split_off(shape.weights());
    let main = Head { weight, bias };
    main.check(shape).ok()?;
    Some(NewestHead { run, round, main, digest })
}

/// Run, round and digest in front of a payload.
pub(super) fn entry_of(payload: &[u8]) -> Option<(u64, u32, Digest)> {
    split_entry(payload).map(|(run, round, digest, _)| (run, round, digest))
}

/// Bytes of run, round and digest.
const ENTRY_HEADER_BYTES: usize = 8 + 4 + 32;

fn entry_header(run: u64, round: u32, digest: &Digest) -> [u8; ENTRY_HEADER_BYTES] {
    let mut header = [0; ENTRY_HEADER_BYTES];
    header[..8].copy_from_slice(&run.to_le_bytes());
    header[8..12].copy_from_slice(&round.to_le_bytes());
    header[12..].copy_from_slice(digest);
    header
}

fn split_entry(payload: &[u8]) -> Option<(u64, u32, Digest, &[u8])> {
    let (run, rest) = payload.split_first_chunk::<8>()?;
    let (round, rest) = rest.split_first_chunk::<4>()?;
    let (digest, bytes) = rest.split_first_chunk::<32>()?;
    Some((u64::from_le_bytes(*run), u32::from_le_bytes(*round), *digest, bytes))
}

fn checksum_of(parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_come_back_as_the_nearest_half() {
        let key = sample_key(3, &[7; 32]);
        let features = [0.0_f32, -0.25, 0.1, 255.9, -1e-3, 6e-8];
        let mut record = Vec::new();
        pack_features(&key, &features, &mut record);
        assert!(is_intact(&key, &record, features.len()));
        let mut back = Vec::new();
        unpack_features(&record, &mut Vec::new(), &mut back);
        for (feature, read) in features.iter().zip(&back) {
            assert_eq!(f16::from_f32(*feature).to_f32(), *read);
            assert!((feature - read).abs() <= feature.abs() / 2048.0 + 6e-8, "{feature} came back as {read}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_in_features_and_key() {
        let key = sample_key(3, &[7; 32]);
        let mut record = Vec::new();
        pack_features(&key, &[0.5, 1.5], &mut record);
        assert!(!is_intact(&sample_key(2, &[7; 32]), &record, 2), "the label belongs to the checksum");
        assert!(!is_intact(&key, &record[1..], 2));
        assert!(!is_intact(&key, &[], 2));
        for bit in 0..8 * record.len() {
            record[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_intact(&key, &record, 2), "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn keys_are_ordered_by_label_then_digest() {
        assert!(sample_key(1, &[255; 32]) < sample_key(256, &[0; 32]));
        assert!(sample_key(1, &[1; 32]) < sample_key(1, &[2; 32]));
        assert_eq!(split_sample_key(&sample_key(513, &[9; 32])), (513, [9; 32]));
    }

    #[test]
    fn a_sealed_record_belongs_to_its_name() {
        let record = seal("outbox", &[b"ab", b"cd"]);
        assert_eq!(unseal("outbox", &record), Some(&b"abcd"[..]));
        assert_eq!(unseal("head", &record), None);
        assert_eq!(unseal("outbox", &record[..3]), None);
    }

    #[test]
    fn a_head_of_another_shape_is_none() {
        let shape = Shape::new(2, 3).unwrap();
        let main = Head { weight: vec![0.1, -0.2, 1e-30, 4.0, 5.0, 6.0], bias: vec![-0.5, 0.5] };
        let newest = NewestHead { run: 9, round: 4, main, digest: [1; 32] };
        let payload = pack_head(&newest);
        assert_eq!(parse_head(&payload, shape), Some(newest));
        assert_eq!(parse_head(&payload, Shape::new(2, 4).unwrap()), None);
        assert_eq!(parse_head(&payload[..20], shape), None);
    }
}
