//! What runs is under a lease: its init is armed with the session of its page, whose deadline has not passed; no leader knows
//! that this lease is over, and it is not fenced; and the record says that it is this node's, in this epoch.

use super::super::genesis::load_name;
use super::super::node::Body;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    for (node, here) in world.nodes.iter().enumerate() {
        let bodies = here.bodies.iter().enumerate();
        for (load, body) in bodies.filter_map(|(load, body)| Some((load, body.as_ref().filter(|body| body.runs())?))) {
            if let Some(what) = without_lease(world, node, load, body) {
                return Err(format!("{} runs on node{} {what}", load_name(load), node + 1));
            }
        }
    }
    Ok(())
}

fn without_lease(world: &World, node: usize, load: usize, body: &Body) -> Option<String> {
    let here = &world.nodes[node];
    let armed = body.armed;
    let Some(page) = here.page.filter(|page| page.session == armed) else {
        return Some(format!("armed with {armed}, its page is {:?}", here.page));
    };
    if here.clock.at(world.now) >= page.until {
        return Some(format!("after the deadline of session {armed}"));
    }
    if world.ledger.over.contains(&(here.name.clone(), armed)) {
        return Some(format!("in session {armed}, which is over"));
    }
    let record = world.log.record();
    let fenced = record.nodes.get(&here.name).is_none_or(|entry| entry.fenced || entry.session != armed);
    if fenced {
        return Some(format!("in session {armed}, which is fenced or was given up"));
    }
    let entry = record.loads.get(load_name(load));
    let owned = entry.is_some_and(|entry| entry.owner.as_ref() == Some(&here.name) && entry.epoch.0 == body.epoch);
    (!owned).then(|| format!("in epoch {}, which is not its own by the record", body.epoch))
}
