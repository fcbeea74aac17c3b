//! In a cluster, what every member does about its workloads: it makes so what the record says, for as long as its lease lasts.
//!
//! ```text
//!   lease, record, what is here ──► decide ──► one thing to do ──► carried out by one task, under the workload's turn ──► looked at again
//! ```
//!
//! - [`decide`] is pure: what there is to do about one workload. Everything that is done is such that it can be done again.
//! - [`leash`]: sandboxes are armed with the session of the lease that is held, and what stands still without one is said.
//! - Nothing is done on a record that is older than the session, or than this agent: see [`Tenure`](crate::tenure::Tenure).
//! - A handover, a checkpoint or a command that has the workload has its turn, and keeps it until it is done.

pub mod decide;
mod leash;
pub mod recover;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::name::WorkloadName;
use tokio::sync::mpsc;

use self::decide::{Look, Todo};
use crate::care::watchdog::Stamp;
use crate::handover::Ground;
use crate::workload::Workload;

/// How often everything is looked at, should nothing be heard.
const LOOK: Duration = Duration::from_millis(500);
/// How soon something is tried again that did not work.
const AGAIN: Duration = Duration::from_millis(500);

/// Goes on for as long as the agent runs. Returns at once where there is no cluster.
pub async fn run(ground: Ground) {
    if !ground.host.tenure.in_cluster() {
        return;
    }
    let stamp = Stamp::of("conduct");
    let (mut leases, mut records) = (ground.host.tenure.lease(), ground.host.tenure.record());
    let (done, mut ended) = mpsc::unbounded_channel::<WorkloadName>();
    // Those that a task is busy with.
    let mut busy = BTreeSet::new();
    loop {
        stamp.touch();
        while let Ok(name) = ended.try_recv() {
            busy.remove(&name);
        }
        leases.mark_unchanged();
        records.mark_unchanged();
        for workload in ground.registry.all() {
            let todo = look(&ground, &workload).todo();
            if todo == Todo::Nothing || !busy.insert(workload.name().clone()) {
                continue;
            }
            let (ground, done) = (ground.clone(), done.clone());
            tokio::spawn(async move {
                if !carry_out(&ground, &workload, todo).await {
                    tokio::time::sleep(AGAIN).await;
                }
                let _ = done.send(workload.name().clone());
            });
        }
        tokio::select! {
            _ = leases.changed() => {}
            _ = records.changed() => {}
            name = ended.recv() => drop(name.map(|name| busy.remove(&name))),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What there is to know about a workload now. The lease is looked at first: the record is as new as that, or newer.
fn look(ground: &Ground, workload: &Workload) -> Look {
    let tenure = &ground.host.tenure;
    let lease = tenure.lease_now();
    Look {
        me: ground.host.node().clone(),
        lease,
        entry: tenure.entry(workload.name()),
        known: tenure.record_now().is_some(),
        armed: workload.armed(),
        has_sandbox: workload.sandbox().is_some(),
        is_unleashed: workload.is_unleashed(),
        is_held: workload.held().is_some(),
        is_moving: workload.is_moving(),
        record: workload.record(),
    }
}

/// Says whether that worked.
async fn carry_out(ground: &Ground, workload: &Arc<Workload>, todo: Todo) -> bool {
    if todo == Todo::SayHeld {
        return leash::say_held(ground, workload).await;
    }
    let _turn = workload.turn_after_others().await;
    // Whoever had it may have changed everything.
    if look(ground, workload).todo() != todo {
        return true;
    }
    match todo {
        Todo::Nothing | Todo::SayHeld => true,
        Todo::Arm(session) => leash::arm(ground, workload, session).await,
    }
}
