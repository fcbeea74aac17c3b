//! The record as raft's state machine: in memory, with the snapshot on the disk behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::Arc;

use migrate_proto::cluster::lease::Voters;
use migrate_proto::cluster::record::{ClusterPolicy, Record};
use migrate_proto::cluster::{ClusterId, VoterId};
use openraft::storage::RaftStateMachine;
use openraft::{
    Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, Membership, OptionalSend, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageError, StoredMembership,
};
use tokio::sync::watch;

use super::database::Database;
use super::error::{Damage, StoreError};
use super::snapshot::{self, Packed, SnapshotError};
use super::writer::{Change, Writer};
use crate::types::{Answer, Place, Types, config_id};

/// Carries out what is agreed.
pub(crate) struct Machine {
    database: Arc<Database>,
    writer: Writer,
    record: Arc<Record>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Place>,
    seen: watch::Sender<Arc<Record>>,
}

/// Makes a snapshot of the record as it was when this was made.
pub(crate) struct SnapshotBuilder {
    database: Arc<Database>,
    writer: Writer,
    record: Arc<Record>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Place>,
}

/// The number of the command in this entry. Commands are numbered from 1, entries from 0.
pub(super) fn revision_of(entry: &LogId<u64>) -> u64 {
    entry.index + 1
}

/// What everybody begins with. A node that has heard of no cluster yet names none.
pub(super) fn nothing_agreed(cluster: Option<ClusterId>) -> Record {
    Record::new(cluster.unwrap_or(ClusterId([0; 16])), ClusterPolicy::default())
}

/// A log that begins after `begin` with this record, and with one voter.
pub(super) fn beginning(
    begin: LogId<u64>,
    mut record: Record,
    voter: (u64, Place),
) -> Result<(Record, Packed), SnapshotError> {
    let membership = Membership::new(vec![[voter.0].into()], BTreeMap::from([voter]));
    record.set_voters(revision_of(&begin), voters_of(&begin, &membership));
    let data = snapshot::encode(&record)?;
    let snapshot_id = snapshot::id_of(Some(&begin), &data);
    let last_membership = StoredMembership::new(Some(begin), membership);
    let of = SnapshotMeta { last_log_id: Some(begin), last_membership, snapshot_id };
    Ok((record, Packed { of, data }))
}

impl Machine {
    /// As it was when the last snapshot was made. Raft applies what has come since.
    pub(super) fn load(database: Arc<Database>, writer: Writer) -> Result<Machine, StoreError> {
        let (record, meta) = match database.snapshot()? {
            None => (nothing_agreed(database.cluster()?), SnapshotMeta::default()),
            Some(Packed { of, data }) => (decode(&database, &of, &data)?, of),
        };
        let (purged, _) = database.log_ends()?;
        if let Some(purged) = purged.filter(|purged| meta.last_log_id < Some(*purged)) {
            return Err(Damage::Gap { purged: purged.index }.at(database.path()));
        }
        let record = Arc::new(record);
        let (seen, _) = watch::channel(Arc::clone(&record));
        Ok(Machine { database, writer, record, applied: meta.last_log_id, membership: meta.last_membership, seen })
    }

    /// The record, as far as it is applied.
    pub(super) fn records(&self) -> watch::Receiver<Arc<Record>> {
        self.seen.subscribe()
    }

    /// Goes on from a snapshot.
    pub(super) fn begin_with(&mut self, record: Record, meta: &SnapshotMeta<u64, Place>) {
        self.record = Arc::new(record);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.show();
    }

    /// What came from the leader.
    fn understand(&self, meta: &SnapshotMeta<u64, Place>, data: &[u8]) -> Result<Record, StoreError> {
        let record = decode(&self.database, meta, data)?;
        match self.database.cluster()? {
            Some(cluster) if cluster != record.cluster.id => Err(StoreError::OtherCluster {
                path: self.database.path().to_owned(),
                store: cluster,
                other: record.cluster.id,
            }),
            _ => Ok(record),
        }
    }

    fn show(&self) {
        self.seen.send_if_modified(|shown| {
            let newer = !Arc::ptr_eq(shown, &self.record);
            shown.clone_from(&self.record);
            newer
        });
    }

    fn apply_one(&mut self, entry: Entry<Types>) -> Answer {
        let answer = match entry.payload {
            EntryPayload::Blank => Answer::Nothing,
            _ => carry_out(Arc::make_mut(&mut self.record), &entry),
        };
        self.applied = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = entry.payload {
            self.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        answer
    }
}

/// What an entry does to the record. It depends on nothing else, so that it is the same on every node.
pub(super) fn carry_out(record: &mut Record, entry: &Entry<Types>) -> Answer {
    let revision = revision_of(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => Answer::Nothing,
        EntryPayload::Normal(command) => match record.apply(revision, command) {
            Ok(applied) => Answer::Applied(applied),
            Err(refusal) => Answer::Refused(refusal),
        },
        EntryPayload::Membership(membership) => {
            record.set_voters(revision, voters_of(&entry.log_id, membership));
            Answer::Nothing
        }
    }
}

/// What the entry `at` says about who votes.
pub(super) fn voters_of(at: &LogId<u64>, membership: &Membership<u64, Place>) -> Voters {
    let set = |set: &BTreeSet<u64>| set.iter().copied().map(VoterId).collect();
    Voters { config: config_id(at), sets: membership.get_joint_config().iter().map(set).collect() }
}

fn decode(database: &Database, meta: &SnapshotMeta<u64, Place>, data: &[u8]) -> Result<Record, StoreError> {
    snapshot::decode(data, meta.last_log_id.as_ref()).map_err(|reason| Damage::Snapshot(reason).at(database.path()))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Place>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let answers = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.show();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            database: Arc::clone(&self.database),
            writer: self.writer.clone(),
            record: Arc::clone(&self.record),
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Place>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let subject = || ErrorSubject::Snapshot(Some(meta.signature()));
        let data = snapshot.into_inner();
        let record = self.understand(meta, &data).map_err(|e| e.in_raft(subject(), ErrorVerb::Read))?;
        let change = Change::Snapshot(Packed { of: meta.clone(), data });
        self.writer.write(vec![change]).await.map_err(|e| e.in_raft(subject(), ErrorVerb::Write))?;
        self.begin_with(record, meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let stored = self.database.snapshot().map_err(|e| e.in_raft(ErrorSubject::Snapshot(None), ErrorVerb::Read))?;
        Ok(stored.map(Packed::for_raft))
    }
}

impl SnapshotBuilder {
    async fn build(&self) -> Result<Snapshot<Types>, StoreError> {
        let (record, database) = (Arc::clone(&self.record), Arc::clone(&self.database));
        let packing = tokio::task::spawn_blocking(move || {
            snapshot::encode(&record).map_err(|reason| Damage::Snapshot(reason).at(database.path()))
        });
        let data =
            packing.await.unwrap_or_else(|_| Err(StoreError::Stopped { path: self.database.path().to_owned() }))?;
        let snapshot_id = snapshot::id_of(self.applied.as_ref(), &data);
        let of = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id };
        let packed = Packed { of, data };
        self.writer.write(vec![Change::Snapshot(packed.clone())]).await?;
        Ok(packed.for_raft())
    }
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        self.build().await.map_err(|e| e.in_raft(ErrorSubject::Snapshot(None), ErrorVerb::Write))
    }
}
