//! Moving workloads: the executors of the two machines in `migrate_proto::handover`.
//!
//! [`departure`] does what the source's machine commands, [`arrival`] what the target's does. `drive` is the loop around
//! `step` for both: what happens comes in as [`Input`], commands go out to the sandbox, to CRIU's guard, to the files and to the peer.
//!
//! - `claims`: what peers may say about handovers.
//! - `line`: the connection to the peer, which is made anew when it is lost.
//! - `outlet`: where what a source reads goes. `dump`, `layer_out`, `last_bytes`: what a source does during the pause. `receive`, `restore`, `hands`: what a target does.
//! - `verdict`: what the cluster's record says about a move.
//! - `halts`: rehearsals of faults in a phase.
//! - `meter`: bytes and phases, for progress and report.
//! - [`Handovers`]: who is at work, and where a message of a peer belongs.

pub mod arrival;
mod claims;
pub use claims::owned_elsewhere;
pub mod departure;
mod drive;
pub(crate) mod dump;
mod halts;
mod hands;
pub(crate) mod last_bytes;
pub(crate) mod layer_out;
mod line;
pub(crate) mod memory_ahead;
mod meter;
pub(crate) mod outlet;
mod promises;
pub use meter::Meter;
mod receive;
pub(crate) mod restore;
mod verdict;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use migrate_proto::care::Chart;
use migrate_proto::error::Problem;
use migrate_proto::handover::answer_without_machine;
use migrate_proto::id::HandoverId;
use migrate_proto::message::{Demands, Message};
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::mpsc;

use crate::drain::Drains;
use crate::host::Host;
use crate::peers::Peers;
use crate::registry::Registry;
use crate::talk::Talk;

/// What every handover needs of its node.
#[derive(Clone)]
pub struct Ground {
    /// This node.
    pub host: Arc<Host>,
    /// The others.
    pub peers: Arc<Peers>,
    /// The workloads here.
    pub registry: Arc<Registry>,
    /// The handovers under way.
    pub handovers: Arc<Handovers>,
    /// What is known of drains of this node.
    pub drains: Arc<Drains>,
}

/// What a handover hears.
pub enum Input<E> {
    /// Something that was commanded has happened, or failed.
    Event(E),
    /// The peer said this.
    Heard(Message),
    /// There is a new conversation with the peer.
    Talk(Box<Talk>),
    /// The conversation is over.
    Silence,
}

/// Puts a conversation that a peer began into the right hands.
type Deliver = Box<dyn Fn(Box<Talk>, Message) -> bool + Send>;

struct Mailbox {
    between: Between,
    deliver: Deliver,
    /// A person does not wait for the other side any more.
    give_up: Box<dyn Fn() -> bool + Send>,
}

/// What a handover is about, and with whom.
#[derive(Debug, Clone)]
pub struct Between {
    /// Which.
    pub handover: HandoverId,
    /// Whose.
    pub workload: WorkloadName,
    /// The other side of the handover: nobody else has a say in it.
    pub peer: NodeName,
}

/// What became of a conversation about a handover.
enum Delivery {
    /// Its side has it.
    Done,
    /// Who began it is not the other side.
    NotYours(Box<Talk>),
    /// There is no such handover under way.
    Unknown(Box<Talk>),
}

/// The handovers under way on this node.
#[derive(Default)]
pub struct Handovers {
    /// There are handovers here of which nobody knows enough to answer for them.
    silent: AtomicBool,
    /// Handovers that a person has to judge.
    withheld: Mutex<HashSet<HandoverId>>,
    mailboxes: Mutex<HashMap<HandoverId, Mailbox>>,
    told: claims::Told,
    promised: promises::Promised,
}

