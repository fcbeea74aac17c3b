#![allow(clippy::unwrap_used)]

use migrate_proto::cluster::record::ClusterPolicy;

use super::*;
use crate::suite::declare;

fn record() -> Record {
    let mut record = Record::new(ClusterId([7; 16]), ClusterPolicy::default());
    record.apply(4, &declare("web", 1, 0)).unwrap();
    record
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.json");
    assert!(matches!(Backup::read(&path), Err(BackupError::Missing { .. })));
    for _ in 0..2 {
        Backup::of(&record()).write(&path).unwrap();
        assert_eq!(*Backup::read(&path).unwrap().record(), record());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn damage_anywhere_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.json");
    Backup::of(&record()).write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let read = Backup::read(&path);
        assert!(matches!(read, Err(BackupError::Damaged { .. })), "byte {at}: {read:?}");
    }
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(matches!(Backup::read(&path), Err(BackupError::Damaged { .. })));
}
