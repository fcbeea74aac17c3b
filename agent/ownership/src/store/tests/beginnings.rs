//! A store that is new, that is found again, that begins a cluster, or that should not be here.

use std::os::unix::fs::PermissionsExt;

use migrate_proto::cluster::VoterId;
use migrate_proto::cluster::record::{ClusterPolicy, Record};
use migrate_proto::id::StateMark;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{RaftSnapshotBuilder, StorageHelper, Vote};

use super::super::{Store, StoreError};
use super::disk::Disk;
use super::{CLUSTER, MARK, NODE, admit, append, at, create_on, open_file, open_on, place, record_after};
use crate::types::config_id;

#[tokio::test]
async fn the_file_is_for_its_owner_only_and_appears_complete() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("raft.redb.new"), "half of one").unwrap();
    let store = open_file(&directory).await;
    assert!(store.is_empty().unwrap());
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["raft.redb"]);
    let mode = std::fs::metadata(directory.path().join("raft.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let first = Store::open(&path, MARK).await.unwrap();
    let second = Store::open(&path, MARK).await.err().unwrap();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    let closed = first.closed();
    drop(first);
    closed.wait().await;
    Store::open(&path, MARK).await.unwrap();
}

#[tokio::test]
async fn the_store_of_another_node_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let store = Store::open(&path, MARK).await.unwrap();
    let closed = store.closed();
    drop(store);
    closed.wait().await;
    let other = Store::open(&path, StateMark([8; 8])).await.err().unwrap();
    assert!(matches!(&other, StoreError::OtherMark { store, .. } if *store == MARK), "{other}");
    let said = other.to_string();
    assert!(said.contains(path.to_str().unwrap()) && said.contains("0000000000000007"), "{said}");
    Store::open(&path, MARK).await.unwrap();
}

#[tokio::test]
async fn a_node_stays_in_its_cluster() {
    let disk = Disk::default();
    let mut store = create_on(&disk).await.unwrap();
    assert_eq!(store.records().borrow().cluster.id, CLUSTER);
    store.join(CLUSTER).await.unwrap();
    let other = store.join(migrate_proto::cluster::ClusterId([1; 16])).await.unwrap_err();
    assert!(matches!(other, StoreError::OtherCluster { .. }), "{other}");
    assert!(store.is_empty().unwrap());
    let again = open_on(&disk.after_kill()).await.unwrap();
    assert_eq!((again.cluster().unwrap(), again.records().borrow().cluster.id), (Some(CLUSTER), CLUSTER));
}

#[tokio::test]
async fn a_snapshot_of_another_cluster_is_refused() {
    let (ours, theirs) = (Disk::default(), tempfile::tempdir().unwrap());
    let mut store = open_file(&theirs).await;
    store
        .found(Record::new(migrate_proto::cluster::ClusterId([1; 16]), ClusterPolicy::default()), place("them"))
        .await
        .unwrap();
    let (_log, mut machine) = store.split();
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    let (_log, mut machine) = create_on(&ours).await.unwrap().split();
    let refused = machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to the cluster 0909"), "{refused}");
    assert_eq!(machine.records().borrow().cluster.id, CLUSTER);
}

#[tokio::test]
async fn a_cluster_begins_after_the_record_that_it_begins_with() {
    let directory = tempfile::tempdir().unwrap();
    let old = record_after(&[admit(4, 39), admit(4, 40)]);
    let mut store = open_file(&directory).await;
    store.found(old.clone(), place("first")).await.unwrap();
    let shown = store.records().borrow().clone();
    assert_eq!((&shown.nodes, shown.cluster.id, shown.revision), (&old.nodes, CLUSTER, 42));
    assert_eq!(shown.cluster.voters.now.config, config_id(&at(1, 41)));
    assert!(shown.cluster.voters.are_only(VoterId(NODE)));
    let again = store.found(old, place("first")).await.unwrap_err();
    assert!(matches!(again, StoreError::NotEmpty { .. }), "{again}");
    let closed = store.closed();
    drop(store);
    closed.wait().await;

    let store = open_file(&directory).await;
    assert_eq!(store.records().borrow().clone(), shown);
    let (mut log, mut machine) = store.split();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(1, NODE)));
    let state = StorageHelper::new(&mut log, &mut machine).get_initial_state().await.unwrap();
    assert_eq!(state.membership_state.effective().voter_ids().collect::<Vec<_>>(), [NODE]);
    assert_eq!(state.membership_state.effective().get_node(&NODE), Some(&place("first")));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(at(1, 41)));
}

#[tokio::test]
async fn what_took_long_does_not_replace_what_came_from_the_leader() {
    let (ours, leaders) = (Disk::default(), Disk::default());
    let (_log, mut leader) = create_on(&leaders).await.unwrap().split();
    leader.apply((0..9).map(|index| admit(1, index))).await.unwrap();
    let newer = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();

    let (mut log, mut machine) = create_on(&ours).await.unwrap().split();
    append(&mut log, (0..3).map(|index| admit(1, index))).await.unwrap();
    machine.apply((0..3).map(|index| admit(1, index))).await.unwrap();
    let mut slow = machine.get_snapshot_builder().await;
    machine.install_snapshot(&newer.meta, newer.snapshot).await.unwrap();
    let older = slow.build_snapshot().await.unwrap();
    assert_eq!(older.meta.last_log_id, Some(at(1, 2)));
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta, newer.meta);
    let again = open_on(&ours.after_kill()).await.unwrap();
    assert_eq!(
        *again.records().borrow().clone(),
        record_after(&(0..9).map(|index| admit(1, index)).collect::<Vec<_>>())
    );
}
