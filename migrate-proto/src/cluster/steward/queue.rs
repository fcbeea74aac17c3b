//! What waits for a node, and who is told that it has got something.

use super::seats::Origin;
use super::{Act, Note, Round, Steward, Subject};
use crate::cluster::command::Command;
use crate::cluster::record::{Life, LoadEntry, Origin as Begun, Wanted};
use crate::name::WorkloadName;

impl Steward {
    /// By priority, then by age. What is too large for now does not hold up what is smaller.
    pub(super) fn queue(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        for (name, load) in by_urgency(record.loads.iter().filter(|(_, load)| waits(load))) {
            let subject = Subject::Load(name.clone(), load.epoch);
            if !self.is_due(round.now, &subject) {
                continue;
            }
            let from = match load.life {
                Life::Recovering { from } => load.checkpoint(from).map(Origin::Checkpoint),
                _ => None,
            };
            match round.seats.take(&self.needs(load, from.unwrap_or(Origin::Afresh)), None) {
                Ok(to) => {
                    let assign = Command::Assign { load: name.clone(), epoch: load.epoch, to };
                    self.propose(round, subject, assign);
                }
                Err(why) => self.wait(round, subject, Note::NoRoom { load: name.clone(), why }),
            }
        }
    }

    /// Who has got a workload from the leader need not wait until its record says so.
    pub(super) fn nudges(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        for (name, load) in &record.loads {
            let Some(owner) = &load.owner else { continue };
            let given = matches!(load.origin, Begun::Assigned | Begun::Reassigned);
            let hint = (load.epoch, owner.clone());
            if given && !has_ended(load) && self.nudged.get(name) != Some(&hint) {
                self.nudged.insert(name.clone(), hint);
                round.acts.push(Act::Nudge { node: owner.clone(), load: name.clone(), epoch: load.epoch });
            }
        }
    }
}

fn waits(load: &LoadEntry) -> bool {
    let waiting = matches!(load.life, Life::Queued | Life::Recovering { .. });
    load.owner.is_none() && load.wish == Wanted::Run && waiting
}

fn has_ended(load: &LoadEntry) -> bool {
    matches!(load.life, Life::Stopped(_) | Life::Failed(_))
}

/// The most urgent first: by priority, then by age.
pub(super) fn by_urgency<'a>(
    loads: impl Iterator<Item = (&'a WorkloadName, &'a LoadEntry)>,
) -> Vec<(&'a WorkloadName, &'a LoadEntry)> {
    let mut loads: Vec<_> = loads.collect();
    loads.sort_by_key(|(name, load)| (std::cmp::Reverse(load.priority), load.submitted, *name));
    loads
}
