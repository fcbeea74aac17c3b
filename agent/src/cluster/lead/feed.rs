//! What the leader hears of without asking the record: how members are, how full, what kind of machines, whose lease is quiet, and who
//! holds images of moves and checkpoints.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::lease::LogId;
use migrate_proto::cluster::record::Record;
use migrate_proto::cluster::steward::{Event, Figures, Health, Past};
use migrate_proto::name::NodeName;
use tokio::sync::watch;

use super::errand::{self, Errand, Holding, InDoubt, Likeness};
use super::{ERRAND, Heard, Leader, Post, health};
use crate::cluster::membership::Membership;

impl Leader<'_> {
    pub(super) fn members_change(&self) -> watch::Receiver<u64> {
        self.post.cluster.members.changes()
    }

    /// Who has changed since the steward was told.
    pub(super) fn members(&mut self) -> Vec<Event> {
        let mut now = BTreeMap::from([(self.post.ground.host.node().clone(), Health::Alive)]);
        let views = self.post.cluster.members.views().into_iter();
        now.extend(views.filter_map(|view| Some((view.peer.node, health(view.state?)))));
        let new = now.iter().filter(|(node, health)| self.known.get(*node) != Some(*health));
        let events = new.map(|(node, health)| Event::Member { node: node.clone(), health: *health }).collect();
        self.known = now;
        events
    }

    /// What nobody says by itself.
    pub(super) async fn look_around(&mut self, past: &Past) {
        let record = self.post.ownership.record().borrow().clone();
        self.ask_for_likeness(&record);
        self.tell_figures(past);
        let alive = |node: &NodeName| self.known.get(node) == Some(&Health::Alive);
        let held = record.nodes.iter().filter(|(name, node)| node.finite && !node.fenced && alive(name));
        let claims = held.map(|(name, node)| Claim { node: name.clone(), session: node.session }).collect();
        for claim in self.quiet(claims).await {
            self.instruct(Event::Quiet(claim), past);
        }
        // Where voters keep leases, they are asked, and answer when they can.
        let over = |claim: &&Claim| self.post.ownership.has_lapsed(claim) == Some(true);
        let lapsed: Vec<Claim> = self.watched.iter().filter(over).cloned().collect();
        for claim in lapsed {
            self.instruct(Event::Lapsed { claim, voters: LogId::default() }, past);
        }
        let bereft = record.loads.values().filter_map(|load| load.owner.as_ref());
        let bereft = bereft.filter_map(|owner| record.nodes.get(owner)).any(|node| node.fenced);
        if !self.watched.is_empty() || bereft {
            self.ask_what_there_is();
        }
    }

    /// Whose lease is not renewed any more, though they seem to be alive.
    async fn quiet(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let ownership = &self.post.ownership;
        match claims.first().map(|claim| ownership.has_lapsed(claim)) {
            Some(Some(_)) => claims.into_iter().filter(|claim| ownership.has_lapsed(claim) == Some(true)).collect(),
            Some(None) => self.post.cluster.quiet(claims).await,
            None => Vec::new(),
        }
    }

    /// How full nodes are: of those that have said so, and whose kind of machine is known.
    fn figures(&self) -> Vec<Event> {
        let others = self.post.cluster.members.views().into_iter().filter_map(|view| {
            let said = view.said?;
            let (total, used) = (said.memory_total_bytes?, said.memory_used_bytes?);
            Some((view.peer.node, total, used, said.disk_free_bytes?))
        });
        let own = self.post.cluster.own_figures().map(|own| {
            let me = self.post.ground.host.node().clone();
            (me, own.memory_total_bytes, own.memory_used_bytes, own.disk_free_bytes)
        });
        let figures = others.chain(own).filter_map(|(node, memory_total, used, disk_free)| {
            let (_, likeness) = self.likeness.get(&node)?;
            let Likeness { arch, cpu_flags } = likeness.clone()?;
            let memory_free = memory_total.saturating_sub(used);
            let figures = Figures { arch, cpu_flags, memory_total, memory_free, disk_free, volumes: None };
            Some(Event::Figures { node, figures })
        });
        figures.collect()
    }

    /// A machine may be another in another session; it is asked until it answers.
    fn ask_for_likeness(&mut self, record: &Record) {
        for (node, entry) in &record.nodes {
            let known = self.likeness.get(node).is_some_and(|(session, _)| *session == entry.session);
            if known || self.known.get(node) != Some(&Health::Alive) {
                continue;
            }
            // What is known of it stays until there is something newer.
            let before = self.likeness.get(node).and_then(|(_, likeness)| likeness.clone());
            self.likeness.insert(node.clone(), (entry.session, before));
            let (post, tell) = (self.post.clone(), self.tell.clone());
            let claim = Claim { node: node.clone(), session: entry.session };
            tokio::spawn(async move {
                let answer = errand::run(&post, &claim.node, &Errand::Likeness, ERRAND).await;
                let _ = tell.send(Heard::Likeness(claim, answer.ok()));
            });
        }
    }

    /// A machine has answered: somebody may be waiting for one.
    pub(super) fn note_likeness(&mut self, claim: &Claim, likeness: Option<Likeness>, past: &Past) {
        match (self.likeness.get_mut(&claim.node), likeness) {
            (Some(known), Some(likeness)) => known.1 = Some(likeness),
            // Asked again soon.
            (Some(known), None) => known.0 = u64::MAX,
            (None, _) => {}
        }
        self.tell_figures(past);
    }

    /// What is only noted by the steward counts from its next tick on.
    fn tell_figures(&mut self, past: &Past) {
        for event in self.figures() {
            self.instruct(event, past);
        }
        self.instruct(Event::Tick { wall_ms: wall_ms() }, past);
    }

    /// Who holds the image of a move that is not decided, and who has which checkpoints, also where the owner has died before it could
    /// say so: nothing is lost of what somebody has. Nobody is waited for because of another that does not answer.
    fn ask_what_there_is(&mut self) {
        let alive = self.known.iter().filter(|(_, health)| **health == Health::Alive).map(|(node, _)| node);
        for node in alive {
            if !self.asked.insert(node.clone()) {
                continue;
            }
            let (post, tell, node) = (self.post.clone(), self.tell.clone(), node.clone());
            tokio::spawn(async move {
                for event in what_there_is(&post, &node).await {
                    let _ = tell.send(Heard::Event(event));
                }
                tokio::time::sleep(ERRAND / 2).await;
                let _ = tell.send(Heard::Asked(node));
            });
        }
    }
}

/// What a node says that it has; nothing where it does not answer.
async fn what_there_is(post: &Post, node: &NodeName) -> Vec<Event> {
    let images = errand::run::<Vec<InDoubt>>(post, node, &Errand::InDoubt, ERRAND);
    let checkpoints = errand::run::<Vec<Holding>>(post, node, &Errand::Holdings, ERRAND);
    let (images, checkpoints) = tokio::join!(images, checkpoints);
    let images = images.unwrap_or_default().into_iter().map(|InDoubt { load, held }| Event::Holds { load, held });
    // What is damaged is its owner's to list anew, or is found out by whoever fetches it.
    let whole = checkpoints.unwrap_or_default().into_iter().filter(|holding| holding.whole);
    let copies =
        whole.map(|Holding { load, checkpoint, whole }| Event::Copy { load, checkpoint, node: node.clone(), whole });
    images.chain(copies).collect()
}

pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
