//! Volumes in a sandbox that is alone: they look as they are, and what is done to them is done to something else.
//!
//! A directory is the lower side of an overlay: files, FIFOs and sockets in it have inodes of their own, so that neither bytes nor locks nor what lies
//! in a FIFO reach the real ones. What is opened for writing is copied first, into memory, as far as that is allowed. What is not a
//! directory is read-only.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::FileType;

use super::mounts::{attach, make_dir, make_mount_point, make_read_only, mount_tmpfs, place};
use crate::error::{Result, SandboxError};
use crate::plan::LAYER_MOUNT;

/// In the layer, which is thrown away with the sandbox.
const PLACE: &str = "imitations";
/// How much of what is written is kept, of all volumes together.
const ROOM: &str = "mode=0700,size=64m";

/// The imitations of a sandbox.
pub(super) struct Imitations {
    place: PathBuf,
    made: usize,
}

impl Imitations {
    pub(super) fn new() -> Result<Imitations> {
        let place = Path::new(LAYER_MOUNT).join(PLACE);
        make_dir(&place, 0o700)?;
        mount_tmpfs(&place, ROOM)?;
        Ok(Imitations { place, made: 0 })
    }

    /// Puts an imitation of a volume there.
    pub(super) fn place(&mut self, tree: &OwnedFd, target: &Path) -> Result<()> {
        let source = rustix::fs::fstat(tree).map_err(SandboxError::file("look at what goes to", target))?;
        if !FileType::from_raw_mode(source.st_mode).is_dir() {
            place(tree, target)?;
            return make_read_only(target, true);
        }
        let place = self.place.join(self.made.to_string());
        self.made += 1;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|side| place.join(side));
        for side in [&lower, &upper, &work] {
            make_dir(side, 0o755)?;
        }
        make_mount_point(tree, target)?;
        attach(tree, &lower)?;
        make_read_only(&lower, true)?;
        let sides = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount(Some("overlay"), target, Some("overlay"), MsFlags::MS_NODEV, Some(sides.as_str()))
            .map_err(SandboxError::file("imitate the volume at", target))
    }
}
