//! The record of a node by itself: in memory, and in a file that is replaced with every change.
//!
//! Also that of a node with static peers, of which each has a record of its own: a workload that moves to a peer is granted to it, whoever
//! that is, and is not this record's business any more. Sessions have no end here, for there is nobody who could take anything over.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{LogId, Voters};
use migrate_proto::cluster::record::{Applied, ClusterPolicy, Record, Refusal};
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::id::{Digest, StateMark};
use migrate_proto::name::NodeName;
use thiserror::Error;
use tokio::sync::{Mutex, watch};

use crate::backup::{Backup, BackupError};
use crate::ownership::{BadVoter, Joiner, Ownership, ProposeError, Shown, Standing, State};
use crate::wire;

/// Keeps the record of one node.
pub struct Local {
    me: Joiner,
    file: PathBuf,
    record: watch::Sender<Arc<Record>>,
    standing: watch::Sender<Standing>,
    /// One command at a time.
    turn: Mutex<()>,
}

/// Why a node cannot keep its own record.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The file.
    #[error(transparent)]
    File(#[from] BackupError),
    /// The record in the file.
    #[error("{} is not this node's: {refusal}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why the node is not in it.
        refusal: Refusal,
    },
}

impl Local {
    /// Goes on with the record in `file`, or begins one of the number `fresh`.
    pub async fn open(file: PathBuf, me: Joiner, fresh: ClusterId) -> Result<Local, LocalError> {
        let mut record = match Backup::read(&file) {
            Ok(backup) => backup.record().clone(),
            Err(BackupError::Missing { .. }) => Record::new(fresh, ClusterPolicy::default()),
            Err(error) => return Err(error.into()),
        };
        let refused = |refusal| LocalError::Refused { path: file.clone(), refusal };
        let admit = admission(&record, &me);
        carry_out(&mut record, &admit).map_err(refused)?;
        Backup::of(&record).write(&file)?;
        let standing = Standing {
            cluster: Some(record.cluster.id),
            state: State::Leader,
            leader: Some(me.id()),
            term: 1,
            leads: true,
            voters: Voters { config: LogId::default(), sets: vec![[me.id()].into()] },
            members: [(me.id(), me.place.clone())].into(),
            caught_up: [me.id()].into(),
            ..Standing::forming(me.id())
        };
        let (record, standing) = (watch::channel(Arc::new(record)).0, watch::channel(standing).0);
        Ok(Local { me, file, record, standing, turn: Mutex::new(()) })
    }

    /// Carries `commands` out, all or none, and writes the record if anything has changed.
    async fn change(&self, commands: impl FnOnce(&Record) -> Vec<Command>) -> Result<Applied, ProposeError> {
        let _turn = self.turn.lock().await;
        let mut record = Record::clone(&self.record.borrow());
        let mut applied = Applied::AlreadySo;
        for command in commands(&record) {
            applied = carry_out(&mut record, &command)?;
        }
        if record.revision == self.record.borrow().revision {
            return Ok(applied);
        }
        let (backup, file) = (Backup::of(&record), self.file.clone());
        let written = tokio::task::spawn_blocking(move || backup.write(&file)).await;
        match written {
            Ok(Ok(())) => {}
            // The new file is there, and may be gone again after a loss of power.
            Ok(Err(BackupError::File { action: "sync", .. })) | Err(_) => return Err(ProposeError::Unknown),
            Ok(Err(error)) => return Err(ProposeError::Stopped(error.to_string())),
        }
        self.record.send_replace(Arc::new(record));
        Ok(applied)
    }
}

fn carry_out(record: &mut Record, command: &Command) -> Result<Applied, Refusal> {
    record.apply(record.revision + 1, command)
}

fn admission(record: &Record, joiner: &Joiner) -> Command {
    let Joiner { mark, place, versions } = joiner.clone();
    let since = record.nodes.get(&place.name).map_or(0, |node| node.since);
    Command::Admit { node: place.name, mark, address: place.address, versions, since }
}

/// A peer of which nothing is known but that a workload goes there: a member in a session that does not end.
fn introduce(record: &Record, peer: &NodeName) -> Vec<Command> {
    if record.takes(peer).is_ok() {
        return Vec::new();
    }
    let (mut mark, digest) = ([0; 8], Digest::of(peer.as_str().as_bytes()));
    mark.copy_from_slice(&digest.0[..8]);
    let (mark, speaks) = (StateMark(mark), record.cluster.policy.speaks);
    let present = record.nodes.get(peer);
    let (since, after) = present.map_or((0, 0), |node| (node.since, node.session));
    let versions = migrate_proto::version::Versions { min: speaks, max: speaks };
    let mut commands = Vec::new();
    if present.is_none() {
        commands.push(Command::Admit { node: peer.clone(), mark, address: String::new(), versions, since });
    }
    commands.push(Command::OpenSession { node: peer.clone(), mark, after, finite: false });
    commands
}

#[async_trait]
impl Ownership for Local {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        wire::fits(&command)?;
        self.change(|record| {
            let mut commands = match &command {
                Command::Transfer { to, .. } if *to != self.me.place.name => introduce(record, to),
                _ => Vec::new(),
            };
            commands.push(command);
            commands
        })
        .await
    }

    fn record(&self) -> watch::Receiver<Arc<Record>> {
        self.record.subscribe()
    }

    async fn confirm(&self) -> Result<Arc<Record>, ProposeError> {
        Ok(self.record.borrow().clone())
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    async fn set_voters(&self, voters: BTreeSet<VoterId>) -> Result<(), ProposeError> {
        match voters.iter().find(|voter| **voter != self.me.id()) {
            Some(other) => Err(BadVoter::NoMember(Shown(*other)).into()),
            None if voters.is_empty() => Err(BadVoter::Nobody.into()),
            None => Ok(()),
        }
    }

    async fn admit(&self, joiner: Joiner) -> Result<(), ProposeError> {
        self.change(|record| vec![admission(record, &joiner)]).await.map(|_| ())
    }

    async fn retire(&self, id: VoterId) -> Result<(), ProposeError> {
        if id == self.me.id() { Err(BadVoter::Votes(Shown(id)).into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
