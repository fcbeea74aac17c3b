//! A node that gives everything away: on a person's wish (`migrate drain`), when its agent is told to end, or when the machine is about to be
//! taken away.
//!
//! ```text
//! the record: this node drains ──► Drain::step ──► moves, checkpoints ──► heard again
//!                 advice of the leader ──►
//! ```
//!
//! - That the node drains stands in the record: it goes on after its agent was started anew, and until somebody says `undrain`. Only the
//!   deadline goes with the agent.
//! - What and in which order is [`migrate_proto::cluster::drain`]'s to say; where to is the leader's ([`Drains::advise`]).
//! - A last checkpoint ends the workload here: it is frozen for good right after, and given up in the record once a peer has the checkpoint.
//!
//! [`run`] is the loop; [`hands`]: what it does with workloads.

mod hands;
pub mod notice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use migrate_proto::api::DrainReport;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::drain::{Act, Drain, Event, Report, Rules};
use migrate_proto::cluster::record::Standing;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Millis;
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::{mpsc, watch};

use crate::events::Kind;
use crate::handover::Ground;
use crate::registry::Doing;
use crate::workload::Workload;
use crate::{clock, elsewhere};

/// How often it is looked what there is to give away.
const LOOK: Duration = Duration::from_millis(500);
/// How long somebody waits until the cluster has agreed to it.
const PATIENCE: Duration = Duration::from_secs(8);

/// When this node drains by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// On SIGTERM, and how long that may take.
    pub on_terminate: Option<Duration>,
    /// Where it is said that the machine is about to be taken away.
    pub notices: Vec<notice::Notice>,
    /// How long there is then.
    pub deadline: Duration,
}

/// What is known of drains on this node.
#[derive(Default)]
pub struct Drains {
    advice: Mutex<BTreeMap<WorkloadName, (Epoch, NodeName)>>,
    /// By when it is to be over.
    deadline: watch::Sender<Option<Millis>>,
    /// What came of the last one; nothing while one is under way.
    report: watch::Sender<Option<Report>>,
}

impl Drains {
    /// The leader says where a workload would be taken.
    pub fn advise(&self, load: WorkloadName, epoch: Epoch, to: NodeName) {
        self.advice.lock().unwrap_or_else(PoisonError::into_inner).insert(load, (epoch, to));
    }

    fn advised(&self, load: &WorkloadName, epoch: Epoch) -> Option<NodeName> {
        let advice = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        advice.get(load).filter(|(of, _)| *of == epoch).map(|(_, to)| to.clone())
    }
}

/// Has this node, or another one, drain or take workloads again: in the record.
pub async fn set(ground: &Ground, node: &NodeName, draining: bool) -> Result<(), Problem> {
    let tenure = &ground.host.tenure;
    if !tenure.in_cluster() {
        let what = format!("{node} is in no cluster: there is nowhere to give its workloads to");
        return Err(Problem::new(Code::Usage, what).hint("give the agents `members` or `join`"));
    }
    let what = if draining { format!("{node} does not drain") } else { format!("{node} drains as before") };
    let known = tokio::time::timeout(PATIENCE, tenure.confirmed()).await.map_err(|_| no_majority(&what))?;
    let Some(entry) = known.nodes.get(node) else {
        return Err(Problem::new(Code::UnknownNode, format!("there is no node {node} in the cluster's record"))
            .hint("`migrate nodes` shows the nodes"));
    };
    if (entry.standing == Standing::Draining) == draining {
        return Ok(());
    }
    let command = Command::Drain { node: node.clone(), since: entry.since, draining };
    tenure.ask(command, PATIENCE, &what).await.map(drop)
}

fn no_majority(what: &str) -> Problem {
    Problem::new(Code::Busy, format!("{what}: no majority of the voters answers"))
        .hint("`migrate nodes` shows who answers")
}

