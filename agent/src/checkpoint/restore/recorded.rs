//! A person's restore in a cluster: the record says first that this node does it, and hears what has come of it.

use std::sync::Arc;

use migrate_proto::api::Exit;
use migrate_proto::cluster::record::LoadPolicy;
use migrate_proto::error::Problem;
use migrate_proto::spec::WorkloadSpec;

use super::{Asked, Revival};
use crate::ledger;
use crate::ledger::restores::{self, Wanting};
use crate::registry::Doing;
use crate::workload::Workload;

impl Revival {
    /// The same as `run`; nobody else has the workload's turn before the record has heard what has come of it.
    pub(super) async fn by_record(mut self, in_place: bool) -> Result<Arc<Workload>, Problem> {
        let (host, about) = (self.ground.host.clone(), &self.generation.about);
        let spec = WorkloadSpec { name: self.workload.name().clone(), ..about.spec.clone() };
        let policy = LoadPolicy::of(&about.care.clone().unwrap_or_default(), None);
        let wanting = Wanting { spec: &spec, policy, from: self.generation.id, in_place };
        let right = match restores::begin(&host, &wanting).await {
            Ok(right) => right,
            Err(problem) => {
                self.take_back().await;
                return Err(problem);
            }
        };
        self.epoch = right.given.epoch;
        self.asked = Asked::Person(Some(right.clone()));
        let (_turn, workload, before) = (self._turn.take(), self.workload.clone(), self.before.clone());
        let restored = self.run().await;
        match (&restored, before) {
            (Ok(_), _) => ledger::began(&host, workload.name(), right.given.epoch, right.given.claim).await,
            (Err(_), Some(before)) => {
                let (noting, epoch) = (workload.clone(), right.given.epoch);
                let noted = tokio::task::spawn_blocking(move || noting.update(|record| record.epoch = epoch));
                // Where that cannot be written down the record goes on saying that it is to be brought back.
                if matches!(noted.await, Ok(Ok(()))) {
                    restores::take_back(&host, &right, exit(&before.doing)).await;
                }
            }
            (Err(_), None) => {}
        }
        restored
    }
}

fn exit(doing: &Doing) -> Option<Exit> {
    if let Doing::Stopped(exit) = doing { *exit } else { None }
}
