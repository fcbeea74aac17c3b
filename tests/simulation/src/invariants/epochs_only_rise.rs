//! The epoch is the fencing token: it rises by one with each commit, and with nothing else.
//!
//! - No node owns a workload in an earlier epoch than it did before, also when the workload has left and come again. (What only
//!   arrives is not owned: a late, doubled offer may take a name for a while, and gives it back.)
//! - No two nodes own a workload in the same epoch, and nobody owns it in one that no commit has made.
//! - What runs is owned, durably, in the epoch in which it runs.

use crate::node::Body;
use crate::world::World;

pub(super) fn judge(world: &World, load: usize) -> Result<(), String> {
    let fate = &world.ledger.fates[load];
    let mut owned = None;
    for (node, here) in world.nodes.iter().enumerate() {
        let record = here.places[load].record.whole();
        if let Some(record) = record {
            if record.owned && record.epoch < fate.seen[node] {
                return Err(format!(
                    "node{}'s record falls from epoch {} to {}",
                    node + 1,
                    fate.seen[node],
                    record.epoch
                ));
            }
            if record.epoch > fate.epoch {
                return Err(format!("node{} is in epoch {}, which no commit has made", node + 1, record.epoch));
            }
            if record.owned && owned.replace(record.epoch) == Some(record.epoch) {
                return Err(format!("two nodes own it in epoch {}", record.epoch));
            }
        }
        if let Body::Running { epoch, .. } = here.bodies[load]
            && record.is_none_or(|record| !record.owned || record.epoch != epoch)
        {
            return Err(format!("it runs on node{} in epoch {epoch}, and no record says so", node + 1));
        }
    }
    Ok(())
}

pub(super) fn remember(world: &mut World) {
    for (load, fate) in world.ledger.fates.iter_mut().enumerate() {
        for (node, seen) in fate.seen.iter_mut().enumerate() {
            let record = world.nodes[node].places[load].record.whole().filter(|record| record.owned);
            *seen = record.map_or(*seen, |record| record.epoch.max(*seen));
        }
    }
}
