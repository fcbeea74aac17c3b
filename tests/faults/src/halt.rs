//! Where a move is made to wait: the other end of the agent's halts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migrate_proto::phase::Phase;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::matrix::{Moment, Side};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// A FIFO at which a side will wait. Removed when dropped; who waits then goes on.
#[derive(Debug)]
pub struct Halt {
    path: PathBuf,
}

/// The side waits, until this is dropped.
#[derive(Debug)]
pub struct Held {
    _open: File,
}

impl Halt {
    /// Puts it into the directory that the agents know.
    pub fn place(dir: &Path, side: Side, phase: Phase, moment: Moment) -> io::Result<Halt> {
        let suffix = if moment == Moment::Begun { "-begun" } else { "" };
        let path = dir.join(format!("{}-{phase}{suffix}", side.as_str()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        Ok(Halt { path })
    }

    /// Whether somebody waits here: then it is held, and nobody else will wait.
    pub fn take(&self) -> io::Result<Option<Held>> {
        match rustix::fs::open(&self.path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(opened) => {
                std::fs::remove_file(&self.path)?;
                Ok(Some(Held { _open: opened.into() }))
            }
            // Nobody has it open for reading.
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until somebody waits here; `None` where `over` comes first.
    pub fn wait(&self, over: impl Fn() -> bool, patience: Duration) -> io::Result<Option<Held>> {
        let deadline = Instant::now() + patience;
        loop {
            let is_over = over();
            if let Some(held) = self.take()? {
                return Ok(Some(held));
            }
            if is_over || Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Halt {
    fn drop(&mut self) {
        // Whoever waits is let go before the name is gone.
        drop(self.take());
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    #[test]
    fn whoever_waits_is_held_until_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let halt = Halt::place(dir.path(), Side::Target, Phase::CleanUp, Moment::Begun).unwrap();
        assert!(halt.take().unwrap().is_none());
        let path = dir.path().join("target-clean-up-begun");
        let waiting = std::thread::spawn(move || File::open(path).unwrap().read(&mut [0]).unwrap());
        let held = halt.wait(|| false, Duration::from_secs(60)).unwrap().unwrap();
        assert!(!waiting.is_finished());
        drop(held);
        assert_eq!(waiting.join().unwrap(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
