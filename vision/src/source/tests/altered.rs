//! Files that were changed anywhere never bring the process down.

use proptest::prelude::*;

use super::features::{floats, npy, npz};
use super::records::{cifar, idx};
use super::*;

/// Opens and visits everything; whatever is wrong is one sentence.
fn exhaust(path: &Path) {
    let say = |error: SourceError| {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text}");
    };
    match Source::open(path) {
        Err(error) => say(error),
        Ok(Source::Images(source)) => {
            for split in source.splits() {
                let visited = source.visit(split, &|_| true, &mut |entry| {
                    assert!(usize::from(entry.class) < source.classes().len() && !entry.name.contains('\n'));
                    ControlFlow::Continue(())
                });
                visited.unwrap_or_else(say);
            }
        }
        Ok(Source::Features(source)) => {
            source.splits().into_iter().filter_map(|split| source.load(split).err()).for_each(say);
        }
    }
}

/// A well-formed file of each kind, small enough to be changed everywhere.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let archive = tar(&[("train/cat/1.png", b"a"), ("train/dog/2.png", b"b"), ("test/dog/3.png", b"c")]);
    let long = tar(&[(&format!("{}cat/1.png", "a/".repeat(60)), b"a")]);
    let records = cifar(&[0, 1]);
    let cifar = tar(&[("data_batch_1.bin", &records), ("batches.meta.txt", b"a\nb\n")]);
    let arrays =
        npz(&[("features", npy("<f4", "(2, 2)", &floats(&[1.0; 4]))), ("labels", npy("|u1", "(2,)", &[0, 1]))]);
    vec![
        ("a.tar.gz", gz(&archive)),
        ("a.tar", archive),
        ("long.tar", long),
        ("cifar.tar", cifar),
        ("f.npz", arrays),
        ("train-images-idx3-ubyte", idx(&[2, 2, 2], &[5; 8])),
        ("labels.csv", b"file,label\n\"a.png\",cat\nb.png,dog\n".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn altered_files_never_panic(
        which in 0_usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        doubled in any::<bool>(),
    ) {
        let place = Place::new();
        let (name, mut bytes) = samples().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if doubled {
            bytes.extend_from_within(..);
        }
        place.write("train-labels-idx1-ubyte", idx(&[2], &[0, 1]));
        exhaust(&place.write(name, bytes));
    }

    #[test]
    fn folders_of_any_names_never_panic(names in prop::collection::vec("[a-z./ \u{e9}\u{7}\n\\\\]{1,12}(/[a-z]{1,4}\\.png)?", 1..8)) {
        let place = Place::new();
        for name in &names {
            let path = place.path("d").join(name.trim_start_matches('/').replace("..", "x"));
            // Names that cannot be are no test.
            let _ = fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(&path, "a"));
        }
        exhaust(&place.path("d"));
    }
}

#[test]
fn a_whole_file_of_each_kind_is_read() {
    for (name, bytes) in samples() {
        let place = Place::new();
        place.write("train-labels-idx1-ubyte", idx(&[2], &[0, 1]));
        let path = place.write(name, bytes);
        assert!(Source::open(&path).is_ok(), "{name} is what the altered files are made of");
    }
}
