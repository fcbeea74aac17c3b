//! The workloads that this node knows, and what is durable about each.
//!
//! ```text
//! <state>/mark.json     tells this state from any other
//! <state>/broke/<name>    the last epoch in which this node has given a workload up: it never begins it again in that one
//! <state>/received/       handovers to here whose workload has moved on before the source had heard that it came
//! <state>/workloads/<name>/
//!   workload.json     the record: what it is, which epoch, what it does
//!   layer.img         its files
//!   departure.json    the journal of a handover away from here that is under way
//!   arrival.json      the same of one to here
//!   dump/             the guard's directory of that handover, with the decision file
//!   checkpoint/       the guard's directory of a checkpoint that is being taken
//!   declaring.json    the request under which it is being made known to the cluster
//!   restoring.json    the journal of a restore from one, with layer.restored and layer.before
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_proto::api::Exit;
use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::cluster::Ticket;
use migrate_proto::handover::target;
use migrate_proto::id::{Epoch, HandoverId, StateMark};
use migrate_proto::name::WorkloadName;
use migrate_proto::phase::Phase;
use migrate_proto::spec::WorkloadSpec;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};
use crate::random;
use crate::workload::Workload;

/// What is durable about a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    pub spec: WorkloadSpec,
    /// How often the owner changed.
    pub epoch: Epoch,
    /// Whether this node owns it. False while it is arriving.
    pub owned: bool,
    /// What it does.
    pub doing: Doing,
    /// When it was started, RFC 3339.
    pub started: Option<String>,
    /// The sandbox's directory below the run directory, where there is one.
    pub sandbox: Option<String>,
    /// The main process, inside.
    pub pid: Option<i32>,
    /// What is known of its care.
    #[serde(default)]
    pub care: Chart,
    /// The request that it comes from, as the cluster's record has it; none of what the record has not heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// The highest number of a checkpoint that was taken of it before it came here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub numbered: u64,
    /// Which of its checkpoints were taken while it was well.
    #[serde(default, skip_serializing_if = "Trust::is_nothing")]
    pub trust: Trust,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks in this way")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a workload does, as far as is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// Being started.
    Starting,
    /// Being received from another node.
    Arriving,
    /// Running, or frozen for a move.
    Running,
    /// Ended, or stopped.
    Stopped(Option<Exit>),
    /// Could not be started or brought back.
    Failed(String),
    /// Gone with the node it was on.
    Lost(String),
}

/// Where a workload's durable things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its record.
    pub fn record(&self) -> PathBuf {
        self.dir.join("workload.json")
    }

    /// Its files.
    pub fn layer(&self) -> PathBuf {
        self.dir.join("layer.img")
    }

    /// The journal of a handover away from here.
    pub fn departure(&self) -> PathBuf {
        self.dir.join("departure.json")
    }

    /// The journal of a handover to here.
    pub fn arrival(&self) -> PathBuf {
        self.dir.join("arrival.json")
    }

    /// The guard's directory of a dump, with the decision file.
    pub fn dump(&self) -> PathBuf {
        self.dir.join("dump")
    }

    /// The guard's directory of a dump that is a checkpoint: its decision is never one about a move.
    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// The request under which it is being made known to the cluster.
    pub fn declaring(&self) -> PathBuf {
        self.dir.join("declaring.json")
    }

    /// The journal of a restore from a checkpoint.
    pub fn restoring(&self) -> PathBuf {
        self.dir.join("restoring.json")
    }

    /// Its files as they were in a checkpoint, before they are its own.
    pub fn layer_restored(&self) -> PathBuf {
        self.dir.join("layer.restored")
    }

    /// Its files before a restore, until that is done.
    pub fn layer_before(&self) -> PathBuf {
        self.dir.join("layer.before")
    }
}

/// A place, and what its record says.
pub type Found = (Place, Result<Record, DurableError>);

/// All workloads of this node.
#[derive(Debug)]
pub struct Registry {
    root: PathBuf,
    received: PathBuf,
    broke: PathBuf,
    mark: StateMark,
    known: Mutex<BTreeMap<WorkloadName, Arc<Workload>>>,
}

impl Registry {
    /// Opens the directory, and makes it where it is missing.
    pub fn open(state: &Path) -> Result<Registry, DurableError> {
        let (root, received, broke) = (state.join("workloads"), state.join("received"), state.join("broke"));
        for dir in [&root, &received, &broke] {
            fs::create_dir_all(dir).map_err(|source| DurableError::File {
                action: "create",
                path: dir.clone(),
                source,
            })?;
        }
        let marked = state.join("mark.json");
        let mark = match durable::read(&marked)? {
            Some(mark) => mark,
            None => {
                let mark = StateMark(random::bytes().map_err(|source| DurableError::File {
                    action: "choose at random what to write to",
                    path: marked.clone(),
                    source,
                })?);
                durable::write(&marked, &mark)?;
                mark
            }
        };
        Ok(Registry { root, received, broke, mark, known: Mutex::default() })
    }

