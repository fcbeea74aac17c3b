//! Would it move? The question of `migrate check`, asked of both nodes without touching either.
//!
//! What is looked at is [`offer::survey`] here and [`offer::consider`] on the target: the very functions by which a move refuses. The
//! target is asked in a conversation of its own: `Demands` and `Offer`, as a handover begins, answered by `Considered`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use migrate_proto::api::{CheckReport, NodeState, NodeView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Terms;
use migrate_proto::id::HandoverId;
use migrate_proto::message::{Considered, Demands, Finding, Message, Offer};
use migrate_proto::name::NodeName;
use tokio::sync::Semaphore;

use crate::handover::{Ground, Preface, offer_or_other, owned_elsewhere};
use crate::preflight::finding::{no, note, reasons, verdict};
use crate::random;
use crate::registry::Doing;
use crate::talk::{self, Purpose, Talk};
use crate::workload::Workload;
use crate::{elsewhere, offer};

/// How long a target may take to look at its files.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take to arrive.
const ANSWER: Duration = Duration::from_secs(5);
/// How many peers are answered at once: each answer may cost reading files.
static LOOKING: Semaphore = Semaphore::const_new(4);
/// Clocks that differ by less are worth no remark.
const CLOCKS: Duration = Duration::from_secs(1);

/// Would the workload move to `to`, or to the node that a move would choose? An error means that the question is wrong.
pub async fn check(ground: &Ground, workload: &Arc<Workload>, to: Option<NodeName>) -> Result<CheckReport, Problem> {
    let mut findings = Vec::new();
    let chosen = match to {
        Some(to) => Ok(to),
        None => choose_target(ground).await,
    };
    let target = match chosen {
        Ok(to) if to == *ground.host.node() => Some(to),
        Ok(to) => Some(ground.peers.address(&to)?.node),
        Err(problem) => {
            findings.push(no(problem));
            None
        }
    };
    let standing = standing(ground, workload, target.as_ref());
    let stands = standing.is_ok();
    findings.extend(standing.err().map(no));
    let mut forecast = None;
    if workload.pid().is_some() {
        // Without a target there is still something to be said about the workload.
        let to = target.clone().unwrap_or_else(|| ground.host.node().clone());
        match survey(ground, workload, to).await {
            Ok(survey) => {
                findings.extend(survey.findings);
                if let Some(to) = target.as_ref().filter(|_| stands) {
                    forecast = Some(ground.host.forecasts.forecast(to, offer::size(&survey.offer)));
                    findings.extend(ask(ground, to, survey.offer, survey.demands).await);
                }
            }
            Err(problem) => findings.push(no(problem)),
        }
    }
    Ok(CheckReport {
        workload: workload.name().clone(),
        to: target,
        verdict: verdict(&findings),
        reasons: reasons(findings),
        predicted_downtime_ms: forecast.map(|forecast| forecast.downtime_ms),
        predicted_total_ms: forecast.map(|forecast| forecast.total_ms),
    })
}

/// Why a workload can be moved nowhere as it stands, or not to `to`.
pub fn standing(ground: &Ground, workload: &Workload, to: Option<&NodeName>) -> Result<(), Problem> {
    settled(workload)?;
    let (name, me) = (workload.name(), ground.host.node());
    if !matches!(workload.record().doing, Doing::Running) {
        let message = format!("{name} does not run on {me}; only a running workload can be moved");
        return Err(Problem::new(Code::WrongState, message).hint(format!("`migrate start {name}` starts it")));
    }
    if to == Some(me) {
        let message = format!("{name} is on {me} already");
        return Err(Problem::new(Code::SameNode, message).hint("choose another node with --to"));
    }
    Ok(())
}

/// What is in doubt is for a person to look at: nothing else may start or move it.
pub fn settled(workload: &Workload) -> Result<(), Problem> {
    match workload.doubt() {
        Some(problem) => Err(problem),
        None if workload.is_moving() => {
            let message = format!("{} is being moved", workload.name());
            Err(Problem::new(Code::Busy, message).hint("wait until that is done; `migrate ps` shows its state"))
        }
        None if workload.place().departure().exists() => {
            let message = format!("an earlier move of {} is not settled", workload.name());
            Err(Problem::new(Code::Busy, message)
                .hint(format!("`migrate why {}` says what it waits for", workload.name())))
        }
        None => Ok(()),
    }
}

/// The healthiest peer: alive, with the most free memory.
pub async fn choose_target(ground: &Ground) -> Result<NodeName, Problem> {
    let others = ground.peers.all();
    let asked = join_all(others.iter().map(|peer| elsewhere::node(&ground.peers, &peer.node))).await;
    let free = |view: &NodeView| Some(view.memory_total_bytes?.saturating_sub(view.memory_used_bytes?));
    let record = ground.host.tenure.record_now();
    let takes = |node: &NodeName| record.as_ref().is_none_or(|record| record.takes(node).is_ok());
    let candidates = asked
        .into_iter()
        .flatten()
        .filter(|view| view.state == NodeState::Alive && view.criu_version.is_some() && takes(&view.name));
    let best = candidates.max_by_key(|view| (free(view), std::cmp::Reverse(view.workloads)));
    best.map(|view| view.name).ok_or_else(|| {
        Problem::new(Code::PeerDown, "no other node answers and has a usable CRIU")
            .hint("`migrate nodes` shows the nodes")
    })
}

