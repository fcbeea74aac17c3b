//! At no time two copies of a workload run: not for an instant, not on nodes that do not reach each other.

use crate::node::Body;
use crate::world::World;

pub(super) fn judge(world: &World, load: usize) -> Result<(), String> {
    let runs = |node: &usize| matches!(world.nodes[*node].bodies[load], Body::Running { .. });
    let mut running = (0..world.nodes.len()).filter(runs);
    match (running.next(), running.next()) {
        (Some(one), Some(other)) => Err(format!("it runs on node{} and on node{}", one + 1, other + 1)),
        _ => Ok(()),
    }
}
