//! Where the workloads of a node that drains would be taken. It moves them by itself: see [`crate::cluster::drain`].

use super::queue::by_urgency;
use super::seats::Origin;
use super::{Act, Note, Round, Steward, Subject};
use crate::cluster::record::{Life, LoadEntry, Record, Standing, Wanted};
use crate::name::NodeName;

impl Steward {
    pub(super) fn drains(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        let leaving = record.loads.iter().filter(|(_, load)| {
            load.owner.as_ref().is_some_and(|owner| drains(record, owner) && self.is_alive(owner)) && runs(load)
        });
        for (name, load) in by_urgency(leaving) {
            let Some(from) = load.owner.clone() else { continue };
            let before = self.advised.get(name).filter(|(epoch, _)| *epoch == load.epoch).map(|(_, to)| to.clone());
            match round.seats.take(&self.needs(load, Origin::Move), before.as_ref()) {
                Ok(to) if before.as_ref() == Some(&to) => {}
                Ok(to) => {
                    self.advised.insert(name.clone(), (load.epoch, to.clone()));
                    round.acts.push(Act::Move { from, load: name.clone(), epoch: load.epoch, to });
                }
                Err(why) => {
                    let subject = Subject::Load(name.clone(), load.epoch);
                    self.wait(round, subject, Note::NoRoom { load: name.clone(), why });
                }
            }
        }
    }
}

fn drains(record: &Record, owner: &NodeName) -> bool {
    record.nodes.get(owner).is_some_and(|node| node.standing == Standing::Draining && !node.fenced)
}

fn runs(load: &LoadEntry) -> bool {
    load.wish == Wanted::Run && matches!(load.life, Life::Running | Life::Starting)
}
