//! In a cluster, what every member does about its workloads: it makes so what the record says, for as long as its lease lasts.
//!
//! ```text
//!   lease, record, what is here ──► decide ──► one thing to do ──► carried out by one task, under the workload's turn ──► looked at again
//! ```
//!
//! - [`decide`] is pure: what there is to do about one workload. Everything that is done is such that it can be done again.
//! - `leash`: sandboxes are armed with the session of the lease that is held, and what stands still without one is said.
//! - `say`: what an owner says in the record. `act`: what is done here. `enrol`: what the record does not know is made known to it.
//! - [`recover`]: a workload that was another's is brought back from a checkpoint. [`kept`]: the owner says which ones others have, too.
//! - Nothing is done on a record that is older than the session, or than this agent: see [`Tenure`](crate::tenure::Tenure).
//! - A handover, a checkpoint or a command that has the workload has its turn, and keeps it until it is done.

mod act;
pub mod decide;
mod enrol;
pub mod kept;
mod leash;
pub mod recover;
mod say;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::name::WorkloadName;
use tokio::sync::{OwnedMutexGuard, mpsc};

use self::decide::{Here, Look, Todo};
use crate::care::watchdog::Stamp;
use crate::durable;
use crate::handover::Ground;
use crate::workload::Workload;

/// How often everything is looked at, should nothing be heard.
const LOOK: Duration = Duration::from_millis(500);
/// How soon something is tried again that did not work.
const AGAIN: Duration = Duration::from_millis(500);

/// Goes on for as long as the agent runs. Returns at once where there is no cluster.
pub async fn run(ground: Ground) {
    let tenure = &ground.host.tenure;
    if !tenure.in_cluster() {
        return;
    }
    let stamp = Stamp::of("conduct");
    let (mut leases, mut records) = (tenure.lease(), tenure.record());
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
        for name in names(&ground) {
            let todo = look(&ground, &name).todo();
            if todo == Todo::Nothing || !busy.insert(name.clone()) {
                continue;
            }
            let (ground, done) = (ground.clone(), done.clone());
            tokio::spawn(async move {
                if !carry_out(&ground, &name, todo).await {
                    tokio::time::sleep(AGAIN).await;
                }
                let _ = done.send(name);
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

/// All that are here, or should be.
fn names(ground: &Ground) -> BTreeSet<WorkloadName> {
    let me = ground.host.node();
    let mut names: BTreeSet<_> = ground.registry.all().iter().map(|workload| workload.name().clone()).collect();
    if let Some(record) = ground.host.tenure.record_now() {
        let mine = record.loads.iter().filter(|(_, entry)| entry.owner.as_ref() == Some(me));
        names.extend(mine.map(|(name, _)| name.clone()));
    }
    names
}

/// What there is to know about a workload now. The lease is looked at first: the record is as new as that, or newer.
fn look(ground: &Ground, name: &WorkloadName) -> Look {
    let tenure = &ground.host.tenure;
    let lease = tenure.lease_now();
    let broke = ground.registry.broke(name);
    let entry = tenure.entry(name);
    Look {
        me: ground.host.node().clone(),
        lease,
        known: tenure.record_now().is_some(),
        // Where that cannot be read, it may have been in this one.
        broke: broke.unwrap_or_else(|_| entry.as_ref().map(|entry| entry.epoch)),
        entry,
        here: ground.registry.get(name).map(|workload| here(&workload)),
    }
}

fn here(workload: &Workload) -> Here {
    let place = workload.place();
    let under_way = [place.departure(), place.restoring()].iter().any(|journal| journal.exists());
    Here {
        record: workload.record(),
        declaring: durable::read(&place.declaring()).ok().flatten(),
        armed: workload.armed(),
        has_sandbox: workload.sandbox().is_some(),
        is_unleashed: workload.is_unleashed(),
        is_held: workload.held().is_some(),
        is_anothers: under_way || workload.is_moving() || workload.doubt().is_some(),
    }
}

/// Says whether that worked.
async fn carry_out(ground: &Ground, name: &WorkloadName, todo: Todo) -> bool {
    let workload = ground.registry.get(name);
    match (&todo, &workload) {
        (Todo::SayHeld, Some(workload)) => return leash::say_held(ground, workload).await,
        // It takes the turn itself.
        (Todo::Recover, _) => return recover_it(ground, name).await,
        _ => {}
    }
    let turn = turn(workload.as_ref()).await;
    if !matches!(todo, Todo::Arm(_) | Todo::SayHeld) {
        // What has just been decided may not have come here yet.
        catch_up(ground).await;
    }
    // Whoever had it may have changed everything.
    let now = look(ground, name);
    if now.todo() != todo {
        return true;
    }
    let Look { entry, lease, .. } = now;
    let done = match (todo, workload, entry) {
        (Todo::Arm(session), Some(workload), _) => leash::arm(ground, &workload, session).await,
        (Todo::Recognise(ticket, epoch), Some(workload), _) => act::recognise(&workload, ticket, epoch).await,
        (Todo::Declare, Some(workload), _) => enrol::declare(ground, &workload, &lease).await,
        (Todo::Begin, workload, Some(entry)) => return act::begin(ground, name, workload, entry, turn).await,
        (Todo::Say(word), _, Some(entry)) => say::say(ground, name, &entry, &lease, word).await,
        (Todo::End, Some(workload), _) => act::end(ground, &workload).await,
        (Todo::Remove, Some(workload), _) => act::remove(ground, &workload).await,
        (Todo::Drop, Some(workload), Some(entry)) => act::drop_copy(ground, &workload, &entry).await,
        (Todo::Forget, Some(workload), _) => act::forget(ground, &workload).await,
        (Todo::Question(question), Some(workload), entry) => {
            act::ask_a_person(ground, &workload, entry.as_ref(), question).await
        }
        _ => true,
    };
    drop(turn);
    done
}

async fn recover_it(ground: &Ground, name: &WorkloadName) -> bool {
    // A person's restore is at it, which has told the record.
    if ground.registry.get(name).is_some_and(|workload| workload.turn().is_err()) {
        return false;
    }
    let Look { entry, lease, .. } = look(ground, name);
    if let (Some(entry), Some(claim)) = (entry, lease.claim()) {
        recover::recover(ground, name, &entry, claim).await;
    }
    // Where it is still to be done, not at once.
    false
}

async fn turn(workload: Option<&Arc<Workload>>) -> Option<OwnedMutexGuard<()>> {
    match workload {
        Some(workload) => Some(workload.turn_after_others().await),
        None => None,
    }
}

/// Waits until everything is shown here that was decided before, where that can be known soon.
async fn catch_up(ground: &Ground) {
    let tenure = &ground.host.tenure;
    let caught_up = async {
        let confirmed = tenure.confirmed().await.revision;
        let mut shown = tenure.record();
        let there = shown.wait_for(|shown| shown.as_ref().is_some_and(|shown| shown.revision >= confirmed)).await;
        drop(there);
    };
    let _ = tokio::time::timeout(2 * LOOK, caught_up).await;
}
