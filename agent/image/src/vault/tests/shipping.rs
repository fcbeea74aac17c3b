//! From one vault to another: only what is missing crosses, and what comes is believed when it has been compared.

use super::*;

fn ship(from: &Vault, to: &Vault, id: CheckpointId) -> (u64, Generation) {
    let (file, segments) = from.outline(id).unwrap();
    let mut receiving = to.receive();
    let (missing, mut bytes) = (receiving.missing(&segments), file.len() as u64);
    for digest in missing {
        let segment = from.segment(digest).unwrap();
        bytes += segment.len() as u64;
        receiving.put(digest, &segment).unwrap();
    }
    (bytes, receiving.install(&file).unwrap())
}

#[test]
fn only_what_is_new_crosses() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, _) = Vault::open(here.path(), PLENTY).unwrap();
    let (other, _) = Vault::open(there.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(8 << 20, 1));
    let (first, known) = store(&here, &content, None).unwrap();
    let (bytes, shipped) = ship(&here, &other, first.id);
    assert!(bytes > 8 << 20);
    assert_eq!((shipped.id, shipped.new_bytes), (first.id, first.new_bytes));
    let changed = (0..20)
        .map(|n| n * 97)
        .inspect(|at| page(content.memory(), *at).copy_from_slice(&noise(PAGE_BYTES, 50 + *at as u64)));
    let changed = (changed.count() * PAGE_BYTES) as f64;
    let (second, _) = store(&here, &content, Some(known)).unwrap();
    let (bytes, _) = ship(&here, &other, second.id);
    assert!(bytes as f64 <= 1.3 * changed, "{bytes} for {changed}");
    other.check(second.id, None).unwrap();
    assert_eq!(load(&other, second.id).unwrap(), content);
    // Again is no harm.
    assert_eq!(ship(&here, &other, second.id).1.id, second.id);
    assert_eq!(other.generations(&name()).len(), 2);
    let (reopened, broken) = Vault::open(there.path(), PLENTY).unwrap();
    assert!(broken.is_empty());
    assert_eq!(load(&reopened, second.id).unwrap(), content);
}

#[test]
fn what_is_damaged_or_missing_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, _) = Vault::open(here.path(), PLENTY).unwrap();
    let (other, _) = Vault::open(there.path(), PLENTY).unwrap();
    let (generation, _) = store(&here, &Content::of(noise(2 << 20, 1)), None).unwrap();
    let (file, segments) = here.outline(generation.id).unwrap();
    let mut receiving = other.receive();
    let mut bytes = here.segment(segments[0]).unwrap();
    assert!(receiving.put(segments[1], &bytes).is_err(), "another segment");
    receiving.put(segments[0], &bytes).unwrap();
    assert!(matches!(receiving.install(&file), Err(VaultError::Incomplete { .. })));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert!(receiving.put(segments[0], &bytes).is_err(), "damaged");
    assert!(receiving.install(&file[1..]).is_err(), "not a generation");
    drop(receiving);
    assert_eq!(files(there.path()), []);
}

#[test]
fn a_segment_that_is_damaged_is_replaced_from_elsewhere() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, _) = Vault::open(here.path(), PLENTY).unwrap();
    let (other, _) = Vault::open(there.path(), PLENTY).unwrap();
    let (generation, _) = store(&here, &Content::of(noise(2 << 20, 1)), None).unwrap();
    ship(&here, &other, generation.id);
    let (_, segments) = here.outline(generation.id).unwrap();
    let path = here.inner.disk.segment(segments[1]);
    let length = fs::metadata(&path).unwrap().len() as usize;
    let mut bytes = fs::read(&path).unwrap();
    bytes[length / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(here.check(generation.id, None).is_err() && here.segment(segments[1]).is_err());
    here.receive().put(segments[1], &other.segment(segments[1]).unwrap()).unwrap();
    here.check(generation.id, None).unwrap();
    let on_disk: u64 = files(here.dir()).iter().map(|(_, len)| len).sum();
    assert_eq!(here.used_bytes(), on_disk);
}

/// A segment that is gone, or rotten, comes again from elsewhere, and stays.
#[test]
fn a_generation_with_holes_is_mended() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (vault, _) = Vault::open(here.path(), PLENTY).unwrap();
    let (other, _) = Vault::open(there.path(), PLENTY).unwrap();
    let content = Content::of(noise(4 << 20, 1));
    let (generation, _) = store(&vault, &content, None).unwrap();
    ship(&vault, &other, generation.id);
    let (file, segments) = vault.outline(generation.id).unwrap();
    fs::remove_file(vault.inner.disk.segment(segments[0])).unwrap();
    fs::write(vault.inner.disk.segment(segments[1]), b"rot").unwrap();
    drop(vault);
    let (vault, _) = Vault::open(here.path(), PLENTY).unwrap();
    assert!(!vault.generation(generation.id).unwrap().is_usable());
    let mut receiving = vault.receive();
    let lacking = receiving.missing_or_damaged(&Outline::read(&file).unwrap().segments).unwrap();
    assert_eq!(lacking, segments[..2]);
    for digest in lacking {
        receiving.put(digest, &other.segment(digest).unwrap()).unwrap();
    }
    receiving.install(&file).unwrap();
    drop(receiving);
    vault.check(generation.id, None).unwrap();
    vault.note(generation.id, Looked::Sound { at_ms: 1 }).unwrap();
    assert_eq!(load(&vault, generation.id).unwrap(), content);
    drop(vault);
    let (vault, _) = Vault::open(here.path(), PLENTY).unwrap();
    assert!(vault.generation(generation.id).unwrap().is_usable());
}
