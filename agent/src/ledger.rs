//! What this node says in the cluster's record about workloads, and what people ask of them there.
//!
//! ```text
//!   node, care, conduct ──say──►  ledger  ──propose──►  tenure
//! ```
//!
//! Everything here is for members of a cluster. What is said as the owner needs a lease; what a person wishes does not. All of it may be said
//! twice, and late: the record takes each at most once.

mod agree;
pub mod restores;
pub mod seen;

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::api::Exit;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Applied, LoadEntry, LoadPolicy, Origin, Record, Refusal, Wanted};
use migrate_proto::cluster::{Claim, Ticket};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::name::WorkloadName;
use migrate_proto::spec::WorkloadSpec;
use tokio::time::timeout;

use agree::{LOOK, PATIENCE, Verdict, agree, confirmed, has_changed, no_majority, within};

use crate::host::Host;
use crate::random;
use crate::workload::Workload;

/// How long somebody waits until the record knows what has already happened here.
const SAID_SOON: Duration = Duration::from_secs(2);
/// A workload that the record may have, or get, although nobody waits for it any more. The name must stay taken here until [`Open::withdraw`] has
/// returned.
pub struct Open {
    host: Arc<Host>,
    declare: Command,
    claim: Claim,
}

/// As what this node owns a workload that it has declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// In which epoch.
    pub epoch: Epoch,
    /// By which request; none without a cluster.
    pub ticket: Option<Ticket>,
}

/// How a declaration ended.
pub enum Declared {
    /// This node owns it.
    Mine(Given, Claim),
    /// Nothing was done.
    Refused(Problem),
    /// That is not known yet.
    Open(Problem, Box<Open>),
}

/// The right to run something here, once there is one: a cluster that has just begun agrees soon.
pub async fn claim(host: &Host, what: &str) -> Result<Claim, Problem> {
    let mut lease = host.tenure.lease();
    let held = timeout(PATIENCE, lease.wait_for(|lease| lease.claim().is_some())).await;
    let claim = held.ok().and_then(Result::ok).and_then(|lease| lease.claim().cloned());
    claim.ok_or_else(|| {
        let message = format!("{what}: {} has no lease, since no majority of the voters answers it", host.node());
        Problem::new(Code::Busy, message).hint("`migrate nodes` shows who answers; nothing was done")
    })
}

/// Takes the name in the record: this node is to run it.
pub async fn declare(host: &Arc<Host>, spec: &WorkloadSpec, policy: &LoadPolicy) -> Declared {
    let what = format!("{} was not started", spec.name);
    match prepare(host, spec, policy, &what).await {
        Ok((declare, claim)) => attempt(host, declare, claim, &what).await,
        Err(problem) => Declared::Refused(problem),
    }
}

/// Takes the name in the record, for whichever node the leader finds.
pub async fn enqueue(host: &Host, spec: &WorkloadSpec, policy: &LoadPolicy, priority: i16) -> Result<(), Problem> {
    let (name, what) = (&spec.name, format!("{} was not queued", spec.name));
    let ticket = Ticket(u64::from_le_bytes(random::bytes().map_err(Problem::internal)?));
    loop {
        let since = confirmed(host, &what).await?.cluster.removed;
        let (spec, policy) = (Box::new(spec.clone()), policy.clone());
        let declare = Command::Declare { ticket, since, spec, policy, owner: None, priority };
        match within(host, &declare, PATIENCE).await {
            Verdict::Applied => return Ok(()),
            Verdict::Refused(Refusal::Changed { .. }) => {}
            Verdict::Refused(Refusal::NameTaken { .. }) => {
                let message = format!("there is a workload {name} already");
                return Err(
                    Problem::new(Code::NameTaken, message).hint("choose another --name, or remove the other one")
                );
            }
            Verdict::Refused(refusal) => return Err(Problem::new(Code::WrongState, format!("{what}: {refusal}"))),
            Verdict::NotDone => return Err(no_majority(&what)),
            Verdict::Open => {
                let message = format!(
                    "whether {name} is queued is not known: the cluster did not answer in {} s",
                    PATIENCE.as_secs()
                );
                return Err(Problem::new(Code::Busy, message).hint("`migrate ps` shows it as soon as that is known"));
            }
        }
    }
}

async fn prepare(
    host: &Arc<Host>,
    spec: &WorkloadSpec,
    policy: &LoadPolicy,
    what: &str,
) -> Result<(Command, Claim), Problem> {
    let claim = claim(host, what).await?;
    let record = confirmed(host, what).await?;
    let ticket = Ticket(u64::from_le_bytes(random::bytes().map_err(Problem::internal)?));
    let declare = Command::Declare {
        ticket,
        since: record.cluster.removed,
        spec: Box::new(spec.clone()),
        policy: policy.clone(),
        owner: Some(claim.clone()),
        priority: 0,
    };
    Ok((declare, claim))
}

