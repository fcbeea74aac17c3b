//! A departure that an agent which is no more has begun: finished, or taken back, from what it wrote down.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::api::Outcome;
use migrate_proto::error::Problem;
use migrate_proto::handover::source::{Command, Entry, Source};
use migrate_proto::handover::{Decision, Terms};
use migrate_proto::message::Message;
use migrate_proto::phase::Phase;
use migrate_sandbox::guard::decision::{self, Word};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::Departure;
use crate::events::Kind;
use crate::handover::drive::drive;
use crate::handover::{Ground, verdict};
use crate::talk::Purpose;
use crate::workload::Workload;
use crate::{clock, elsewhere};

/// How soon it is tried again to learn what was decided.
const AGAIN: Duration = Duration::from_secs(1);

/// A departure that is to be finished, or taken back.
pub struct Recovery {
    ground: Ground,
    workload: Arc<Workload>,
    entry: Entry,
    decided: Decided,
}

/// What is known of the decision.
enum Decided {
    /// What the file says; the target is heard.
    Known(Box<(Departure, Vec<Command>)>),
    /// The file leaves it to the cluster's record.
    AtRecord,
    /// Nothing was decided, and the processes went with the power: if the target has them, they go on there.
    IfTargetHasIt,
}

impl Departure {
    /// From what was written down. When this returns the target is heard, or nothing is answered at all. `None` where a person has to look. Blocks.
    pub fn recover(ground: Ground, workload: Arc<Workload>, entry: Entry) -> Option<Recovery> {
        let dump = workload.place().dump();
        let in_cluster = ground.host.tenure.in_cluster();
        let decided = match decision::read(&dump) {
            Ok(None) if in_cluster && workload.sandbox().is_none() && workload.doubt().is_none() => {
                Decided::IfTargetHasIt
            }
            Ok(decided) => Decided::Known(Box::new(take_up(&ground, &workload, entry.clone(), decided))),
            Err(_) if in_cluster && matches!(decision::word(&dump), Ok(Some(Word::Record))) => Decided::AtRecord,
            Err(error) => {
                ground.handovers.withhold(entry.terms.handover);
                let why = format!("its decision file cannot be read: {error}; it stays frozen");
                workload.set_frozen(Some(why.clone()));
                ground.host.events.record(Kind::Warning, Some(workload.name()), Some(entry.phase), why);
                return None;
            }
        };
        if !matches!(decided, Decided::Known(_)) {
            // What would be said about it now would be a guess.
            ground.handovers.withhold(entry.terms.handover);
        }
        Some(Recovery { ground, workload, entry, decided })
    }
}

fn take_up(
    ground: &Ground,
    workload: &Arc<Workload>,
    entry: Entry,
    decided: Option<Decision>,
) -> (Departure, Vec<Command>) {
    let (machine, first) = Source::recover(entry, decided, ground.host.config.budgets.clone(), clock::now());
    let departure = Departure::with(ground.clone(), workload.clone(), machine, Arc::default());
    departure.workload.watch(&departure.ground.host);
    let _ = departure.enlist();
    (departure, first)
}

impl Recovery {
    /// Does it. The turn is held to the end.
    pub async fn run(self, turn: Option<OwnedMutexGuard<()>>) {
        let Recovery { ground, workload, entry, decided } = self;
        let (mut departure, first) = match decided {
            Decided::Known(known) => *known,
            Decided::AtRecord => {
                let verdict = at_record(&ground, &workload, &entry.terms).await;
                ground.handovers.speak_of(entry.terms.handover);
                take_up(&ground, &workload, entry, Some(verdict))
            }
            Decided::IfTargetHasIt => {
                let verdict = if_target_has_it(&ground, &workload, &entry.terms).await;
                ground.handovers.speak_of(entry.terms.handover);
                take_up(&ground, &workload, entry, verdict)
            }
        };
        departure.reins.line.redial();
        let (outcome, problem) = drive(&mut departure, first, CancellationToken::new(), None).await;
        let (ground, terms) = (departure.ground.clone(), departure.terms().clone());
        let report = departure.conclude(outcome, problem).await;
        drop(turn);
        if let (Outcome::Stayed, Some(problem)) = (report.outcome, report.error) {
            tell_target(ground, terms, problem).await;
        }
    }
}

/// The agent before this one wanted to give it away.
async fn at_record(ground: &Ground, workload: &Arc<Workload>, terms: &Terms) -> Decision {
    loop {
        match verdict::at_record(&ground.host, workload, terms, Decision::Commit).await {
            Ok(decided) => return decided,
            Err(error) => tracing::error!(%error, "the record's verdict could not be written down"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The image is all there is. A target that holds it is given the workload; one that does not, or that the cluster takes for dead, is not waited for.
async fn if_target_has_it(ground: &Ground, workload: &Arc<Workload>, terms: &Terms) -> Option<Decision> {
    loop {
        match elsewhere::unsettled(&ground.peers, &terms.to, workload.name()).await {
            Ok(theirs) => {
                let holds =
                    theirs.iter().any(|one| !one.leaves && one.peer == terms.from && one.phase >= Phase::Commit);
                if !holds {
                    return None;
                }
                let dump = workload.place().dump();
                let left = tokio::task::spawn_blocking(move || {
                    std::fs::create_dir_all(&dump).and_then(|()| decision::leave_to_record(&dump))
                });
                match left.await.map_err(std::io::Error::other).and_then(std::convert::identity) {
                    Ok(Word::Record) => return Some(at_record(ground, workload, terms).await),
                    Ok(Word::Commit) => return Some(Decision::Commit),
                    Ok(Word::Abort) => return Some(Decision::Abort),
                    Err(error) => tracing::error!(%error, "the decision could not be left to the record"),
                }
            }
            Err(problem) => {
                tracing::info!(%problem, "whether the target has it is not known");
                let record = ground.host.tenure.record_now();
                let dead = |record: &migrate_proto::cluster::record::Record| {
                    record.nodes.get(&terms.to).is_none_or(|node| node.fenced)
                };
                if record.is_some_and(|record| dead(&record)) {
                    return None;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The machine was done before there was a connection again. The target would find out by itself, later.
async fn tell_target(ground: Ground, terms: Terms, problem: Problem) {
    if let Ok(talk) = ground.peers.call(&terms.to, Purpose::Handover).await
        && talk.speaker.say(&Message::Abort { handover: terms.handover, problem }).await.is_ok()
    {
        let _ = talk.speaker.close().await;
    }
}
