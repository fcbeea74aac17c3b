//! Which workload leaves a node that is in trouble, and for which peer; or why none does.
//!
//! A function of what both sides say of themselves. The answer is a proposal: the target's preflight and the cluster's record have the last word.

#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

use crate::cluster::place::{Candidate, Needs, PlaceRules, Unfit, unfit};
use crate::name::{NodeName, WorkloadName};

/// Figures of a peer that are older say nothing.
const FRESH_MS: u64 = 3_000;
/// The worse of both nodes has to be better off by so much afterwards, as a share.
const WORTH: f64 = 0.1;
/// Peers whose room differs by less are as good.
const AS_GOOD: f64 = 0.1;
/// Copying is worse than nothing, and better than standing still.
const COPYING: f64 = 0.1;

/// What of a node runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Cores.
    Cores,
    /// Memory.
    Memory,
    /// Disk where layers live.
    Disk,
}

/// An amount of each: cores, bytes, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amounts {
    /// Cores.
    pub cores: f64,
    /// Bytes of memory.
    pub memory: f64,
    /// Bytes of disk.
    pub disk: f64,
}

impl Amounts {
    /// That of one.
    pub fn of(self, resource: Resource) -> f64 {
        match resource {
            Resource::Cores => self.cores,
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
        }
    }
}

const RESOURCES: [Resource; 3] = [Resource::Cores, Resource::Memory, Resource::Disk];

/// What a node has, and what of that is in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// What it has.
    pub has: Amounts,
    /// What is in use, or spoken for.
    pub used: Amounts,
}

impl Room {
    /// The share in use, if so much more were.
    fn share(&self, resource: Resource, more: f64) -> f64 {
        let has = self.has.of(resource);
        if has > 0.0 { (self.used.of(resource) + more) / has } else { 1.0 }
    }
}

/// What is the matter with a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// It runs short of something, and will do once less than this share of it is in use.
    Short {
        /// Of what.
        of: Resource,
        /// The share.
        clear_below: f64,
    },
    /// It will not do for anybody: it is about to fail, or to be taken away.
    Ends,
}

/// A workload of the node in trouble.
#[derive(Debug, Clone, PartialEq)]
pub struct Mover {
    /// Its name.
    pub name: WorkloadName,
    /// What it will use when it has arrived.
    pub uses: Amounts,
    /// What a node must have.
    pub needs: Needs,
    /// How long it would stand still.
    pub pause_ms: f64,
    /// How long the whole would take.
    pub total_ms: f64,
    /// Where it came from not long ago.
    pub came_from: Option<NodeName>,
    /// Why it stays, where it does.
    pub stays: Option<Stays>,
}

/// Why a workload stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Stays {
    /// A person has said so.
    #[error("is to stay where it is")]
    Pinned,
    /// It has moved not long ago.
    #[error("has moved not long ago")]
    CoolsDown,
    /// It has moved too often.
    #[error("has moved too often in the last hour")]
    TooOften,
    /// Something else is done with it.
    #[error("is being changed")]
    Busy,
    /// Nobody knows.
    #[error("is in doubt")]
    InDoubt,
}

/// A node that it might go to.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// What decides whether it can.
    pub candidate: Candidate,
    /// How full it is.
    pub room: Room,
    /// How old that is.
    pub age_ms: u64,
    /// Whether it is in trouble itself.
    pub in_trouble: bool,
    /// How many moves to it have failed in the last hour, or found less room than it had said.
    pub failures: u32,
}

/// Why a peer does not get it.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Against {
    /// It cannot take it.
    #[error("{0}")]
    Unfit(Unfit),
    /// It has not said how full it is.
    #[error("has not said for {} s how full it is", .0 / 1000)]
    Stale(u64),
    /// It is in trouble itself.
    #[error("is in trouble itself")]
    Trouble,
    /// It would be too full.
    #[error("would have {:.0} % of its {} in use, and {:.0} % is much", .share * 100.0, word(*.of), .much * 100.0)]
    Full {
        /// Of what.
        of: Resource,
        /// The share that would be in use.
        share: f64,
        /// The share from which on that is much.
        much: f64,
    },
    /// It came from there.
    #[error("is where it came from not long ago")]
    CameFrom,
    /// It would only be passed on.
    #[error("would be hardly better off: {:.0} % of its {} in use, and {:.0} % here now", .there * 100.0, word(*.of), .here * 100.0)]
    NotWorth {
        /// Of what.
        of: Resource,
        /// What it would have in use.
        there: f64,
        /// What is in use here now.
        here: f64,
    },
}

fn word(resource: Resource) -> &'static str {
    match resource {
        Resource::Cores => "CPU",
        Resource::Memory => "memory",
        Resource::Disk => "disk",
    }
}

/// Peers that do not get it, each with all that speaks against it.
pub type Losers = Vec<(NodeName, Vec<Against>)>;

/// Who leaves, for where.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Who.
    pub name: WorkloadName,
    /// For where.
    pub to: NodeName,
    /// Why the others did not get it.
    pub others: Losers,
}

