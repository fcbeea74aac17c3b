//! A workload comes to this node: does what the target's machine commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use migrate_proto::api::Outcome;
use migrate_proto::cluster::steward::Held;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Decision;
use migrate_proto::handover::target::{Command, Entry, Event, Target};
use migrate_proto::message::{Demands, Message, Offer};
use migrate_proto::name::WorkloadName;
use migrate_proto::phase::Phase;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::drive::{PULSE, Reins, Side, drive};
use super::hands::Hands;
use super::meter::Meter;
use super::receive::{Reception, ReceptionDesk};
use super::{Between, Ground, Preface, claims, verdict};
use crate::events::Kind;
use crate::talk::Talk;
use crate::workload::Workload;
use crate::{clock, durable};

/// An arrival under way.
struct Arrival {
    ground: Ground,
    reins: Reins<Target>,
    meter: Arc<Meter>,
    reception: watch::Sender<Option<Arc<Reception>>>,
    hands: Hands,
    /// What the workload asks beyond the offer, until it is judged.
    demands: Option<Box<Demands>>,
    /// Compares or builds; awaited before anything is dropped, so that nothing appears afterwards.
    building: Option<JoinHandle<()>>,
    /// Lets the processes go, or restores them again; a repeated command joins it.
    reviving: Arc<AtomicBool>,
    /// In doubt: looks at the cluster's record, and asks it to refuse.
    learning: Option<AbortOnDrop>,
    refusing: Option<AbortOnDrop>,
}

/// Does not outlive the arrival.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A peer offers a workload, and has said what else there is to know of it.
pub async fn take(ground: Ground, talk: Talk, preface: Preface, offer: Box<Offer>) {
    let peer = talk.peer.node.clone();
    if offer.from != peer {
        let (name, from) = (&offer.spec.name, &offer.from);
        claims::denounce(&ground, &peer, &format!("offered {name} in the name of {from}"));
        let message = format!("the offer of {name} was refused: {peer} made it in the name of {from}");
        return claims::refuse(talk, Problem::new(Code::PeerUntrusted, message)).await;
    }
    let since = ground.host.tenure.lease_now().claim().map(|claim| claim.session);
    if let Some(problem) = claims::owned_elsewhere(&ground, &offer).await {
        tracing::warn!(%peer, %problem, "an offer was refused");
        return claims::refuse(talk, problem).await;
    }
    let chart = preface.chart.unwrap_or_default();
    if let Err(problem) = chart.check() {
        claims::denounce(&ground, &peer, &format!("offered {} with {}", offer.spec.name, problem.message));
        return claims::refuse(talk, problem).await;
    }
    let machine = Target::new(offer, ground.host.node().clone(), ground.host.config.budgets.clone());
    let mut arrival = Arrival::new(ground, machine);
    arrival.demands = preface.demands;
    arrival.hands.chart = Arc::new(*chart);
    arrival.hands.since = since;
    arrival.hands.numbered = preface.numbered.unwrap_or_default();
    // Before anything is made: what is there under this number is another handover's.
    if !arrival.enlist() {
        claims::denounce(&arrival.ground, &peer, "made an offer under the number of a handover that is under way");
        let message = "the offer was refused: there is a handover of this number already";
        return claims::refuse(talk, Problem::new(Code::Corrupt, message)).await;
    }
    arrival.connect(talk);
    let first = arrival.reins.machine.step(clock::now(), Event::Offered);
    arrival.run(first).await;
    super::rest().await;
}

/// The images that this node holds and of which it is in doubt: with one of them a workload goes on whose source is gone. Blocks.
pub fn in_doubt(ground: &Ground) -> Vec<(WorkloadName, Held)> {
    let waits = |workload: &Arc<Workload>| {
        let entry = durable::read::<Entry>(&workload.place().arrival()).ok().flatten()?;
        let doubt = !workload.record().owned && entry.phase == Phase::Commit && entry.lost.is_none();
        let (handover, epoch) = (entry.offer.handover, entry.offer.epoch);
        let (node, numbered) = (ground.host.node().clone(), workload.record().numbered);
        let held = Held { node, handover, epoch, numbered };
        doubt.then(|| (workload.name().clone(), held))
    };
    ground.registry.all().iter().filter_map(waits).collect()
}

/// Finishes, or takes back, what an agent that is no more has begun. When this returns the source is heard; the future does the
/// rest.
pub fn recover(
    ground: Ground,
    workload: Arc<Workload>,
    turn: Option<OwnedMutexGuard<()>>,
    mut entry: Entry,
) -> impl Future<Output = ()> + Send {
    if workload.record().owned {
        // The record is written after the commit: it is as good a witness, and there is nothing to ask.
        entry.phase = entry.phase.max(Phase::Resume);
    }
    // It may have run here, and have been lost before its source had heard that.
    entry.lost = entry.lost.or_else(|| workload.loss(&ground.host));
    let (machine, first) = Target::recover(entry, ground.host.config.budgets.clone(), clock::now());
    let mut arrival = Arrival::new(ground, machine);
    let _ = arrival.enlist();
    async move {
        arrival.hands.take_up(workload, turn).await;
        if arrival.reins.machine.is_in_doubt() {
            arrival.learn();
        }
        arrival.reins.line.redial();
        arrival.run(first).await;
    }
}

