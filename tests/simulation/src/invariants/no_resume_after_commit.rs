//! The source never runs the workload after the commit, the target never without it: a copy of an epoch that is over, or
//! that no commit has made, executes nothing.

use crate::node::Body;
use crate::world::World;

pub(super) fn judge(world: &World, load: usize) -> Result<(), String> {
    let current = world.ledger.fates[load].epoch;
    for (node, here) in world.nodes.iter().enumerate() {
        if let Body::Running { epoch, .. } = here.bodies[load] {
            if epoch < current {
                return Err(format!("node{} runs the copy of epoch {epoch}; {current} was committed", node + 1));
            }
            if epoch > current {
                return Err(format!("node{} runs the copy of epoch {epoch} without a commit", node + 1));
            }
        }
    }
    Ok(())
}
