//! A workload that the record has given to this node, to be brought back from a checkpoint: its owner is gone, or has lost it with its power.
//!
//! Everything that can fail comes first: the checkpoint is fetched, sandbox and layer are made, CRIU holds the processes. They run only when
//! the record, asked right then, still says that they are this node's in this epoch and session; that stands in the registry before
//! their first instruction. Whoever cannot do it says so, on its own disk first: it never begins the workload in that epoch again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_image::vault::Generation;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{CheckpointEntry, Life, LoadEntry, Proof, Record, Wanted};
use migrate_proto::cluster::{CheckpointId, Claim, Ticket};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};

use crate::checkpoint::fetch::fetch;
use crate::checkpoint::{restore, short};
use crate::events::Kind;
use crate::handover::Ground;
use crate::host::Host;
use crate::registry::Doing;
use crate::workload::Workload;

/// How often it is tried while holders do not answer, and how long after one another.
const ATTEMPTS: u32 = 4;
const AGAIN: Duration = Duration::from_millis(400);
/// And for how long: a depot may take long to say nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// By which right something is brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The workload.
    pub load: WorkloadName,
    /// The request that it comes from.
    pub ticket: Ticket,
    /// In which epoch it is this node's.
    pub epoch: Epoch,
    /// From what it is brought back.
    pub from: CheckpointId,
    /// This node, in the session in which it has looked.
    pub claim: Claim,
}

impl Given {
    /// If the record says so of this workload.
    pub fn by(name: &WorkloadName, entry: &LoadEntry, claim: &Claim) -> Option<Given> {
        let Life::Recovering { from } = entry.life else { return None };
        let wanted = entry.owner.as_ref() == Some(&claim.node) && entry.wish == Wanted::Run;
        wanted.then(|| Given {
            load: name.clone(),
            ticket: entry.ticket,
            epoch: entry.epoch,
            from,
            claim: claim.clone(),
        })
    }

    /// Whether it is so in this record, too.
    pub fn holds_in(&self, record: &Record) -> bool {
        let again = record.loads.get(&self.load).and_then(|entry| Given::by(&self.load, entry, &self.claim));
        again.as_ref() == Some(self) && record.holds(&self.claim).is_ok()
    }

    /// Whether it is still so, as far as anybody can know. Waits for an answer: nobody runs meanwhile.
    pub async fn still(&self, host: &Host) -> Result<(), Problem> {
        if self.holds_in(&*host.tenure.confirmed().await) {
            return Ok(());
        }
        let what = format!("{} is not this node's in epoch {} any more", self.load, self.epoch);
        Err(Problem::new(Code::WrongState, what))
    }
}

/// Brings it back, and says in the record what has come of it; does nothing where the record does not say so. Nothing else may be done with
/// this workload meanwhile.
pub async fn recover(ground: &Ground, name: &WorkloadName, entry: &LoadEntry, claim: &Claim) {
    let Some(given) = Given::by(name, entry, claim) else { return };
    let host = &ground.host;
    let tried = if was_given_up(ground, &given) {
        Err(Problem::new(Code::RestoreFailed, "it was tried before, and given up"))
    } else {
        bring_back(ground, &given).await
    };
    if let Err(problem) = tried {
        // Who has it now, or whether it is wanted any more, is the record's to say.
        if !given.holds_in(&*host.tenure.confirmed().await) {
            return tracing::info!(load = %name, %problem, "it is brought back elsewhere, or not at all");
        }
        return give_up(ground, &given, &problem).await;
    }
    let began = Command::Began { load: name.clone(), epoch: given.epoch, by: given.claim };
    if let Err(refusal) = host.tenure.settle(began).await {
        // It runs by the right that was confirmed. Whoever looks at the record does what is to be done about it.
        tracing::warn!(load = %name, %refusal, "the record does not say that it runs");
    }
}

async fn bring_back(ground: &Ground, given: &Given) -> Result<(), Problem> {
    if runs_already(ground, given) {
        return Ok(());
    }
    let _in_use = ground.host.checkpoints().use_it(given.from);
    let (workload, generation) = match restored(ground, given).await {
        Err(problem) if problem.code == Code::Corrupt => {
            // This node's copy may be the only one that is: what is known to be damaged is fetched again.
            restore::note_damage(ground, &given.load, given.from, &problem).await;
            restored(ground, given).await.map_err(|_| problem)?
        }
        other => other?,
    };
    let (from, age) = (&generation.about.node, lost(ground, given, &generation));
    let message = format!(
        "recovered on {} from {from}, {age} of work lost: it goes on from checkpoint {}; epoch {}",
        ground.host.node(),
        short(generation.id),
        given.epoch
    );
    ground.host.events.record(Kind::Recovered, Some(workload.name()), None, message);
    Ok(())
}