/// Nobody leaves.
#[derive(Debug, Clone, Default, PartialEq, Error)]
pub struct Nobody {
    /// Those that could not, and why.
    pub stay: Vec<(WorkloadName, Stays)>,
    /// Those that could, and what spoke against each peer.
    pub nowhere: Vec<(WorkloadName, Losers)>,
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stay.is_empty() && self.nowhere.is_empty() {
            return f.write_str("there is no workload that could leave");
        }
        let stay = self.stay.iter().map(|(name, why)| format!("{name} {why}"));
        let nowhere = self.nowhere.iter().map(|(name, peers)| match peers.is_empty() {
            true => format!("for {name} there is no other node"),
            false => format!("{name} has nowhere to go: {}", in_words(peers)),
        });
        f.write_str(&nowhere.chain(stay).collect::<Vec<_>>().join("; "))
    }
}

fn in_words(peers: &[(NodeName, Vec<Against>)]) -> String {
    let words = |reasons: &[Against]| reasons.iter().map(Against::to_string).collect::<Vec<_>>().join(" and ");
    peers.iter().map(|(node, reasons)| format!("{node} {}", words(reasons))).collect::<Vec<_>>().join(", ")
}

/// What holds for every choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceRules {
    /// Who can take what.
    pub place: PlaceRules,
    /// The shares from which on a node is too full to be given more.
    pub much: Amounts,
}

/// Who leaves a node with this trouble, and for where.
pub fn choose(
    trouble: Trouble,
    here: &Room,
    movers: &[Mover],
    peers: &[Peer],
    rules: &ChoiceRules,
) -> Result<Choice, Nobody> {
    let mut nobody = Nobody::default();
    for mover in in_order(trouble, here, movers) {
        if let Some(why) = mover.stays {
            nobody.stay.push((mover.name.clone(), why));
            continue;
        }
        let judged: Vec<_> = peers.iter().map(|peer| (peer, against(trouble, here, mover, peer, rules))).collect();
        let fit: Vec<&Peer> = judged.iter().filter(|(_, reasons)| reasons.is_empty()).map(|(peer, _)| *peer).collect();
        let others = judged.into_iter().filter(|(_, reasons)| !reasons.is_empty());
        let others = others.map(|(peer, reasons)| (peer.candidate.node.clone(), reasons)).collect();
        match best(mover, &fit) {
            Some(to) => return Ok(Choice { name: mover.name.clone(), to, others }),
            None => nobody.nowhere.push((mover.name.clone(), others)),
        }
    }
    Err(nobody)
}

/// Those whose leaving alone is enough, the one that is moved most easily first; then those that help most.
fn in_order<'a>(trouble: Trouble, here: &Room, movers: &'a [Mover]) -> Vec<&'a Mover> {
    let cost = |mover: &Mover| mover.pause_ms + COPYING * mover.total_ms;
    let mut movers: Vec<&Mover> = movers.iter().collect();
    match trouble {
        Trouble::Ends => movers.sort_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.name.cmp(&b.name))),
        Trouble::Short { of, clear_below } => movers.sort_by(|a, b| {
            let enough = |mover: &Mover| here.share(of, -mover.uses.of(of)) < clear_below;
            enough(b).cmp(&enough(a)).then_with(|| match enough(a) {
                true => cost(a).total_cmp(&cost(b)).then(a.name.cmp(&b.name)),
                false => b.uses.of(of).total_cmp(&a.uses.of(of)).then(a.name.cmp(&b.name)),
            })
        }),
    }
    movers
}

/// All that speaks against a peer.
fn against(trouble: Trouble, here: &Room, mover: &Mover, peer: &Peer, rules: &ChoiceRules) -> Vec<Against> {
    let mut reasons: Vec<Against> =
        unfit(&mover.needs, &peer.candidate, &rules.place).into_iter().map(Against::Unfit).collect();
    if peer.age_ms > FRESH_MS {
        reasons.push(Against::Stale(peer.age_ms));
    }
    if peer.in_trouble {
        reasons.push(Against::Trouble);
    }
    if mover.came_from.as_ref() == Some(&peer.candidate.node) {
        reasons.push(Against::CameFrom);
    }
    for of in RESOURCES {
        let (share, much) = (peer.room.share(of, mover.uses.of(of)), rules.much.of(of));
        if share >= much {
            reasons.push(Against::Full { of, share, much });
        }
    }
    if let Trouble::Short { of, .. } = trouble {
        let (before, left) = (here.share(of, 0.0), here.share(of, -mover.uses.of(of)));
        let there = peer.room.share(of, mover.uses.of(of));
        let worse = before.max(peer.room.share(of, 0.0));
        if left.max(there) > worse - WORTH {
            reasons.push(Against::NotWorth { of, there, here: before });
        }
    }
    reasons
}

/// The peer with the most room afterwards; among those that are as good, another one for each workload, so that many that leave at once do not all go
/// to the same one.
fn best(mover: &Mover, fit: &[&Peer]) -> Option<NodeName> {
    let room = |peer: &Peer| {
        let left = RESOURCES.map(|of| 1.0 - peer.room.share(of, mover.uses.of(of)));
        left.into_iter().fold(1.0, f64::min) / f64::from(1 + peer.failures)
    };
    let most = fit.iter().map(|peer| room(peer)).fold(f64::NEG_INFINITY, f64::max);
    let as_good = fit.iter().filter(|peer| room(peer) >= most - AS_GOOD);
    as_good.map(|peer| &peer.candidate.node).max_by_key(|node| (lot(&mover.name, node), *node)).cloned()
}

fn lot(name: &WorkloadName, node: &NodeName) -> [u8; 8] {
    let digest = blake3::hash(format!("{name}\n{node}").as_bytes());
    let mut lot = [0; 8];
    lot.copy_from_slice(&digest.as_bytes()[..8]);
    lot
}
