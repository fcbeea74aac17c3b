//! A workload that this node has and the record does not know, from before there was a cluster, is made known to it.
//!
//! What runs is armed first, as everything is that the record has: from then on it can be given away. The request is on the disk before it is
//! proposed, so that an agent after this one knows its own again.

use std::sync::Arc;

use migrate_proto::cluster::Ticket;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::LoadPolicy;
use migrate_proto::error::Problem;
use tokio::task::spawn_blocking;

use super::{leash, say};
use crate::handover::Ground;
use crate::registry::Doing;
use crate::tenure::Lease;
use crate::workload::Workload;
use crate::{durable, random};

/// Makes it known as this node's. Who has lost it, or could not start it, says that it has ended: nobody begins it by that.
pub(super) async fn declare(ground: &Ground, workload: &Arc<Workload>, lease: &Lease) -> bool {
    let Some(by) = lease.claim().cloned() else { return false };
    let record = workload.record();
    let runs = record.doing == Doing::Running && workload.sandbox().is_some();
    if runs && !workload.is_unleashed() && !leash::arm(ground, workload, lease.session()).await {
        return false;
    }
    let ticket = match asking(workload).await {
        Ok(ticket) => ticket,
        Err(problem) => {
            tracing::warn!(workload = %workload.name(), %problem, "it cannot be made known to the cluster");
            return false;
        }
    };
    let Some(known) = ground.host.tenure.record_now() else { return false };
    let (load, epoch) = (workload.name().clone(), known.cluster.floor.next());
    let declare = Command::Declare {
        ticket,
        since: known.cluster.removed,
        spec: Box::new(record.spec.clone()),
        policy: LoadPolicy::of(&record.care.wish, None),
        owner: Some(by.clone()),
        priority: 0,
    };
    let life = match &record.doing {
        _ if runs => Command::Began { load, epoch, by },
        Doing::Stopped(exit) => Command::Ended { load, epoch, by, exit: *exit },
        _ => Command::Ended { load, epoch, by, exit: None },
    };
    say::propose(ground, Command::Many(vec![declare, life])).await
}

/// The request under which it is made known: always the same.
async fn asking(workload: &Arc<Workload>) -> Result<Ticket, Problem> {
    let path = workload.place().declaring();
    let asked = move || {
        if let Some(ticket) = durable::read(&path).map_err(Problem::internal)? {
            return Ok(ticket);
        }
        let ticket = Ticket(u64::from_le_bytes(random::bytes().map_err(Problem::internal)?));
        durable::write(&path, &ticket).map_err(Problem::internal)?;
        Ok(ticket)
    };
    spawn_blocking(asked).await.map_err(Problem::internal)?
}
