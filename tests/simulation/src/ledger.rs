//! What is true, whether any node knows it: which handovers there were, and whose each workload is.
//!
//! A workload's owner changes at one instant: when the decision `commit` is on the source's platter.

use migrate_proto::api::Outcome;
use migrate_proto::handover::Terms;

/// A handover that was begun.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) load: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) terms: Terms,
    /// The decision is `commit`, for good.
    pub(crate) committed: bool,
    /// How each side's machine ended, where it did.
    pub(crate) source: Option<Outcome>,
    pub(crate) target: Option<Outcome>,
    /// How far the workload was when its image was complete.
    pub(crate) captured: Option<u64>,
    /// The image went with the target's power, which the source did not know when it decided.
    pub(crate) image_lost: bool,
    /// It is for a person to judge.
    pub(crate) unknown: bool,
    /// The target has let the processes go.
    pub(crate) ran: bool,
    /// The source's report says that it runs on the target.
    pub(crate) said_to_run: bool,
}

impl Handover {
    /// One that has not begun.
    pub(crate) fn new(load: usize, from: usize, to: usize, terms: Terms) -> Handover {
        let (committed, source, target, captured) = (false, None, None, None);
        let (image_lost, unknown, ran, said_to_run) = (false, false, false, false);
        Handover { load, from, to, terms, committed, source, target, captured, image_lost, unknown, ran, said_to_run }
    }
}

/// What there is to know of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    /// Whose it is.
    pub(crate) holder: usize,
    /// In which epoch.
    pub(crate) epoch: u64,
    /// What it has done.
    pub(crate) work: u64,
    /// It has ended by itself.
    pub(crate) ended: bool,
    /// The node with its only copy lost power.
    pub(crate) lost: bool,
    /// The highest epoch in which each node ever owned it.
    pub(crate) seen: Vec<u64>,
}

/// Everything that is true.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) handovers: Vec<Handover>,
    pub(crate) fates: Vec<Fate>,
}

impl Ledger {
    /// The decision of a handover is `commit`, and on the platter.
    pub(crate) fn commit(&mut self, handover: usize) {
        let handover = &mut self.handovers[handover];
        if !std::mem::replace(&mut handover.committed, true) {
            let fate = &mut self.fates[handover.load];
            fate.holder = handover.to;
            fate.epoch += 1;
            fate.lost |= handover.image_lost && !fate.ended;
        }
    }

    /// Whether a person has to look at the workload.
    pub(crate) fn needs_a_person(&self, load: usize) -> bool {
        self.handovers.iter().any(|handover| handover.load == load && handover.unknown)
    }
}
