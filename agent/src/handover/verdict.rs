//! What the cluster's record says about a move. It alone decides: the decision file of the source leaves it to the record, and a target in doubt looks there.
//!
//! - **Source**: the file says `record`; nothing of the copy runs from here on, whatever becomes of guard, CRIU and agent. `Transfer` is proposed until
//!   the answer is definite. A refusal is no verdict, unless the epoch is over: an earlier copy of the proposal may still be granted. Then `Refuse` is
//!   proposed, and which of the two came first is the verdict. Only then the file gets it.
//! - **Target**: the source's word that it goes on there is none either: the leader may have given the image to this node. It proposes `Refuse` and
//!   looks at the record until that has decided.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Life, LoadEntry, Refusal};
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::target::Event;
use migrate_proto::handover::{Decision, Terms};
use migrate_proto::message::Offer;
use migrate_proto::name::NodeName;
use migrate_sandbox::guard::decision::{self, Word};

use crate::host::Host;
use crate::tenure::Tenure;
use crate::workload::Workload;

/// How soon something is tried again that needs a lease, or a disk.
const AGAIN: Duration = Duration::from_millis(200);

/// What the record has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is the target's.
    Given,
    /// It stays.
    Kept,
    /// It is neither's by this move: it was taken from the source meanwhile, or removed.
    Overtaken,
}

/// Leaves the decision to the record, and carries out what it says, as far as that is this file's and the freezer's affair. However long that takes.
/// Without a cluster the file decides by itself.
pub(super) async fn decide(
    host: &Arc<Host>,
    workload: &Arc<Workload>,
    terms: &Terms,
    wish: Decision,
) -> std::io::Result<Decision> {
    let dir = workload.place().dump();
    if !host.tenure.in_cluster() {
        return on_disk(move || decide_here(&dir, wish)).await;
    }
    let word = match wish {
        Decision::Abort => {
            let looking = dir.clone();
            on_disk(move || match decide_here(&looking, wish) {
                // It was left to the record: that alone says it.
                Err(_) if matches!(decision::word(&looking), Ok(Some(Word::Record))) => Ok(Word::Record),
                decided => decided.map(Word::from),
            })
            .await?
        }
        Decision::Commit => {
            let leaving = dir.clone();
            on_disk(move || std::fs::create_dir_all(&leaving).and_then(|()| decision::leave_to_record(&leaving)))
                .await?
        }
    };
    match word {
        Word::Abort => Ok(Decision::Abort),
        Word::Commit => Ok(Decision::Commit),
        Word::Record => at_record(host, workload, terms, wish).await,
    }
}

fn decide_here(dir: &Path, wish: Decision) -> std::io::Result<Decision> {
    match (wish, dir.try_exists()) {
        // No guard was ever started there, so nobody else decides; and the disk may be full.
        (Decision::Abort, Ok(false)) => Ok(Decision::Abort),
        _ => std::fs::create_dir_all(dir).and_then(|()| decision::decide(dir, wish)),
    }
}

/// The file says `record`: asks it. Also for an agent that finds the file so.
pub(super) async fn at_record(
    host: &Arc<Host>,
    workload: &Arc<Workload>,
    terms: &Terms,
    wish: Decision,
) -> std::io::Result<Decision> {
    let (holding, dir) = (workload.clone(), workload.place().dump());
    // The lease's freezer holds the copy as well: it outlives guard and CRIU.
    let is_here = on_disk(move || Ok(holding.sandbox().is_some_and(|_| holding.disarm().is_ok()))).await?;
    let mut verdict = ask(&host.tenure, terms, wish, is_here).await;
    if verdict == Verdict::Kept {
        // First the lease, then the guard: CRIU needs tasks that can move.
        verdict = let_run(host, workload, terms).await;
    }
    if verdict == Verdict::Overtaken {
        // Nothing of it runs here again. What is left is dropped with the copy of an older epoch.
        let (host, ending) = (host.clone(), workload.clone());
        if let Err(problem) = on_disk(move || Ok(ending.drop_sandbox(&host))).await? {
            tracing::warn!(%problem, "a copy that was overtaken stays frozen");
        }
    }
    let decided = if verdict == Verdict::Given { Decision::Commit } else { Decision::Abort };
    on_disk(move || decision::settle(&dir, decided)).await
}

