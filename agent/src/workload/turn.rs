//! Whose turn it is: who changes a workload has it alone.

use migrate_proto::error::{Code, Problem};
use tokio::sync::OwnedMutexGuard;

use super::{PATIENCE, Workload};

impl Workload {
    /// The right to change it, or the problem that somebody else has it.
    pub fn turn(&self) -> Result<OwnedMutexGuard<()>, Problem> {
        let busy = |_| {
            let live = self.live();
            let what = match (live.moving, &live.checkpointing) {
                (true, _) => "is being moved",
                (false, Some(_)) => "is having a checkpoint taken",
                (false, None) => "is being changed by another command",
            };
            drop(live);
            Problem::new(Code::Busy, format!("{} {what}", self.name))
                .hint("wait until that is done; `migrate ps` shows its state")
        };
        self.turn.clone().try_lock_owned().map_err(busy)
    }

    /// The same, with some patience while it is not being moved: what an arrival leaves to be cleared away is soon done. A checkpoint that
    /// is being taken gives way.
    pub async fn turn_soon(&self) -> Result<OwnedMutexGuard<()>, Problem> {
        if let Some(checkpointing) = &self.live().checkpointing {
            checkpointing.cancel();
        }
        if self.is_moving() { self.turn() } else { self.turn_after_handover().await }
    }

    /// The same, for what interrupts nobody. Who only writes down how it is has it for a moment, which is waited for; neither a move
    /// nor a checkpoint is.
    pub async fn turn_in_a_moment(&self) -> Result<OwnedMutexGuard<()>, Problem> {
        let interrupts = self.is_moving() || self.live().checkpointing.is_some();
        if interrupts { self.turn() } else { self.turn_after_handover().await }
    }

    /// The same, after whoever has it now, however long that takes.
    pub async fn turn_after_others(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// The same, once the handover that was given up has let it go.
    pub async fn turn_after_handover(&self) -> Result<OwnedMutexGuard<()>, Problem> {
        match tokio::time::timeout(PATIENCE, self.turn.clone().lock_owned()).await {
            Ok(turn) => Ok(turn),
            Err(_) => self.turn(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::registry::{Record, Registry};

    /// A workload that is nowhere but here, and where its files would be.
    fn web() -> (Arc<Workload>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let record: Record = serde_json::from_value(serde_json::json!({
            "spec": { "name": "web", "argv": ["sleep"] },
            "epoch": 1,
            "owned": true,
            "doing": "Running",
        }))
        .unwrap();
        let place = Registry::open(dir.path()).unwrap().place(&record.spec.name);
        (Workload::new(place, record), dir)
    }

    /// As the test of a checkpoint was refused that came just when it was written down that the workload is well.
    #[tokio::test]
    async fn who_writes_down_how_it_is_refuses_nobody() {
        let (web, _dir) = web();
        let noting = web.turn().unwrap();
        assert_eq!(web.turn().unwrap_err().message, "web is being changed by another command");
        let asking = tokio::spawn({
            let web = web.clone();
            async move { web.turn_in_a_moment().await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        drop(noting);
        asking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_checkpoint_and_a_move_are_not_waited_for() {
        let (web, _dir) = web();
        let _taking = (web.turn().unwrap(), web.set_checkpointing());
        assert_eq!(web.turn_in_a_moment().await.unwrap_err().message, "web is having a checkpoint taken");
        web.set_moving(true);
        assert_eq!(web.turn_in_a_moment().await.unwrap_err().message, "web is being moved");
    }
}
