//! Bytes that are not as they were written are found, and named.

use super::*;

/// One generation, its file, and its segments' files.
struct Stored {
    dir: tempfile::TempDir,
    id: CheckpointId,
    file: PathBuf,
    segments: Vec<PathBuf>,
}

fn stored() -> Stored {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(1 << 20, 1));
    content.memory().extend(b"compressible ".repeat(100_000));
    content.layer[..5].copy_from_slice(b"layer");
    let (generation, _) = store(&vault, &content, None).unwrap();
    vault.note(generation.id, Looked::Sound { at_ms: 1 }).unwrap();
    let file = lock(&vault.inner.stock).find(generation.id).unwrap().path.clone();
    let (_, digests) = vault.outline(generation.id).unwrap();
    let segments = digests.into_iter().map(|digest| vault.inner.disk.segment(digest)).collect();
    Stored { dir, id: generation.id, file, segments }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn in_the_file_of_a_generation() {
    let length = fs::metadata(stored().file).unwrap().len() as usize;
    for at in (0..length).step_by(length / 40).chain([length - 1]) {
        let Stored { dir, file, .. } = stored();
        flip(&file, at);
        let (vault, broken) = Vault::open(dir.path(), PLENTY).unwrap();
        assert!(vault.generations(&name()).is_empty());
        assert_eq!((&broken[0].path, &broken[0].workload), (&file, &name()), "{at}");
    }
    let Stored { dir, file, .. } = stored();
    fs::write(&file, &fs::read(&file).unwrap()[..length / 2]).unwrap();
    assert_eq!(Vault::open(dir.path(), PLENTY).unwrap().1.len(), 1, "cut off");
    let Stored { dir, file, .. } = stored();
    fs::rename(&file, file.with_file_name(format!("0000000001-{}.json", "0".repeat(64)))).unwrap();
    assert_eq!(Vault::open(dir.path(), PLENTY).unwrap().1.len(), 1, "under another name");
}

#[test]
fn in_a_generation_that_is_open() {
    let Stored { dir, id, file, .. } = stored();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    flip(&file, 100);
    assert!(matches!(vault.check(id, None), Err(VaultError::Damaged { .. })));
    assert!(vault.open_image(id).is_err());
}

#[test]
fn in_a_segment() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 11] = [
        ("magic", |path| flip(path, 0)),
        ("length", |path| flip(path, 9)),
        ("encoding", |path| flip(path, 12)),
        ("first byte", |path| flip(path, 13)),
        ("middle", |path| flip(path, fs::metadata(path).unwrap().len() as usize / 2)),
        ("last byte", |path| flip(path, fs::metadata(path).unwrap().len() as usize - 1)),
        ("cut off", |path| fs::write(path, &fs::read(path).unwrap()[..20]).unwrap()),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("too long", |path| fs::write(path, [fs::read(path).unwrap(), vec![0; 2 << 20]].concat()).unwrap()),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("another's", |path| {
            let other = disk::list(path.parent().unwrap()).unwrap().into_iter().find(|other| other != path).unwrap();
            fs::copy(other, path).map(drop).unwrap();
        }),
    ];
    for (what, harm) in harms {
        for index in 0..stored().segments.len() {
            let Stored { dir, id, segments, .. } = stored();
            let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
            harm(&segments[index]);
            let found = vault.check(id, None).unwrap_err();
            let VaultError::Damaged { id: named, what: told } = &found else { panic!("{what} {index}: {found:?}") };
            assert!(*named == id && told.contains(segments[index].to_str().unwrap()), "{what} {index}: {told}");
            assert!(vault.check_segments(id).is_err(), "{what} {index}");
            assert!(load(&vault, id).is_err(), "{what} {index}");
            assert!(vault.known(id).is_err(), "{what} {index}");
        }
    }
}

#[test]
fn a_segment_that_is_missing_at_the_opening() {
    let Stored { dir, id, segments, .. } = stored();
    fs::remove_file(&segments[0]).unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    assert!(!vault.generations(&name())[0].is_usable());
    assert!(vault.open_image(id).is_err());
    vault.drop_generation(id).unwrap();
    assert_eq!(files(dir.path()), []);
}

