//! A limit to the memory of a node: everything that runs on it, its PID 1 and agent included, is below one control group.

use std::io;
use std::path::{Path, PathBuf};

use super::{LabError, cgroups};

/// The node's own processes, beside its workloads' groups; a workload cannot have this name.
const OWN: &str = "node.own";

/// Limits the group `name`, and puts this process into it; what it starts follows.
pub(crate) fn confine(name: &str, bytes: u64) -> Result<(), LabError> {
    let (root, file) = hierarchy()?;
    let (group, own) = (root.join(name), root.join(name).join(OWN));
    let failed = |path: &Path, source| LabError::File { doing: "confine a node by", path: path.to_owned(), source };
    std::fs::create_dir_all(&own).map_err(|source| failed(&own, source))?;
    // Version 2: a group has the controllers that all above it pass down. Version 1 knows nothing of that.
    let above = group.ancestors().skip(1).take_while(|above| above.starts_with(&root));
    for above in above.collect::<Vec<_>>().into_iter().rev() {
        let _ = std::fs::write(above.join("cgroup.subtree_control"), "+memory");
    }
    let write = |path: PathBuf, value: String| std::fs::write(&path, value).map_err(|source| failed(&path, source));
    write(group.join(file), bytes.to_string())?;
    write(own.join("cgroup.procs"), "0".into())
}

/// Where memory is limited on this host, and by which file.
fn hierarchy() -> Result<(PathBuf, &'static str), LabError> {
    let mounts = cgroups::mounts()?;
    let of_version_1 = mounts.iter().find(|mount| mount.join("memory.use_hierarchy").exists());
    let of_version_2 = mounts.iter().find(|mount| {
        std::fs::read_to_string(mount.join("cgroup.controllers"))
            .is_ok_and(|all| all.split_whitespace().any(|c| c == "memory"))
    });
    let missing = || LabError::File {
        doing: "find a memory controller below",
        path: "/sys/fs/cgroup".into(),
        source: io::ErrorKind::NotFound.into(),
    };
    match (of_version_1, of_version_2) {
        (Some(mount), _) => Ok((mount.clone(), "memory.limit_in_bytes")),
        (None, Some(mount)) => Ok((mount.clone(), "memory.max")),
        (None, None) => Err(missing()),
    }
}
