//! Checkpoints: taken by the owner, kept by peers, told to the record, and thrown away when the record does not list them any more.

use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{CheckpointEntry, CheckpointKind, LoadEntry};
use migrate_proto::name::WorkloadName;

use super::bug::Bug;
use super::genesis::load_name;
use super::node::{File, Taken};
use super::world::{Word, World};

impl World {
    /// An agent's regular round about checkpoints.
    pub(crate) fn care_for_checkpoints(&mut self, node: usize) {
        let Some(agent) = self.nodes[node].agent.as_ref().filter(|agent| agent.ready) else { return };
        let record = std::sync::Arc::clone(&agent.record);
        for load in 0..self.ledger.loads.len() {
            let Some(entry) = record.loads.get(load_name(load)) else { continue };
            self.tell_of_taken(node, load, entry);
            let due = if self.faulty { 8 } else { 40 };
            if self.random.one_in(due) {
                self.take_checkpoint(node, load, entry);
            }
            self.tell_of_copies(node, load, entry);
        }
        let file_is_needed = |name: &WorkloadName, id: &CheckpointId, file: &File| {
            // What this record does not know yet another one may.
            let Some(entry) = record.loads.get(name) else { return true };
            // A number that was given to another checkpoint is never listed any more.
            entry.checkpoint(*id).is_some() || entry.numbered < file.number
        };
        let old = self.now.saturating_sub(30 * self.lease());
        let newest_goes = self.bug == Some(Bug::RetainDropsNewest) && self.random.one_in(20);
        self.nodes[node].disk.files.retain(|id, file| {
            let name = load_name(file.load);
            let listed = record.loads.get(name).is_some_and(|entry| entry.checkpoint(*id).is_some());
            let newest = record.loads.get(name).and_then(|entry| entry.newest_sound());
            let wrongly = newest_goes && newest.is_some_and(|newest| newest.id == *id);
            (listed || file.since >= old) && file_is_needed(name, id, file) && !wrongly
        });
    }

    fn take_checkpoint(&mut self, node: usize, load: usize, entry: &LoadEntry) {
        let (now, others) = (self.now, self.nodes.len() - 1);
        let other = (node + 1 + self.random.index(others)) % self.nodes.len();
        let second = (node + 1 + self.random.index(others)) % self.nodes.len();
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.unique().to_le_bytes());
        let id = CheckpointId(id);
        let here = &mut self.nodes[node];
        let (Some(agent), Some(body)) = (here.agent.as_mut(), here.bodies[load].as_ref()) else { return };
        let owns = entry.owner.as_ref() == Some(&here.name) && entry.epoch.0 == body.epoch;
        if !owns || !body.runs() || agent.taken[load].is_some() || agent.departures[load].is_some() {
            return;
        }
        let number = here.disk.numbered[load].max(entry.numbered) + 1;
        here.disk.numbered[load] = number;
        here.disk.files.insert(id, File { load, number, whole: true, since: now });
        self.ledger.checkpoints.insert(id, body.work);
        let mut peers = vec![other];
        peers.extend(Some(second).filter(|second| *second != other));
        let epoch = body.epoch;
        agent.taken[load] = Some(Taken { id, epoch, number, peers: peers.clone(), kept_by: Vec::new(), at: now });
        for peer in peers {
            self.tell(node, peer, Word::Store { load, id, number, by: node });
        }
    }

    pub(crate) fn store(&mut self, to: usize, load: usize, id: CheckpointId, number: u64, by: usize) {
        let since = self.now;
        self.nodes[to].disk.files.insert(id, File { load, number, whole: true, since });
        self.tell(to, by, Word::Stored { load, id, by: to });
    }

    pub(crate) fn stored(&mut self, to: usize, load: usize, id: CheckpointId, by: usize) {
        if let Some(taken) = self.agent(to).and_then(|agent| agent.taken[load].as_mut()).filter(|taken| taken.id == id)
            && !taken.kept_by.contains(&by)
        {
            taken.kept_by.push(by);
        }
    }

    /// The record hears of a checkpoint when a peer has it, too.
    fn tell_of_taken(&mut self, node: usize, load: usize, entry: &LoadEntry) {
        let (now, late) = (self.now, 3 * self.lease());
        let early = self.bug == Some(Bug::KeptBeforePeers);
        let session = self.session(node);
        let Some(agent) = self.agent(node) else { return };
        let Some(taken) = agent.taken[load].clone() else { return };
        if taken.epoch != entry.epoch.0 || now - taken.at > late || entry.checkpoint(taken.id).is_some() {
            agent.taken[load] = None;
            return;
        }
        let kept_by = if early { &taken.peers } else { &taken.kept_by };
        let (Some(session), false) = (session, kept_by.is_empty()) else { return };
        let holders = kept_by.iter().chain([&node]).map(|holder| self.nodes[*holder].name.clone()).collect();
        let checkpoint = CheckpointEntry {
            id: taken.id,
            number: taken.number,
            since: 0,
            taken_ms: 1_700_000_000_000 + taken.at / super::world::MS,
            kind: CheckpointKind::Periodic,
            healthy: true,
            bytes: 1,
            holders,
            depots: [].into(),
            damaged: false,
            sound_ms: None,
            restored: None,
        };
        let (epoch, by) = (entry.epoch, self.claim(node, session));
        self.tally.checkpoints += 1;
        self.say_about(
            node,
            load,
            epoch,
            "kept",
            Command::Kept { load: load_name(load).clone(), epoch, by, checkpoint },
        );
    }

    /// The leader hears who has what, where the record says otherwise.
    fn tell_of_copies(&mut self, node: usize, load: usize, entry: &LoadEntry) {
        let Some(leader) = self.log.leader else { return };
        let here = &self.nodes[node];
        let differs = |checkpoint: &CheckpointEntry| {
            let whole = here.disk.files.get(&checkpoint.id).is_some_and(|file| file.whole);
            (checkpoint.holders.contains(&here.name) != whole).then_some((checkpoint.id, whole))
        };
        for (id, whole) in entry.checkpoints.iter().filter_map(differs).collect::<Vec<_>>() {
            if !self.faulty || self.random.one_in(4) {
                self.tell(node, leader, Word::Copy { load, id, by: node, whole });
            }
        }
    }
}
