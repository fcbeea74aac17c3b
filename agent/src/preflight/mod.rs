//! Before anything is frozen: what a workload needs of a target, whether this node has it, and what makes a move
//! impossible from the start.
//!
//! The source calls [`survey`] while the workload runs; what it needs travels with the offer, and the target calls [`judge`]. Both
//! answer with [`finding`]s: `migrate check` shows them, a move refuses on the first `no` among them, so the two cannot
//! disagree. Nothing here changes anything. All functions block: they read /proc, and may have to hash files.
//!
//! What travels needs nothing: the layer's directories, and with an own root everything but the volumes. What remains is
//! the node's own files, which CRIU maps again by path. A file that differs there would run other code behind the same
//! addresses, so both nodes compare size and content (for ELF files the build-id, which is the content's name).

mod compare;
mod cpu;
mod demands;
mod different;
mod elf;
pub mod finding;
mod identity;
mod maps;
mod net_tables;
mod place;
mod process_names;
mod sockets;
mod unix_peers;
mod unmovable;
mod xsave;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use migrate_criu::probe::Capabilities;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{Demands, Finding, MappedFile, Needs};
use migrate_proto::name::NodeName;
use migrate_proto::spec::WorkloadSpec;
use migrate_proto::text::Text;

pub use compare::{missing_controllers, missing_volume};
#[doc(hidden)]
pub use elf::build_id;

use finding::no;
use place::{Place, open_root, place_of};

/// What a source finds out about a workload.
#[derive(Debug, Clone)]
pub struct Survey {
    /// What the target must have.
    pub needs: Needs,
    /// What else it asks of its node.
    pub demands: Demands,
    /// What there is to say before a target is asked.
    pub findings: Vec<Finding>,
}

/// Looks at a running workload: `init` is the node's PID of the sandbox's PID 1, `tree` the node's PIDs of the workload, its main
/// process first, `cgroup` all that is in its control group. `spec` says what of it travels.
pub fn survey(
    init: i32,
    tree: &[i32],
    cgroup: &[i32],
    spec: &WorkloadSpec,
    criu_version: String,
    kernel: String,
) -> Result<Survey, Problem> {
    let mut findings: Vec<Finding> = unmovable::unmovable(init, tree, cgroup).into_iter().map(no).collect();
    findings.extend(sockets::findings(init, tree, cgroup));
    findings.extend(different::findings(init, tree));
    let (needs, unreadable) = needs(init, tree, spec, criu_version, kernel)?;
    findings.extend(unreadable.into_iter().map(no));
    Ok(Survey { needs, demands: demands::of(tree), findings })
}

/// Sockets of the workload, by their inodes, that are connected to its own PID 1: they are connected to that of the target again.
pub fn connected_to_init(init: i32, tree: &[i32]) -> Vec<u64> {
    sockets::connected_to_init(init, tree)
}

/// A target and what it has.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// Its CRIU.
    pub criu: &'a Capabilities,
    /// Its kernel's release.
    pub kernel: &'a str,
}

/// What this node has to say to a workload that `from` runs now: CRIU, CPU, kernel, files, volumes, controllers, ports, limits. A source that
/// makes no `demands` is an older one.
pub fn judge(
    here: Here<'_>,
    needs: &Needs,
    demands: Option<&Demands>,
    spec: &WorkloadSpec,
    from: &NodeName,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = compare::compare(needs, spec, here.criu, from).into_iter().map(no).collect();
    findings.extend(compare::compare_volumes(&spec.volumes).map(no));
    findings.extend(compare::missing_controllers(spec, here.node).map(no));
    findings.extend(demands.into_iter().flat_map(|demands| demands::judge(demands, here.node, from)));
    findings.extend(demands::judge_kernel(needs, here.kernel, here.node, from));
    findings
}

/// What a workload needs of its target, and what cannot be found out about it.
fn needs(
    init: i32,
    tree: &[i32],
    spec: &WorkloadSpec,
    criu_version: String,
    kernel: String,
) -> Result<(Needs, Vec<Problem>), Problem> {
    let root_path = PathBuf::from(format!("/proc/{init}/root"));
    let root = open_root(&root_path).map_err(|error| {
        Problem::internal(format!("cannot look into the sandbox through {}: {error}", root_path.display()))
    })?;
    let (mut mapped_files, mut unreadable) = (Vec::new(), Vec::new());
    for path in outside_paths(tree, spec)? {
        match describe(&root, path) {
            Ok(file) => mapped_files.extend(file),
            Err(problem) => unreadable.push(problem),
        }
    }
    let (arch, cpu_flags) = (cpu::arch(), cpu::flags()?);
    Ok((Needs { criu_version, kernel, arch, cpu_flags, mapped_files }, unreadable))
}

/// This machine's architecture, and the features of its CPU.
pub fn machine() -> Result<(String, Vec<String>), Problem> {
    Ok((cpu::arch(), cpu::flags()?))
}

/// Every path that a process has mapped and that does not travel, once.
fn outside_paths(tree: &[i32], spec: &WorkloadSpec) -> Result<BTreeSet<Text>, Problem> {
    let mut paths = BTreeSet::new();
    for pid in tree {
        let mappings = maps::of(*pid).map_err(|error| {
            let message = format!("cannot read which files process {pid} has mapped: {error}");
            Problem::new(Code::Internal, message)
        })?;
        let outside = mappings
            .into_iter()
            .filter(|mapping| !mapping.deleted)
            .filter_map(|mapping| Text::new(mapping.path))
            .filter(|path| place_of(path, spec) != Place::Travels);
        paths.extend(outside);
    }
    Ok(paths)
}

/// `None` for what is no regular file: a device has no content to compare.
fn describe(root: &File, path: Text) -> Result<Option<MappedFile>, Problem> {
    let found = identity::of(root, &path);
    match found {
        Ok(known) => Ok(Some(MappedFile { path, size: known.size, identity: known.identity })),
        // Not the kernel's EINVAL, which would be a failure.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() => Ok(None),
        Err(error) => {
            let message = format!("it has mapped {path}, which cannot be read in its sandbox: {error}");
            Err(Problem::new(Code::FileMismatch, message)
                .hint("something may have been mounted over that file; restart the workload"))
        }
    }
}

#[cfg(test)]
mod tests;