async fn restored(ground: &Ground, given: &Given) -> Result<(Arc<Workload>, Generation), Problem> {
    let generation = at_hand(ground, given).await?;
    clear(ground, given).await?;
    let workload = restore::as_given(ground, given, &generation).await?;
    Ok((workload, generation))
}

/// Also by an agent before this one. Where that cannot be read, nothing may be begun.
fn was_given_up(ground: &Ground, given: &Given) -> bool {
    ground.registry.broke(&given.load).map_or(true, |broke| broke == Some(given.epoch))
}

/// An agent before this one may have died after it had set it going.
fn runs_already(ground: &Ground, given: &Given) -> bool {
    ground.registry.get(&given.load).is_some_and(|workload| {
        let record = workload.record();
        let this_one = record.epoch == given.epoch && record.owned && record.ticket == Some(given.ticket);
        this_one && record.doing == Doing::Running && workload.sandbox().is_some()
    })
}

/// The checkpoint, whole, on this node. Holders that do not answer now may do so in a moment.
async fn at_hand(ground: &Ground, given: &Given) -> Result<Generation, Problem> {
    let (mut tried, begun) = (0, Instant::now());
    loop {
        let entry = ground.host.tenure.entry(&given.load);
        let holders = entry.as_ref().and_then(|entry| entry.checkpoint(given.from)).map(in_turn).unwrap_or_default();
        let problem = match fetch(ground, &given.load, given.from, &holders).await {
            Ok(generation) => return Ok(generation),
            Err(problem) => problem,
        };
        tried += 1;
        if tried >= ATTEMPTS || begun.elapsed() > PATIENCE || problem.code == Code::Corrupt {
            return Err(problem);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn in_turn(checkpoint: &CheckpointEntry) -> Vec<NodeName> {
    checkpoint.holders.iter().cloned().collect()
}

/// What is here of an older epoch never runs again: the record has given the workload to this node anew.
async fn clear(ground: &Ground, given: &Given) -> Result<(), Problem> {
    let Some(old) = ground.registry.get(&given.load) else { return Ok(()) };
    let _turn = old.turn_after_others().await;
    if old.record().epoch >= given.epoch && old.record().owned && old.record().doing == Doing::Running {
        let what = format!("there is a {} of epoch {} here", given.load, old.record().epoch);
        return Err(Problem::new(Code::WrongState, what));
    }
    let ground = ground.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        old.drop_sandbox(&ground.host)?;
        ground.registry.remove(old.name()).map_err(Problem::internal)
    });
    cleared.await.map_err(Problem::internal)?
}

/// How much is lost, for people: as the leader saw it when the owner was fenced; else how old the checkpoint is.
fn lost(ground: &Ground, given: &Given, generation: &Generation) -> String {
    let said = ground.host.tenure.entry(&given.load).and_then(|entry| entry.lost_ms);
    let lost = said.unwrap_or_else(|| restore::age_ms(generation));
    format!("{:.1} s", lost as f64 / 1000.0)
}

/// It could not be done here. That is on this node's disk first: once the record knows it, another node may begin it at once.
async fn give_up(ground: &Ground, given: &Given, problem: &Problem) {
    let Given { load, epoch, from, claim, .. } = given.clone();
    let message = format!("it could not be brought back on {}: {}", ground.host.node(), problem.message);
    ground.host.events.record(Kind::Warning, Some(&load), None, message);
    if problem.code == Code::Corrupt {
        say_damaged(ground, &load, from).await;
    }
    let (registry, name) = (ground.registry.clone(), load.clone());
    let noted = tokio::task::spawn_blocking(move || registry.note_broke(&name, epoch)).await;
    if !matches!(noted, Ok(Ok(()))) {
        // Tried again as long as the record says that it is this node's.
        return tracing::error!(%load, "that it is given up could not be written down");
    }
    let broke = Command::Broke { load: load.clone(), epoch, by: claim, began: false, reason: problem.message.clone() };
    if let Err(refusal) = ground.host.tenure.settle(broke).await {
        tracing::info!(%load, %refusal, "it was given up");
    }
}

/// No holder has all of it: the leader takes the one before.
async fn say_damaged(ground: &Ground, load: &WorkloadName, id: CheckpointId) {
    let tenure = &ground.host.tenure;
    let Some(since) = tenure.entry(load).and_then(|entry| Some(entry.checkpoint(id)?.since)) else { return };
    let message = format!("checkpoint {} of {load} is damaged: the one before it is taken", short(id));
    ground.host.events.record(Kind::Warning, Some(load), None, message);
    let proved = Command::Proved { load: load.clone(), checkpoint: id, since, proof: Proof::Damaged };
    if let Err(refusal) = tenure.settle(proved).await {
        tracing::info!(%load, %refusal, "that a checkpoint is damaged was not written down");
    }
}
