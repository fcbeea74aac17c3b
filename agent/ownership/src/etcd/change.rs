//! A command: what it names is read, it is carried out here, and what it has changed is written if everything is still as it was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::{Command, EntryKey};
use migrate_proto::cluster::record::{Applied, ClusterPolicy, Record};
use migrate_proto::name::NodeName;
use tokio::time::{Instant, sleep, timeout_at};

use super::Shared;
use super::kv::{MAX_OPERATIONS, Pair, Transaction};
use super::mirror::{Beat, Damage, entry_value, put_entry};
use crate::ownership::ProposeError;
use crate::wire;

/// How long somebody waits whom others were quicker than: so much for each time, and a little that differs from node to node.
const APART: Duration = Duration::from_millis(3);

/// The entries of a command as they were at one moment.
pub(super) struct Part {
    pub(super) record: Record,
    /// With which revision each was last written; 0 where there is none.
    revisions: BTreeMap<EntryKey, u64>,
    /// What the command is numbered with: every number in the entries is lower.
    pub(super) number: u64,
}

impl Shared {
    pub(super) async fn change(&self, command: &Command) -> Result<Applied, ProposeError> {
        wire::fits(command)?;
        let (keys, deadline) = (Record::entries_of(command), self.in_time());
        if keys.len() >= MAX_OPERATIONS {
            return Err(ProposeError::TooMany { entries: keys.len(), limit: MAX_OPERATIONS - 1 });
        }
        let mut fences = Vec::new();
        fenced_by(command, &mut fences);
        for lost in 0_u32.. {
            let before = self.read(&keys, deadline).await?;
            let mut after = before.record.clone();
            if after.apply(before.number, command)? == Applied::AlreadySo {
                return Ok(Applied::AlreadySo);
            }
            let transaction = self.transaction(&before, &after, &fences)?;
            let committed = self.store.commit(transaction, deadline).await;
            if committed.map_err(|error| self.failed(error))?.succeeded {
                self.note(|known| known.complaint = None);
                return Ok(Applied::Changed);
            }
            if Instant::now() >= deadline {
                break;
            }
            // Different nodes wait differently long.
            let mine = u32::try_from(self.me().0 % 7).unwrap_or(0) + 1;
            sleep(APART * lost.min(5) * mine).await;
        }
        // It was surely not done; but this is what makes whoever asks ask again.
        Err(ProposeError::Unknown)
    }

    /// The entries as they are now, whoever has changed them.
    pub(super) async fn read(&self, keys: &[EntryKey], deadline: Instant) -> Result<Part, ProposeError> {
        let made = self.made()?;
        let cluster = self.setup.address.entry(&EntryKey::Cluster);
        let names: Vec<String> = keys.iter().map(|key| self.setup.address.entry(key)).collect();
        // The cluster's own comes last, to see that it is still the same cluster.
        let read = names.iter().map(String::as_str).chain([cluster.as_str()]);
        let outcome = self.store.these(read, deadline).await.map_err(|error| self.unread(&error))?;
        let mut found: Vec<Option<Pair>> =
            outcome.found.into_iter().map(|found| found.kvs.into_iter().next()).collect();
        if found.len() != keys.len() + 1 {
            return Err(ProposeError::NoQuorum);
        }
        let Some(Some(whole)) =
            found.pop().filter(|whole| whole.as_ref().is_some_and(|pair| pair.create_revision == made))
        else {
            return Err(self.spoilt(&Damage::Deleted));
        };
        let spoilt = |damage| self.spoilt(&damage);
        let mut record = Record::new(migrate_proto::cluster::ClusterId([0; 16]), ClusterPolicy::default());
        let mut revisions = BTreeMap::new();
        // Every part of a record knows which cluster it is of.
        put_entry(&mut record, &EntryKey::Cluster, &whole).map_err(spoilt)?;
        for (key, pair) in keys.iter().zip(found) {
            revisions.insert(key.clone(), pair.as_ref().map_or(0, |pair| pair.mod_revision));
            if let Some(pair) = pair {
                put_entry(&mut record, key, &pair).map_err(spoilt)?;
            }
        }
        record.revision = revisions.values().copied().max().unwrap_or(0);
        Ok(Part { record, revisions, number: outcome.header.revision + 1 })
    }

