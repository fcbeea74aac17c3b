//! A store that is used for years, and one that has no room any more.

use openraft::RaftLogReader;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use super::disk::Disk;
use super::{admit, append, at, create_on, open_on, voters};

/// Some entries, a snapshot, and the log cut behind it. How large the file is then, while it is in use: it shrinks when it is closed, which
/// another thread does when it is done.
async fn use_it(disk: &Disk, rounds: std::ops::Range<u64>) -> usize {
    let (mut log, mut machine) = open_on(disk).await.unwrap().split();
    for round in rounds {
        let entries: Vec<_> = (100 * round..100 * (round + 1)).map(|index| voters(1, index, &[index % 7])).collect();
        append(&mut log, entries.clone()).await.unwrap();
        let last = entries.last().unwrap().log_id;
        log.save_committed(Some(last)).await.unwrap();
        machine.apply(entries).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        log.purge(last).await.unwrap();
    }
    disk.bytes().len()
}

#[tokio::test]
async fn the_file_does_not_grow_with_time() {
    let disk = Disk::default();
    drop(create_on(&disk).await.unwrap());
    let disk = disk.after_kill();
    let young = use_it(&disk, 0..10).await;
    let old = use_it(&disk.after_kill(), 10..300).await;
    assert!(old <= 2 * young, "{young} bytes after 10 rounds, {old} after 300");
}

#[tokio::test]
async fn without_room_it_says_so_with_the_file_and_loses_nothing() {
    let disk = Disk::default();
    let (mut log, machine) = create_on(&disk).await.unwrap().split();
    disk.has_room_for(Some(disk.bytes().len() as u64 + (64 << 10)));
    let mut index = 0;
    let said = loop {
        match append(&mut log, [voters(1, index, &(0..1_000).collect::<Vec<_>>())]).await {
            Ok(()) => index += 1,
            Err(said) => break said,
        }
        assert!(index < 10_000, "there was room for all of it");
    };
    assert!(said.contains("/state/raft.redb") && said.contains("no room"), "{said}");
    let later = log.save_vote(&openraft::Vote::new(9, 7)).await.unwrap_err().to_string();
    assert!(later.contains("/state/raft.redb") && later.contains("no room"), "{later}");
    drop((log, machine));

    let disk = disk.after_kill();
    let (mut log, _machine) = open_on(&disk).await.unwrap().split();
    let kept = log.try_get_log_entries(..).await.unwrap();
    assert!(index > 0 && kept.len() as u64 == index, "{index} were acknowledged, {} are there", kept.len());
    assert_eq!(log.read_vote().await.unwrap(), None);
    append(&mut log, [admit(1, index)]).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(at(1, index)));
}
