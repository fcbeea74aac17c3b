//! What is in etcd, as far as this node has heard: the record, and who has given a sign of life when.
//!
//! Each entry of the record is a key of its own, so that commands about different workloads do not wait for each other. The number of
//! a command is etcd's revision as it was read, + 1: it rises with every change of an entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use migrate_proto::cluster::command::EntryKey;
use migrate_proto::cluster::lease::Terms;
use migrate_proto::cluster::record::{ClusterPolicy, Record};
use migrate_proto::cluster::{Claim, ClusterId};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;

use super::address::EtcdAddress;
use super::kv::{Pair, Seen};

/// A node's sign of life in one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Beat {
    pub(super) session: u64,
    /// How many there were before it; 0 is the opening of the session.
    pub(super) number: u64,
    /// The session is fenced, or the node has left: there are no more.
    pub(super) over: bool,
    /// How long it is worth something.
    pub(super) terms: Terms,
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seat {
    pub(super) by: StateMark,
    /// How often somebody has taken it.
    pub(super) term: u64,
    /// How often it was kept since.
    pub(super) number: u64,
    pub(super) terms: Terms,
}

/// Something, since when it has been seen unchanged here, and the revision that says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unchanged<T> {
    pub(super) what: T,
    pub(super) revision: u64,
    pub(super) since: Instant,
}

/// What must never be, and only people can mend.
#[derive(Debug, Error)]
pub(super) enum Damage {
    /// A newer agent has written it, or somebody else.
    #[error("the key {key} in etcd cannot be read: {source}")]
    Unreadable { key: String, source: serde_json::Error },
    /// Not one of ours.
    #[error("there is a key {key} in etcd that is none of the record's")]
    Foreign { key: String },
    /// Somebody has deleted the record, and perhaps made another.
    #[error("the cluster's record in etcd was deleted")]
    Deleted,
}

/// The copy.
#[derive(Debug, Clone)]
pub(super) struct Mirror {
    pub(super) record: Arc<Record>,
    /// With which revision the cluster's entry was made: that of another cluster has another.
    pub(super) made: u64,
    /// The last revision that it has something of.
    pub(super) upto: u64,
    beats: BTreeMap<NodeName, Unchanged<Beat>>,
    pub(super) seat: Option<Unchanged<Seat>>,
}

impl Mirror {
    /// Of everything that is there; none where no cluster was founded. What has not changed since `before` keeps its time.
    pub(super) fn of(
        address: &EtcdAddress,
        pairs: Vec<Pair>,
        before: Option<&Mirror>,
        now: Instant,
    ) -> Result<Option<Mirror>, Damage> {
        let cluster = address.entry(&EntryKey::Cluster);
        let Some(made) = pairs.iter().find(|pair| pair.key == cluster).map(|pair| pair.create_revision) else {
            return Ok(None);
        };
        let record = Arc::new(Record::new(ClusterId([0; 16]), ClusterPolicy::default()));
        let mut mirror = Mirror { record, made, upto: 0, beats: BTreeMap::new(), seat: None };
        if let Some(before) = before {
            (mirror.beats, mirror.seat) = (before.beats.clone(), before.seat);
            let there = |key: &str| pairs.iter().any(|pair| pair.key == key);
            mirror.beats.retain(|node, _| there(&address.beat(node)));
            mirror.seat = mirror.seat.filter(|_| there(&address.seat()));
        }
        for pair in pairs {
            mirror.put(address, pair, now)?;
        }
        Ok(Some(mirror))
    }

