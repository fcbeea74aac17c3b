//! What the leader does: drives the pure [`Steward`] while this node leads, and carries out what it says.
//!
//! - Nothing holds its loop up: what is proposed, asked or told goes on beside it, and what comes of that is heard like everything else.
//! - [`feed`]: what it hears of. [`errand`]: what it wants of nodes, and what those do then.
//! - It asks the voters about leases by the keeper's datagrams ([`Vigil`]). All that it has gathered goes when this node leads no more.

pub mod errand;
mod feed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use migrate_ownership::{Ownership, ProposeError};
use migrate_proto::api::NodeState;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Lapse, Nanos, Terms};
use migrate_proto::cluster::steward::{Act, Event, Health, Limits, Note, Past, Steward, Vigil};
use migrate_proto::cluster::{Claim, VoterId};
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::{broadcast, mpsc};

use self::errand::{Errand, Likeness};
use super::Cluster;
use super::calls::Calls;
use super::keeper::Order;
use crate::clock;
use crate::events::Kind;
use crate::handover::Ground;

/// How often it looks whose lease is quiet, and how full nodes are.
const LOOK: Duration = Duration::from_millis(150);
/// How long a node may take to do what the leader wants of it.
const ERRAND: Duration = Duration::from_secs(1);

/// What whoever may lead needs.
#[derive(Clone)]
pub struct Post {
    /// Keeps the record.
    pub ownership: Arc<dyn Ownership>,
    /// The others.
    pub cluster: Arc<Cluster>,
    /// How they are asked.
    pub calls: Arc<Calls>,
    /// This node.
    pub ground: Ground,
    /// How long leases last.
    pub terms: Terms,
}

