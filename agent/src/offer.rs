//! What a source says about a workload before it moves, and what a target makes of it. Nothing is touched here.
//!
//! One function on each node, [`survey`] on the source and [`consider`] on the target, for `migrate check` and for every move. A move
//! is refused with the first `no` of either ([`Survey::ready`], [`room`]).

use std::sync::Arc;

use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Terms;
use migrate_proto::handover::target::Room;
use migrate_proto::message::{Demands, Finding, Offer};
use migrate_proto::name::WorkloadName;
use migrate_sandbox::layer::Layer;
use migrate_sandbox::process;

use crate::aftermath;
use crate::figures::{Figures, HostFigures, disk_free};
use crate::host::Host;
use crate::predict::Size;
use crate::preflight::finding::{no, refusal};
use crate::preflight::{self, Here};
use crate::registry::Registry;
use crate::workload::Workload;

/// Memory that a target keeps for itself.
const MEMORY_RESERVE: u64 = 128 << 20;
/// Disk that a target keeps for itself.
const DISK_RESERVE: u64 = 64 << 20;

/// What a source has to say about a workload that runs there.
#[derive(Debug, Clone)]
pub struct Survey {
    /// What moves.
    pub offer: Box<Offer>,
    /// What else it asks of its node.
    pub demands: Box<Demands>,
    /// What there is to say before a target is asked.
    pub findings: Vec<Finding>,
}

impl Survey {
    /// For a move: what to offer, unless something speaks against it.
    pub fn ready(self) -> Result<(Box<Offer>, Box<Demands>), Problem> {
        let Survey { offer, demands, findings } = self;
        match refusal(&findings) {
            None => Ok((offer, demands)),
            Some(problem) => {
                let (name, from) = (&offer.spec.name, &offer.from);
                let message = format!("{name} cannot be moved: {}; it stays on {from}", problem.message);
                Err(Problem { message, ..problem.clone() })
            }
        }
    }
}

/// By what it is judged how long a move will take.
pub fn size(offer: &Offer) -> Size {
    Size { memory: offer.memory_bytes, files: offer.layer_used_bytes }
}

/// Looks at a running workload. Blocks.
pub fn survey(host: &Arc<Host>, workload: &Arc<Workload>, terms: &Terms) -> Result<Survey, Problem> {
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
    let layer = Layer::at(workload.place().layer());
    let (init, version, kernel) = (sandbox.init().pid, criu.version.to_string(), host.kernel.clone());
    let mut seen = preflight::survey(init, &tree, &cgroup.pids(), &record.spec, version, kernel)?;
    if cgroup.freezer().is_none() {
        // Without it, CRIU's death after the commit would set the source's copy free.
        let message = format!("{} has no cgroup2 file system, which holds a workload that is being moved", host.node());
        let hint = "mount one: `mount -t cgroup2 none /sys/fs/cgroup/unified`";
        seen.findings.insert(0, no(Problem::new(Code::Incompatible, message).hint(hint)));
    }
    let offer = Offer {
        handover: terms.handover,
        spec: record.spec,
        epoch: terms.epoch,
        from: terms.from.clone(),
        to: terms.to.clone(),
        memory_bytes: tree.iter().map(|pid| process::resident(*pid)).sum(),
        layer_bytes: layer.size().map_err(Problem::internal)?,
        layer_used_bytes: layer.used().map_err(Problem::internal)?,
        layer_block_bytes: migrate_image::layer::BLOCK_BYTES as u32,
        needs: seen.needs,
        last_pid: sandbox.last_pid(),
        started: record.started,
    };
    Ok(Survey { offer: Box::new(offer), demands: Box::new(seen.demands), findings: seen.findings })
}

/// What this node has to say to an offer: whether there is room, and everything that the workload needs. Blocks.
/// `promised` is memory that others on their way here were promised.
pub fn consider(
    host: &Arc<Host>,
    registry: &Registry,
    offer: &Offer,
    demands: Option<&Demands>,
    promised: u64,
) -> Vec<Finding> {
    let mut findings = unfit(host, offer, demands, promised);
    findings.extend(taken_name(host, registry, &offer.spec.name).map(no));
    findings
}

/// Whether a workload can be brought back here. Blocks. `promised` is memory that is not for it.
pub fn fits(host: &Arc<Host>, offer: &Offer, demands: Option<&Demands>, promised: u64) -> Result<(), Problem> {
    refusal(&unfit(host, offer, demands, promised)).map_or(Ok(()), |problem| Err(problem.clone()))
}

