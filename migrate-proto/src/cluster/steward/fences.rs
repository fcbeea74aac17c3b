//! Whose lease is asked about, and who is fenced.

use std::collections::BTreeSet;

use super::{Act, Health, Note, Round, Steward, Subject};
use crate::cluster::Claim;
use crate::cluster::command::Command;
use crate::cluster::record::NodeEntry;
use crate::name::NodeName;

impl Steward {
    pub(super) fn fences(&mut self, round: &mut Round<'_>) {
        let now = round.now;
        self.quiet.retain(|_, until| now < *until);
        if let Some(until) = self.quiet.values().min().copied() {
            self.look_at(until);
        }
        let mut watched = BTreeSet::new();
        let record = round.record;
        for (name, node) in &record.nodes {
            if node.fenced || !node.finite || node.session == 0 {
                continue;
            }
            let claim = Claim { node: name.clone(), session: node.session };
            match self.lapsed.get(&claim).copied() {
                // It does answer; what it sends to the voters may be all that is lost.
                Some((_, since)) if !self.seems_gone(name) && round.now < since.plus(self.limits.patience) => {
                    self.look_at(since.plus(self.limits.patience));
                }
                Some((voters, _)) => {
                    self.fence(round, &claim, node, Command::Fence { lapsed: claim.clone(), voters });
                }
                None if !self.is_alive(name) || self.quiet.contains_key(&claim) => {
                    watched.insert(claim);
                }
                None => {}
            }
        }
        if watched != self.watched {
            self.watched.clone_from(&watched);
            round.acts.push(Act::Watch(watched));
        }
    }

    fn seems_gone(&self, node: &NodeName) -> bool {
        matches!(self.health(node), Some(Health::Suspect | Health::Down | Health::Left))
    }

    /// With the first fence goes what becomes of the node's workloads: one entry of the log. Where that does not succeed, one part
    /// of it may be refused for ever, and the fence goes alone.
    fn fence(&mut self, round: &mut Round<'_>, claim: &Claim, node: &NodeEntry, fence: Command) {
        let subject = Subject::Node(claim.node.clone(), claim.session);
        round.seats.close(&claim.node);
        let Some(times) = self.may_propose(round.now, subject.clone()) else { return };
        self.say(round, subject, Note::Fenced { claim: claim.clone(), loads: node.owns as usize });
        let follow = if times == 0 { self.bring_back_all_of(round, &claim.node) } else { Vec::new() };
        round.acts.push(Act::Propose(if follow.is_empty() {
            fence
        } else {
            Command::Many([fence].into_iter().chain(follow).collect())
        }));
    }
}