/// Gives everything away, until that is done or time is up. It goes on without a deadline where nobody waits any more.
pub async fn drain(ground: &Ground, deadline: Option<Duration>) -> Result<DrainReport, Problem> {
    let drains = &ground.drains;
    let until = deadline.map(|deadline| clock::now().plus(deadline.as_millis() as u64));
    drains.report.send_replace(None);
    drains.deadline.send_replace(until);
    set(ground, ground.host.node(), true).await?;
    let mut reports = drains.report.subscribe();
    let report = reports.wait_for(Option::is_some).await.map_err(Problem::internal)?.clone().unwrap_or_default();
    let Report { moved, handed_over, checkpointed, left } = report;
    Ok(DrainReport { node: ground.host.node().clone(), moved, handed_over, checkpointed, left })
}

/// Has another node do it. One that does not answer drains when it does.
pub async fn of_another(ground: &Ground, node: &NodeName, deadline: Option<Duration>) -> Result<DrainReport, Problem> {
    match elsewhere::drain(&ground.peers, node, deadline).await {
        Err(problem) if problem.code == Code::PeerDown => {
            set(ground, node, true).await?;
            let what =
                format!("{node} does not answer: it takes nothing new, and gives away what it has when it is back");
            Err(Problem::new(Code::PeerDown, what).hint(problem.message))
        }
        other => other,
    }
}

/// Has this node do all this. Nothing where there is no cluster.
pub fn begin(ground: &Ground) {
    if !ground.host.tenure.in_cluster() {
        return;
    }
    tokio::spawn(run(ground.clone()));
    let Settings { notices, deadline, .. } = ground.host.config.drains.clone();
    if !notices.is_empty() {
        tokio::spawn(notice::watch(ground.clone(), notices, deadline));
    }
}

/// Goes on for as long as the agent runs.
async fn run(ground: Ground) {
    let mut record = ground.host.tenure.record();
    loop {
        if !drains(&ground) {
            if record.changed().await.is_err() {
                return;
            }
            continue;
        }
        let (says, node) = (&ground.host.events, ground.host.node());
        says.record(Kind::Draining, None, None, format!("{node} gives its workloads away"));
        let report = Draining::new(&ground).run().await;
        let Some(report) = report else {
            says.record(Kind::Draining, None, None, format!("{node} takes workloads again"));
            continue;
        };
        says.record(Kind::Draining, None, None, in_words(node, &report));
        ground.drains.report.send_replace(Some(report));
        // What comes later, or was left, is tried again: an old deadline is none.
        ground.drains.deadline.send_replace(None);
        rest(&ground, &mut record).await;
    }
}

/// Until there is something new to do, or it drains no more.
async fn rest(ground: &Ground, record: &mut watch::Receiver<Option<Arc<migrate_proto::cluster::record::Record>>>) {
    let mut deadline = ground.drains.deadline.subscribe();
    deadline.mark_unchanged();
    while drains(ground) {
        tokio::select! {
            changed = record.changed() => if changed.is_err() { return },
            // Somebody asks for it once more.
            _ = deadline.changed() => return,
        }
    }
}

/// Whether the record says that this node drains.
fn drains(ground: &Ground) -> bool {
    let record = ground.host.tenure.record_now();
    let entry = record.as_ref().and_then(|record| record.nodes.get(ground.host.node()));
    entry.is_some_and(|entry| entry.standing == Standing::Draining)
}

fn in_words(node: &NodeName, report: &Report) -> String {
    let Report { moved, handed_over, checkpointed, left } = report;
    let mut said = format!("{node} has drained: {} moved", moved.len());
    let names = |list: &[WorkloadName]| list.iter().map(WorkloadName::as_str).collect::<Vec<_>>().join(", ");
    for (list, what) in [
        (handed_over, "ended here with a last checkpoint"),
        (checkpointed, "still here, with a checkpoint on a peer"),
        (left, "still here"),
    ] {
        if !list.is_empty() {
            said = format!("{said}; {what}: {}", names(list));
        }
    }
    said
}