    /// What tells this state from any other.
    pub fn mark(&self) -> StateMark {
        self.mark
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, Arc<Workload>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a workload of this name has its things.
    pub fn place(&self, name: &WorkloadName) -> Place {
        Place { dir: self.root.join(name.as_str()) }
    }

    /// Every workload on disk with its record. One whose record is damaged comes as an error and stays untouched.
    pub fn on_disk(&self) -> Result<Vec<Found>, DurableError> {
        let failed = |source| DurableError::File { action: "read", path: self.root.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let place = Place { dir: entry.map_err(failed)?.path() };
            match durable::read(&place.record()) {
                Ok(Some(record)) => found.push((place, Ok(record))),
                // A directory without a record was never owned: the agent died while it made one.
                Ok(None) => drop(fs::remove_dir_all(&place.dir)),
                Err(error) => found.push((place, Err(error))),
            }
        }
        Ok(found)
    }

    /// A workload.
    pub fn get(&self, name: &WorkloadName) -> Option<Arc<Workload>> {
        self.known().get(name).cloned()
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Arc<Workload>> {
        self.known().values().cloned().collect()
    }

    /// Adds a workload; `false` where the name is taken.
    pub fn add(&self, workload: Arc<Workload>) -> bool {
        match self.known().entry(workload.name().clone()) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(workload);
                true
            }
        }
    }

    fn received_file(&self, handover: HandoverId) -> PathBuf {
        self.received.join(format!("{handover}.json"))
    }

    /// A workload is about to move on, or to be removed, and its source may not have heard yet that it came: remembers that it did.
    /// A rename: this must also work where the disk is full.
    pub fn keep_received(&self, place: &Place) {
        let Ok(Some(entry)) = durable::read::<target::Entry>(&place.arrival()) else { return };
        if entry.phase != Phase::CleanUp {
            return;
        }
        let kept = fs::rename(place.arrival(), self.received_file(entry.offer.handover))
            .and_then(|()| fs::File::open(&self.received)?.sync_all());
        if let Err(error) = kept {
            tracing::warn!(%error, handover = %entry.offer.handover, "the source will not hear from this node that it came");
        }
    }

    /// How the workload of this handover came, if it did and was this node's; also where nothing else of it is left.
    pub fn received(&self, handover: HandoverId) -> Option<target::Entry> {
        let read = durable::read(&self.received_file(handover));
        read.inspect_err(|error| tracing::error!(%error, %handover, "whether it came cannot be read")).ok().flatten()
    }

    /// The source has heard.
    pub fn forget_received(&self, handover: HandoverId) {
        let _ = durable::remove(&self.received_file(handover));
    }

    /// Gives a workload up, durably: it is not begun here any more in this epoch. What was given up before lies further back.
    pub fn note_broke(&self, name: &WorkloadName, epoch: Epoch) -> Result<(), DurableError> {
        durable::write(&self.broke.join(name.as_str()), &epoch)
    }

    /// The last epoch in which this node has given this workload up. Where that cannot be read, nothing may be begun.
    pub fn broke(&self, name: &WorkloadName) -> Result<Option<Epoch>, DurableError> {
        durable::read(&self.broke.join(name.as_str()))
    }

    /// Forgets a workload, and removes everything durable about it.
    pub fn remove(&self, name: &WorkloadName) -> Result<(), DurableError> {
        let place = self.place(name);
        self.keep_received(&place);
        // The record goes first: without one, what is left is rubbish, also after a crash right here.
        durable::remove(&place.record()).or_else(|error| if place.dir.exists() { Err(error) } else { Ok(()) })?;
        let removed = fs::remove_dir_all(&place.dir);
        self.known().remove(name);
        match removed {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(DurableError::File { action: "remove", path: place.dir, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_state_keeps_its_mark_and_no_two_have_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mark = Registry::open(one.path()).unwrap().mark();
        assert_eq!(Registry::open(one.path()).unwrap().mark(), mark);
        let foreign = Registry::open(other.path()).unwrap().mark();
        assert_ne!(foreign, mark);
        let handover = migrate_proto::id::HandoverId::new(mark, [7; 8]);
        assert!(handover.is_of(mark) && !handover.is_of(foreign));
    }

    fn offer() -> migrate_proto::message::Offer {
        serde_json::from_value(serde_json::json!({
            "handover": HandoverId([7; 16]),
            "spec": { "name": "web", "argv": ["sleep"] },
            "epoch": 4, "from": "node1", "to": "node2",
            "memory_bytes": 1, "layer_bytes": 1, "layer_used_bytes": 1, "layer_block_bytes": 65536,
            "needs": { "criu_version": "", "kernel": "", "arch": "", "cpu_flags": [], "mapped_files": [] },
            "last_pid": 1, "started": null
        }))
        .unwrap()
    }

    #[test]
    fn what_came_and_moved_on_is_remembered_until_its_source_has_heard() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::open(state.path()).unwrap();
        let place = registry.place(&"web".parse().unwrap());
        std::fs::create_dir_all(place.dir()).unwrap();
        let offer = offer();
        for (phase, remembered) in [(Phase::Commit, false), (Phase::CleanUp, true)] {
            let entry = target::Entry { offer: Box::new(offer.clone()), phase, pid: None, lost: None };
            durable::write(&place.arrival(), &entry).unwrap();
            registry.keep_received(&place);
            assert_eq!(registry.received(offer.handover), remembered.then_some(entry), "{phase}");
            assert_eq!(place.arrival().exists(), !remembered, "{phase}");
        }
        registry.forget_received(offer.handover);
        assert_eq!(registry.received(offer.handover), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_state() {
        let state = tempfile::tempdir().unwrap();
        let registry = Registry::open(state.path()).unwrap();
        assert!(registry.on_disk().unwrap().is_empty());
        std::fs::remove_dir(state.path().join("workloads")).unwrap();
        assert!(registry.on_disk().is_err());
    }
}
