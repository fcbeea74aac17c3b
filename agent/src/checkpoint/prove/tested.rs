//! When a checkpoint of each workload was last restored for a test, and what came of it: of this node's tests, and of those that the cluster's
//! record tells of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use migrate_proto::api::RecoveryTest;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::name::WorkloadName;
use serde::{Deserialize, Serialize};

use crate::checkpoint::locked;
use crate::durable;
use crate::events::{Clock, SystemClock, timestamp};

/// The file in the state directory.
const FILE: &str = "tested.json";

/// A test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// Of which checkpoint.
    pub id: CheckpointId,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Why it failed, where it did.
    pub failed: Option<String>,
}

impl Tested {
    /// The last one of a workload that the record knows of.
    pub fn told_by(entry: &LoadEntry) -> Option<Tested> {
        let told = entry.checkpoints.iter().filter_map(|checkpoint| Some((checkpoint.id, checkpoint.restored?)));
        let (id, restored) = told.max_by_key(|(_, restored)| restored.at_ms)?;
        Some(Tested { id, at_ms: restored.at_ms, took_ms: restored.took_ms, failed: None })
    }

    /// As it is shown.
    pub fn shown(&self) -> RecoveryTest {
        RecoveryTest {
            at: timestamp::format(self.at_ms),
            age_s: SystemClock.now_ms().saturating_sub(self.at_ms) / 1000,
            took_ms: self.took_ms,
            failed: self.failed.clone(),
        }
    }
}

/// The last one of each workload.
pub struct Tests {
    file: PathBuf,
    last: Mutex<BTreeMap<WorkloadName, Tested>>,
}

impl Tests {
    /// Those that were known in this state directory. Blocks for a moment.
    pub fn open(state: &Path) -> Tests {
        let file = state.join(FILE);
        let last = durable::read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "when recovery was tested is not known any more");
            None
        });
        Tests { file, last: Mutex::new(last.unwrap_or_default()) }
    }

    /// A test was made here. Blocks for a moment.
    pub fn note(&self, workload: &WorkloadName, tested: Tested) {
        let mut last = locked(&self.last);
        last.insert(workload.clone(), tested);
        self.keep(&last);
    }

    /// What the record says of tests that others made.
    pub fn hear(&self, workload: &WorkloadName, entry: &LoadEntry) {
        let Some(told) = Tested::told_by(entry) else { return };
        let mut last = locked(&self.last);
        if last.get(workload).is_none_or(|known| known.at_ms < told.at_ms) {
            last.insert(workload.clone(), told);
        }
    }

    /// The last one of a workload's checkpoints.
    pub fn last(&self, workload: &WorkloadName) -> Option<Tested> {
        locked(&self.last).get(workload).cloned()
    }

    /// The same, as it is shown.
    pub fn shown(&self, workload: &WorkloadName) -> Option<RecoveryTest> {
        self.last(workload).map(|tested| tested.shown())
    }

    /// The same, where it is this one's.
    pub fn of(&self, id: CheckpointId, workload: &WorkloadName) -> Option<RecoveryTest> {
        self.last(workload).filter(|tested| tested.id == id).map(|tested| tested.shown())
    }

    /// Forgets workloads that are no more. Blocks for a moment.
    pub fn retain(&self, is_known: impl Fn(&WorkloadName) -> bool) {
        let mut last = locked(&self.last);
        let before = last.len();
        last.retain(|workload, _| is_known(workload));
        if last.len() < before {
            self.keep(&last);
        }
    }

    /// It can be done without: the next test comes.
    fn keep(&self, last: &BTreeMap<WorkloadName, Tested>) {
        if let Err(error) = durable::write_soon(&self.file, last) {
            tracing::warn!(%error, "when recovery was tested is forgotten with this agent");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tested(byte: u8, at_ms: u64) -> Tested {
        Tested { id: CheckpointId([byte; 32]), at_ms, took_ms: 310, failed: None }
    }

    #[test]
    fn they_survive_the_agent_and_go_with_the_workload() {
        let state = tempfile::tempdir().unwrap();
        let web: WorkloadName = "web".parse().unwrap();
        let tests = Tests::open(state.path());
        assert_eq!(tests.last(&web), None);
        tests.note(&web, tested(1, 5));
        let tests = Tests::open(state.path());
        assert_eq!(tests.last(&web), Some(tested(1, 5)));
        assert_eq!(tests.of(CheckpointId([1; 32]), &web).map(|test| test.took_ms), Some(310));
        assert_eq!(tests.of(CheckpointId([2; 32]), &web), None, "a newer one was not tested");
        tests.retain(|_| false);
        assert_eq!(Tests::open(state.path()).last(&web), None);
    }

    #[test]
    fn what_cannot_be_read_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(FILE), "{").unwrap();
        assert_eq!(Tests::open(state.path()).last(&"web".parse().unwrap()), None);
    }
}
