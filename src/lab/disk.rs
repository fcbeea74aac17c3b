//! A disk of a node's own: an ext4 file system in a file, mounted upon the node's state directory and nowhere else. What is on it
//! survives a power loss. Without one a node's state lies on the host's disk, which nobody may fill.

use std::fs::File;
use std::path::{Path, PathBuf};

use migrate_proto::name::NodeName;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::LabError;
use super::holder::Process;
use super::layout::Layout;
use super::node;
use super::tool::run;

/// The smallest with room for a workload.
pub(crate) const LEAST: u64 = 128 << 20;

/// Takes up what is free. It lies on the disk it fills, and so outlives the node's power.
const BALLAST: &str = "lab-ballast";

/// The ballast's smallest piece.
const BLOCK: u64 = 4096;

/// Where the agent has its state, and the disk is mounted.
pub(crate) fn state(lab: &Path, name: &NodeName) -> PathBuf {
    node::directory(lab, name).join("state")
}

fn image(lab: &Path, name: &NodeName) -> PathBuf {
    node::directory(lab, name).join("disk.img")
}

/// Makes the disk of a node where the lab gives it one; one that is there stays.
pub(crate) fn make(lab: &Path, layout: &Layout, name: &NodeName) -> Result<(), LabError> {
    let (Some(bytes), image) = (layout.disk, image(lab, name)) else { return Ok(()) };
    if image.exists() {
        return Ok(());
    }
    super::make_directory(&state(lab, name))?;
    let sized = File::create(&image).and_then(|file| file.set_len(bytes));
    sized.map_err(|source| LabError::File { doing: "make", path: image.clone(), source })?;
    Ok(run(&["mkfs.ext4".as_ref(), "-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()])?)
}

/// Mounts it; to be done in the node's namespaces. The loop device goes with the last namespace that has the mount.
pub(crate) fn mount(lab: &Path, layout: &Layout, name: &NodeName) -> Result<(), LabError> {
    if layout.disk.is_none() {
        return Ok(());
    }
    let (image, state) = (image(lab, name), state(lab, name));
    Ok(run(&["mount".as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str(), state.as_os_str()])?)
}

/// Leaves not one free block.
pub(crate) fn fill(lab: &Path, first: &Process, name: &NodeName) -> Result<(), LabError> {
    let path = seen_from_outside(lab, first, name);
    let failed = |source| LabError::File { doing: "fill", path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    let (mut length, mut piece) = (0, 1 << 30);
    while piece >= BLOCK {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), length, piece) {
            Ok(()) => length += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Ok(())
}

/// The opposite of [`fill`].
pub(crate) fn free(lab: &Path, first: &Process, name: &NodeName) -> Result<(), LabError> {
    let path = seen_from_outside(lab, first, name);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::File { doing: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// The mount is in the node's namespace only, which is reached through its PID 1.
fn seen_from_outside(lab: &Path, first: &Process, name: &NodeName) -> PathBuf {
    let state = state(lab, name);
    let within = state.strip_prefix("/").unwrap_or(&state);
    Path::new(&format!("/proc/{}/root", first.pid())).join(within).join(BALLAST)
}
