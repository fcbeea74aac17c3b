//! Signs of life of a workload: a file that it touches, and a socket of systemd's protocol (`sd_notify`, `WATCHDOG=1`).
//!
//! The file is part of the layer, so that it travels with whoever has it open. The socket is PID 1's (see `init::notify`), so that no
//! sender ever waits for an agent, or loses its connection with one; what PID 1 hears is the time of a second file, which only the node sees.
//! Both are compared and never interpreted: clocks of two nodes need not agree.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use migrate_proto::spec::User;
use rustix::fs::{Mode, OFlags};

use crate::beneath;
use crate::error::{Result, SandboxError};
use crate::sandbox::Sandbox;

/// The file that a workload touches, inside.
pub const FILE: &str = "/.migrate/layer/pulse";
/// The socket that it may send to instead, inside.
pub const SOCKET: &str = "/.migrate/run/notify";
/// In the directory of the socket: when PID 1 last heard of it.
pub(crate) const HEARD: &str = "heard";

/// Says no more than whether there was a sign of life between two looks: then they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    touched: Option<Times>,
    heard: Option<Times>,
}

/// When a file was changed, in two ways that a program may change it, and how long it is.
type Times = (i64, i64, i64, i64, u64);

impl Sandbox {
    /// Puts the file there that the workload may touch, whoever of it does. The layer has to be attached.
    pub fn make_pulse(&self, user: Option<User>) -> Result<()> {
        let path = Path::new(FILE);
        let made = beneath::root_of(self.init().pid).and_then(|root| {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let file = beneath::file(&root, path, flags, Mode::from_raw_mode(0o644)).or_else(|_| {
                // An earlier run may have put anything there.
                beneath::remove(&root, path)?;
                beneath::file(&root, path, flags | OFlags::EXCL, Mode::from_raw_mode(0o644))
            })?;
            if let Some(user) = user {
                std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
            }
            // A program may give up its user after its start.
            file.set_permissions(Permissions::from_mode(0o666))
        });
        made.map_err(SandboxError::file("make", path))
    }

    /// The signs of life until now.
    pub fn signs(&self) -> Result<Signs> {
        let touched = beneath::root_of(self.init().pid)
            .and_then(|root| beneath::file(root, Path::new(FILE), OFlags::RDONLY, Mode::empty())?.metadata());
        // Looked at after the file was: the PID was still that of PID 1.
        if self.is_gone()? {
            return Err(SandboxError::Gone { dir: self.dir().to_owned() });
        }
        let heard = std::fs::symlink_metadata(self.work().join(HEARD));
        Ok(Signs { touched: touched.ok().map(|file| times(&file)), heard: heard.ok().map(|file| times(&file)) })
    }
}

fn times(file: &std::fs::Metadata) -> Times {
    (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec(), file.size())
}
