//! What has ended does not run again; and when everything has come to rest nothing waits for a node, for there is room for all.

use migrate_proto::cluster::record::{Life, Wanted};

use super::super::genesis::load_name;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    let record = world.log.record();
    for load in 0..world.ledger.loads.len() {
        let Some(entry) = record.loads.get(load_name(load)) else { continue };
        if !matches!(entry.life, Life::Stopped(_)) {
            continue;
        }
        let again = |body: &super::super::node::Body| body.runs() && body.epoch == entry.epoch.0;
        if world.nodes.iter().any(|node| node.bodies[load].as_ref().is_some_and(again)) {
            return Err(format!("{} has ended, and runs again", load_name(load)));
        }
    }
    Ok(())
}

pub(super) fn judge_the_end(world: &mut World) -> Result<(), String> {
    let record = world.log.record();
    for load in 0..world.ledger.loads.len() {
        let Some(entry) = record.loads.get(load_name(load)) else {
            return Err(format!("{} was asked for and is not known", load_name(load)));
        };
        let waits = entry.owner.is_none() && matches!(entry.life, Life::Queued | Life::Recovering { .. });
        if waits && entry.wish == Wanted::Run {
            return Err(format!("{} waits for a node, {}, although there is room", load_name(load), entry.life));
        }
    }
    Ok(())
}
