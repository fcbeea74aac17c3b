//! While an agent lives its record only goes forward, and after the same entries it is the same on every node.

use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    for (node, here) in world.nodes.iter().enumerate() {
        let Some(agent) = &here.agent else { continue };
        let now = (here.life, agent.applied);
        let Some(before) = world.ledger.applied.insert(node, now).filter(|before| *before != now) else { continue };
        if before.0 == now.0 && now.1 < before.1 {
            return Err(format!("node{}'s record goes back from entry {} to {}", node + 1, before.1, now.1));
        }
        if agent.record != world.log.states[agent.applied] {
            return Err(format!("node{}'s record is another one after {} entries", node + 1, now.1));
        }
    }
    Ok(())
}
