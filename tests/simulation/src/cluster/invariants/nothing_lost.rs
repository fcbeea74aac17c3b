//! The best that there is of a workload is dropped by nobody while it is the best. The best is
//!
//! - the copy that its owner has, running or held; where that is gone
//! - the image of a move, on a target that may yet own it, or does; where there is none, or a checkpoint is newer,
//! - the newest checkpoint that is whole somewhere, or the one from which it is being brought back.
//!
//! **Not promised**: what went with a node's power, what was damaged, and what an owner did that was given up (fenced, or revived by
//! itself): there it begins anew from the best of the rest. An image that its source has refused is no promise, either; nor one
//! that went with its target's power before the source, which could not know that, transferred the workload to it. And a newer
//! checkpoint is better than an older one also where the older had done more: it is of an owner that had to go on from a yet
//! older one, because nobody could be reached who had that.
//!
//! That it is the best of the rest is judged, too: nobody is brought back from a checkpoint when a newer one is on a node that has been
//! well for long. And whoever is listed as a holder of a checkpoint has it, where no fault has taken it.

use migrate_proto::cluster::record::{CheckpointEntry, Life, LoadEntry, Origin};

use super::super::genesis::load_name;
use super::super::world::World;

pub(super) fn judge(world: &mut World) -> Result<(), String> {
    if let Some(wrong) = world.ledger.wrong.take() {
        return Err(wrong);
    }
    for load in 0..world.ledger.loads.len() {
        let name = load_name(load);
        let record = std::sync::Arc::clone(world.log.record());
        let Some(entry) = record.loads.get(name) else { continue };
        let best = best(world, load, entry);
        let here = &mut world.ledger.loads[load];
        let (before, excused) = (std::mem::replace(&mut here.best, best), std::mem::take(&mut here.excused));
        let ended = matches!(entry.life, Life::Stopped(_));
        if best.work < before.work && !best.is_newer_than(before) && !excused && !ended {
            let (before, now) = (before.work, best.work);
            return Err(format!("the best of {name} had done {before}, and is gone: now it is {now}"));
        }
        holders_have_it(world, load, entry)?;
    }
    Ok(())
}

/// The best that there is of a workload.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Best {
    /// What it had done.
    work: u64,
    /// Its number, if it is a checkpoint.
    number: Option<u64>,
}

impl Best {
    fn live(work: u64) -> Best {
        Best { work, number: None }
    }

    fn is_newer_than(self, before: Best) -> bool {
        before.number.is_some() && self.number > before.number
    }
}

fn best(world: &World, load: usize, entry: &LoadEntry) -> Best {
    let owner = entry.owner.as_ref().and_then(|owner| world.named(owner));
    let live = owner.and_then(|owner| world.nodes[owner].bodies[load].as_ref());
    if let Some(live) = live.filter(|live| live.epoch == entry.epoch.0) {
        return Best::live(live.work);
    }
    let newest =
        entry.checkpoints.iter().rev().find(|checkpoint| !checkpoint.damaged && is_somewhere(world, checkpoint));
    let image = world.nodes.iter().enumerate().filter_map(|(node, here)| {
        let image = here.images[load].as_ref()?;
        let given = owner == Some(node) && entry.via == Some(image.handover) && image.epoch + 1 == entry.epoch.0;
        let open = image.epoch == entry.epoch.0 && !entry.refused.contains(&image.handover);
        let newer = newest.is_some_and(|newest| newest.number > image.numbered);
        (given || open && !newer).then_some(image.work)
    });
    if let Some(image) = image.max() {
        return Best::live(image);
    }
    let from = match entry.life {
        Life::Starting => return Best::default(),
        Life::Recovering { from } => entry.checkpoint(from).filter(|from| is_somewhere(world, from)),
        _ => newest,
    };
    let work = |from: &CheckpointEntry| world.ledger.checkpoints.get(&from.id).copied();
    from.map_or_else(Best::default, |from| Best { work: work(from).unwrap_or(0), number: Some(from.number) })
}

fn is_somewhere(world: &World, checkpoint: &CheckpointEntry) -> bool {
    let whole = |node: usize| world.nodes[node].disk.files.get(&checkpoint.id).is_some_and(|file| file.whole);
    checkpoint.holders.iter().filter_map(|holder| world.named(holder)).any(whole)
}

fn holders_have_it(world: &World, load: usize, entry: &LoadEntry) -> Result<(), String> {
    for checkpoint in entry.checkpoints.iter().filter(|checkpoint| !checkpoint.damaged) {
        for node in checkpoint.holders.iter().filter_map(|holder| world.named(holder)) {
            let has = world.nodes[node].disk.files.contains_key(&checkpoint.id);
            if !has && !world.ledger.damaged.contains(&(node, checkpoint.id)) {
                let (number, name) = (checkpoint.number, load_name(load));
                return Err(format!("the record says that node{} has checkpoint {number} of {name}", node + 1));
            }
        }
    }
    Ok(())
}

/// Whether what was just agreed brings something back from a checkpoint although a newer one is at hand.
pub(super) fn judge_choices(world: &World) -> Result<(), String> {
    let [.., before, after] = &world.log.states[..] else { return Ok(()) };
    let long_ago = world.now.saturating_sub(8 * world.lease());
    for (name, entry) in &after.loads {
        let anew = before.loads.get(name).is_some_and(|before| before.epoch < entry.epoch);
        let (Some(from), true, Origin::Reassigned) = (entry.from, anew, entry.origin) else { continue };
        let newer = entry.checkpoints.iter().rev().take_while(|checkpoint| checkpoint.id != from);
        for checkpoint in newer.filter(|checkpoint| !checkpoint.damaged) {
            let well = |node: &usize| {
                let here = &world.nodes[*node];
                let connected = !world.cuts.iter().any(|(one, other)| one == node || other == node);
                let whole = here.disk.files.get(&checkpoint.id).is_some_and(|file| file.whole);
                whole && here.answers() && connected && here.well_since <= long_ago
            };
            if let Some(node) = checkpoint.holders.iter().filter_map(|holder| world.named(holder)).find(well) {
                let number = checkpoint.number;
                return Err(format!(
                    "{name} is brought back from an older checkpoint than {number} of node{}",
                    node + 1
                ));
            }
        }
    }
    Ok(())
}
