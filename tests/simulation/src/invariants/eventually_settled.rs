//! When the faults have ended everything comes to an end: every handover is over, both sides agree with each other and with
//! the decision, the owner's record says what is true, nobody else has anything of the workload, and no report says of a workload
//! that was lost on its way that it runs.
//!
//! A workload that does not go on after an abort (its CRIU was killed with it in its hands) is for a person to look at: both
//! sides keep what they have, and say so. Everything else settles all the same.

use migrate_proto::api::Outcome;

use crate::disk::Doing;
use crate::node::{Body, Node};
use crate::world::World;

pub(super) fn judge(world: &World, load: usize) -> Result<(), String> {
    for (node, here) in world.nodes.iter().enumerate() {
        let Some(agent) = &here.agent else { return Err(format!("node{}'s agent is not there", node + 1)) };
        let judged = |handover: usize| !world.ledger.handovers[handover].unknown;
        let sides = agent.departures.iter().map(|departure| departure.side.handover);
        if sides.chain(agent.arrivals.iter().map(|arrival| arrival.side.handover)).any(judged) {
            return Err(format!("a handover on node{} never ends: {:?}", node + 1, agent.phases().collect::<Vec<_>>()));
        }
        if node != world.ledger.fates[load].holder && !world.ledger.needs_a_person(load) {
            is_clean(here, load).map_err(|what| format!("node{} still has {what}", node + 1))?;
        }
    }
    sides_agree(world, load)?;
    if world.ledger.needs_a_person(load) { Ok(()) } else { owner_is_right(world, load) }
}

fn is_clean(here: &Node, load: usize) -> Result<(), String> {
    let place = &here.places[load];
    if place.record.exists() {
        return Err(format!("a record: {:?}", place.record.whole()));
    }
    if here.bodies[load] != Body::Gone || here.guards[load].is_some() {
        return Err(format!("{:?}, guard {:?}", here.bodies[load], here.guards[load]));
    }
    no_traces(here, load)
}

fn no_traces(here: &Node, load: usize) -> Result<(), String> {
    let place = &here.places[load];
    let image = here.images.iter().any(|image| image.load == load);
    match (place.departure.exists(), place.arrival.exists(), image) {
        (false, false, false) => Ok(()),
        found => Err(format!("a departure's journal, an arrival's, an image: {found:?}")),
    }
}

fn sides_agree(world: &World, load: usize) -> Result<(), String> {
    for (number, handover) in world.ledger.handovers.iter().enumerate().filter(|(_, handover)| handover.load == load) {
        let fits = |outcome: Option<Outcome>| match outcome {
            Some(Outcome::Moved) => handover.committed,
            Some(Outcome::Stayed) => !handover.committed,
            // It ended before it had written anything down, or a person has to judge it.
            None => true,
            Some(Outcome::Unknown) => handover.unknown,
        };
        if !fits(handover.source) || !fits(handover.target) {
            let (source, target, committed) = (handover.source, handover.target, handover.committed);
            return Err(format!("handover {number}: source {source:?}, target {target:?}, committed: {committed}"));
        }
        if handover.said_to_run && !handover.ran {
            return Err(format!("handover {number}: its report says that it runs on the target, where it never did"));
        }
    }
    Ok(())
}

fn owner_is_right(world: &World, load: usize) -> Result<(), String> {
    let fate = &world.ledger.fates[load];
    let owner = &world.nodes[fate.holder];
    let name = fate.holder + 1;
    no_traces(owner, load).map_err(|what| format!("its owner node{name} still has {what}"))?;
    let Some(record) = owner.places[load].record.whole() else { return Err(format!("node{name} has no record")) };
    let doing = match (fate.lost, fate.ended) {
        (_, true) => Doing::Stopped,
        (true, false) => Doing::Lost,
        (false, false) => Doing::Running,
    };
    let recorded = record.doing == doing || (fate.ended && record.doing == Doing::Lost);
    if !record.owned || record.epoch != fate.epoch || !recorded {
        return Err(format!("node{name}'s record says {record:?}; it is {doing:?} in epoch {}", fate.epoch));
    }
    let runs = matches!(owner.bodies[load], Body::Running { .. });
    if runs != (doing == Doing::Running) {
        return Err(format!("node{name}'s record says {doing:?}, and there is {:?}", owner.bodies[load]));
    }
    Ok(())
}