async fn survey(ground: &Ground, workload: &Arc<Workload>, to: NodeName) -> Result<offer::Survey, Problem> {
    let terms = Terms {
        handover: HandoverId(random::bytes().map_err(Problem::internal)?),
        workload: workload.name().clone(),
        from: ground.host.node().clone(),
        to,
        epoch: workload.record().epoch,
    };
    let (host, workload) = (ground.host.clone(), workload.clone());
    let seen = tokio::task::spawn_blocking(move || offer::survey(&host, &workload, &terms)).await;
    seen.map_err(Problem::internal)?
}

/// What the target has to say; that it cannot be asked is a `no` as well.
async fn ask(ground: &Ground, to: &NodeName, offer: Box<Offer>, demands: Box<Demands>) -> Vec<Finding> {
    let late = || Problem::new(Code::TimedOut, format!("{to} does not say whether it could take it"));
    let answered = tokio::time::timeout(PATIENCE, considered(ground, to, offer, demands)).await;
    answered.unwrap_or_else(|_| Err(late())).unwrap_or_else(|problem| vec![no(problem)])
}

async fn considered(
    ground: &Ground,
    to: &NodeName,
    offer: Box<Offer>,
    demands: Box<Demands>,
) -> Result<Vec<Finding>, Problem> {
    let Talk { speaker, mut listener, .. } = ground.peers.call(to, Purpose::Preflight).await?;
    let asked = now_ms();
    speaker.say(&Message::Demands(demands)).await?;
    speaker.say(&Message::Offer(offer)).await?;
    let Considered { mut findings, clock_ms } = match listener.expect().await? {
        Message::Considered(considered) => *considered,
        other => return Err(talk::unexpected(&other)),
    };
    findings.extend(differing_clocks(asked, clock_ms, now_ms(), to));
    let _ = speaker.close().await;
    Ok(findings)
}

/// The target read its clock between the question and the answer.
fn differing_clocks(asked: u64, theirs: u64, answered: u64, to: &NodeName) -> Option<Finding> {
    let (behind, ahead) = (asked.saturating_sub(theirs), theirs.saturating_sub(answered));
    let (off, word) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
    (u128::from(off) > CLOCKS.as_millis()).then(|| {
        let what = format!(
            "the clock of {to} is {:.1} s {word} this node's: the workload will see the time of day jump",
            off as f64 / 1000.0
        );
        note(what, "keep the clocks of all nodes together, with NTP for example")
    })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A peer asks whether its workload could come here.
pub async fn answer(ground: Ground, mut talk: Talk) {
    let (Preface { demands, .. }, offer) = match offer_or_other(&mut talk).await {
        Ok((preface, Message::Offer(offer))) if offer.from == talk.peer.node => (preface, offer),
        Ok((_, other)) => return tracing::info!(peer = %talk.peer.node, kind = other.kind(), "a question came oddly"),
        Err(problem) => return tracing::info!(peer = %talk.peer.node, %problem, "a question broke off"),
    };
    // Never closed.
    let Ok(_turn) = LOOKING.acquire().await else { return };
    let findings = opinion(&ground, offer, demands).await;
    let answer = Message::Considered(Box::new(Considered { findings, clock_ms: now_ms() }));
    // One that gives no credit for an answer does not get one.
    let _ = tokio::time::timeout(ANSWER, talk.speaker.say_last(&answer)).await;
}

/// What a handover that began with this offer would be told, and what else there is to know.
async fn opinion(ground: &Ground, offer: Box<Offer>, demands: Option<Box<Demands>>) -> Vec<Finding> {
    if let Err(problem) = offer.check(ground.host.node()) {
        return vec![no(problem)];
    }
    let claimed = owned_elsewhere(ground, &offer).await.map(no);
    let looking = ground.clone();
    let look = move || {
        let promised = looking.handovers.promised();
        offer::consider(&looking.host, &looking.registry, &offer, demands.as_deref(), promised)
    };
    let found = tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| vec![no(Problem::internal(error))]);
    claimed.into_iter().chain(found).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clocks_are_judged_by_what_the_exchange_proves() {
        let node = "node2".parse().unwrap();
        let said = |asked, theirs, answered| {
            differing_clocks(asked, theirs, answered, &node).map(|finding| finding.problem.message)
        };
        assert_eq!(said(10_000, 10_500, 11_000), None);
        // A slow answer proves less.
        assert_eq!(said(10_000, 49_000, 50_000), None);
        assert_eq!(said(10_000, 12_500, 11_600), None);
        assert!(said(10_000, 14_100, 11_600).unwrap().contains("2.5 s ahead of this node's"));
        assert!(said(10_000, 5_000, 11_000).unwrap().contains("5.0 s behind this node's"));
    }
}
