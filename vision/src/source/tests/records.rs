//! Files of records: CIFAR and IDX.

use super::*;

/// CIFAR-10's files with a record for each label.
pub(super) fn cifar(labels: &[u8]) -> Vec<u8> {
    let record = |&label: &u8| [vec![label], vec![1; 1_024], vec![2; 1_024], vec![label; 1_024]].concat();
    labels.iter().flat_map(record).collect()
}

#[test]
fn cifar_is_read_packed_and_unpacked() {
    let place = Place::new();
    let (train, test) = (cifar(&[0, 1, 1]), cifar(&[1]));
    let members: [(&str, &[u8]); 4] = [
        ("cifar-10-batches-bin/data_batch_2.bin", &train),
        ("cifar-10-batches-bin/batches.meta.txt", b"airplane\ncar\n\n"),
        ("cifar-10-batches-bin/readme.html", b"no"),
        ("cifar-10-batches-bin/test_batch.bin", &test),
    ];
    let archive = place.write("cifar-10-binary.tar.gz", gz(&tar(&members)));
    for (name, content) in members {
        place.write(&format!("unpacked/{name}"), content);
    }
    for path in [archive, place.path("unpacked"), place.path("unpacked/cifar-10-batches-bin")] {
        let source = images(&path);
        assert_eq!(source.classes(), ["airplane", "car"]);
        assert_eq!((source.counts(Split::Train), source.counts(Split::Test)), (&[1, 2][..], &[0, 1][..]));
        let visited = visited(&source, Split::Train);
        assert_eq!(visited[0], ("airplane".into(), "data_batch_2.bin#0".into(), "32 x 32 x 3".into()));
        let mut first = None;
        let mut visitor = |entry: Entry| {
            first = Some(entry);
            ControlFlow::Break(())
        };
        source.visit(Split::Train, &|class| class == 1, &mut visitor).unwrap();
        let Ok(Content::Pixels(pixels)) = first.unwrap().content else { panic!("records hold pixels") };
        assert_eq!((&pixels.bytes[..6], pixels.bytes.len()), (&[1, 2, 1, 1, 2, 1][..], 3_072));
    }
    let hundred = [&[9_u8, 0][..], &[5; 3_072]].concat();
    place.write("hundred/train.bin", &hundred);
    place.write("hundred/fine_label_names.txt", "apple\nfish\n");
    assert_eq!(images(&place.path("hundred")).counts(Split::Train), [1, 0]);
}

#[test]
fn damaged_cifar_files_name_the_record() {
    let place = Place::new();
    let write = |records: &[u8], names: &str| {
        place.write("d/data_batch_1.bin", records);
        place.write("d/batches.meta.txt", names);
        refused(&place.path("d"))
    };
    assert!(write(&cifar(&[0, 1])[..5_000], "a\nb\n").contains("#1 is damaged (the last record is cut short)"));
    assert!(write(&cifar(&[0, 7]), "a\nb\n").contains("a record has label 7, but there are 2 classes"));
    assert!(write(&cifar(&[0]), "\n").contains("names of its classes is missing"));
}

pub(super) fn idx(dimensions: &[u32], numbers: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(numbers);
    bytes
}

#[test]
fn idx_files_are_read_compressed_or_not() {
    let place = Place::new();
    let pixels = idx(&[3, 2, 4], &[9; 24]);
    place.write("d/train-images-idx3-ubyte.gz", gz(&pixels));
    place.write("d/train-images-idx3-ubyte", &pixels);
    place.write("d/train-labels-idx1-ubyte.gz", gz(&idx(&[3], &[2, 0, 2])));
    place.write("d/t10k-images.idx3-ubyte", idx(&[1, 2, 4], &[7; 8]));
    place.write("d/t10k-labels.idx1-ubyte", idx(&[1], &[1]));
    let source = images(&place.path("d"));
    assert_eq!(source.classes(), ["0", "1", "2"]);
    assert_eq!((source.counts(Split::Train), source.counts(Split::Test)), (&[1, 0, 2][..], &[0, 1, 0][..]));
    let visited = visited(&source, Split::Train);
    assert!(visited[0].1.starts_with("train-images-idx3-ubyte") && visited[0].1.ends_with("#1"), "{visited:?}");
    assert_eq!(visited[0].2, "4 x 2 x 1");
    let one = images(&place.path("d/t10k-images.idx3-ubyte"));
    assert_eq!((one.splits(), one.classes().len()), (vec![Split::Test], 2));
    place.write("d/classes.txt", "shirt\ncoat\nshoe\n");
    assert_eq!(images(&place.path("d")).classes(), ["shirt", "coat", "shoe"]);
    place.write("d/classes.txt", "shirt\ncoat\n");
    assert!(refused(&place.path("d")).contains("it lists 2 classes, but the labels go from 0 to 2"));
}

#[test]
fn damaged_idx_files_are_named() {
    let place = Place::new();
    let write = |images: Vec<u8>, labels: Vec<u8>| {
        place.write("d/train-images-idx3-ubyte", images);
        place.write("d/train-labels-idx1-ubyte", labels);
        refused(&place.path("d"))
    };
    let labels = || idx(&[2], &[0, 1]);
    for (images, labels, expected) in [
        (idx(&[3, 1, 1], &[1, 2, 3]), labels(), "it holds 3 images, but 2 labels belong to it"),
        (idx(&[2, 2, 2], &[1; 7]), labels(), "images-idx3-ubyte is damaged (it ends in the middle)"),
        (idx(&[2, 2, 2], &[1; 9]), labels(), "longer than its header says"),
        (idx(&[2, 2, 2], &[1; 8]), idx(&[2], &[0]), "labels-idx1-ubyte is damaged"),
        (idx(&[2, 70_000, 70_000], &[1]), labels(), "claims images of 70000 x 70000"),
        (idx(&[2, 0, 2], &[]), labels(), "claims images of 2 x 0"),
        (labels(), labels(), "does not begin as a file of IDX images"),
    ] {
        let message = write(images, labels);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    fs::remove_file(place.path("d/train-labels-idx1-ubyte")).unwrap();
    assert!(refused(&place.path("d")).contains("cannot open"));
}
