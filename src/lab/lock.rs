//! One command at a time on a lab: a lock on the lab's directory itself, so that nothing is left when the directory goes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::LabError;

/// The lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct LabLock {
    _directory: Flock<File>,
}

impl LabLock {
    /// Waits for the lock.
    pub(crate) fn take(directory: &Path) -> Result<LabLock, LabError> {
        let failed = |source| LabError::File { doing: "lock", path: directory.to_owned(), source };
        loop {
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
            let opened = opened.map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => LabError::NoLab { directory: directory.to_owned() },
                _ => failed(source),
            })?;
            let locked = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
            // While we waited the directory may have been removed, and made anew.
            let held = locked.metadata().map_err(failed)?;
            match std::fs::symlink_metadata(directory) {
                Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => {
                    return Ok(LabLock { _directory: locked });
                }
                _ => continue,
            }
        }
    }
}
