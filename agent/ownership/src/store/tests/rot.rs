//! Bytes that are not what was written: they are noticed, or they did not matter.

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{RaftLogReader, RaftSnapshotBuilder, Vote};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::StoreError;
use super::disk::Disk;
use super::{admit, append, at, create_on, open_on};

const FLIPS: u32 = 400;
/// Which of the two last commits counts stands in here.
const HEADER: usize = 320;

/// A store with something of everything, closed.
async fn full_store() -> Disk {
    let disk = Disk::default();
    let store = create_on(&disk).await.unwrap();
    let closed = store.closed();
    let (mut log, mut machine) = store.split();
    log.save_vote(&Vote::new(3, 7)).await.unwrap();
    append(&mut log, (0..40).map(|index| admit(2, index))).await.unwrap();
    log.save_committed(Some(at(2, 20))).await.unwrap();
    machine.apply((0..=20).map(|index| admit(2, index))).await.unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    log.purge(at(2, 9)).await.unwrap();
    drop((log, machine));
    closed.wait().await;
    disk
}

/// All that it says, or what it says instead.
async fn everything(disk: &Disk) -> Result<String, String> {
    let said = |e: openraft::StorageError<u64>| e.to_string();
    let store = open_on(disk).await.map_err(|e| e.to_string())?;
    let record = store.records().borrow().clone();
    let cluster = store.cluster().map_err(|e| e.to_string())?;
    let (mut log, mut machine) = store.split();
    let vote = log.read_vote().await.map_err(said)?;
    let committed = log.read_committed().await.map_err(said)?;
    let ends = log.get_log_state().await.map_err(said)?;
    let entries = log.try_get_log_entries(..).await.map_err(said)?;
    let snapshot = machine.get_current_snapshot().await.map_err(said)?;
    Ok(format!("{record:?} {cluster:?} {vote:?} {committed:?} {ends:?} {entries:?} {snapshot:?}"))
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_does_not_matter() {
    let disk = full_store().await;
    let truth = everything(&disk.after_kill()).await.unwrap();
    let used: Vec<usize> = disk.bytes().iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    let mut dice = StdRng::seed_from_u64(3);
    let anywhere: Vec<usize> = (0..FLIPS).map(|_| used[dice.random_range(0..used.len())]).collect();
    let mut noticed = 0;
    for at in (0..HEADER).chain(anywhere) {
        let mut bytes = disk.bytes();
        bytes[at] ^= 1 << dice.random_range(0..8);
        match everything(&Disk::with(bytes)).await {
            Ok(said) => assert_eq!(said, truth, "byte {at}"),
            Err(said) => {
                assert!(said.contains("/state/raft.redb"), "{said}");
                noticed += 1;
            }
        }
    }
    assert!(noticed > FLIPS / 10, "{noticed}");
}

#[tokio::test]
async fn what_is_no_store_at_all_is_called_damaged() {
    let disk = full_store().await;
    for bytes in [b"#!/bin/sh\n".repeat(900), disk.bytes()[..4096].to_vec(), vec![0; 70_000]] {
        let error = open_on(&Disk::with(bytes)).await.err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("/state/raft.redb") && said.contains("forget"), "{said}");
    }
}
