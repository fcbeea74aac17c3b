//! What a test is made of: a sandbox that is alone in its network, with a copy of the layer and imitations of the volumes, in which CRIU restores a checkpoint
//! and holds the processes. The hold is as far as it goes: nobody tells CRIU to let go, so not one instruction of the workload is run. Then PID 1
//! is killed, and the kernel ends everything with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_image::vault::{Generation, VaultImage};
use migrate_proto::cluster::lease::ENDLESS;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::Demands;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::layer::Layer;
use migrate_sandbox::{Sandbox, sandbox};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{of_vault, restore};
use crate::durable;
use crate::handover::Ground;
use crate::handover::restore::Restore;
use crate::host::Host;
use crate::offer;
use crate::workload::{housing, leash};

/// What a test has on its node goes by this name, which no workload can have: groups, and the directory of its sandbox.
const NAME: &str = "@proof";
/// Where a test has its files, in the state directory. Made before anything else of it, and removed last.
const PLACE: &str = "proof";

/// What CRIU restores into.
struct Stage {
    image: Arc<VaultImage>,
    cgroup: Cgroup,
    sandbox: Sandbox,
}

/// Restores a checkpoint until CRIU holds the processes. What was made is to be [cleared](clear) away, whatever comes of it.
pub(super) async fn up_to_the_hold(
    ground: &Ground,
    generation: &Generation,
    give_way: &CancellationToken,
) -> Result<(), Problem> {
    let (building, of, stop) = (ground.clone(), generation.clone(), give_way.clone());
    let built = tokio::task::spawn_blocking(move || build(&building, &of, &stop)).await;
    let stage = built.map_err(Problem::internal)??;
    ground.host.checkpoints().proving.takes_room.send_replace(true);
    let limit = Duration::from_millis(ground.host.config.budgets.restore.total);
    tokio::select! {
        biased;
        () = give_way.cancelled() => Err(gave_way()),
        held = tokio::time::timeout(limit, hold(&ground.host, &stage)) => held
            .unwrap_or_else(|_| Err(Problem::new(Code::TimedOut, format!("the restore took longer than {limit:?}")))),
    }
}

async fn hold(host: &Arc<Host>, stage: &Stage) -> Result<(), Problem> {
    let restore = Restore::start(host, &stage.cgroup, &stage.sandbox).await?;
    restore.ready().await?;
    let held = restore.restore(stage.image.clone()).await;
    // CRIU says in its own words what it made of images that broke off; this says why they did.
    match stage.image.damage() {
        Some(what) => Err(Problem::new(Code::Corrupt, what)),
        None => held.map(drop),
    }
}

fn gave_way() -> Problem {
    Problem::new(Code::Cancelled, "the test gave way to what needs the node")
}

/// Everything up to CRIU. Blocks.
fn build(ground: &Ground, generation: &Generation, give_way: &CancellationToken) -> Result<Stage, Problem> {
    let (host, about) = (&ground.host, &generation.about);
    let image = host.checkpoints().vault()?.open_image(generation.id).map_err(of_vault)?;
    let offer = restore::as_offer(ground, about, &image)?;
    // Its ports are its own there, whoever has them on this node.
    let demands = about.demands.clone().map(|demands| Demands { ports: Vec::new(), ..demands });
    offer::fits(host, &offer, demands.as_ref(), ground.handovers.promised())?;
    clear(host)?;
    let place = place(host);
    durable::make_dir(&place).map_err(Problem::internal)?;
    let layer = place.join("layer.img");
    image.write_layer(&layer).map_err(of_vault)?;
    if give_way.is_cancelled() {
        return Err(gave_way());
    }
    let (cgroup, plan) = housing::plan(host, NAME, &about.spec, true)?;
    let sandbox = Sandbox::build(&host.init_program, &plan).map_err(Problem::internal)?;
    // Processes may have it open.
    leash::tell_epoch(&sandbox, about.epoch).map_err(Problem::internal)?;
    // CRIU itself needs it; what it restores waits for CRIU.
    sandbox.arm(ENDLESS, Duration::ZERO).map_err(Problem::internal)?;
    sandbox.attach_layer(Layer::at(layer).device().map_err(Problem::internal)?).map_err(Problem::internal)?;
    Ok(Stage { image: Arc::new(image), cgroup, sandbox })
}

/// Ends and removes all that there is of a test, also of one whose agent is no more. Blocks.
pub fn clear(host: &Host) -> Result<(), Problem> {
    let place = place(host);
    if !place.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(host.sandboxes()).into_iter().flatten().flatten() {
        let is_of_test = entry.file_name().to_string_lossy().split_once('.').is_some_and(|(name, _)| name == NAME);
        if !is_of_test {
            continue;
        }
        let dir = entry.path();
        match Sandbox::adopt(&host.init_program, &dir).map_err(Problem::internal)? {
            Some(sandbox) => sandbox.destroy().map_err(Problem::internal)?,
            None => sandbox::remove_dir(&dir).map_err(Problem::internal)?,
        }
    }
    let cgroup = host.cgroup(NAME)?;
    cgroup.kill();
    cgroup.remove().map_err(Problem::internal)?;
    durable::remove_dir(&place).map_err(Problem::internal)
}

fn place(host: &Host) -> PathBuf {
    host.config.state.join(PLACE)
}

#[cfg(test)]
mod tests {
    use migrate_proto::name::WorkloadName;

    #[test]
    fn no_workload_has_its_name() {
        assert!(super::NAME.parse::<WorkloadName>().is_err());
    }
}
