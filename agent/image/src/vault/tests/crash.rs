//! The agent dies, or the power goes, between any two changes of files.

use super::fuse::Lost;
use super::*;

#[test]
fn the_old_generation_or_the_new_one_is_there_whenever_it_ends() {
    for lost in [Lost::Nothing, Lost::Everything, Lost::Some] {
        for at in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
            let old = Content::of(noise(2 << 20, 1));
            let (first, known) = store(&vault, &old, None).unwrap();
            vault.note(first.id, Looked::Sound { at_ms: 1 }).unwrap();
            let mut new = old.clone();
            (0..300).for_each(|at| page(new.memory(), at).copy_from_slice(&noise(PAGE_BYTES, 1000 + at as u64)));

            vault.inner.disk.fuse.blow_after(at);
            let stored = store(&vault, &new, Some(known));
            let committed = stored.as_ref().ok().map(|(generation, _)| generation.id);
            let dropped = committed.is_some_and(|id| {
                vault.note(id, Looked::Sound { at_ms: 2 }).is_ok() && vault.drop_generation(first.id).is_ok()
            });
            let blown = vault.inner.disk.fuse.blown();
            if blown {
                vault.inner.disk.fuse.lose(lost);
            }
            drop(vault);

            let (vault, broken) = Vault::open(dir.path(), PLENTY).unwrap();
            let there: Vec<Generation> = vault.generations(&name());
            let ids: Vec<CheckpointId> = there.iter().map(|generation| generation.id).collect();
            assert!(broken.is_empty(), "{lost:?} {at}: {broken:?}");
            assert!(there.iter().all(Generation::is_usable), "{lost:?} {at}: {there:?}");
            assert!(ids.contains(&first.id) || committed.is_some_and(|id| ids.contains(&id)), "{lost:?} {at}");
            // Who was told that it is stored can rely upon it.
            assert!(committed.is_none_or(|id| ids.contains(&id)), "{lost:?} {at}");
            assert!(!dropped || blown || !ids.contains(&first.id), "{lost:?} {at}");
            for id in ids {
                let expected = if id == first.id { &old } else { &new };
                assert_eq!(&load(&vault, id).unwrap(), expected, "{lost:?} {at}");
            }
            let on_disk: u64 = files(dir.path())
                .iter()
                .filter(|(path, _)| path.extension().is_none_or(|e| e != "looked"))
                .map(|(_, len)| len)
                .sum();
            assert_eq!(vault.used_bytes(), on_disk, "{lost:?} {at}: nothing is forgotten");
            if !blown {
                assert!(at > 10, "{at} steps");
                break;
            }
        }
    }
}
