//! At no time two copies of a workload execute instructions, whatever has become of agents, leaders and ways.

use super::super::genesis::load_name;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    for load in 0..world.ledger.loads.len() {
        let runs = |node: &usize| world.nodes[*node].bodies[load].as_ref().is_some_and(|body| body.runs());
        let mut running = (0..world.nodes.len()).filter(runs);
        if let (Some(one), Some(other)) = (running.next(), running.next()) {
            return Err(format!("{} runs on node{} and on node{}", load_name(load), one + 1, other + 1));
        }
    }
    Ok(())
}
