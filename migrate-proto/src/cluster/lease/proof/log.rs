//! The record, as far as leases need it: one order of sessions, fences and changes of voters. It is never wrong, only late.

use std::collections::BTreeSet;

use crate::cluster::VoterId;
use crate::cluster::lease::{Known, LogId, Voters};

enum Entry {
    Voters(Voters),
    Opened { node: usize, session: u64 },
    Fenced { node: usize },
}

/// The log that all agree about in the end. Whoever reads it has some number of its first entries.
pub(super) struct Log {
    entries: Vec<Entry>,
    term: u64,
}

impl Log {
    pub(super) fn new(voters: BTreeSet<VoterId>, nodes: usize) -> Log {
        let mut log = Log { entries: Vec::new(), term: 1 };
        log.append_voters(vec![voters]);
        log.entries.extend((0..nodes).map(|node| Entry::Opened { node, session: 1 }));
        log
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All configurations among the first `len` entries.
    pub(super) fn configurations(&self, len: usize) -> impl DoubleEndedIterator<Item = &Voters> {
        self.entries[..len].iter().filter_map(|entry| match entry {
            Entry::Voters(voters) => Some(voters),
            _ => None,
        })
    }

    /// The last configuration among the first `len` entries.
    pub(super) fn voters(&self, len: usize) -> &Voters {
        self.configurations(len).next_back().unwrap()
    }

    /// What the first `len` entries say about a node's session.
    pub(super) fn known(&self, len: usize, of: usize) -> Known {
        let mut known = Known { session: 0, fenced: false };
        for entry in &self.entries[..len] {
            match *entry {
                Entry::Opened { node, session } if node == of => known = Known { session, fenced: false },
                Entry::Fenced { node } if node == of => known.fenced = true,
                _ => {}
            }
        }
        known
    }

    /// How often what the node had was given to another: its workload has this epoch, less one.
    pub(super) fn epoch(&self, of: usize) -> u64 {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Fenced { node } if *node == of)).count() as u64
    }

    /// Opens the session after `after`, if that is the current one.
    pub(super) fn open(&mut self, node: usize, after: u64) -> Result<u64, u64> {
        let current = self.known(self.len(), node).session;
        if current != after {
            return Err(current);
        }
        self.entries.push(Entry::Opened { node, session: after + 1 });
        Ok(after + 1)
    }

    /// Fences the session, if it is the current one.
    pub(super) fn fence(&mut self, node: usize, session: u64) -> bool {
        let applies = self.known(self.len(), node) == Known { session, fenced: false };
        if applies {
            self.entries.push(Entry::Fenced { node });
        }
        applies
    }

    pub(super) fn append_voters(&mut self, sets: Vec<BTreeSet<VoterId>>) {
        let config = LogId { term: self.term, index: self.entries.len() as u64 };
        self.entries.push(Entry::Voters(Voters { config, sets }));
    }

    /// A configuration that a leader of an earlier term wrote into a few logs and nobody else will ever have.
    pub(super) fn forked(&mut self, to: BTreeSet<VoterId>) -> Voters {
        let sets = vec![self.voters(self.len()).sets[0].clone(), to];
        let config = LogId { term: self.term + 1, index: self.entries.len() as u64 };
        self.term += 2;
        Voters { config, sets }
    }

    /// Whether everyone in a majority of each of the last sets `has` this many entries.
    pub(super) fn committed(&self, has: impl Fn(VoterId) -> usize) -> bool {
        let last = self.voters(self.len());
        last.agree(|voter| has(voter) > last.config.index as usize)
    }
}
