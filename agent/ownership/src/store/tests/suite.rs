//! What openraft itself demands of a store.

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{ErrorSubject, ErrorVerb, RaftLogReader, StorageError};
use tempfile::TempDir;

use super::super::{Log, Machine, Store};
use super::{MARK, append, at, open_file, voters};
use crate::types::Types;

struct OnFiles;

impl StoreBuilder<Types, Log, Machine, TempDir> for OnFiles {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<u64>> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("raft.redb"), MARK).await;
        let (log, machine) = store.map_err(|e| e.in_raft(ErrorSubject::Store, ErrorVerb::Write))?.split();
        Ok((directory, log, machine))
    }
}

#[test]
fn openraft_finds_nothing_wrong() {
    Suite::test_all(OnFiles).unwrap();
}

#[tokio::test]
async fn a_message_has_as_many_entries_as_fit_and_one_at_least() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open_file(&directory).await.split();
    let many: Vec<u64> = (0..8_000).collect();
    append(&mut log, (0..6).map(|index| voters(1, index, &many))).await.unwrap();
    let each = serde_json::to_vec(&voters(1, 1, &many)).unwrap().len();
    assert!(each < 512 << 10 && 2 * each > 512 << 10, "one fits, two do not: {each}");
    let got = log.limited_get_log_entries(1, 6).await.unwrap();
    assert_eq!(got.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [1]);
    assert_eq!(log.try_get_log_entries(1..6).await.unwrap().len(), 5);
    assert_eq!(log.limited_get_log_entries(3, 3).await.unwrap(), []);
}

#[tokio::test]
async fn how_far_it_is_committed_survives_a_stop_in_peace() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_file(&directory).await;
    let closed = store.closed();
    let (mut log, machine) = store.split();
    append(&mut log, (0..3).map(|index| super::admit(1, index))).await.unwrap();
    log.save_committed(Some(at(1, 2))).await.unwrap();
    drop((log, machine));
    closed.wait().await;
    let (mut log, mut machine) = open_file(&directory).await.split();
    assert_eq!(log.read_committed().await.unwrap(), Some(at(1, 2)));
    assert_eq!(machine.applied_state().await.unwrap().0, None);
}
