//! Where a path of the sandbox comes from, and how it is opened without being led astray.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use migrate_proto::spec::{Volume, WorkloadSpec};
use migrate_proto::text::Text;
use migrate_sandbox::plan::{LAYER_DIRS, LAYER_MOUNT};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Where a path of the sandbox comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// From the layer, or every sandbox has it.
    Travels,
    /// From the node: this is its path there.
    Node(PathBuf),
}

/// Where `path`, as seen in the sandbox of `spec`, comes from. Volumes are mounted last, so they win.
pub(super) fn place_of(path: &Text, spec: &WorkloadSpec) -> Place {
    let path = Path::new(path.as_os_str());
    if let Some((volume, rest)) = volume_of(path, &spec.volumes) {
        // Joining nothing would add a slash, and a file with a slash behind it does not exist.
        let source = Path::new(volume.source.as_os_str());
        return Place::Node(if rest.as_os_str().is_empty() { source.to_owned() } else { source.join(rest) });
    }
    let own = Path::new(LAYER_MOUNT).parent().unwrap_or(Path::new(LAYER_MOUNT));
    let in_layer = || LAYER_DIRS.iter().any(|dir| path.starts_with(dir.target));
    if spec.own_root || path.starts_with(own) || in_layer() {
        return Place::Travels;
    }
    Place::Node(path.to_owned())
}

/// Of nested volumes the later one covers the earlier, and the inner one is nearer.
fn volume_of<'a>(path: &'a Path, volumes: &'a [Volume]) -> Option<(&'a Volume, &'a Path)> {
    volumes
        .iter()
        .filter_map(|volume| Some((volume, path.strip_prefix(volume.target.as_os_str()).ok()?)))
        .max_by_key(|(volume, _)| volume.target.as_bytes().len())
}

/// The directory that paths are opened in.
pub(super) fn open_root(path: &Path) -> io::Result<File> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Opens a regular file for reading; links cannot lead out of `root`. Anything else is `InvalidInput`, found out without
/// opening it: that alone can have effects on a device, or wait for ever on a pipe.
pub(super) fn open_file(root: &File, path: &Path) -> io::Result<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found: File = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?.into();
    let kind = found.metadata()?.file_type();
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what(kind)));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn what(kind: std::fs::FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "it is a directory",
        () if kind.is_char_device() || kind.is_block_device() => "it is a device",
        () => "it is no regular file",
    }
}
