//! The layer: every file that a workload wrote, as an ext4 image in one sparse file.
//!
//! It is mounted through a loop device inside the sandbox only, and travels as blocks: inode numbers stay what they were,
//! which programs like SQLite insist upon. The same file works on any node.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::OFlags;

use crate::error::{Result, SandboxError};
use crate::plan::LAYER_MOUNT;
use crate::{beneath, loopdev};

/// The smallest layer that makes sense.
pub const MIN_BYTES: u64 = 16 << 20;

/// What every kernel since 3.18 can mount.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";
/// No lazy initialisation: nothing may write to a layer but its workload. What was deleted becomes a hole, and does not travel.
pub(crate) const MOUNT_OPTIONS: &str = "noinit_itable,discard";

/// A layer's file on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    path: PathBuf,
}

impl Layer {
    /// A layer that is there already, or is being received.
    pub fn at(path: impl Into<PathBuf>) -> Layer {
        Layer { path: path.into() }
    }

    /// A new, empty layer of `bytes` bytes at most. Costs some hundred KiB until something is written.
    pub fn create(path: impl Into<PathBuf>, bytes: u64) -> Result<Layer> {
        let layer = Layer::at(path);
        let bytes = bytes.max(MIN_BYTES) & !0xffff;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&layer.path)
            .map_err(SandboxError::file("create", &layer.path))?;
        file.set_len(bytes).map_err(SandboxError::file("size", &layer.path))?;
        layer.format().inspect_err(|_| {
            let _ = std::fs::remove_file(&layer.path);
        })?;
        Ok(layer)
    }

    /// A small journal keeps crashes harmless without many blocks to send; one inode per 32 KiB is plenty; the inode tables
    /// are left as holes. Everything is said here and nothing is left to the node's configuration: any node must be able to
    /// mount what any other has made.
    fn format(&self) -> Result<()> {
        let mut command = Command::new("mkfs.ext4");
        command.args([
            "-q",
            "-F",
            "-m",
            "0",
            "-i",
            "32768",
            "-J",
            "size=4",
            "-b",
            "4096",
            "-I",
            "256",
            "-O",
            FEATURES,
            "-L",
            "migrate-layer",
        ]);
        command.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"]);
        command.arg(&self.path);
        // mkfs.ext4 lives in sbin, which not everybody has in PATH.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("MKE2FS_CONFIG", "/dev/null");
        let output = command.output().map_err(SandboxError::file("run mkfs.ext4 for", &self.path))?;
        if output.status.success() {
            return Ok(());
        }
        Err(SandboxError::Tool {
            command: format!("{command:?}"),
            output: String::from_utf8_lossy(&output.stderr).chars().take(2000).collect(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How large it may become.
    pub fn size(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// How much of the node's disk it takes.
    pub fn used(&self) -> Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn metadata(&self) -> Result<std::fs::Metadata> {
        std::fs::metadata(&self.path).map_err(SandboxError::file("look at", &self.path))
    }

    /// A loop device upon it, which goes away with its last user.
    pub fn device(&self) -> Result<File> {
        loopdev::attach(&self.path)
    }

    /// Mounts the layer at `at`, a directory that must exist, lets `fill` write into it, and takes it down again.
    pub fn fill<T>(&self, at: &Path, fill: impl FnOnce(&Path) -> T) -> Result<T> {
        let device = self.device()?;
        let source = format!("/proc/self/fd/{}", device.as_raw_fd());
        mount(Some(source.as_str()), at, Some("ext4"), MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some(MOUNT_OPTIONS))
            .map_err(SandboxError::file("mount the layer on", at))?;
        drop(device);
        let result = fill(at);
        umount2(at, MntFlags::empty()).map_err(SandboxError::file("unmount", at))?;
        Ok(result)
    }

    /// Removes the file.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(SandboxError::file("remove", &self.path)),
        }
    }
}

/// A mounted layer, seen from outside through PID 1's root.
#[derive(Debug)]
pub struct Mounted {
    mount: File,
    path: PathBuf,
}

impl Mounted {
    /// Opens the mount point in the sandbox of this PID 1.
    pub(crate) fn open(init: i32) -> Result<Mounted> {
        let path = PathBuf::from(format!("/proc/{init}/root{LAYER_MOUNT}"));
        let mount = beneath::root_of(init)
            .and_then(|root| beneath::directory(root, Path::new(LAYER_MOUNT), OFlags::RDONLY))
            .map_err(SandboxError::file("open", &path))?;
        Ok(Mounted { mount, path })
    }

    /// Hands everything written so far to the layer's file.
    #[allow(unsafe_code)]
    pub fn sync(&self) -> Result<()> {
        // SAFETY: a plain call on a descriptor that we hold.
        if unsafe { libc::syncfs(self.mount.as_raw_fd()) } < 0 {
            return Err(self.failed("syncfs"));
        }
        Ok(())
    }

    /// How much has ever been written to the layer's device. Two equal answers mean that its file stood still in between:
    /// what was read of it is one instant of the file system, which any node can mount.
    pub fn written(&self) -> Result<u64> {
        let device = self.mount.metadata().map_err(SandboxError::file("look at", &self.path))?.dev();
        let path = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
        let stat = std::fs::read_to_string(&path).map_err(SandboxError::file("read", &path))?;
        // The seventh field: sectors written.
        let sectors = stat.split_ascii_whitespace().nth(6).and_then(|field| field.parse().ok());
        sectors.ok_or_else(|| SandboxError::Protocol { who: "the kernel", detail: format!("{path}: {stat}") })
    }

    fn failed(&self, action: &'static str) -> SandboxError {
        SandboxError::File { action, path: self.path.clone(), source: std::io::Error::last_os_error() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_layer_is_the_same_whatever_the_node_prefers() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [MIN_BYTES, 8 << 30] {
            let layer = Layer::create(dir.path().join(bytes.to_string()), bytes).unwrap();
            let shown = Command::new("/usr/sbin/dumpe2fs").arg("-h").arg(layer.path()).output().unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            assert_eq!((value("Block size:"), value("Inode size:")), ("4096", "256"));
            let features: Vec<&str> = value("Filesystem features:").split(' ').collect();
            assert_eq!(features.join(","), FEATURES.strip_prefix("none,").unwrap());
        }
    }

    #[test]
    fn what_was_deleted_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Layer::create(dir.path().join("layer.img"), 256 << 20).unwrap();
        let at = dir.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        layer.fill(&at, |mounted| std::fs::write(mounted.join("f"), vec![7; 64 << 20]).unwrap()).unwrap();
        assert!(layer.used().unwrap() > 64 << 20);
        let delete = |mounted: &Path| {
            std::fs::remove_file(mounted.join("f")).unwrap();
            rustix::fs::syncfs(File::open(mounted).unwrap()).unwrap();
            // The kernel does it soon after, but not when the file system is taken down.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            while layer.used().unwrap() > 16 << 20 && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            layer.used().unwrap()
        };
        let used = layer.fill(&at, delete).unwrap();
        assert!(used < 16 << 20, "{used}");
    }

    #[test]
    fn a_new_layer_is_large_and_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Layer::create(dir.path().join("layer.img"), 8 << 30).unwrap();
        assert_eq!(layer.size().unwrap(), 8 << 30);
        assert!(layer.used().unwrap() < 8 << 20, "{}", layer.used().unwrap());
        assert!(Layer::create(layer.path(), 8 << 30).is_err(), "an existing layer must not be overwritten");
        assert_eq!(layer.size().unwrap(), 8 << 30);
    }
}