impl Arrival {
    fn new(ground: Ground, machine: Target) -> Arrival {
        let offer = machine.offer().clone();
        let reins = Reins::new(&ground, machine, offer.from.clone(), "target");
        let hands = Hands::empty(&ground, offer, reins.tell.clone());
        Arrival {
            ground,
            reins,
            meter: Arc::default(),
            reception: watch::channel(None).0,
            hands,
            demands: None,
            building: None,
            reviving: Arc::default(),
            learning: None,
            refusing: None,
        }
    }

    /// In doubt the cluster's record is looked at for as long as it takes: the source may never answer again.
    fn learn(&mut self) {
        if self.ground.host.tenure.in_cluster() && self.learning.is_none() {
            let learning = verdict::learn(self.ground.host.clone(), self.hands.offer.clone());
            self.learning = Some(AbortOnDrop(self.reins.beside(learning)));
        }
    }

    /// From now on the source is heard.
    #[must_use]
    fn enlist(&self) -> bool {
        let offer = self.reins.machine.offer();
        let between = Between { handover: offer.handover, workload: offer.spec.name.clone(), peer: offer.from.clone() };
        let given_up = Event::Aborted(Problem::new(Code::Cancelled, "a person removed it here"));
        self.ground.handovers.enlist(between, self.reins.tell.clone(), given_up)
    }

    async fn run(mut self, first: Vec<Command>) {
        let (outcome, problem) = drive(&mut self, first, CancellationToken::new(), None).await;
        let offer = self.hands.offer.clone();
        self.reins.line.part().await;
        self.ground.handovers.discharge(offer.handover);
        self.ground.handovers.promised.release(offer.handover);
        let events = &self.ground.host.events;
        match outcome {
            Outcome::Moved => {}
            Outcome::Stayed => {
                let why = problem.map_or(String::new(), |problem| format!(": {problem}"));
                events.record(
                    Kind::Stayed,
                    Some(&offer.spec.name),
                    None,
                    format!("did not come from {}{why}", offer.from),
                );
            }
            Outcome::Unknown => {
                let why = problem
                    .map_or_else(|| "it is not known where it may run".to_owned(), |problem| problem.to_string());
                events.record(Kind::Warning, Some(&offer.spec.name), None, why);
            }
        }
    }

    async fn do_once(&mut self, command: Command) -> Result<(), Problem> {
        let hands = self.hands.clone();
        match command {
            Command::Journal(phase) => {
                self.journal(phase)?;
                if phase == Phase::Commit {
                    self.learn();
                }
            }
            Command::Send(message) => self.reins.line.say(message),
            Command::Check => {
                let demands = self.demands.take();
                self.building = Some(self.reins.beside(async move { Event::Checked(hands.check(demands).await) }));
            }
            Command::BuildSandbox => self.building = Some(self.build_sandbox()),
            Command::StartRestore => drop(self.reins.beside(async move {
                match hands.start_restore().await {
                    Ok(()) => Event::RestoreReady,
                    Err(problem) => Event::ReceiveFailed(problem),
                }
            })),
            Command::Verify(manifest) => {
                let reception =
                    self.reception.borrow().clone().ok_or_else(|| Problem::internal("nothing was received"))?;
                drop(self.reins.beside(async move {
                    match hands.verify(&reception, &manifest).await {
                        Ok(()) => Event::DigestsMatch,
                        Err(problem) => Event::DigestsDiffer(problem),
                    }
                }));
            }
            Command::Restore => drop(self.reins.beside(async move { held(hands.restore().await) })),
            Command::AdoptOwner(epoch) => tokio::task::block_in_place(|| self.hands.adopt(epoch))?,
            Command::Resume => self.revive(async move {
                if let Some(problem) = hands.taken_away().await {
                    return Event::ResumeFailed(problem);
                }
                match hands.resume().await {
                    Ok(pid) => Event::Running { pid },
                    Err(problem) => Event::ResumeFailed(problem),
                }
            }),
            Command::RestoreAgain => self.revive(async move {
                if let Some(problem) = hands.taken_away().await {
                    return Event::ImageLost(problem);
                }
                match hands.image_lost() {
                    Some(problem) => Event::ImageLost(problem),
                    None => held(hands.restore_again().await),
                }
            }),
            Command::DropEverything => {
                self.built().await;
                self.hands.drop_everything().await;
            }
            Command::KeepFrozen(problem) => self.hands.keep_frozen(&problem),
            Command::NoteLost(problem) => tokio::task::block_in_place(|| self.hands.note_lost(&problem))?,
            Command::AskSource => self.reins.line.say(Message::Ask { handover: self.hands.offer.handover }),
            Command::ForgetImage => {
                self.reception.send_replace(None);
                self.hands.forget_image().await;
                // It runs, and is this node's: what follows is between the agents alone.
                self.hands.give_back_turn();
            }
            Command::Finish(outcome, _) => self.finish(outcome).await,
        }
        Ok(())
    }

