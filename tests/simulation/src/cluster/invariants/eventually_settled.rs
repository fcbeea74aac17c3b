//! When the faults have ended and everything has had its time: somebody leads, every node holds its session, every workload that is
//! wanted runs where the record says, or the record says that it has ended, failed or is lost, and nothing is left over anywhere. One
//! node may be dead for good: nothing is left to it but what is lost.

use migrate_proto::cluster::record::Life;

use super::super::genesis::load_name;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    if !world.log.leader.is_some_and(|leader| world.has_majority(leader)) {
        return Err("nobody leads".to_owned());
    }
    for node in (0..world.nodes.len()).filter(|node| world.ledger.dead != Some(*node)) {
        if world.session(node).is_none() {
            let entry = world.log.record().nodes.get(&world.nodes[node].name).cloned();
            return Err(format!("node{} holds no session: {entry:?}", node + 1));
        }
    }
    (0..world.ledger.loads.len()).try_for_each(|load| judge_load(world, load))
}

fn judge_load(world: &World, load: usize) -> Result<(), String> {
    let name = load_name(load);
    let Some(entry) = world.log.record().loads.get(name) else { return Ok(()) };
    let owner = entry.owner.as_ref().and_then(|owner| world.named(owner));
    let said = matches!(entry.life, Life::Stopped(_) | Life::Failed(_) | Life::Lost(_));
    if owner.is_some() && owner == world.ledger.dead && !said {
        return Err(format!("{name} is {} on a node that is dead", entry.life));
    }
    for (node, here) in world.nodes.iter().enumerate().filter(|(node, _)| world.ledger.dead != Some(*node)) {
        let body = here.bodies[load].as_ref();
        let runs = body.is_some_and(|body| body.runs() && body.epoch == entry.epoch.0);
        if owner == Some(node) && !said && !(runs && entry.life == Life::Running) {
            let epoch = entry.epoch;
            return Err(format!("{name} is {} in epoch {epoch} on node{}: {body:?}", entry.life, node + 1));
        }
        if body.is_some() && owner != Some(node) {
            return Err(format!("node{} still has a copy of {name}: {body:?}", node + 1));
        }
        if here.images[load].is_some() || here.disk.at_record[load].is_some() {
            return Err(format!("node{} is still in doubt about a move of {name}", node + 1));
        }
    }
    Ok(())
}
