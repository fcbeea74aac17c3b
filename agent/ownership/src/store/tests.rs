//! The store on disks that tear, fill up and rot.
#![allow(clippy::unwrap_used)]

mod beginnings;
mod disk;
mod growth;
mod power;
mod rot;
mod speed;
mod suite;

use std::path::Path;

use migrate_proto::cluster::ClusterId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::Record;
use migrate_proto::id::StateMark;
use migrate_proto::version::Versions;
use openraft::storage::RaftLogStorageExt;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership};

use self::disk::Disk;
use super::database::Database;
use super::{Store, StoreError};
use crate::types::{Place, Types};

const MARK: StateMark = StateMark([0, 0, 0, 0, 0, 0, 0, 7]);
const NODE: u64 = 7;
const CLUSTER: ClusterId = ClusterId([9; 16]);

fn path() -> &'static Path {
    Path::new("/state/raft.redb")
}

/// An empty store of the cluster on `disk`.
async fn create_on(disk: &Disk) -> Result<Store, StoreError> {
    let owned = disk.clone();
    let mut store = Store::on(path(), MARK, move || Database::create_on(owned, path(), MARK)).await?;
    store.join(CLUSTER).await?;
    Ok(store)
}

/// What is on `disk` already.
async fn open_on(disk: &Disk) -> Result<Store, StoreError> {
    let disk = disk.clone();
    Store::on(path(), MARK, move || Database::on(disk, path(), MARK)).await
}

fn at(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, NODE), index)
}

fn place(name: &str) -> Place {
    Place { name: name.parse().unwrap(), address: format!("{name}:7700") }
}

/// Each makes the record another one.
fn admit(term: u64, index: u64) -> Entry<Types> {
    let command = Command::Admit {
        node: format!("node-{index}").parse().unwrap(),
        mark: StateMark(index.to_be_bytes()),
        address: format!("10.0.0.{index}:7700"),
        versions: Versions { min: 1, max: 1 },
        since: 0,
    };
    Entry { log_id: at(term, index), payload: EntryPayload::Normal(command) }
}

fn voters(term: u64, index: u64, voters: &[u64]) -> Entry<Types> {
    let nodes: std::collections::BTreeMap<u64, Place> =
        voters.iter().map(|voter| (*voter, place(&format!("voter-{voter}")))).collect();
    let membership = Membership::new(vec![voters.iter().copied().collect()], nodes);
    Entry { log_id: at(term, index), payload: EntryPayload::Membership(membership) }
}

/// What everybody's record says after these entries.
fn record_after<'a>(entries: impl IntoIterator<Item = &'a Entry<Types>>) -> Record {
    let mut record = super::machine::nothing_agreed(Some(CLUSTER));
    for entry in entries {
        super::machine::carry_out(&mut record, entry);
    }
    record
}

async fn append(log: &mut super::Log, entries: impl IntoIterator<Item = Entry<Types>>) -> Result<(), String> {
    let entries: Vec<_> = entries.into_iter().collect();
    log.blocking_append(entries).await.map_err(|error| error.to_string())
}

async fn open_file(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("raft.redb"), MARK).await.unwrap()
}