    pub(super) fn transaction(
        &self,
        before: &Part,
        after: &Record,
        fences: &[&Claim],
    ) -> Result<Transaction, ProposeError> {
        let address = &self.setup.address;
        let mut transaction = Transaction::default().if_made_at(&address.entry(&EntryKey::Cluster), self.made()?);
        for (key, revision) in &before.revisions {
            let name = address.entry(key);
            transaction = transaction.if_written_at(&name, *revision);
            let unwritten = |error: serde_json::Error| ProposeError::Stopped(error.to_string());
            let new = entry_value(after, key).map_err(unwritten)?;
            if new == entry_value(&before.record, key).map_err(unwritten)? {
                continue;
            }
            transaction = match new {
                Some(value) => transaction.put(&name, &value),
                None => transaction.delete(&name),
            };
            if let EntryKey::Node(node) = key {
                transaction = self.beats_on(transaction, node, (&before.record, after), fences)?;
            }
        }
        Ok(transaction)
    }

    /// A session that is opened has its first beat with that. One that is fenced has had its last, and that must be the one which was
    /// seen for so long that it is worth nothing any more.
    fn beats_on(
        &self,
        transaction: Transaction,
        node: &NodeName,
        (before, after): (&Record, &Record),
        fences: &[&Claim],
    ) -> Result<Transaction, ProposeError> {
        let Some(now) = after.nodes.get(node) else { return Ok(transaction) };
        let (was_session, was_fenced) = before.nodes.get(node).map_or((0, false), |was| (was.session, was.fenced));
        if (was_session, was_fenced) == (now.session, now.fenced) {
            return Ok(transaction);
        }
        let key = self.setup.address.beat(node);
        let beat = Beat { session: now.session, number: 0, over: now.fenced, terms: self.setup.terms };
        let value = serde_json::to_vec(&beat).map_err(|error| ProposeError::Stopped(error.to_string()))?;
        let transaction = transaction.put(&key, &value);
        match fences.iter().find(|claim| claim.node == *node && now.fenced && now.session == claim.session) {
            None => Ok(transaction),
            Some(claim) => {
                let seen = self.lapsed(claim).ok_or_else(|| ProposeError::NotLapsed(Claim::clone(claim)))?;
                Ok(transaction.if_written_at(&key, seen))
            }
        }
    }

    /// This node's copy, when it has everything that was written before this was called.
    pub(super) async fn confirmed(&self) -> Result<Arc<Record>, ProposeError> {
        self.made()?;
        let (deadline, mut moved) = (self.in_time(), self.moved.subscribe());
        let last = self.store.last(&self.setup.address.record(), deadline).await;
        // What is deleted is deleted together with something that is written.
        let last = last.map_err(|error| self.unread(&error))?.kvs.first().map_or(0, |pair| pair.mod_revision);
        loop {
            moved.borrow_and_update();
            self.made()?;
            let record = self.record.borrow().clone();
            if record.revision >= last {
                return Ok(record);
            }
            if !matches!(timeout_at(deadline, moved.changed()).await, Ok(Ok(()))) {
                return Err(ProposeError::NoQuorum);
            }
        }
    }

    fn unread(&self, error: &super::CallError) -> ProposeError {
        tracing::debug!(%error, "nothing was read");
        ProposeError::NoQuorum
    }

    /// What a person has to look at.
    fn spoilt(&self, damage: &Damage) -> ProposeError {
        let why = damage.to_string();
        self.note(|known| known.stopped = Some(why.clone()));
        ProposeError::Stopped(why)
    }
}

fn fenced_by<'a>(command: &'a Command, fences: &mut Vec<&'a Claim>) {
    match command {
        Command::Fence { lapsed, .. } => fences.push(lapsed),
        Command::Many(commands) => commands.iter().for_each(|command| fenced_by(command, fences)),
        _ => {}
    }
}
