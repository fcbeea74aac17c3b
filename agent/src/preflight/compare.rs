//! On the target: does this node have what the workload needs?

use std::fs::{self, File};
use std::io;
use std::path::Path;

use migrate_criu::probe::{Capabilities, Version};
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{FileIdentity, MappedFile, Needs};
use migrate_proto::name::NodeName;
use migrate_proto::spec::{Volume, WorkloadSpec};
use migrate_proto::text::Text;
use migrate_sandbox::cgroup::Limits;

use super::place::{Place, open_root, place_of};
use super::{cpu, identity};

const FLAGS_NAMED: usize = 5;
const FILES_NAMED: usize = 3;

/// What keeps this node from running the workload that `node` runs now, as far as CRIU, CPU and mapped files go.
pub(super) fn compare(needs: &Needs, spec: &WorkloadSpec, own_criu: &Capabilities, node: &NodeName) -> Vec<Problem> {
    let cpu = match cpu::flags() {
        Ok(flags) => compare_cpu(needs, &cpu::arch(), &flags, node),
        Err(problem) => Some(problem),
    };
    let files = match open_root(Path::new("/")) {
        Ok(root) => compare_files(&needs.mapped_files, spec, &root),
        Err(error) => Some(Problem::internal(format!("the target cannot open its own root: {error}"))),
    };
    [compare_criu(needs, own_criu, node), cpu, files].into_iter().flatten().collect()
}

/// What this node lacks of the workload's shared storage.
pub(super) fn compare_volumes(volumes: &[Volume]) -> Option<Problem> {
    let missing = missing_volume(volumes, "the target")?;
    Some(Problem::new(Code::Incompatible, missing).hint("mount the shared storage there, at the same path"))
}

/// What is wrong with the first volume that is not here; `here` is what this node is called.
pub fn missing_volume(volumes: &[Volume], here: &str) -> Option<String> {
    let missing = volumes.iter().find_map(|volume| Some((volume, fs::metadata(volume.source.as_os_str()).err()?)));
    missing.map(|(volume, error)| match error.kind() {
        io::ErrorKind::NotFound => format!("the volume {} does not exist on {here}", volume.source),
        _ => format!("the volume {} cannot be reached on {here} ({error})", volume.source),
    })
}

/// Why this node, `here`, cannot keep the workload within its limits.
pub fn missing_controllers(spec: &WorkloadSpec, here: &NodeName) -> Option<Problem> {
    let limits = Limits { memory_bytes: spec.memory_bytes, cpu_milli: spec.cpu_milli };
    let lacking = match limits.lacking() {
        Ok(lacking) if lacking.is_empty() => return None,
        Ok(lacking) => lacking.join(" and "),
        Err(error) => return Some(Problem::internal(error)),
    };
    let message =
        format!("{here} cannot limit the {lacking} of {}: its agent has no such cgroup controller", spec.name);
    let hint =
        "delegate the controllers to the agent (`Delegate=yes` in its unit), or mount them; or choose another node";
    Some(Problem::new(Code::Incompatible, message).hint(hint))
}

fn compare_criu(needs: &Needs, own: &Capabilities, node: &NodeName) -> Option<Problem> {
    let Some(theirs) = parse_version(&needs.criu_version) else {
        let message = format!("{node} has a CRIU of the unreadable version '{}'", needs.criu_version.escape_debug());
        return Some(Problem::new(Code::Incompatible, message).hint(format!("run scripts/setup on {node}")));
    };
    if own.reads_images_of(theirs) {
        return None;
    }
    let message = format!("the target's CRIU {} is older than the {theirs} on {node}", own.version);
    Some(Problem::new(Code::Incompatible, message).hint("run scripts/setup on the target"))
}

/// Two or three numbers with dots between.
fn parse_version(text: &str) -> Option<Version> {
    let numbers: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [major, minor] => Some(Version(major, minor, 0)),
        [major, minor, patch] => Some(Version(major, minor, patch)),
        _ => None,
    }
}

fn compare_cpu(needs: &Needs, arch: &str, flags: &[String], node: &NodeName) -> Option<Problem> {
    if needs.arch != arch {
        let theirs = needs.arch.escape_debug();
        let message = format!("the target is a machine of type {arch}, and {node} is {theirs}");
        return Some(Problem::new(Code::Incompatible, message).hint("choose a target of the same type"));
    }
    let missing = cpu::missing(&needs.cpu_flags, flags);
    if missing.is_empty() {
        return None;
    }
    let named = missing.iter().map(|flag| flag.escape_debug().to_string()).collect::<Vec<_>>();
    let named = name_some(&named, FLAGS_NAMED, ", ");
    let message = format!("the target's CPU lacks what the workload may be using on {node}: {named}");
    Some(Problem::new(Code::Incompatible, message)
        .hint("choose a target with the same or a newer CPU of the same make; for virtual machines, give all the same CPU model"))
}

fn compare_files(files: &[MappedFile], spec: &WorkloadSpec, root: &File) -> Option<Problem> {
    let differences: Vec<String> = files.iter().filter_map(|file| difference(file, spec, root)).collect();
    if differences.is_empty() {
        return None;
    }
    let named = name_some(&differences, FILES_NAMED, "; ");
    let message = format!("files that it uses are not the same on the target: {named}");
    Some(
        Problem::new(Code::FileMismatch, message).hint(
            "install the same packages in the same versions on both nodes, or give the workload a --root of its own",
        ),
    )
}

/// How a file of this node differs from what the workload has mapped; `None` where it does not.
fn difference(needed: &MappedFile, spec: &WorkloadSpec, root: &File) -> Option<String> {
    let here = match place_of(&needed.path, spec) {
        Place::Travels => return None,
        // A path that came through `Text` holds no NUL, and neither does a part of it.
        Place::Node(path) => Text::new(path.into_os_string().into_encoded_bytes())?,
    };
    let path = &needed.path;
    match identity::of(root, &here) {
        Ok(found) if found.size != needed.size => {
            Some(format!("{path} has {} bytes instead of {}", found.size, needed.size))
        }
        Ok(found) if found.identity == needed.identity => None,
        Ok(found) => Some(match (&needed.identity, &found.identity) {
            (FileIdentity::BuildId(theirs), FileIdentity::BuildId(ours)) => {
                format!("{path} is another build ({} instead of {})", short(ours), short(theirs))
            }
            _ => format!("{path} has other content"),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("{path} is missing")),
        Err(error) => Some(format!("{path} cannot be read ({error})")),
    }
}

/// Enough of a build-id to tell two apart.
fn short(id: &[u8]) -> String {
    id.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The first few, and how many more there are.
pub(super) fn name_some(all: &[String], limit: usize, between: &str) -> String {
    let named = all.iter().take(limit).map(String::as_str).collect::<Vec<_>>().join(between);
    match all.len().saturating_sub(limit) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