/// One drain.
struct Draining<'a> {
    ground: &'a Ground,
    machine: Drain,
    deadline: Option<Millis>,
    /// What the machine was told of.
    told: BTreeSet<WorkloadName>,
    /// Those with which something is being done.
    busy: BTreeSet<WorkloadName>,
    tell: mpsc::UnboundedSender<Event>,
    heard: mpsc::UnboundedReceiver<Event>,
}

impl<'a> Draining<'a> {
    fn new(ground: &'a Ground) -> Draining<'a> {
        let deadline = *ground.drains.deadline.borrow();
        let (tell, heard) = mpsc::unbounded_channel();
        let machine = Drain::new(deadline, Rules::default());
        Draining { ground, machine, deadline, told: BTreeSet::new(), busy: BTreeSet::new(), tell, heard }
    }

    /// To its end; nothing where the node is to take workloads again.
    async fn run(mut self) -> Option<Report> {
        let mut changed = self.ground.drains.deadline.subscribe();
        changed.mark_unchanged();
        let mut event = Event::Tick;
        loop {
            // What was begun is over first: what is gone then has not gone by itself. With a tick what there is comes first: a drain of
            // nothing is over at once.
            let ticks = event == Event::Tick;
            self.note(&event);
            let mut events = self.look().await;
            events.insert(if ticks { events.len() } else { 0 }, event);
            for event in events {
                for act in self.machine.step(clock::now(), event) {
                    match act {
                        Act::Move { load, to } => {
                            self.busy.insert(load.clone());
                            hands::move_away(self.ground, load, to, self.tell.clone());
                        }
                        Act::Checkpoint { load, last } => {
                            self.busy.insert(load.clone());
                            hands::checkpoint(self.ground, load, last, self.tell.clone());
                        }
                        Act::Done(report) => return Some(report),
                    }
                }
            }
            let soon = tokio::time::Instant::now() + LOOK;
            let wake = self.machine.deadline(clock::now()).map_or(soon, |at| clock::instant(at).min(soon));
            event = tokio::select! {
                Some(event) = self.heard.recv() => event,
                () = tokio::time::sleep_until(wake) => Event::Tick,
                // There is another deadline now: begun anew, with what there is by then.
                _ = changed.changed() => {
                    let deadline = *self.ground.drains.deadline.borrow();
                    if deadline != self.deadline {
                        self.deadline = deadline;
                        self.machine = Drain::new(deadline, Rules::default());
                        self.told.clear();
                    }
                    Event::Tick
                }
            };
            if !drains(self.ground) {
                return None;
            }
        }
    }

    /// What has come, is known better by now, or has gone.
    async fn look(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let here: Vec<Arc<Workload>> = self.ground.registry.all().into_iter().filter(|one| is_to_go(one)).collect();
        for workload in &here {
            let name = workload.name();
            let to = self.ground.drains.advised(name, workload.record().epoch);
            events.push(Event::Load(name.clone(), hands::prospect(self.ground, workload, to).await));
            self.told.insert(name.clone());
        }
        // What is under way is told by whoever does it.
        let gone =
            |name: &&WorkloadName| !self.busy.contains(*name) && !here.iter().any(|workload| workload.name() == *name);
        let gone: Vec<WorkloadName> = self.told.iter().filter(gone).cloned().collect();
        for name in gone {
            self.told.remove(&name);
            events.push(Event::Gone(name));
        }
        events
    }

    /// What became of something that was begun.
    fn note(&mut self, event: &Event) {
        let (Event::Moved(load, _) | Event::Kept(load, _)) = event else { return };
        self.busy.remove(load);
        if self.ground.registry.get(load).is_none_or(|known| !is_to_go(&known)) {
            self.told.remove(load);
        }
    }
}

/// Whether it runs here and is this node's.
fn is_to_go(workload: &Workload) -> bool {
    let record = workload.record();
    record.owned && matches!(record.doing, Doing::Running | Doing::Starting)
}
