use std::io::Write;

use ndarray::array;

use super::*;

pub(super) fn npy(descr: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), numbers].concat()
}

pub(super) fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, array) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(array).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn features(path: &Path) -> FeatureSource {
    match Source::open(path).unwrap() {
        Source::Features(features) => features,
        Source::Images(images) => panic!("{images:?}"),
    }
}

#[test]
fn features_are_read_by_split() {
    let place = Place::new();
    let path = place.write(
        "f.npz",
        npz(&[
            ("train_features", npy("<f4", "(3, 2)", &floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))),
            ("train_labels", npy("|u1", "(3,)", &[0, 2, 1])),
            ("test_features", npy(">f8", "(1, 2)", &[0.5_f64, -0.5].map(f64::to_be_bytes).concat())),
            ("test_labels", npy("<i8", "(1, 1)", &4_i64.to_le_bytes())),
            ("made_by", npy("<U3", "()", b"whoever")),
        ]),
    );
    let source = features(&path);
    assert_eq!((source.name(), source.width(), source.classes()), ("f.npz".into(), 2, 5));
    assert_eq!(source.splits(), [Split::Train, Split::Test]);
    let train = source.load(Split::Train).unwrap();
    assert_eq!((train.features, train.labels), (array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], vec![0, 2, 1]));
    assert_eq!(source.load(Split::Test).unwrap().features, array![[0.5, -0.5]]);
    assert!(source.load(Split::Validation).unwrap().labels.is_empty());
    let mut seen = Vec::new();
    let mut visitor = |row: Row<'_>| {
        seen.push((row.index, row.label, row.features.to_vec()));
        if row.index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    source.visit(Split::Train, &mut visitor).unwrap();
    assert_eq!(seen, [(0, 0, vec![1.0, 2.0]), (1, 2, vec![3.0, 4.0])]);
}

#[test]
fn features_with_faults_name_array_and_row() {
    let place = Place::new();
    let good = || ("features", npy("<f4", "(2, 2)", &floats(&[1.0; 4])));
    let labels = || ("labels", npy("|u1", "(2,)", &[0, 1]));
    for (arrays, expected) in [
        (vec![], "it has no arrays called features and labels"),
        (vec![("x", npy("|u1", "(1,)", &[1]))], "(found: x.npy)"),
        (vec![good()], "features: features and labels come in pairs"),
        (vec![good(), ("train_features", good().1), labels()], "several arrays for the train split"),
        (vec![good(), ("labels", npy("|u1", "(3,)", &[0, 1, 2]))], "it has 2 rows for 3 labels"),
        (vec![good(), ("labels", npy("|i1", "(2,)", &[0, 255]))], "labels, row 1: the label is negative"),
        (vec![good(), ("labels", npy("<f4", "(2,)", &[0; 8]))], "labels are one integer per sample"),
        (vec![good(), ("labels", npy("|u1", "(2,)", &[0]))], "labels is damaged (it ends in the middle)"),
        (vec![good(), ("labels", npy("|u1", "(2,)", &[0; 3]))], "longer than its header says"),
        (vec![good(), ("labels", npy("|u1", "(99999999999,)", &[0]))], "at most 16777216"),
        (vec![("features", npy("<f4", "(2,)", &[0; 8])), labels()], "features have the shape [samples, features]"),
        (vec![("features", npy("<f4", "(2, 0)", &[])), labels()], "it has 0 features per sample"),
        (vec![("features", npy("<f4", "(2, 9999)", &[])), labels()], "it has 9999 features per sample"),
        (vec![("features", npy("<i4", "(2, 1)", &[0; 8])), labels()], "features are floats"),
        (vec![("features", npy("|O", "(2, 1)", &[0; 8])), labels()], "numbers of type `|O`"),
        (vec![("features", b"text".to_vec()), labels()], "features: it is no array of NumPy"),
    ] {
        let message = refused(&place.write("f.npz", npz(&arrays)));
        assert!(message.contains(expected) && message.contains("f.npz"), "{expected}: {message}");
    }
    let mut columns = good().1;
    let order = columns.windows(5).position(|word| word == b"False").unwrap();
    columns[order..order + 5].copy_from_slice(b"True ");
    assert!(refused(&place.write("f.npz", npz(&[("features", columns), labels()]))).contains("ascontiguousarray"));
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (1e9, "1000000000")] {
        let bad = ("features", npy("<f4", "(2, 2)", &floats(&[1.0, 1.0, 1.0, value])));
        let source = features(&place.write("f.npz", npz(&[bad, labels()])));
        let message = source.load(Split::Train).unwrap_err().to_string();
        assert!(message.contains(&format!("features, row 1: feature 1 is {shown}")), "{message}");
    }
    let short = ("features", npy("<f4", "(2, 2)", &floats(&[1.0; 3])));
    let source = features(&place.write("f.npz", npz(&[short, labels()])));
    assert!(source.load(Split::Train).unwrap_err().to_string().contains("f.npz: features is damaged"));
}
