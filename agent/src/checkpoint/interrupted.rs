//! Restores that an agent did not live to end: taken back where the processes had not been allowed to run, else ended.

use std::fs;
use std::sync::Arc;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_sandbox::plan::MAIN_PID;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::restore::go;
use crate::durable;
use crate::events::Kind;
use crate::handover::Ground;
use crate::handover::restore::{Restore, freed_without_guard, guard_dir};
use crate::registry::{Place, Record};
use crate::workload::Workload;

/// What is written down while a workload is brought back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// Its record before; none where there was no such workload.
    pub(super) before: Option<Record>,
    /// From what.
    pub(super) from: CheckpointId,
    /// It may have run: there is no way back.
    pub(super) committed: bool,
}

/// What an agent that is no more had begun. Where it had not written down that the processes may run nothing of it stays; returns
/// `None` then. Blocks.
pub fn recover(ground: &Ground, workload: &Arc<Workload>) -> Option<Going> {
    let journal = match durable::read::<Journal>(&workload.place().restoring()) {
        Ok(journal) => journal?,
        Err(error) => {
            workload
                .set_frozen(Some(format!("it was being restored, and the journal of that cannot be read: {error}")));
            return None;
        }
    };
    if journal.committed {
        return Some(Going { from: journal.from, before: journal.before });
    }
    let what = match take_back(ground, workload, journal.before) {
        Ok(()) => "its restore was interrupted; it is as it was".to_owned(),
        Err(problem) => format!("its restore was interrupted, and what it had made could not be removed: {problem}"),
    };
    ground.host.events.record(Kind::Warning, Some(workload.name()), None, what);
    None
}

/// A restore that only has to be ended.
#[derive(Debug)]
pub struct Going {
    from: CheckpointId,
    before: Option<Record>,
}

impl Going {
    /// Lets the processes run, where nobody has. The turn is held to the end.
    pub async fn run(self, ground: Ground, workload: Arc<Workload>, turn: Option<OwnedMutexGuard<()>>) {
        let went = self.let_go(&ground, &workload).await;
        let (ending, ended) = (ground.clone(), workload.clone());
        let concluded = tokio::task::spawn_blocking(move || match went {
            Ok(()) => {
                forget(ended.place());
                ended.note_if_lost(&ending.host);
                Ok("its restore was interrupted when it was done; it runs".to_owned())
            }
            Err(problem) => {
                take_back(&ending, &ended, self.before)?;
                Ok(format!("its restore was interrupted, and {}; it is as it was", problem.message))
            }
        });
        let what = concluded.await.map_err(Problem::internal).and_then(std::convert::identity);
        let what = what.unwrap_or_else(|problem| format!("its restore was interrupted, and not taken back: {problem}"));
        ground.host.events.record(Kind::Warning, Some(workload.name()), None, what);
        drop(turn);
    }

    /// Fails only where nothing has run.
    async fn let_go(&self, ground: &Ground, workload: &Arc<Workload>) -> Result<(), Problem> {
        let gone = || Problem::new(Code::RestoreFailed, "the restored processes are gone");
        let sandbox = workload.sandbox().ok_or_else(gone)?;
        if let Some(restore) = Restore::take_over(&sandbox).await {
            let generation = ground.host.checkpoints().vault()?.generation(self.from);
            let last_pid = generation.map_or(MAIN_PID, |generation| generation.about.last_pid);
            return go(ground, workload, &restore, last_pid).await;
        }
        // The guard has ended as well; what it left tells.
        freed_without_guard(&guard_dir(sandbox.dir())).ok_or_else(gone)?;
        workload.watch(&ground.host);
        Ok(())
    }
}

/// Nothing of the restore stays. Blocks.
pub(super) fn take_back(ground: &Ground, workload: &Arc<Workload>, before: Option<Record>) -> Result<(), Problem> {
    if before.is_some() && !workload.place().restoring().exists() {
        // Nothing was begun.
        return Ok(());
    }
    workload.drop_sandbox(&ground.host)?;
    let Some(before) = before else {
        return ground.registry.remove(workload.name()).map_err(Problem::internal);
    };
    let place = workload.place();
    if place.layer_before().exists() {
        fs::rename(place.layer_before(), place.layer()).map_err(Problem::internal)?;
    }
    durable::remove(&place.layer_restored()).map_err(Problem::internal)?;
    workload.update(|record| *record = Record { sandbox: None, ..before })?;
    durable::remove(&place.restoring()).map_err(Problem::internal)
}

/// What only mattered while it could be taken back. Blocks.
pub(super) fn forget(place: &Place) {
    // The journal last: without it, nobody looks for the rest.
    for path in [place.layer_before(), place.layer_restored(), place.restoring()] {
        if let Err(error) = durable::remove(&path) {
            tracing::warn!(%error, "what a restore left could not be removed");
        }
    }
}
