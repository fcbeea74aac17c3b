//! Moves, as far as the record is concerned: the source's decision file says `record` before it asks, and what the record says is the
//! verdict. The machines of the handover itself are in the other world.

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::NEVER;
use migrate_proto::cluster::record::{Life, LoadEntry, Refusal};
use migrate_proto::cluster::steward::{self, Held};
use migrate_proto::id::{Epoch, HandoverId};

use super::bug::Bug;
use super::conduct::Voice;
use super::genesis::load_name;
use super::log::Answer;
use super::node::{AtRecord, Body, Departure, Image};
use super::world::{Word, World};

impl World {
    /// Somebody wants a workload to move.
    pub(crate) fn begin_a_move(&mut self, node: usize, load: usize, to: usize) {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.unique().to_le_bytes());
        let (handover, begun) = (HandoverId(id), self.now);
        if node == to || self.session(node).is_none() || self.nodes[node].disk.at_record[load].is_some() {
            return;
        }
        let numbered = self.nodes[node].disk.numbered[load];
        let here = &mut self.nodes[node];
        let (Some(agent), Some(body)) = (here.agent.as_mut(), here.bodies[load].as_mut()) else { return };
        let entry = agent.record.loads.get(load_name(load));
        let mine = entry.is_some_and(|entry| entry.owner.as_ref() == Some(&here.name) && entry.life == Life::Running);
        if !mine || !body.runs() || agent.departures[load].is_some() {
            return;
        }
        body.guarded = true;
        let (epoch, work) = (body.epoch, body.work);
        agent.departures[load] = Some(Departure { handover, to, epoch, begun });
        agent.refusing[load] = false;
        self.tally.moves += 1;
        self.note(|| format!("node{} moves {} to node{}", node + 1, load_name(load), to + 1));
        let image = Image { handover, from: node, epoch, work, numbered };
        self.tell(node, to, Word::Image { load, image });
    }

    /// The leader advises a node that drains.
    pub(crate) fn drain(&mut self, node: usize, load: usize, epoch: Epoch, to: &migrate_proto::name::NodeName) {
        let current = self.nodes[node].bodies[load].as_ref().is_some_and(|body| body.epoch == epoch.0);
        if let Some(to) = self.named(to).filter(|_| current) {
            self.begin_a_move(node, load, to);
        }
    }

    /// Whether a workload is in the hands of a move that leaves here.
    pub(crate) fn is_departing(&mut self, node: usize, load: usize, entry: &LoadEntry) -> bool {
        if let Some(at) = self.nodes[node].disk.at_record[load].clone() {
            self.at_record(node, load, entry, &at);
            return true;
        }
        let (now, late) = (self.now, 2 * self.lease());
        let Some(agent) = self.agent(node) else { return false };
        let Some(departure) = agent.departures[load].clone() else { return false };
        if entry.epoch.0 > departure.epoch || now - departure.begun > late {
            agent.departures[load] = None;
            self.release(node, load);
            let (handover, to) = (departure.handover, departure.to);
            self.tell(node, to, Word::Aborted { load, handover });
        }
        true
    }

    /// The decision is the record's: it is asked until its answer is there to be read.
    fn at_record(&mut self, node: usize, load: usize, entry: &LoadEntry, at: &AtRecord) {
        let AtRecord { handover, epoch, to } = at.clone();
        let session = self.session(node);
        if entry.epoch.0 > epoch {
            // The registry says so in one write.
            (self.nodes[node].disk.at_record[load], self.nodes[node].disk.owned[load]) = (None, None);
            return;
        }
        let nothing_here = self.nodes[node].bodies[load].is_none();
        if nothing_here && matches!(entry.life, Life::Stopped(_) | Life::Failed(_)) {
            // It is released: what becomes of the image is the leader's to say.
            self.nodes[node].disk.at_record[load] = None;
            return;
        }
        if entry.refused.contains(&handover) {
            self.nodes[node].disk.at_record[load] = None;
            self.note(|| format!("node{} keeps {}: the move was refused", node + 1, load_name(load)));
            // First the lease, then the guard. Without a lease it waits for one: see `go_on`.
            if let Some(session) = session {
                self.arm(node, load, session);
                self.release(node, load);
            }
            return;
        }
        let Some(session) = session else { return };
        if self.bug == Some(Bug::ResumeAtRecord) && self.random.one_in(4) {
            self.arm(node, load, session);
            self.release(node, load);
        }
        let refusing = self.nodes[node].agent.as_ref().is_some_and(|agent| agent.refusing[load]);
        // What is not here any more can only go on there.
        let refusing = refusing && self.nodes[node].bodies[load].is_some();
        let (name, epoch, now, again) = (load_name(load).clone(), Epoch(epoch), self.now, self.lease() / 3);
        let command = if refusing {
            Command::Refuse { load: name, epoch, handover }
        } else {
            let (from, to) = (self.claim(node, session), self.nodes[to].name.clone());
            Command::Transfer { load: name, epoch, from, to, handover }
        };
        let what = if refusing { "refuse" } else { "transfer" };
        let Some(agent) = self.agent(node) else { return };
        if agent.proposed.get(&(load, epoch.0, what)).is_some_and(|last| now - last < again) {
            return;
        }
        agent.proposed.insert((load, epoch.0, what), now);
        self.propose(node, Voice::Transfer { load, handover }, command);
    }

    /// The record has answered about a move. Only a word about this move is a verdict; what else is refused may be granted later.
    pub(crate) fn transferred(&mut self, node: usize, load: usize, handover: HandoverId, answer: &Answer) {
        let current = self.nodes[node].disk.at_record[load].as_ref().is_some_and(|at| at.handover == handover);
        if let (true, Err(refusal)) = (current, answer)
            && !matches!(refusal, Refusal::OtherEpoch { .. })
            && let Some(agent) = self.agent(node)
        {
            agent.refusing[load] = true;
        }
    }

    /// The guard lets go. What the lease holds stays held.
    pub(crate) fn release(&mut self, node: usize, load: usize) {
        let thaws = self.bug == Some(Bug::GuardThawsLease);
        if let Some(body) = self.nodes[node].bodies[load].as_mut() {
            body.guarded = false;
            body.free |= thaws;
        }
    }

    /// Guards whose agent has died: what is not decided goes on.
    pub(crate) fn guards_end(&mut self, node: usize) {
        for load in 0..self.ledger.loads.len() {
            if self.nodes[node].disk.at_record[load].is_none() {
                let guarded = self.nodes[node].bodies[load].as_ref().is_some_and(|body| body.guarded);
                if guarded {
                    self.release(node, load);
                }
            }
        }
    }

    /// What the record says about the image that this node may have. Whether it is what runs from now on.
    pub(crate) fn adopt_image(&mut self, node: usize, load: usize, entry: &LoadEntry, session: Option<u64>) -> bool {
        let Some(image) = self.nodes[node].images[load].clone() else { return false };
        let mine = entry.owner.as_ref() == Some(&self.nodes[node].name);
        if mine && entry.via == Some(image.handover) && entry.epoch.0 == image.epoch + 1 {
            let (Some(session), None) = (session, &self.nodes[node].bodies[load]) else {
                return self.nodes[node].bodies[load].is_none();
            };
            self.take_over(node, load, &image, session);
            return true;
        }
        let over = entry.epoch.0 > image.epoch || entry.refused.contains(&image.handover);
        let wrongly = self.bug == Some(Bug::DropHeldImage) && self.random.one_in(3);
        if over || wrongly {
            self.nodes[node].images[load] = None;
        }
        false
    }

    fn take_over(&mut self, node: usize, load: usize, image: &Image, session: u64) {
        let epoch = image.epoch + 1;
        self.tally.moved += 1;
        self.note(|| format!("node{} goes on with {} in epoch {epoch}", node + 1, load_name(load)));
        self.nodes[node].images[load] = None;
        self.nodes[node].disk.owned[load] = Some((epoch, session));
        let numbered = self.nodes[node].disk.numbered[load].max(image.numbered);
        self.nodes[node].disk.numbered[load] = numbered;
        self.nodes[node].bodies[load] = Some(Body::new(epoch, image.work));
        self.arm(node, load, session);
    }

    /// A target that is in doubt asks the source, and tells the leader.
    pub(crate) fn ask_about_images(&mut self, node: usize) {
        for load in 0..self.ledger.loads.len() {
            let Some(Image { handover, from, epoch, numbered, .. }) = self.nodes[node].images[load].clone() else {
                continue;
            };
            if self.random.one_in(2) {
                self.tell(node, from, Word::WhatBecame { load, handover, epoch, by: node });
            }
            if let Some(leader) = self.log.leader {
                self.tell(node, leader, Word::Holds { load, handover, epoch, numbered, by: node });
            }
        }
    }

    /// Something was said about a move or a checkpoint.
    pub(crate) fn word(&mut self, to: usize, word: Word) {
        match word {
            Word::Image { load, image } => self.image_comes(to, load, image),
            Word::Restored { load, handover } => self.restored(to, load, handover),
            Word::Aborted { load, handover } => self.aborted(to, load, handover),
            Word::WhatBecame { load, handover, epoch, by } => self.what_became(to, load, handover, epoch, by),
            Word::Yours { load, handover } => {
                if let Some(image) = self.nodes[to].images[load].clone().filter(|image| image.handover == handover)
                    && let Some(session) = self.session(to)
                {
                    self.take_over(to, load, &image, session);
                }
            }
            Word::Store { load, id, number, by } => self.store(to, load, id, number, by),
            Word::Stored { load, id, by } => self.stored(to, load, id, by),
            Word::Holds { load, handover, epoch, numbered, by } => {
                let node = self.nodes[by].name.clone();
                let held = Held { node, handover, epoch: Epoch(epoch), numbered };
                self.instruct(to, steward::Event::Holds { load: load_name(load).clone(), held });
            }
            Word::Copy { load, id, by, whole } => {
                let (load, node) = (load_name(load).clone(), self.nodes[by].name.clone());
                self.instruct(to, steward::Event::Copy { load, checkpoint: id, node, whole });
            }
            Word::Ready { load, by } => {
                let node = self.nodes[by].name.clone();
                self.instruct(to, steward::Event::Ready { load: load_name(load).clone(), node });
            }
            Word::Drain { load, epoch, to: target } => self.drain(to, load, epoch, &target),
        }
    }

    fn image_comes(&mut self, to: usize, load: usize, image: Image) {
        let (from, handover) = (image.from, image.handover);
        let here = &mut self.nodes[to];
        let newer = here.agent.as_ref().and_then(|agent| agent.record.loads.get(load_name(load)));
        let over = newer.is_some_and(|entry| entry.epoch.0 > image.epoch || entry.refused.contains(&handover));
        if here.images[load].is_none() && here.bodies[load].is_none() && !over {
            here.images[load] = Some(image);
            self.tell(to, from, Word::Restored { load, handover });
        }
    }

    /// The target has it: from here the record decides.
    fn restored(&mut self, node: usize, load: usize, handover: HandoverId) {
        let here = &mut self.nodes[node];
        let Some(agent) = here.agent.as_mut() else { return };
        let Some(departure) = agent.departures[load].take_if(|departure| departure.handover == handover) else {
            return;
        };
        let Departure { to, epoch, .. } = departure;
        if self.bug == Some(Bug::DecisionBeforeRecord) {
            here.bodies[load] = None;
            return self.tell(node, to, Word::Yours { load, handover });
        }
        here.disk.at_record[load] = Some(AtRecord { handover, epoch, to });
        self.arm(node, load, NEVER);
        self.conduct(node);
    }

    /// The source says that nothing comes of it. The leader may have given the image to this node all the same: the record is asked.
    fn aborted(&mut self, to: usize, load: usize, handover: HandoverId) {
        let Some(image) = self.nodes[to].images[load].clone().filter(|image| image.handover == handover) else {
            return;
        };
        let epoch = Epoch(image.epoch);
        let refuse = Command::Refuse { load: load_name(load).clone(), epoch, handover };
        self.say_about(to, load, epoch, "refuse", refuse);
    }

    fn what_became(&mut self, node: usize, load: usize, handover: HandoverId, epoch: u64, by: usize) {
        let here = &self.nodes[node];
        let Some(agent) = &here.agent else { return };
        let under_way = agent.departures[load].as_ref().is_some_and(|departure| departure.handover == handover);
        let at_record = here.disk.at_record[load].as_ref().is_some_and(|at| at.handover == handover);
        if under_way || at_record {
            return;
        }
        // What went with this node's power can only go on there.
        let entry = agent.record.loads.get(load_name(load)).filter(|_| agent.ready);
        let lost_here = entry.filter(|entry| {
            let mine = entry.owner.as_ref() == Some(&here.name) && entry.life == Life::Running;
            let released = here.disk.broke[load] == Some(epoch);
            mine && entry.epoch.0 == epoch && !released && here.bodies[load].is_none() && self.session(node).is_some()
        });
        if lost_here.is_some() {
            self.nodes[node].disk.at_record[load] = Some(AtRecord { handover, epoch, to: by });
            return self.conduct(node);
        }
        self.tell(node, by, Word::Aborted { load, handover });
    }
}