    /// What has happened since.
    pub(super) fn take(&mut self, address: &EtcdAddress, seen: Seen, now: Instant) -> Result<(), Damage> {
        for event in seen.events {
            if event.is_gone() {
                self.remove(address, &event.kv)?;
            } else {
                self.put(address, event.kv, now)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, address: &EtcdAddress, pair: Pair, now: Instant) -> Result<(), Damage> {
        self.upto = self.upto.max(pair.mod_revision);
        if let Some(node) = pair.key.strip_prefix(&address.beats()) {
            if let Ok(node) = node.parse::<NodeName>() {
                note(self.beats.get_mut(&node), &pair, now)?.map(|beat| self.beats.insert(node, beat));
                return Ok(());
            }
        } else if pair.key == address.seat() {
            if let Some(seat) = note(self.seat.as_mut(), &pair, now)? {
                self.seat = Some(seat);
            }
            return Ok(());
        } else if pair.key == address.etcd() {
            return Ok(());
        } else if let Some(key) = entry_key(address, &pair.key) {
            let made = self.made;
            let record = Arc::make_mut(&mut self.record);
            if key == EntryKey::Cluster && pair.create_revision != made {
                return Err(Damage::Deleted);
            }
            put_entry(record, &key, &pair)?;
            record.revision = record.revision.max(pair.mod_revision);
            return Ok(());
        }
        Err(Damage::Foreign { key: pair.key })
    }

    fn remove(&mut self, address: &EtcdAddress, pair: &Pair) -> Result<(), Damage> {
        self.upto = self.upto.max(pair.mod_revision);
        if let Some(node) = pair.key.strip_prefix(&address.beats()).and_then(|node| node.parse::<NodeName>().ok()) {
            self.beats.remove(&node);
        } else if pair.key == address.seat() {
            self.seat = None;
        } else if let Some(key) = entry_key(address, &pair.key) {
            let record = Arc::make_mut(&mut self.record);
            match key {
                EntryKey::Cluster => return Err(Damage::Deleted),
                EntryKey::Node(node) => drop(record.nodes.remove(&node)),
                EntryKey::Load(load) => drop(record.loads.remove(&load)),
            }
            record.revision = record.revision.max(pair.mod_revision);
        }
        Ok(())
    }

    /// That the lease of this claim is over for ever, where that is so: the revision of its last beat, which has been seen unchanged
    /// for longer than it is worth anything, counted from when it was seen. It was sent before that; a later one would have
    /// changed the revision; and a fence that compares it leaves no room for one.
    pub(super) fn lapsed(&self, claim: &Claim, terms: Terms, now: Instant) -> Option<u64> {
        let seen = self.beats.get(&claim.node)?;
        let beat = seen.what;
        let worth = std::time::Duration::from_nanos(terms.promise().max(beat.terms.promise()));
        let over = beat.session == claim.session && now.duration_since(seen.since) >= worth;
        over.then_some(seen.revision)
    }
}

/// The new value, where there is one.
fn note<T: DeserializeOwned>(
    known: Option<&mut Unchanged<T>>,
    pair: &Pair,
    now: Instant,
) -> Result<Option<Unchanged<T>>, Damage> {
    if known.is_some_and(|known| known.revision >= pair.mod_revision) {
        return Ok(None);
    }
    Ok(Some(Unchanged { what: value(pair)?, revision: pair.mod_revision, since: now }))
}

pub(super) fn value<T: DeserializeOwned>(pair: &Pair) -> Result<T, Damage> {
    serde_json::from_slice(&pair.value).map_err(|source| Damage::Unreadable { key: pair.key.clone(), source })
}

/// Which entry a key is.
fn entry_key(address: &EtcdAddress, key: &str) -> Option<EntryKey> {
    let entry = key.strip_prefix(&address.record())?;
    match entry.split_once('/') {
        None if entry == EntryKey::Cluster.to_string() => Some(EntryKey::Cluster),
        Some(("node", node)) => Some(EntryKey::Node(node.parse().ok()?)),
        Some(("load", load)) => Some(EntryKey::Load(load.parse().ok()?)),
        _ => None,
    }
}

/// Takes what the pair says into a record.
pub(super) fn put_entry(record: &mut Record, key: &EntryKey, pair: &Pair) -> Result<(), Damage> {
    match key {
        EntryKey::Cluster => record.cluster = value(pair)?,
        EntryKey::Node(node) => drop(record.nodes.insert(node.clone(), value(pair)?)),
        EntryKey::Load(load) => drop(record.loads.insert(load.clone(), value(pair)?)),
    }
    Ok(())
}

/// What is to be written for an entry; nothing where there is none.
pub(super) fn entry_value(record: &Record, key: &EntryKey) -> Result<Option<Vec<u8>>, serde_json::Error> {
    match key {
        EntryKey::Cluster => serde_json::to_vec(&record.cluster).map(Some),
        EntryKey::Node(node) => record.nodes.get(node).map(serde_json::to_vec).transpose(),
        EntryKey::Load(load) => record.loads.get(load).map(serde_json::to_vec).transpose(),
    }
}