async fn attempt(host: &Arc<Host>, mut declare: Command, claim: Claim, what: &str) -> Declared {
    let Some(name) = declare.load().cloned() else { return Declared::Refused(Problem::internal("no name")) };
    loop {
        match within(host, &declare, PATIENCE).await {
            Verdict::Applied => {
                let record = match confirmed(host, what).await {
                    Ok(record) => record,
                    Err(problem) => return open(host, declare, claim, problem),
                };
                return match mine(&record, &declare, &claim) {
                    Some(entry) => Declared::Mine(Given { epoch: entry.epoch, ticket: Some(entry.ticket) }, claim),
                    None => Declared::Refused(Problem::new(
                        Code::WrongState,
                        format!("{what}: the cluster has given it away again; `migrate ps` shows where it is"),
                    )),
                };
            }
            Verdict::Refused(Refusal::Changed { .. }) => match confirmed(host, what).await {
                Ok(record) => {
                    if let Command::Declare { since, .. } = &mut declare {
                        *since = record.cluster.removed;
                    }
                }
                Err(problem) => return Declared::Refused(problem),
            },
            Verdict::Refused(Refusal::NameTaken { .. }) => {
                let owner = host.tenure.entry(&name).and_then(|entry| entry.owner);
                let place = owner.map_or_else(|| "which waits for a node".to_owned(), |owner| format!("on {owner}"));
                let message = format!("there is a workload {name} {place} already");
                let hint = "choose another --name, or remove the other one";
                return Declared::Refused(Problem::new(Code::NameTaken, message).hint(hint));
            }
            Verdict::Refused(refusal) => {
                return Declared::Refused(Problem::new(Code::WrongState, format!("{what}: {refusal}")));
            }
            Verdict::NotDone => return Declared::Refused(no_majority(what)),
            Verdict::Open => {
                let message = format!("{what}: the cluster did not agree to it in {} s", PATIENCE.as_secs());
                return open(host, declare, claim, Problem::new(Code::Busy, message).hint(LOOK));
            }
        }
    }
}

fn open(host: &Arc<Host>, declare: Command, claim: Claim, problem: Problem) -> Declared {
    Declared::Open(problem, Box::new(Open { host: host.clone(), declare, claim }))
}

fn mine<'a>(record: &'a Record, declare: &Command, claim: &Claim) -> Option<&'a LoadEntry> {
    let Command::Declare { ticket, spec, .. } = declare else { return None };
    let entry = record.loads.get(&spec.name)?;
    (entry.ticket == *ticket && entry.owner.as_ref() == Some(&claim.node)).then_some(entry)
}

impl Open {
    /// Waits until it is known, however long that takes, and takes it back.
    pub async fn withdraw(self) {
        let Open { host, declare, claim } = self;
        if host.tenure.settle(declare.clone()).await.is_err() {
            return;
        }
        let record = host.tenure.confirmed().await;
        if let Some(entry) = mine(&record, &declare, &claim) {
            withdraw(&host, entry.spec.name.clone(), entry.epoch, &claim).await;
        }
    }
}

/// Nothing is left here of a workload that could not be started, or was removed: the record forgets it. However long that takes.
pub async fn withdraw(host: &Host, load: WorkloadName, epoch: Epoch, claim: &Claim) {
    loop {
        let record = host.tenure.confirmed().await;
        let Some(entry) = record.loads.get(&load).filter(|entry| entry.epoch == epoch) else { return };
        let wish = Command::Wish { load: load.clone(), epoch, since: entry.wished, wish: Wanted::Remove };
        let gone = gone(&load, epoch, claim);
        match host.tenure.settle(Command::Many(vec![wish, gone])).await {
            // Somebody has wished something else meanwhile.
            Err(refusal) if has_changed(&refusal) => {}
            Err(refusal) => return tracing::info!(%load, %refusal, "what was not started could not be taken back"),
            Ok(_) => return,
        }
    }
}

fn gone(load: &WorkloadName, epoch: Epoch, claim: &Claim) -> Command {
    Command::Gone { load: load.clone(), epoch, owner: claim.node.clone(), session: Some(claim.session) }
}

// ---- what people ask -------------------------------------------------------------------------------------------------

/// Whether the record has it as this node's. Without a cluster there is none.
pub async fn is_mine(host: &Host, load: &WorkloadName, what: &str) -> Result<bool, Problem> {
    if !host.tenure.in_cluster() {
        return Ok(false);
    }
    let record = confirmed(host, what).await?;
    Ok(record.loads.get(load).is_some_and(|entry| entry.owner.as_ref() == Some(host.node())))
}

