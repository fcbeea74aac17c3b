//! Somebody can always run the workload, from where it was.
//!
//! Whose it is is decided at one instant, when `commit` is on the source's platter. Before it the source's processes must be
//! there, running or frozen; after it the target's, or the image from which they are made again. What runs must have done
//! everything that was ever done: no copy begins again from an earlier image. And the owner's disk has record and layer,
//! always.
//!
//! **Not promised**: what was only in the memory of a node that loses power. A running workload has no checkpoint, and an
//! image lies in the target's memory until the workload runs. So a workload is lost
//!
//! - when its source loses power before the commit, although a target may have had a complete image that nobody may use;
//! - when its target loses power after the commit, or after it has said `Restored` and before the source, which cannot know
//!   that, commits.
//!
//! Its record then says `lost`, on the node that owns it, where its files are: [`super::eventually_settled`] sees to that.
//! A target that loses power in an attempt that is not committed takes nothing with it.

use crate::node::Body;
use crate::world::World;

pub(super) fn judge(world: &World, load: usize) -> Result<(), String> {
    let fate = &world.ledger.fates[load];
    let owner = &world.nodes[fate.holder];
    let owner_name = fate.holder + 1;
    for (node, here) in world.nodes.iter().enumerate() {
        if let Body::Running { work, .. } = here.bodies[load]
            && (work < fate.work || fate.ended)
        {
            return Err(format!("node{} runs it again from an earlier image", node + 1));
        }
    }
    let place = &owner.places[load];
    if !place.record.exists() || !place.layer.exists() {
        return Err(format!("node{owner_name} owns it and has neither record nor files"));
    }
    if fate.lost || fate.ended {
        return Ok(());
    }
    match owner.bodies[load] {
        Body::Running { .. } | Body::Frozen { .. } => Ok(()),
        Body::Held { epoch, .. } if epoch == fate.epoch => Ok(()),
        _ if owner.images.iter().any(|image| image.complete && (image.load, image.epoch) == (load, fate.epoch)) => {
            Ok(())
        }
        _ => Err(format!("nobody can run it: node{owner_name} owns it in epoch {} and has nothing", fate.epoch)),
    }
}
