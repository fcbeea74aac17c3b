//! Who votes: 1 of 1 or 2 members, 3 of up to 6, 5 of more.

use std::collections::BTreeSet;

use super::{Act, Note, Round, Steward, Subject};
use crate::cluster::VoterId;
use crate::cluster::record::{NodeEntry, Standing};
use crate::handover::Millis;
use crate::name::NodeName;

impl Steward {
    /// One change at a time, and none soon after another. Where voters are agreed about by other means there are none.
    pub(super) fn electorate(&mut self, round: &mut Round<'_>) {
        let [now] = &round.record.cluster.voters.now.sets[..] else { return };
        let Some(since) = self.voters.as_ref().map(|(_, since)| *since) else { return };
        let wanted = self.chosen(round, now);
        if wanted == *now {
            return;
        }
        let settled = since.plus(self.limits.voters_apart);
        if round.now < settled {
            self.look_at(settled);
        } else if self.may_propose(round.now, Subject::Voters).is_some() {
            let note = Note::Voters { in_place: wanted.intersection(now).count(), of: wanted.len() };
            self.say(round, Subject::Voters, note);
            round.acts.push(Act::Voters(wanted));
        }
    }

    /// Those who vote and can go on, then others who are there; where they are too few, also those who vote and are about to
    /// go or do not answer.
    fn chosen(&mut self, round: &Round<'_>, now: &BTreeSet<VoterId>) -> BTreeSet<VoterId> {
        let members: Vec<(&NodeName, &NodeEntry)> =
            round.record.nodes.iter().filter(|(_, node)| is_member(node)).collect();
        let want = match members.len() {
            0..=2 => 1,
            3..=6 => 3,
            _ => 5,
        };
        let id = |node: &NodeEntry| VoterId::from(node.mark);
        let (mut go_on, mut about_to_go) = (Vec::new(), Vec::new());
        for (name, node) in members.iter().filter(|(_, node)| now.contains(&id(node))) {
            let stays = node.standing == Standing::Member && !self.is_down_for_good(round.now, name);
            if stays { &mut go_on } else { &mut about_to_go }.push((!self.is_alive(name), id(node)));
        }
        let fresh =
            members.iter().filter(|(name, node)| !now.contains(&id(node)) && self.is_alive(name) && round.takes(name));
        go_on.sort();
        about_to_go.sort();
        let fresh = fresh.map(|(_, node)| id(node)).collect::<Vec<_>>();
        let voters = go_on.iter().map(|(_, id)| *id).chain(fresh).chain(about_to_go.iter().map(|(_, id)| *id));
        let mut voters: Vec<VoterId> = voters.take(want).collect();
        // Of an even number one more must live than of the odd one below it.
        if voters.len().is_multiple_of(2)
            && let Some(last) = voters.iter().rposition(|voter| !now.contains(voter)).or(voters.len().checked_sub(1))
        {
            voters.remove(last);
        }
        if voters.is_empty() { now.clone() } else { voters.into_iter().collect() }
    }

    fn is_down_for_good(&mut self, now: Millis, name: &NodeName) -> bool {
        let Some(since) = self.down_since(name) else { return false };
        let at = since.plus(self.limits.voter_down);
        if now < at {
            self.look_at(at);
        }
        now >= at
    }
}

fn is_member(node: &NodeEntry) -> bool {
    matches!(node.standing, Standing::Member | Standing::Draining) && node.session > 0
}
