//! Who votes, as the log of the record says: what the leases of nodes are kept and ended by.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::cluster::VoterId;
use crate::cluster::lease::{Electors, Nanos, Terms, Voters};

/// The last two configurations of voters in the log. Leases are gathered from majorities of both until the change is old enough:
/// see [`VoterHistory::electors`].
///
/// Empty where nobody has ever voted: the record has another way to be agreed about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterHistory {
    /// Who votes.
    pub now: Voters,
    /// Who voted before, if anybody did.
    #[serde(default, skip_serializing_if = "Voters::is_empty")]
    pub before: Voters,
}

impl VoterHistory {
    /// Whether nobody has ever voted.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.before.is_empty()
    }

    /// Whom a leader must ask that has become one just now. `effective` is the last configuration in its log, committed or not,
    /// which may be newer than what its record says.
    pub fn electors(&self, now: Nanos, effective: Voters, terms: Terms) -> Electors {
        let others = [&self.now, &self.before].into_iter();
        let before = others.filter(|voters| !voters.is_empty() && **voters != effective).cloned().collect();
        Electors::new(now, effective, before, terms)
    }

    /// Whether `voter` votes, and nobody else does or did.
    pub fn are_only(&self, voter: VoterId) -> bool {
        let only = |voters: &Voters| voters.sets.iter().all(|set| set.len() == 1 && set.contains(&voter));
        !self.now.is_empty() && only(&self.now) && only(&self.before)
    }
}

impl Record {
    /// The log has another configuration from its entry `revision` on. It is told of each, in the order of the log, also of those
    /// that name the same voters, and of both steps of a change. Says whether anything was new.
    pub fn set_voters(&mut self, revision: u64, voters: Voters) -> bool {
        let history = &mut self.cluster.voters;
        if history.now == voters || revision <= self.revision {
            return false;
        }
        let same = history.now.sets == voters.sets;
        let before = std::mem::replace(&mut history.now, voters);
        if !same {
            history.before = before;
        }
        self.revision = revision;
        true
    }
}