#[test]
fn what_was_seen_is_remembered_and_nothing_depends_on_it() {
    let Stored { dir, file, id, .. } = stored();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    assert_eq!(vault.generation(id).unwrap().looked, Some(Looked::Sound { at_ms: 1 }));
    vault.note(id, Looked::Damaged { what: "something".into() }).unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    assert!(!vault.generation(id).unwrap().is_usable());
    fs::write(disk::looked(&file), b"not JSON").unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    assert_eq!(vault.generation(id).unwrap().looked, None);
}

#[test]
fn a_wrong_page_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(2 << 20, 1));
    let (_, mut known) = store(&vault, &content, None).unwrap();
    // As if the hashes of one segment's pages were those of another's.
    let (a, b) = (known.segments[0], known.segments[1]);
    (known.segments[0], known.segments[1]) = (b, a);
    page(content.memory(), 0).fill(1);
    let (generation, _) = store(&vault, &content, Some(known)).unwrap();
    let found = vault.check(generation.id, None).unwrap_err();
    assert!(found.to_string().contains("wrong pages"), "{found}");
    let image = vault.open_image(generation.id).unwrap();
    assert!(image.damage().is_none());
    assert!(image.read("pages-1.img", u64::MAX).is_err());
    assert!(image.damage().is_some_and(|what| what.contains("pages-1.img")));
}

#[test]
fn bytes_that_changed_after_they_were_hashed_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let writing = vault.begin(None);
    let (header, mut body) = raw_chunk(0, 0, &noise(3 * PAGE_BYTES, 1));
    body[PAGE_BYTES] ^= 1;
    writing.take(&header, &body).unwrap();
    let digest = stream_digest([&header.digest]);
    let image = StreamSummary { stream: 0, name: "inventory.img".into(), length: body.len() as u64, digest };
    let layer = Layer { size: 0, digest: layer_digest(0, []) };
    let (generation, _) = writing.commit(about(1), &[image], layer).unwrap();
    assert!(matches!(vault.check(generation.id, None), Err(VaultError::Damaged { .. })));
}

#[test]
fn a_damaged_generation_is_nothing_to_build_upon() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let content = Content::of(noise(2 << 20, 1));
    let (first, known) = store(&vault, &content, None).unwrap();
    vault.note(first.id, Looked::Damaged { what: "something".into() }).unwrap();
    let before = vault.used_bytes();
    let (second, _) = store(&vault, &content, Some(known)).unwrap();
    // The same bytes have the same names: what is sound of them is used, and whether it is, is seen by checking.
    assert!(second.id != first.id && vault.used_bytes() > before);
    vault.check(second.id, None).unwrap();
}

/// What no vault would write, and another node could send.
#[test]
fn files_that_contradict_themselves_are_refused() {
    let Stored { dir: _dir, file, .. } = stored();
    let good = fs::read(&file).unwrap();
    Manifest::parse(&good).unwrap();
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 14] = [
        ("format", |m| m["format"] = 3.into()),
        ("a field that is not known", |m| m["about"]["more"] = 1.into()),
        ("no images", |m| m["images"] = serde_json::json!([])),
        ("a name twice", |m| m["images"][0]["name"] = m["images"][1]["name"].clone()),
        ("a path", |m| m["images"][0]["name"] = "../x".into()),
        ("no layer", |m| m["layer"]["name"] = "other".into()),
        ("length", |m| m["images"][1]["length"] = 5.into()),
        ("a page beyond the end", |m| m["images"][1]["runs"][0][1] = 200.into()),
        ("a segment beyond the end", |m| m["images"][1]["runs"][0][0] = 99.into()),
        ("pages", |m| m["segments"][0][1] = 1.into()),
        ("many pages", |m| m["segments"][0][1] = 257.into()),
        ("a segment twice", |m| m["segments"][1] = m["segments"][0].clone()),
        ("a part's digest", |m| m["images"][1]["parts"][0][1] = m["segments"][0][0].clone()),
        ("lengths that overflow", |m| m["images"][1]["parts"][0][0] = u64::MAX.into()),
    ];
    for (what, change) in changes {
        let mut value = serde_json::from_slice(&good).unwrap();
        change(&mut value);
        let bad = serde_json::to_vec(&value).unwrap();
        assert!(bad != good && Manifest::parse(&bad).is_err(), "{what}");
    }
}