/// Goes on for as long as the agent runs.
pub async fn lead(post: &Post) {
    let (mut standing, mut records) = (post.ownership.standing(), post.ownership.record());
    // Also while others lead: who begins to lead must know how old sessions are, and since when who votes.
    let mut past = Past::new(now(), &records.borrow(), &standing.borrow().voters, post.terms);
    loop {
        let stands = standing.borrow_and_update().clone();
        past.learn(now(), &records.borrow_and_update(), &stands.voters);
        if stands.leads {
            tracing::info!("this node leads");
            Leader::new(post).act(&mut past).await;
            tracing::info!("this node leads no more");
        }
        let changed = tokio::select! {
            changed = standing.changed() => changed,
            changed = records.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What was done beside the loop, and what came of it.
enum Heard {
    /// The steward should know.
    Event(Event),
    /// What kind of machine a node is, in this session; nothing where it did not answer.
    Likeness(Claim, Option<Likeness>),
    /// This node was asked what it has, and may be asked again.
    Asked(NodeName),
}

/// One time of leading. It keeps nothing that the next leader would miss.
struct Leader<'a> {
    post: &'a Post,
    steward: Steward,
    vigil: Vigil,
    /// When the voters are asked again.
    ask_at: Option<Nanos>,
    /// How members were when the steward was told last.
    known: BTreeMap<NodeName, Health>,
    /// What kind of machines there are; nothing while one is asked.
    likeness: BTreeMap<NodeName, (u64, Option<Likeness>)>,
    /// Whose lease may be over: then somebody may need to be brought back, and nodes are asked what they have.
    watched: BTreeSet<Claim>,
    /// Who has just been asked.
    asked: BTreeSet<NodeName>,
    tell: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
    verdicts: broadcast::Receiver<Lapse>,
}

impl Leader<'_> {
    fn new(post: &Post) -> Leader<'_> {
        let (tell, heard) = mpsc::unbounded_channel();
        Leader {
            post,
            steward: Steward::new(limits(post.terms)),
            vigil: Vigil::new(post.terms),
            ask_at: None,
            known: BTreeMap::new(),
            likeness: BTreeMap::new(),
            watched: BTreeSet::new(),
            asked: BTreeSet::new(),
            tell,
            heard,
            verdicts: post.cluster.verdicts(),
        }
    }

    /// Until this node leads no more.
    async fn act(mut self, past: &mut Past) {
        let post = self.post;
        let (mut standing, mut records) = (post.ownership.standing(), post.ownership.record());
        let mut changes = self.members_change();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shown = None;
        loop {
            let stands = standing.borrow_and_update().clone();
            if !stands.leads {
                return;
            }
            let record = records.borrow_and_update().clone();
            changes.borrow_and_update();
            past.learn(now(), &record, &stands.voters);
            let mut events = self.members();
            if shown != Some(record.revision) {
                shown = Some(record.revision);
                events.push(Event::Record(record));
            }
            events.push(Event::Tick { wall_ms: feed::wall_ms() });
            for event in events {
                self.instruct(event, past);
            }
            self.ask_when_due(past);
            let wake = self.wake();
            let changed = tokio::select! {
                changed = standing.changed() => changed,
                changed = records.changed() => changed,
                changed = changes.changed() => changed,
                Some(heard) = self.heard.recv() => {
                    self.hear(heard, past);
                    Ok(())
                }
                verdict = self.verdicts.recv() => {
                    if let Ok(lapse) = verdict {
                        self.judge(&lapse, past);
                    }
                    Ok(())
                }
                _ = look.tick() => {
                    self.look_around(past).await;
                    Ok(())
                }
                () = tokio::time::sleep_until(wake) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn wake(&self) -> tokio::time::Instant {
        let steward = self.steward.deadline().map(clock::instant);
        let asks = self.ask_at.map(|at| tokio::time::Instant::now() + Duration::from_nanos(at.since(now())));
        let far = tokio::time::Instant::now() + Duration::from_secs(60);
        [steward, asks].into_iter().flatten().fold(far, std::cmp::Ord::min)
    }

    fn instruct(&mut self, event: Event, past: &Past) {
        for act in self.steward.step(clock::now(), event) {
            self.carry_out(act, past);
        }
    }

    fn hear(&mut self, heard: Heard, past: &Past) {
        match heard {
            Heard::Event(event) => self.instruct(event, past),
            Heard::Likeness(claim, likeness) => self.note_likeness(&claim, likeness, past),
            Heard::Asked(node) => {
                self.asked.remove(&node);
            }
        }
    }

    /// A voter has answered.
    fn judge(&mut self, lapse: &Lapse, past: &Past) {
        if let Some((claim, voters)) = self.vigil.heard(now(), lapse, past) {
            tracing::info!(%claim, ?voters, "a lease is over");
            self.instruct(Event::Lapsed { claim, voters }, past);
        }
    }

    fn ask_when_due(&mut self, past: &Past) {
        if self.vigil.is_idle() {
            self.ask_at = None;
        } else if self.ask_at.is_none_or(|at| at <= now()) {
            let (voters, asks) = self.vigil.asks(now(), past);
            self.post.cluster.order(Order::Ask(voters, asks));
            self.ask_at = Some(now().plus(self.vigil.again()));
        }
    }

    fn carry_out(&mut self, act: Act, past: &Past) {
        match act {
            Act::Propose(command) => self.propose(command),
            Act::Watch(claims) => {
                tracing::debug!(?claims, "the voters are asked about these leases");
                self.vigil.watch(now(), &claims, past);
                self.watched = claims.into_iter().collect();
                self.ask_at = None;
                self.ask_when_due(past);
            }
            Act::Nudge { node, load, epoch } => self.send(node, Errand::Nudge { load, epoch }),
            Act::Move { from, load, epoch, to } => self.send(from, Errand::Move { load, epoch, to }),
            Act::Voters(voters) => self.change_voters(voters),
            Act::Say(note) => {
                let what = note.to_string();
                self.post.ground.host.events.record(kind(&note), about(&note), None, what);
            }
            Act::Prepare { load, node, from } => tracing::debug!(%load, %node, %from, "nothing is made ready yet"),
        }
    }

    fn propose(&self, command: Command) {
        let ownership = self.post.ownership.clone();
        tokio::spawn(async move {
            match ownership.propose(command.clone()).await {
                Ok(applied) => tracing::debug!(?applied, ?command, "as the leader has proposed"),
                Err(ProposeError::Refused(refusal)) => tracing::info!(%refusal, ?command, "the record has refused"),
                // It comes again.
                Err(error) => tracing::info!(%error, ?command, "nothing has come of what the leader proposed"),
            }
        });
    }

    fn change_voters(&self, voters: BTreeSet<VoterId>) {
        let ownership = self.post.ownership.clone();
        tokio::spawn(async move {
            if let Err(error) = ownership.set_voters(voters).await {
                tracing::info!(%error, "the voters were not changed; that is tried again");
            }
        });
    }

    /// Has a node do something. It may be lost: everything comes again, or the node finds out by itself.
    fn send(&self, node: NodeName, errand: Errand) {
        let post = self.post.clone();
        tokio::spawn(async move {
            if let Err(error) = errand::run::<()>(&post, &node, &errand, ERRAND).await {
                tracing::debug!(%node, ?errand, error, "a node was not told");
            }
        });
    }
}

/// How long what is waited for, where leases last as long as here.
fn limits(terms: Terms) -> Limits {
    let promise = terms.promise() / 1_000_000;
    let usual = Limits::default();
    Limits { voters_apart: usual.voters_apart.max(3 * promise), voter_down: usual.voter_down.max(3 * promise), ..usual }
}

/// The clock of leases: it counts sleep.
fn now() -> Nanos {
    Nanos(u64::try_from(clock::boottime().as_nanos()).unwrap_or(u64::MAX))
}

fn health(state: NodeState) -> Health {
    match state {
        NodeState::Alive | NodeState::Draining => Health::Alive,
        NodeState::Suspect => Health::Suspect,
        NodeState::Dead => Health::Down,
        NodeState::Left => Health::Left,
    }
}

fn kind(note: &Note) -> Kind {
    match note {
        Note::Fenced { .. } => Kind::Fenced,
        Note::Recovered { .. } | Note::TakenOver { .. } => Kind::Recovering,
        Note::Lost { .. } | Note::GivenUp { .. } => Kind::Warning,
        Note::NoRoom { .. } | Note::Waits { .. } => Kind::Waits,
        Note::Voters { .. } => Kind::Leader,
    }
}

fn about(note: &Note) -> Option<&WorkloadName> {
    match note {
        Note::Recovered { load, .. }
        | Note::TakenOver { load, .. }
        | Note::Lost { load, .. }
        | Note::NoRoom { load, .. }
        | Note::Waits { load, .. }
        | Note::GivenUp { load, .. } => Some(load),
        Note::Fenced { .. } | Note::Voters { .. } => None,
    }
}
