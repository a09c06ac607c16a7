//! Readers of every kind, what they refuse, and what they do with altered files.

mod altered;
mod features;
mod records;

use fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

/// A folder to make data in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

fn images(path: &Path) -> ImageSource {
    match Source::open(path).unwrap() {
        Source::Images(images) => images,
        Source::Features(features) => panic!("{features:?}"),
    }
}

fn refused(path: &Path) -> String {
    let message = Source::open(path).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.chars().count() < 600, "{message}");
    message
}

/// Class, last part of the name, and the bytes as text or the error, sorted.
fn visited(source: &ImageSource, split: Split) -> Vec<(String, String, String)> {
    let mut entries = Vec::new();
    let mut visitor = |entry: Entry| {
        let content = match entry.content {
            Ok(Content::Encoded(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(Content::Pixels(pixels)) => format!("{} x {} x {}", pixels.width, pixels.height, pixels.channels),
            Err(error) => format!("error: {error}"),
        };
        let name = entry.name.rsplit('/').next().unwrap_or_default().to_owned();
        entries.push((source.classes()[usize::from(entry.class)].clone(), name, content));
        ControlFlow::Continue(())
    };
    source.visit(split, &|_| true, &mut visitor).unwrap();
    entries.sort();
    entries
}

fn triples(expected: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    expected.iter().map(|&(class, name, content)| (class.into(), name.into(), content.into())).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive of members, whatever their names.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if name.len() <= 100 {
            // Not with `set_path`, which refuses the names that are tested here.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *content).unwrap();
        } else {
            archive.append_data(&mut header, name, *content).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

#[test]
fn folders_of_classes_are_read_at_any_depth() {
    let place = Place::new();
    place.write("d/cat/1.png", "a");
    place.write("d/cat/deep/er/2.JPG", "b");
    place.write("d/dog/3.jpeg", "c");
    place.write("d/dog/notes.txt", "no");
    place.write("d/dog/.hidden.png", "no");
    place.write("d/stray.png", "of no class");
    fs::create_dir_all(place.path("d/empty")).unwrap();
    fs::create_dir_all(place.path("d/dog/folder.png")).unwrap();
    let source = images(&place.path("d"));
    assert_eq!((source.name(), source.splits()), ("d", vec![Split::Train]));
    assert_eq!(source.classes(), ["cat", "dog", "empty"]);
    assert_eq!((source.counts(Split::Train), source.counts(Split::Test)), (&[2, 2, 0][..], &[][..]));
    let expected = [
        ("cat", "1.png", "a"),
        ("cat", "2.JPG", "b"),
        ("dog", "3.jpeg", "c"),
        ("dog", "folder.png", "error: cannot be read: it is no regular file"),
    ];
    assert_eq!(visited(&source, Split::Train), triples(&expected));
    let mut dogs = 0;
    let dog = |class| class == 1;
    let mut visitor = |_| {
        dogs += 1;
        ControlFlow::Break(())
    };
    source.visit(Split::Train, &dog, &mut visitor).unwrap();
    assert_eq!(dogs, 1, "a break ends the visit");
}

#[test]
fn splits_are_folders_around_classes() {
    let place = Place::new();
    place.write("d/train/cat/1.png", "a");
    place.write("d/train/dog/2.png", "b");
    place.write("d/val/dog/3.png", "c");
    place.write("d/Test/owl/4.png", "d");
    place.write("d/Test/cat/5.png", "e");
    let source = images(&place.path("d"));
    assert_eq!(source.classes(), ["cat", "dog", "owl"]);
    assert_eq!(source.splits(), [Split::Train, Split::Validation, Split::Test]);
    assert_eq!(source.counts(Split::Test), [1, 0, 1]);
    assert_eq!(visited(&source, Split::Validation), triples(&[("dog", "3.png", "c")]));

    place.write("unlabelled/train/cat/1.png", "a");
    place.write("unlabelled/test/images/2.png", "b");
    assert_eq!(images(&place.path("unlabelled")).splits(), [Split::Train]);
    place.write("classes/train/1.png", "a locomotive");
    place.write("classes/test/2.png", "an examination");
    assert_eq!(images(&place.path("classes")).classes(), ["test", "train"]);
}

#[test]
fn tables_name_files_and_classes() {
    let place = Place::new();
    place.write("d/images/1.png", "a");
    place.write("d/2.png", "b");
    place.write("secret.png", "no");
    let table = "id, Path ,LABEL\n1,images/1.png,cat\n2,\"2.png\",\"dog, small\"\n3,missing.png,cat\n4,../secret.png,cat\n\
                 5,/etc/hostname,cat\n6,images,cat\n";
    let csv = place.write("d/labels.csv", table);
    for path in [place.path("d"), csv] {
        let source = images(&path);
        assert_eq!(source.classes(), ["cat", "dog, small"]);
        assert_eq!(source.counts(Split::Train), [5, 1]);
        let visited = visited(&source, Split::Train);
        let contents: Vec<&str> = visited.iter().map(|(_, _, content)| content.as_str()).collect();
        assert_eq!(contents[0], "a", "{visited:?}");
        assert_eq!(contents.iter().filter(|content| content.contains("outside the folder")).count(), 2);
        assert_eq!(contents.iter().filter(|content| content.contains("cannot be read: No such file")).count(), 1);
        assert_eq!(contents.iter().filter(|content| content.contains("cannot be read: it is no regular")).count(), 1);
        assert_eq!(contents[5], "b");
    }
    place.write("s/train/labels.csv", "filename,class\n1.png,cat\n");
    place.write("s/test/labels.csv", "filename,class\n2.png,cat\n");
    place.write("s/train/1.png", "a");
    place.write("s/test/2.png", "b");
    assert_eq!(visited(&images(&place.path("s")), Split::Test), triples(&[("cat", "2.png", "b")]));
}

#[cfg(unix)]
#[test]
fn links_out_of_a_table_are_not_followed() {
    let place = Place::new();
    place.write("secret.png", "no");
    place.write("d/labels.csv", "file,label\nlink.png,cat\n");
    std::os::unix::fs::symlink("../secret.png", place.path("d/link.png")).unwrap();
    let visited = visited(&images(&place.path("d")), Split::Train);
    assert!(visited[0].2.contains("outside the folder"), "{visited:?}");
}

#[test]
fn tables_with_faults_name_the_row() {
    let place = Place::new();
    for (table, expected) in [
        ("file,name\n1.png,cat\n", "its first line must name a column of files (file, filename"),
        ("", "its first line must name"),
        ("file,label\n1.png\n", "labels.csv: row 2: it has fewer columns"),
        ("file,label\n1.png,cat\n,cat\n", "row 3: the file or the class is missing"),
        ("file,label\n1.png,\"", "row 2"),
    ] {
        place.write("d/labels.csv", table);
        let message = refused(&place.path("d"));
        assert!(message.contains(expected), "{table:?}: {message}");
    }
    place.write("d/labels.csv", b"file,label\n1.png,caf\xe9\n");
    let message = refused(&place.path("d"));
    assert!(message.contains("row 2: it is not UTF-8"), "{message}");
    let endless = format!("file,label\n1.png,\"{}", "x\n".repeat(200_000));
    place.write("d/labels.csv", endless);
    assert!(refused(&place.path("d")).contains("one row is longer than 65536 bytes"));
}

#[test]
fn archives_are_read_like_the_folders_in_them() {
    let place = Place::new();
    let long = format!("data/train/cat/{}/1.png", "deep/".repeat(30));
    let members: [(&str, &[u8]); 5] = [
        (&long, b"a"),
        ("./data/train/dog/2.jpg", b"bb"),
        ("data/test/dog/3.png", b"ccc"),
        ("data/test/dog/._3.png", b"no"),
        ("data/README.md", b"no"),
    ];
    for (name, bytes) in [("a.tar", tar(&members)), ("a.tar.gz", gz(&tar(&members))), ("a.tgz", gz(&tar(&members)))] {
        let source = images(&place.write(name, bytes));
        assert_eq!((source.name(), source.splits()), (name, vec![Split::Train, Split::Test]));
        assert_eq!(source.classes(), ["cat", "dog"]);
        let expected = [("cat", "1.png", "a"), ("dog", "2.jpg", "bb")];
        assert_eq!(visited(&source, Split::Train), triples(&expected));
        assert_eq!(visited(&source, Split::Test), triples(&[("dog", "3.png", "ccc")]));
    }
    let flat = [("cat/1.png", &b"a"[..]), ("dog/2.png", b"b")];
    assert_eq!(images(&place.write("flat.tar", tar(&flat))).classes(), ["cat", "dog"]);
    let rooted = [("pets/cat/1.png", &b"a"[..]), ("pets/dog/2.png", b"b")];
    assert_eq!(images(&place.write("rooted.tar", tar(&rooted))).classes(), ["cat", "dog"]);
}

#[test]
fn hostile_archives_are_refused_by_member() {
    let place = Place::new();
    let good = tar(&[("cat/1.png", &[7; 3_000]), ("dog/2.png", &[8; 3_000])]);
    for (bytes, expected) in [
        (tar(&[("../1.png", b"a")]), "../1.png: this name leads out of the archive"),
        (tar(&[("cat/1.png", b"a"), ("/etc/cat/2.png", b"a")]), "/etc/cat/2.png: this name leads out"),
        (good[..4_000].to_vec(), "after cat/1.png"),
        (gz(&good)[..60].to_vec(), "ends in the middle"),
        (tar(&[("1.png", b"a")]), "no PNG or JPEG image in"),
        (tar(&[("cat/readme.txt", b"a")]), "no PNG or JPEG image in"),
    ] {
        let message = refused(&place.write("a.tar.gz", bytes));
        assert!(message.contains(expected) && message.contains("a.tar.gz"), "{expected}: {message}");
    }
    let mut wrong_checksum = gz(&good);
    let end = wrong_checksum.len() - 6;
    wrong_checksum[end] ^= 1;
    assert!(refused(&place.write("a.tar.gz", wrong_checksum)).contains("damaged"));
    let mut changed = good;
    changed[3_600] ^= 1;
    assert!(refused(&place.write("a.tar", changed)).contains("after cat/1.png"));
}

#[test]
fn an_archive_may_not_grow_without_bound() {
    let place = Place::new();
    let path = place.path("bomb.tar.gz");
    let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("cat/1.png").unwrap();
    let size = 256_u64 << 20;
    header.set_size(size);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(size), &mut encoder).unwrap();
    encoder.finish().unwrap();
    let message = refused(&path);
    assert!(message.contains("unpacks to more than 200 times its size"), "{message}");

    // The header of a name claims gigabytes.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(4 << 30);
    header.set_cksum();
    let message = refused(&place.write("name.tar", header.as_bytes()));
    assert!(message.contains("header has 4294967296 bytes"), "{message}");
    // An image that claims them is passed over if the archive really goes on so long.
    let mut header = tar::Header::new_gnu();
    header.set_path("cat/1.png").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(refused(&place.write("image.tar", header.as_bytes())).contains("damaged"));
}

#[test]
fn what_is_no_data_set_is_refused() {
    let place = Place::new();
    assert!(refused(&place.path("nothing")).contains("check the path"));
    assert!(refused(&place.write("text.txt", "hello")).contains("is no data set known here"));
    assert!(refused(&place.write("empty.tar.gz", "")).contains("is no data set known here"));
    fs::create_dir(place.path("empty")).unwrap();
    assert!(refused(&place.path("empty")).contains("put images into one folder per class"));
    assert!(refused(&place.write("a.zip", b"PK\x03\x04 and nothing behind it")).contains("damaged"));
}

#[test]
fn digests_tell_contents_and_not_names() {
    let pixels = |width, height| Content::Pixels(Pixels { width, height, channels: 1, bytes: vec![3; 6] });
    assert_ne!(pixels(2, 3).digest(), pixels(3, 2).digest());
    assert_eq!(pixels(2, 3).digest(), pixels(2, 3).digest());
    let abc = Content::Encoded(b"abc".to_vec()).digest();
    assert_eq!(abc[..4], [0xba, 0x78, 0x16, 0xbf], "SHA-256 of the file's bytes, FIPS 180-4");
}
