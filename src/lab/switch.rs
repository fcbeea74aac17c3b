//! The process that holds the lab's bridge: `migrate lab-switch`. It does nothing but exist.

use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use super::log_tail::LogTail;
use super::{LabError, detach, holder, network};

/// The switch's directory in the lab's.
pub(crate) fn directory(lab: &Path) -> PathBuf {
    lab.join("switch")
}

/// Becomes the switch; returns only by failing.
pub(crate) fn be_switch(lab: &Path) -> Result<(), LabError> {
    let failed =
        |source: std::io::Error| LabError::Start { log: LogTail::of(&directory(lab).join("switch.log")), source };
    detach::keep_descriptors_to_ourselves().map_err(failed)?;
    nix::unistd::setsid().map_err(|errno| failed(errno.into()))?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    network::make_bridge()?;
    let _held = holder::hold(&directory(lab))?;
    detach::report_held().map_err(failed)?;
    loop {
        nix::unistd::pause();
    }
}
