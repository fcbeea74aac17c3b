//! What is done here about one workload. The caller has its turn, and has just looked.

use std::sync::Arc;

use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::cluster::Ticket;
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::error::Problem;
use migrate_proto::id::Epoch;
use migrate_proto::name::WorkloadName;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use super::decide::{Question, Word};
use super::say;
use crate::clock;
use crate::events::Kind;
use crate::handover::Ground;
use crate::ledger::Given;
use crate::registry::{Doing, Record};
use crate::workload::Workload;

/// It is what the record means, under this request and in this epoch.
pub(super) async fn recognise(workload: &Arc<Workload>, ticket: Ticket, epoch: Epoch) -> bool {
    let recognised = workload.clone();
    blocking(workload.name(), move || {
        recognised.update(|record| (record.ticket, record.epoch) = (Some(ticket), epoch))?;
        crate::durable::remove(&recognised.place().declaring()).map_err(Problem::internal)
    })
    .await
}

/// Begins it: from its files where they are here, else from none.
pub(super) async fn begin(
    ground: &Ground,
    name: &WorkloadName,
    workload: Option<Arc<Workload>>,
    entry: LoadEntry,
    turn: Option<OwnedMutexGuard<()>>,
) -> bool {
    let begun = match workload {
        Some(workload) => {
            let (host, epoch) = (ground.host.clone(), entry.epoch);
            run_blocking(move || {
                let _turn = turn;
                workload.update(|record| record.epoch = epoch)?;
                workload.release()?;
                workload.start(&host, clock::time_of_day())
            })
            .await
        }
        None => begin_from_nothing(ground, name, &entry).await,
    };
    let Err(problem) = begun else {
        ground.host.events.record(Kind::Started, Some(name), None, "started, as the cluster's record says");
        return true;
    };
    tracing::warn!(workload = %name, %problem, "it could not be begun");
    let lease = ground.host.tenure.lease_now();
    say::say(ground, name, &entry, &lease, Word::Broke { began: false, reason: problem.message }).await
}

async fn begin_from_nothing(ground: &Ground, name: &WorkloadName, entry: &LoadEntry) -> Result<(), Problem> {
    let record = Record {
        spec: entry.spec.clone(),
        epoch: entry.epoch,
        owned: true,
        doing: Doing::Starting,
        started: None,
        sandbox: None,
        pid: None,
        care: Chart::new(entry.policy.wish()),
        ticket: Some(entry.ticket),
        numbered: 0,
        trust: Trust::default(),
    };
    let workload = Workload::new(ground.registry.place(name), record);
    // Before anybody else sees it.
    let _turn = workload.turn()?;
    if workload.place().record().exists() || !ground.registry.add(workload.clone()) {
        return Err(Problem::internal(format!("what there is of {name} on {} is not understood", ground.host.node())));
    }
    let (beginning, given) = (ground.clone(), Given { epoch: entry.epoch, ticket: Some(entry.ticket) });
    run_blocking(move || {
        let begun = crate::node::first_start(&beginning, &workload, None, given);
        if begun.is_err() {
            let _ = beginning.registry.remove(workload.name());
        }
        begun
    })
    .await
}

/// Ends it: it is to be stopped, or the record has it as ended.
pub(super) async fn end(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let (host, ending) = (ground.host.clone(), workload.clone());
    blocking(workload.name(), move || {
        ending.hold()?;
        let exit = ending.end(&host, host.config.stop_timeout)?;
        ending.note_stop(&host, exit)
    })
    .await
}

/// It is to be removed.
pub(super) async fn remove(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let (removing, clearing) = (workload.clone(), ground.clone());
    let removed = blocking(workload.name(), move || {
        removing.drop_sandbox(&clearing.host)?;
        clearing.host.checkpoints().forget(removing.name())?;
        clearing.registry.remove(removing.name()).map_err(Problem::internal)
    })
    .await;
    if removed {
        ground.host.events.record(Kind::Removed, Some(workload.name()), None, "removed");
    }
    removed
}

/// The cluster has given it away while this node had no lease: no instruction of it is begun here any more. Its files stay until
/// who has it now has begun it.
pub(super) async fn drop_copy(ground: &Ground, workload: &Arc<Workload>, entry: &LoadEntry) -> bool {
    let owner = entry.owner.as_ref().map_or_else(|| "nobody yet".to_owned(), ToString::to_string);
    let why = format!("it is {owner}'s since epoch {}", entry.epoch);
    let (dropping, host, reason) = (workload.clone(), ground.host.clone(), why.clone());
    let dropped = blocking(workload.name(), move || {
        if dropping.sandbox().is_some()
            && let Err(problem) = dropping.disarm()
        {
            tracing::info!(%problem, "it is ended without having been held");
        }
        // Before it is gone: an agent after this one must not take it for its own.
        dropping.update(|record| (record.owned, record.doing) = (false, Doing::Lost(reason)))?;
        dropping.drop_sandbox(&host)
    })
    .await;
    if dropped {
        let what = format!("the copy of it that was here was dropped: {why}");
        ground.host.events.record(Kind::Removed, Some(workload.name()), None, what);
    }
    dropped
}

/// Nothing here is needed any more of a copy that was dropped.
pub(super) async fn forget(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let (forgetting, ground) = (workload.clone(), ground.clone());
    blocking(workload.name(), move || {
        forgetting.drop_sandbox(&ground.host)?;
        ground.registry.remove(forgetting.name()).map_err(Problem::internal)
    })
    .await
}

/// Holds it, and says why.
pub(super) async fn ask_a_person(
    ground: &Ground,
    workload: &Arc<Workload>,
    entry: Option<&LoadEntry>,
    question: Question,
) -> bool {
    let (me, name) = (ground.host.node(), workload.name());
    let owner =
        entry.and_then(|entry| entry.owner.as_ref()).map_or_else(|| "the cluster".to_owned(), ToString::to_string);
    let why = match question {
        Question::Namesake => {
            format!("{owner} has another workload {name}, which the cluster's record knows; this one it does not")
        }
        Question::Unknown => "the cluster's record knew it and does not know it any more".to_owned(),
        Question::OldEpoch => format!("it runs on {me} in an epoch that is over, although it is {me}'s"),
    };
    let holding = workload.clone();
    let held = blocking(name, move || if holding.sandbox().is_some() { holding.disarm() } else { Ok(()) }).await;
    if held {
        workload.set_frozen(Some(why.clone()));
        let hint = format!("`migrate --node {me} rm -f {name}` removes this copy");
        ground.host.events.record(Kind::Warning, Some(name), None, format!("frozen: {why}; {hint}"));
    }
    held
}

/// Says whether that worked, and writes down why where it did not.
async fn blocking(name: &WorkloadName, work: impl FnOnce() -> Result<(), Problem> + Send + 'static) -> bool {
    match run_blocking(work).await {
        Ok(()) => true,
        Err(problem) => {
            tracing::warn!(workload = %name, %problem, "what the record says could not be done; that is tried again");
            false
        }
    }
}

async fn run_blocking(work: impl FnOnce() -> Result<(), Problem> + Send + 'static) -> Result<(), Problem> {
    spawn_blocking(work).await.map_err(Problem::internal)?
}
