//! What a source says about a workload before it moves, and what a target makes of it. Nothing is touched here.

use std::sync::Arc;

use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Terms;
use migrate_proto::handover::target::Room;
use migrate_proto::message::Offer;
use migrate_sandbox::layer::Layer;
use migrate_sandbox::process::{self, Stat};

use crate::figures::Figures;
use crate::host::Host;
use crate::preflight;
use crate::workload::Workload;

/// Memory that a target keeps for itself.
const MEMORY_RESERVE: u64 = 128 << 20;
/// Disk that a target keeps for itself.
const DISK_RESERVE: u64 = 64 << 20;

/// Looks at a running workload. Blocks.
pub fn make(host: &Arc<Host>, workload: &Arc<Workload>, terms: &Terms) -> Result<Offer, Problem> {
    let record = workload.record();
    let (Some(sandbox), Some(main)) = (workload.sandbox(), workload.pid()) else {
        let hint = format!("`migrate start {}` starts it again", workload.name());
        return Err(
            Problem::new(Code::WrongState, format!("{} does not run on {}", workload.name(), host.node())).hint(hint)
        );
    };
    let criu = host.criu()?;
    let tree = process::tree(main);
    let cgroup = host.cgroup(workload.name().as_str())?;
    if cgroup.freezer().is_none() {
        // Without it, CRIU's death after the commit would set the source's copy free.
        let message = format!("{} has no cgroup2 file system, which holds a workload that is being moved", host.node());
        return Err(
            Problem::new(Code::Incompatible, message).hint("mount one: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
        );
    }
    if let Some(problem) = preflight::unmovable(sandbox.init().pid, &tree, &cgroup.pids()).into_iter().next() {
        let message = format!("{} cannot be moved: {}; it stays on {}", workload.name(), problem.message, host.node());
        return Err(Problem { message, ..problem });
    }
    let layer = Layer::at(workload.place().layer());
    let internal = |error: migrate_sandbox::SandboxError| Problem::new(Code::Internal, error.to_string());
    let needs =
        preflight::needs(sandbox.init().pid, &tree, &record.spec, criu.version.to_string(), host.kernel.clone())?;
    Ok(Offer {
        handover: terms.handover,
        spec: record.spec,
        epoch: terms.epoch,
        from: terms.from.clone(),
        to: terms.to.clone(),
        memory_bytes: tree.iter().map(|pid| process::resident(*pid)).sum(),
        layer_bytes: layer.size().map_err(internal)?,
        layer_used_bytes: layer.used().map_err(internal)?,
        layer_block_bytes: migrate_image::layer::BLOCK_BYTES as u32,
        needs,
        last_pid: sandbox.last_pid(),
        started: record.started,
    })
}

/// Whether there is room, and everything that the workload needs. Blocks.
pub fn check(host: &Arc<Host>, offer: &Offer) -> Result<Room, Problem> {
    let (name, from) = (&offer.spec.name, &offer.from);
    let criu = host.criu().map_err(|problem| {
        let message = format!("{} has no usable CRIU: {problem}; {name} stays on {from}", host.node());
        Problem { message, ..problem }
    })?;
    preflight::compare(&offer.needs, &offer.spec, criu, from)?;
    preflight::check_volumes(&offer.spec.volumes, from)?;
    let figures = Figures::new().look(&host.config.state);
    // The image is there until the restored processes run: their memory is needed twice for a moment.
    let memory = offer.memory_bytes.saturating_mul(2) + MEMORY_RESERVE;
    if figures.memory_available_bytes < memory {
        let message = format!(
            "{} has too little memory for {name}: {} MiB are needed, {} MiB are free; it stays on {from}",
            host.node(),
            memory >> 20,
            figures.memory_available_bytes >> 20
        );
        return Err(Problem::new(Code::NoMemory, message).hint("choose another node, or make room there"));
    }
    let disk = offer.layer_used_bytes + DISK_RESERVE;
    if figures.disk_free_bytes < disk {
        let message = format!(
            "{} has too little disk for {name}: {} MiB are needed, {} MiB are free; it stays on {from}",
            host.node(),
            disk >> 20,
            figures.disk_free_bytes >> 20
        );
        return Err(Problem::new(Code::NoDisk, message).hint("choose another node, or make room there"));
    }
    Ok(Room { memory: figures.memory_available_bytes, disk: figures.disk_free_bytes })
}

/// After a move that did not happen: whether the workload runs as before. `false` where it has ended meanwhile. `clean`
/// says that CRIU ended in good order. Blocks.
pub fn is_free(host: &Arc<Host>, workload: &Arc<Workload>, clean: bool) -> Result<bool, Problem> {
    if let Ok(cgroup) = host.cgroup(workload.name().as_str()) {
        let _ = cgroup.freeze(false);
    }
    let Some(main) = workload.pid() else { return Ok(false) };
    if !clean {
        let name = workload.name();
        let message = format!(
            "CRIU was killed while it had {name} on {} in its hands; code of CRIU may be left in it",
            host.node()
        );
        let hint = format!("see whether it still works; if not: `migrate rm -f {name}` or `kill -CONT {main}`");
        return Err(Problem::new(Code::Unknown, message).hint(hint));
    }
    Ok(Stat::read(main).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X')))
}