    fn revive(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        if !self.reviving.swap(true, Ordering::Relaxed) {
            let reviving = self.reviving.clone();
            // Over before it is reported: what the report leads to must not join what has ended.
            drop(self.reins.beside(async move {
                let event = work.await;
                reviving.store(false, Ordering::Relaxed);
                event
            }));
        }
    }

    async fn built(&mut self) {
        if let Some(building) = self.building.take() {
            let _ = building.await;
        }
    }

    /// Before `commit` a restarted agent drops everything, wherever it was: one entry is enough to know that there is
    /// something to drop. What `resume` would say is in the workload's record. `clean-up` is written while the workload runs, and
    /// must be on the disk before `Resumed` or `Lost` is said: a target that is in doubt after that would ask a source that has
    /// forgotten, and drop what it owns.
    fn journal(&self, phase: Phase) -> Result<(), Problem> {
        self.meter.enter(phase);
        let path = self.ground.registry.place(&self.hands.offer.spec.name).arrival();
        let entry = self.reins.machine.entry(phase);
        match phase {
            Phase::Prepare | Phase::Commit | Phase::CleanUp => {
                tokio::task::block_in_place(|| durable::write(&path, &entry)).map_err(Problem::internal)
            }
            _ => Ok(()),
        }
    }

    fn build_sandbox(&self) -> JoinHandle<()> {
        let hands = self.hands.clone();
        let reception = self.reception.clone();
        self.reins.beside(async move {
            match tokio::task::spawn_blocking(move || hands.build(&reception)).await.map_err(Problem::internal) {
                Ok(Ok(())) => Event::SandboxReady,
                Ok(Err(problem)) | Err(problem) => Event::ReceiveFailed(problem),
            }
        })
    }

    async fn finish(&mut self, outcome: Outcome) {
        self.built().await;
        match outcome {
            Outcome::Moved => self.forget_entry(),
            // Whatever has come into being while it was given up.
            Outcome::Stayed => self.hands.drop_everything().await,
            Outcome::Unknown => {}
        }
        self.hands.give_back_turn();
    }

    /// The workload may have left and come again meanwhile: then the entry is another arrival's.
    fn forget_entry(&self) {
        self.ground.registry.forget_received(self.hands.offer.handover);
        let path = self.ground.registry.place(&self.hands.offer.spec.name).arrival();
        if let Ok(Some(entry)) = durable::read::<Entry>(&path)
            && entry.offer.handover == self.hands.offer.handover
        {
            let _ = durable::remove(&path);
        }
    }
}

impl Side for Arrival {
    type Machine = Target;

    fn reins(&mut self) -> &mut Reins<Target> {
        &mut self.reins
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn failed(phase: Option<Phase>, problem: Problem) -> Event {
        match phase {
            Some(phase) => Event::NotJournalled { phase, problem },
            None => Event::ReceiveFailed(problem),
        }
    }

    fn connect(&mut self, talk: Talk) {
        let desk = ReceptionDesk {
            reception: self.reception.subscribe(),
            inputs: self.reins.tell.clone(),
            meter: self.meter.clone(),
            failed: false,
        };
        self.reins.line.connect(talk, desk);
    }

    /// That it goes on at the source is not the source's to say alone: the leader may have given the image to this node.
    fn believes(&mut self, event: &Event) -> bool {
        let says_abort = matches!(event, Event::Aborted(_) | Event::Answered(Some(Decision::Abort)));
        if !says_abort || !self.ground.host.tenure.in_cluster() || !self.reins.machine.is_in_doubt() {
            return true;
        }
        if self.refusing.is_none() {
            let (host, offer) = (self.ground.host.clone(), self.hands.offer.clone());
            self.refusing = Some(AbortOnDrop(tokio::spawn(async move { verdict::refuse(&host, &offer).await })));
        }
        false
    }

    /// After the commit there is no way back: what has to be written down is tried until it is.
    async fn execute(&mut self, command: Command) -> Result<(), Problem> {
        let committed = matches!(command, Command::Journal(phase) if phase >= Phase::Resume)
            || matches!(command, Command::AdoptOwner(_) | Command::NoteLost(_));
        loop {
            match self.do_once(command.clone()).await {
                Err(problem) if committed => {
                    tracing::error!(%problem, "the workload waits until this can be written down");
                    tokio::time::sleep(PULSE).await;
                }
                done => return done,
            }
        }
    }
}

fn held(restored: Result<i32, Problem>) -> Event {
    match restored {
        Ok(pid) => Event::RestoredHeld { pid },
        Err(problem) => Event::RestoreFailed(problem),
    }
}