/// Whether a move of it may begin: only the owner gives it away, in the epoch that the record knows, and with a lease.
pub async fn may_give_away(host: &Host, workload: &Workload) -> Result<(), Problem> {
    if !host.tenure.in_cluster() {
        return Ok(());
    }
    let (name, epoch) = (workload.name(), workload.record().epoch);
    let what = format!("{name} was not moved");
    claim(host, &what).await?;
    let record = confirmed(host, &what).await?;
    let mine = |entry: &LoadEntry| entry.owner.as_ref() == Some(host.node()) && entry.epoch == epoch;
    if record.loads.get(name).is_some_and(mine) {
        return Ok(());
    }
    let message = format!("{what}: the cluster's record does not have it as {}'s in epoch {epoch}", host.node());
    Err(Problem::new(Code::WrongState, message).hint("`migrate ps` shows where it is"))
}

/// Writes down what is wanted of a workload, and says what the record had of it. `what` begins the sentence that says that it was not done.
pub async fn wish(host: &Host, load: &WorkloadName, wanted: Wanted, what: &str) -> Result<LoadEntry, Problem> {
    agree(host, what, |record| {
        let Some(entry) = record.loads.get(load) else {
            let message = format!("{what}: the cluster's record has no workload {load}");
            return Err(Problem::new(Code::UnknownWorkload, message).hint("`migrate ps` shows what there is"));
        };
        let command = Command::Wish { load: load.clone(), epoch: entry.epoch, since: entry.wished, wish: wanted };
        Ok((Some(command), entry.clone()))
    })
    .await
}

/// The owner begins it again from its files, also where it was wanted to be stopped; says in which epoch. `since` is the epoch that this node has it in.
pub async fn revive(host: &Host, load: &WorkloadName, since: Epoch, what: &str) -> Result<(Epoch, Claim), Problem> {
    let claim = claim(host, what).await?;
    // Where that is agreed to too late, this node has to begin it all the same: `conduct` does.
    let epoch = agree(host, what, |record| {
        let entry = record.loads.get(load).filter(|entry| entry.owner.as_ref() == Some(&claim.node));
        if entry.is_some_and(|entry| entry.epoch == since.next() && entry.origin == Origin::Revived) {
            return Ok((None, since.next()));
        }
        let Some(entry) = entry.filter(|entry| entry.epoch == since) else {
            let message = format!("{what}: according to the cluster's record it is not {}'s any more", host.node());
            return Err(Problem::new(Code::WrongState, message).hint("`migrate ps` shows where it is"));
        };
        let wish = Command::Wish { load: load.clone(), epoch: since, since: entry.wished, wish: Wanted::Run };
        let by = claim.clone();
        let revive = Command::Revive { load: load.clone(), epoch: since, by, from: None, lost_ms: None };
        Ok((Some(Command::Many(vec![wish, revive])), since.next()))
    })
    .await?;
    Ok((epoch, claim))
}

/// The highest number that a checkpoint of it has had, as far as is known here: by this node, by the one that it came from, and by the record.
pub fn numbered(host: &Host, workload: &Workload) -> u64 {
    let here = host.checkpoints().next_number(host, workload.name()) - 1;
    here.max(workload.record().numbered)
}

// ---- what has happened here ------------------------------------------------------------------------------------------

/// It runs here.
pub async fn began(host: &Arc<Host>, load: &WorkloadName, epoch: Epoch, by: Claim) {
    tell(host, Command::Began { load: load.clone(), epoch, by }).await;
}

/// It has ended here, and nothing follows from that.
pub async fn ended(host: &Arc<Host>, load: &WorkloadName, epoch: Epoch, exit: Option<Exit>) {
    // Without a lease it is said when there is one: see `conduct`.
    let Some(by) = host.tenure.lease_now().claim().cloned() else { return };
    tell(host, Command::Ended { load: load.clone(), epoch, by, exit }).await;
}

/// It could not be begun here; this node does not begin it in this epoch, which is on its disk.
pub async fn broke(host: &Arc<Host>, load: &WorkloadName, epoch: Epoch, by: Claim, began: bool, reason: String) {
    tell(host, Command::Broke { load: load.clone(), epoch, by, began, reason }).await;
}

/// Nothing is left of it here.
pub async fn is_gone(host: &Arc<Host>, load: &WorkloadName, epoch: Epoch) {
    let Some(by) = host.tenure.lease_now().claim().cloned() else { return };
    tell(host, gone(load, epoch, &by)).await;
}

/// Says it until the record knows it; who asks waits a moment only.
async fn tell(host: &Arc<Host>, command: Command) {
    let host = host.clone();
    let said = tokio::spawn(async move {
        match host.tenure.settle(command.clone()).await {
            Ok(Applied::Changed | Applied::AlreadySo) => {}
            Err(refusal) => tracing::info!(%refusal, ?command, "the record knows better"),
        }
    });
    if timeout(SAID_SOON, said).await.is_err() {
        tracing::info!("the record hears of it later");
    }
}