/// What is missing here that it needs.
fn unfit(host: &Arc<Host>, offer: &Offer, demands: Option<&Demands>, promised: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    match host.criu() {
        Ok(criu) => {
            let here = Here { node: host.node(), criu, kernel: &host.kernel };
            findings.extend(preflight::judge(here, &offer.needs, demands, &offer.spec, &offer.from));
        }
        Err(problem) => {
            let message = format!("{} has no usable CRIU: {problem}", host.node());
            findings.push(no(Problem { message, ..problem }));
        }
    }
    findings.extend(lack_of_room(host, offer, &look(host, promised)).into_iter().map(no));
    findings
}

/// For a move: the room there is, unless something speaks against it. Blocks.
pub fn room(
    host: &Arc<Host>,
    registry: &Registry,
    offer: &Offer,
    demands: Option<&Demands>,
    promised: u64,
) -> Result<Room, Problem> {
    if let Some(problem) = refusal(&consider(host, registry, offer, demands, promised)) {
        return Err(stays(problem.clone(), offer));
    }
    let figures = look(host, promised);
    Ok(Room { memory: figures.memory_available_bytes, disk: figures.disk_free_bytes })
}

/// A target's problem, for somebody whose move it ends.
fn stays(problem: Problem, offer: &Offer) -> Problem {
    let message = format!("{}; {} stays on {}", problem.message, offer.spec.name, offer.from);
    Problem { message, ..problem }
}

fn look(host: &Host, promised: u64) -> HostFigures {
    let figures = Figures::new().look(&host.config.state);
    HostFigures { memory_available_bytes: figures.memory_available_bytes.saturating_sub(promised), ..figures }
}

/// What there is too little of here.
fn lack_of_room(host: &Host, offer: &Offer, figures: &HostFigures) -> Vec<Problem> {
    let (here, name) = (host.node(), &offer.spec.name);
    let hint = "choose another node, or make room there";
    let too_little = |code, what: &str, needed: u64, free: u64| {
        let message = format!(
            "{here} has too little {what} for {name}: {} MiB are needed, {} MiB are free",
            needed >> 20,
            free >> 20
        );
        (free < needed).then(|| Problem::new(code, message).hint(hint))
    };
    // The image is there until the restored processes run: their memory is needed twice for a moment.
    let memory = offer.memory_bytes.saturating_mul(2).saturating_add(MEMORY_RESERVE);
    let disk = offer.layer_used_bytes.saturating_add(DISK_RESERVE);
    [
        too_little(Code::NoMemory, "memory", memory, figures.memory_available_bytes),
        too_little(Code::NoDisk, "disk", disk, figures.disk_free_bytes),
        too_little(Code::NoDisk, "space for images", offer.memory_bytes, disk_free(&host.images())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Why no workload of this name can come here, where that is so.
pub fn taken_name(host: &Host, registry: &Registry, name: &WorkloadName) -> Option<Problem> {
    let node = host.node();
    let known = registry.get(name);
    if known.as_ref().is_some_and(|known| !known.record().owned) {
        let message = format!("{node} has not finished with an earlier move of {name}");
        return Some(Problem::new(Code::Busy, message).hint("try again in some seconds"));
    }
    // What is on disk and not in the registry was left alone because it is damaged.
    (known.is_some() || registry.place(name).record().exists()).then(|| {
        let message = format!("{node} has a workload {name} of its own");
        Problem::new(Code::NameTaken, message).hint(format!("remove it there: `migrate --node {node} rm {name}`"))
    })
}

/// After a move that did not happen: whether the workload runs as before. `false` where it has ended meanwhile. `clean`
/// says that CRIU ended in good order; where it did not, the workload is looked at. Blocks.
pub fn is_free(host: &Arc<Host>, workload: &Arc<Workload>, clean: bool) -> Result<bool, Problem> {
    if let Ok(cgroup) = host.cgroup(workload.name().as_str()) {
        let _ = cgroup.freeze(false);
    }
    let Some(main) = workload.pid() else { return Ok(false) };
    if !clean {
        let (name, node) = (workload.name(), host.node());
        aftermath::settle(&process::tree(main)).map_err(|why| {
            let message = format!("CRIU was killed while it had {name} on {node} in its hands: {why}");
            let hint = format!("see whether it still works; if not: `migrate rm -f {name}` or `kill -CONT {main}`");
            Problem::new(Code::Unknown, message).hint(hint)
        })?;
    }
    Ok(workload.pid().is_some() && aftermath::is_alive(main))
}