impl Handovers {
    /// From now on, conversations of the peer about the handover go to `inputs`; `given_up` is the event that a person's impatience
    /// is. False where there is such a handover already; then nothing has changed.
    #[must_use]
    pub fn enlist<E: Clone + Send + 'static>(
        &self,
        between: Between,
        inputs: mpsc::UnboundedSender<Input<E>>,
        given_up: E,
    ) -> bool {
        let (impatient, handover) = (inputs.clone(), between.handover);
        let deliver =
            move |talk, message| inputs.send(Input::Talk(talk)).is_ok() && inputs.send(Input::Heard(message)).is_ok();
        let give_up = move || impatient.send(Input::Event(given_up.clone())).is_ok();
        let mut mailboxes = self.lock();
        let is_new = !mailboxes.contains_key(&handover);
        if is_new {
            mailboxes.insert(handover, Mailbox { between, deliver: Box::new(deliver), give_up: Box::new(give_up) });
        }
        is_new
    }

    /// A person wants the workload gone, whatever the other side may say: ends the handover that waits for it. Says whether there is
    /// one.
    pub fn give_up(&self, workload: &WorkloadName) -> bool {
        let mailboxes = self.lock();
        let mut about = mailboxes.values().filter(|mailbox| mailbox.between.workload == *workload);
        about.any(|mailbox| (mailbox.give_up)())
    }

    /// From now on, nothing is said about handovers that are not under way: what is damaged here may be about them, and a
    /// guess could lose a workload.
    pub fn keep_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// From now on, nothing is said about this handover: a person has to judge it. About others this node knows enough.
    pub fn withhold(&self, handover: HandoverId) {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner).insert(handover);
    }

    /// It is known by now.
    fn speak_of(&self, handover: HandoverId) {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner).remove(&handover);
    }

    /// Whether an answer about a handover that is not under way would be a guess.
    fn must_not_answer(&self, handover: HandoverId) -> bool {
        self.silent.load(Ordering::Relaxed)
            || self.withheld.lock().unwrap_or_else(PoisonError::into_inner).contains(&handover)
    }

    /// Memory that was promised to all who are on their way here.
    pub fn promised(&self) -> u64 {
        self.promised.all()
    }

    /// The handover is over.
    pub fn discharge(&self, handover: HandoverId) {
        self.lock().remove(&handover);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HandoverId, Mailbox>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, handover: HandoverId, talk: Box<Talk>, message: Message) -> Delivery {
        match self.lock().get(&handover) {
            Some(mailbox) if mailbox.between.peer == talk.peer.node => {
                (mailbox.deliver)(talk, message);
                Delivery::Done
            }
            Some(_) => Delivery::NotYours(talk),
            None => Delivery::Unknown(talk),
        }
    }
}

/// After a handover: an agent that has nothing to do is small again.
pub async fn rest() {
    let _ = tokio::task::spawn_blocking(migrate_transport::allocation::give_back).await;
}

/// What may come before an offer.
#[derive(Default)]
pub struct Preface {
    /// What else the workload asks of its node.
    pub demands: Option<Box<Demands>>,
    /// What is known of its care.
    pub chart: Option<Box<Chart>>,
    /// The highest number of a checkpoint that the source has given.
    pub numbered: Option<u64>,
}

/// The first message, with what may come before an offer, each once.
pub async fn offer_or_other(talk: &mut Talk) -> Result<(Preface, Message), Problem> {
    let mut preface = Preface::default();
    loop {
        match talk.listener.expect_soon().await? {
            Message::Demands(demands) if preface.demands.is_none() => preface.demands = Some(demands),
            Message::Numbered { highest } if preface.numbered.is_none() => preface.numbered = Some(highest),
            Message::Care(chart) if preface.chart.is_none() => preface.chart = Some(chart),
            other => return Ok((preface, other)),
        }
    }
}

/// A peer has begun a conversation about a handover.
pub async fn receive(ground: Ground, mut talk: Talk) {
    let (preface, message) = match offer_or_other(&mut talk).await {
        Ok(heard) => heard,
        Err(problem) => return tracing::info!(peer = %talk.peer.node, %problem, "a conversation ended before it began"),
    };
    let handover = match &message {
        Message::Offer(offer) => return arrival::take(ground, talk, preface, offer.clone()).await,
        Message::Commit { handover, .. }
        | Message::Abort { handover, .. }
        | Message::Resumed { handover, .. }
        | Message::Lost { handover, .. }
        | Message::Ask { handover }
        | Message::Answer { handover, .. }
        | Message::Done { handover } => *handover,
        other => return tracing::info!(peer = %talk.peer.node, kind = other.kind(), "a conversation began oddly"),
    };
    let talk = match ground.handovers.deliver(handover, Box::new(talk), message.clone()) {
        Delivery::Done => return,
        Delivery::NotYours(talk) => {
            let what = format!("spoke about handover {handover}, which is between others");
            return claims::denounce(&ground, &talk.peer.node, &what);
        }
        Delivery::Unknown(talk) => talk,
    };
    if ground.handovers.must_not_answer(handover) {
        return tracing::warn!(peer = %talk.peer.node, %handover, "a question stays without an answer: it would be a guess");
    }
    // Of a state that this node has lost it remembers nothing, which is not the same as that nothing was.
    if matches!(message, Message::Ask { .. }) && !handover.is_of(ground.registry.mark()) {
        return claims::forgotten(&ground, &talk.peer.node, handover);
    }
    let received = ground.registry.received(handover);
    match message {
        // Nor is that a reason to say that it came: the source would remove the files that it still has.
        Message::Commit { .. } if received.is_none() => {
            tracing::warn!(peer = %talk.peer.node, %handover, "what was committed to this node is not known here");
        }
        Message::Done { .. } => ground.registry.forget_received(handover),
        _ => {}
    }
    if let Some(answer) = answer_without_machine(&message, received.as_ref()) {
        let _ = talk.speaker.say_last(&answer).await;
    }
}
