//! A node believes to own a workload where its disk says so, its lease is not over, and it is not asking the record about a move.
//! At no time two nodes do; in no epoch two nodes ever did; and nobody believes in an epoch that the record has not reached.

use super::super::genesis::load_name;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    for load in 0..world.ledger.loads.len() {
        let mut owner = None;
        for node in 0..world.nodes.len() {
            let Some(epoch) = believes(world, node, load) else { continue };
            let name = load_name(load);
            if let Some(other) = owner.replace(node) {
                return Err(format!("node{} and node{} both own {name}", other + 1, node + 1));
            }
            let reached = world.log.record().loads.get(name).map_or(0, |entry| entry.epoch.0);
            if epoch > reached {
                return Err(format!("node{} owns {name} in epoch {epoch}, the record is in {reached}", node + 1));
            }
            let first = *world.ledger.loads[load].believed.entry(epoch).or_insert(node);
            if first != node {
                return Err(format!("{name} has had two owners in epoch {epoch}: node{}, node{}", first + 1, node + 1));
            }
        }
    }
    Ok(())
}

fn believes(world: &World, node: usize, load: usize) -> Option<u64> {
    let here = &world.nodes[node];
    let page = here.page?;
    let holds = here.clock.at(world.now) < page.until && here.disk.at_record[load].is_none();
    // With another session it has to look again.
    let (epoch, session) = here.disk.owned[load].filter(|_| holds)?;
    (session == page.session).then_some(epoch)
}