/// The record's verdict. `is_here` says that the processes are still there: those that are not can only go on at the target.
async fn ask(tenure: &Tenure, terms: &Terms, wish: Decision, is_here: bool) -> Verdict {
    let Terms { handover, workload: load, from, to, epoch } = terms.clone();
    let mut refusing = wish == Decision::Abort && is_here;
    loop {
        let command = if refusing {
            Command::Refuse { load: load.clone(), epoch, handover }
        } else {
            // As who: in the session that is there now. Without one nothing is given away.
            let Some(claim) = tenure.lease_now().claim().cloned() else {
                if is_here {
                    refusing = true;
                } else {
                    tokio::time::sleep(AGAIN).await;
                }
                continue;
            };
            debug_assert_eq!(claim.node, from);
            Command::Transfer { load: load.clone(), epoch, from: claim, to: to.clone(), handover }
        };
        match tenure.settle(command).await {
            Ok(_) if refusing => return Verdict::Kept,
            Ok(_) => return Verdict::Given,
            Err(Refusal::OtherEpoch { epoch: now, via, .. }) => {
                let given = now == epoch.next() && via == Some(handover);
                return if given { Verdict::Given } else { Verdict::Overtaken };
            }
            Err(Refusal::UnknownLoad { .. }) => return Verdict::Overtaken,
            Err(refusal) => {
                tracing::warn!(%load, %refusal, "the record does not give it away");
                refusing = is_here;
                if !is_here && is_released(tenure, terms).await {
                    return Verdict::Overtaken;
                }
            }
        }
        if !is_here {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether the record knows that nothing of it is here: what becomes of the image is the leader's to say.
async fn is_released(tenure: &Tenure, terms: &Terms) -> bool {
    let record = tenure.confirmed().await;
    let entry = record.loads.get(&terms.workload);
    entry.is_none_or(|entry| matches!(entry.life, Life::Stopped(_) | Life::Failed(_)))
}

/// Arms what stays, as soon as there is a lease and the record still has it as this node's: another session than the one in which the
/// move was refused may have come too late.
async fn let_run(host: &Arc<Host>, workload: &Arc<Workload>, terms: &Terms) -> Verdict {
    let mut lease = host.tenure.lease();
    loop {
        let held = lease.wait_for(|lease| lease.claim().is_some()).await.map(|lease| lease.clone());
        let Ok(held) = held else { std::future::pending().await };
        let record = host.tenure.confirmed().await;
        let mine = |entry: &LoadEntry| entry.owner.as_ref() == Some(host.node()) && entry.epoch == terms.epoch;
        if !record.loads.get(&terms.workload).is_some_and(mine) {
            return Verdict::Overtaken;
        }
        if host.tenure.lease_now() != held {
            continue;
        }
        let (arming, armed_by) = (workload.clone(), host.clone());
        match tokio::task::spawn_blocking(move || match arming.sandbox() {
            Some(_) => arming.arm(&armed_by),
            None => Ok(()),
        })
        .await
        {
            Ok(Ok(())) => return Verdict::Kept,
            Ok(Err(problem)) => tracing::warn!(%problem, "what stays does not run yet"),
            Err(error) => tracing::error!(%error, "what stays does not run yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

// ---- the target's side -----------------------------------------------------------------------------------------------

/// Why the record does not have the workload as the offer says, where that is so. A move is not begun without a majority.
pub(super) async fn objection(host: &Arc<Host>, offer: &Offer) -> Option<Problem> {
    let name = &offer.spec.name;
    let stays = format!("nothing was moved; {name} stays on {}", offer.from);
    if host.tenure.lease_now().claim().is_none() {
        let message = format!("{} has no lease, so nothing may run there; {stays}", host.node());
        return Some(Problem::new(Code::Busy, message).hint("`migrate nodes` shows who answers"));
    }
    let Ok(record) = tokio::time::timeout(Duration::from_secs(5), host.tenure.confirmed()).await else {
        let message = format!("no majority of the cluster's voters answers {}; {stays}", host.node());
        return Some(Problem::new(Code::Busy, message).hint("`migrate nodes` shows who leads and votes"));
    };
    let so = |entry: &&LoadEntry| entry.owner.as_ref() == Some(&offer.from) && entry.epoch == offer.epoch;
    let entry = record.loads.get(name);
    if let Err(refusal) = record.takes(host.node()) {
        return Some(Problem::new(Code::WrongState, format!("{refusal}; {stays}")));
    }
    if entry.filter(so).is_some() {
        return None;
    }
    let known = entry.map_or_else(
        || "does not know it".to_owned(),
        |entry| {
            let owner = entry.owner.as_ref().map_or_else(|| "nobody's".to_owned(), |owner| format!("{owner}'s"));
            format!("has it as {owner} in epoch {}", entry.epoch)
        },
    );
    let message =
        format!("{} offers {name} in epoch {}, and the cluster's record {known}; {stays}", offer.from, offer.epoch);
    Some(Problem::new(Code::NameTaken, message).hint("`migrate ps` shows where it is"))
}

/// What the record says to a target in doubt, as soon as it says anything.
pub(super) async fn learn(host: Arc<Host>, offer: Arc<Offer>) -> Event {
    let mut records = host.tenure.record();
    loop {
        let said = records.borrow_and_update().as_ref().and_then(|record| {
            // It was there when it was offered: see `objection`.
            record
                .loads
                .get(&offer.spec.name)
                .map_or_else(|| Some(not_here("it was removed")), |entry| says(entry, &offer, host.node()))
        });
        if let Some(event) = said {
            return event;
        }
        if records.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn says(entry: &LoadEntry, offer: &Offer, me: &NodeName) -> Option<Event> {
    let next = offer.epoch.next();
    if entry.epoch == next && entry.owner.as_ref() == Some(me) && entry.via == Some(offer.handover) {
        return Some(Event::Committed(next));
    }
    if entry.epoch > offer.epoch {
        return Some(not_here(&format!("it is in epoch {} by now", entry.epoch)));
    }
    let refused = entry.refused.contains(&offer.handover);
    refused.then(|| not_here(&format!("the move was refused; it stays on {}", offer.from)))
}

fn not_here(what: &str) -> Event {
    Event::Aborted(Problem::new(Code::Cancelled, format!("according to the cluster's record {what}")))
}

/// The source says that nothing comes of it: the record is to say so, too.
pub(super) async fn refuse(host: &Arc<Host>, offer: &Offer) {
    let Offer { handover, epoch, .. } = *offer;
    let refuse = Command::Refuse { load: offer.spec.name.clone(), epoch, handover };
    if let Err(refusal) = host.tenure.settle(refuse).await {
        tracing::info!(%refusal, "the record has decided about the move already");
    }
}

/// Whether a workload that was given to this node may be let go: `None` where there is no cluster, or it is still this node's. `since` is the session in
/// which it was taken in; while that lasts, nobody can have taken it away again.
pub(super) async fn taken_away(host: &Arc<Host>, offer: &Offer, since: Option<u64>) -> Option<Problem> {
    if !host.tenure.in_cluster() {
        return None;
    }
    let mut lease = host.tenure.lease();
    loop {
        let held = lease.wait_for(|lease| lease.claim().is_some()).await.ok()?.clone();
        if held.claim().map(|claim| claim.session) == since {
            return None;
        }
        let record = host.tenure.confirmed().await;
        let entry = record.loads.get(&offer.spec.name);
        if host.tenure.lease_now() != held {
            continue;
        }
        let mine = entry.filter(|entry| entry.owner.as_ref() == Some(host.node()) && entry.epoch == offer.epoch.next());
        return mine.is_none().then(|| {
            let message = format!(
                "{} was taken from {} while that had no lease, before it ran there",
                offer.spec.name,
                host.node()
            );
            Problem::new(Code::Lost, message).hint("`migrate ps` shows where it is")
        });
    }
}

#[cfg(test)]
mod tests;
