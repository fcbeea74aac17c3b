//! Before anything is frozen: what a workload needs of a target, whether this node has it, and what makes a move
//! impossible from the start.
//!
//! The source calls [`needs`] and [`unmovable`] while the workload runs; the answer of `needs` travels with the offer, and
//! the target calls [`compare`] and [`check_volumes`]. Nothing here changes anything. All functions block: they read
//! /proc, and may have to hash files.
//!
//! What travels needs nothing: the layer's directories, and with an own root everything but the volumes. What remains is
//! the node's own files, which CRIU maps again by path. A file that differs there would run other code behind the same
//! addresses, so both nodes compare size and content (for ELF files the build-id, which is the content's name).

mod compare;
mod cpu;
mod elf;
mod identity;
mod maps;
mod place;
mod unmovable;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{MappedFile, Needs};
use migrate_proto::spec::WorkloadSpec;
use migrate_proto::text::Text;

pub use compare::{check_volumes, compare, missing_volume};
pub use unmovable::unmovable;

use place::{Place, open_root, place_of};

/// What a workload needs of its target. `init` is the node's PID of the sandbox's PID 1, `tree` the node's PIDs of the
/// workload. `spec` says what of it travels.
pub fn needs(
    init: i32,
    tree: &[i32],
    spec: &WorkloadSpec,
    criu_version: String,
    kernel: String,
) -> Result<Needs, Problem> {
    let root_path = PathBuf::from(format!("/proc/{init}/root"));
    let root = open_root(&root_path).map_err(|error| {
        let message = format!("cannot look into the sandbox through {}: {error}", root_path.display());
        Problem::new(Code::Internal, message)
    })?;
    let mut mapped_files = Vec::new();
    for path in outside_paths(tree, spec)? {
        mapped_files.extend(describe(&root, path)?);
    }
    let (arch, cpu_flags) = (cpu::arch(), cpu::flags()?);
    Ok(Needs { criu_version, kernel, arch, cpu_flags, mapped_files })
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
