//! What a person brings back from a checkpoint, in the record: first it says that this node does it, in an epoch of its own; then it is done. So of two
//! commands at once, on whichever nodes, one is refused.
//!
//! Meanwhile the record has it as being brought back from that checkpoint, and as one that has run: whoever is left with it when this agent or this
//! node dies goes on from there, and never from nothing.

use migrate_proto::api::Exit;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Life, LoadEntry, LoadPolicy, Origin, Record, Wanted};
use migrate_proto::cluster::{CheckpointId, Claim, Ticket};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::WorkloadName;
use migrate_proto::spec::WorkloadSpec;
use tokio::time::timeout;

use super::agree::{PATIENCE, agree, has_changed};
use super::{claim, withdraw};
use crate::conduct::recover::Given;
use crate::host::Host;
use crate::random;

/// That a person's restore may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// In which epoch, from what.
    pub given: Given,
    /// What was wished for the workload before; nothing where there was none.
    before: Option<Wanted>,
}

/// What is to be brought back.
pub struct Wanting<'a> {
    /// Its name, and all that it was run with.
    pub spec: &'a WorkloadSpec,
    /// What was asked for it, where it is not in the record yet.
    pub policy: LoadPolicy,
    /// From what.
    pub from: CheckpointId,
    /// Whether a workload of that name may be there.
    pub in_place: bool,
}

/// Whether the record has the name for something else, as far as it is known here.
pub fn refuse_if_taken(host: &Host, name: &WorkloadName, in_place: bool) -> Result<(), Problem> {
    host.tenure.entry(name).map_or(Ok(()), |entry| is_free(host, name, &entry, in_place))
}

fn is_free(host: &Host, name: &WorkloadName, entry: &LoadEntry, in_place: bool) -> Result<(), Problem> {
    let (me, life) = (host.node(), &entry.life);
    let second = format!("`migrate restore {name} --as NEW` makes a second one");
    match &entry.owner {
        _ if !in_place => {
            let message = format!("there is a workload {name} in the cluster already");
            Err(Problem::new(Code::NameTaken, message).hint("choose another name, or remove the other one"))
        }
        Some(owner) if owner == me => Ok(()),
        Some(owner) => {
            let message = format!("{name} is {owner}'s, according to the cluster's record: {life}");
            Err(Problem::new(Code::NameTaken, message).hint(format!("`migrate restore {name} --on {owner}`; {second}")))
        }
        None => {
            let message = format!("{name} waits for a node, according to the cluster's record: {life}");
            Err(Problem::new(Code::WrongState, message).hint(second))
        }
    }
}

/// Has the record say that this node brings it back. The caller has its name, or its turn, here.
pub async fn begin(host: &Host, wanting: &Wanting<'_>) -> Result<Right, Problem> {
    let what = format!("{} was not restored", wanting.spec.name);
    let claim = claim(host, &what).await?;
    let ticket = Ticket(u64::from_le_bytes(random::bytes().map_err(Problem::internal)?));
    let mut asked: Option<Right> = None;
    agree(host, &what, |record| {
        if let Some(right) = asked.take().filter(|right| right.given.holds_in(record)) {
            return Ok((None, right));
        }
        let (command, right) = match record.loads.get(&wanting.spec.name) {
            None => declare(record, wanting, ticket, &claim),
            Some(entry) => {
                is_free(host, &wanting.spec.name, entry, wanting.in_place)?;
                revive(entry, wanting, &claim)
            }
        };
        asked = Some(right.clone());
        Ok((Some(command), right))
    })
    .await
}

/// A new entry, of something that has run: in the epoch after its first one it is being brought back.
fn declare(record: &Record, wanting: &Wanting<'_>, ticket: Ticket, claim: &Claim) -> (Command, Right) {
    let (load, epoch) = (wanting.spec.name.clone(), record.cluster.floor.next());
    let declare = Command::Declare {
        ticket,
        since: record.cluster.removed,
        spec: Box::new(wanting.spec.clone()),
        policy: wanting.policy.clone(),
        owner: Some(claim.clone()),
        priority: 0,
    };
    let began = Command::Began { load: load.clone(), epoch, by: claim.clone() };
    let from = Some(wanting.from);
    let revive = Command::Revive { load: load.clone(), epoch, by: claim.clone(), from, lost_ms: None };
    let given = Given { load, ticket, epoch: epoch.next(), from: wanting.from, claim: claim.clone() };
    (Command::Many(vec![declare, began, revive]), Right { given, before: None })
}

fn revive(entry: &LoadEntry, wanting: &Wanting<'_>, claim: &Claim) -> (Command, Right) {
    let (load, epoch) = (wanting.spec.name.clone(), entry.epoch);
    let wish = Command::Wish { load: load.clone(), epoch, since: entry.wished, wish: Wanted::Run };
    let from = Some(wanting.from);
    let revive = Command::Revive { load: load.clone(), epoch, by: claim.clone(), from, lost_ms: None };
    let given = Given { load, ticket: entry.ticket, epoch: epoch.next(), from: wanting.from, claim: claim.clone() };
    (Command::Many(vec![wish, revive]), Right { given, before: Some(entry.wish) })
}

/// It could not be done, and is here as it was: so it is in the record, too. Who asked is not kept waiting for that for ever.
pub async fn take_back(host: &Host, right: &Right, exit: Option<Exit>) {
    let Given { load, epoch, claim, .. } = &right.given;
    let taken_back = async {
        let Some(before) = right.before else { return withdraw(host, load.clone(), *epoch, claim).await };
        loop {
            let record = host.tenure.confirmed().await;
            let Some(entry) = record.loads.get(load).filter(|entry| is_its(entry, right)) else { return };
            let ended = Command::Ended { load: load.clone(), epoch: *epoch, by: claim.clone(), exit };
            let wish = Command::Wish { load: load.clone(), epoch: *epoch, since: entry.wished, wish: before };
            let back = if entry.wish == before { ended } else { Command::Many(vec![wish, ended]) };
            match host.tenure.settle(back).await {
                Err(refusal) if has_changed(&refusal) => {}
                Err(refusal) => return tracing::info!(%load, %refusal, "what was not restored is not taken back"),
                Ok(_) => return,
            }
        }
    };
    if timeout(PATIENCE, taken_back).await.is_err() {
        tracing::warn!(%load, "the record still has it as being brought back: that is tried again");
    }
}

fn is_its(entry: &LoadEntry, right: &Right) -> bool {
    let still = matches!(entry.life, Life::Recovering { .. }) && entry.origin == Origin::Revived;
    still && entry.epoch == right.given.epoch && entry.owner.as_ref() == Some(&right.given.claim.node)
}
