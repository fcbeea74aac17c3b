//! Finding the process that holds a namespace. It has a record lock on a file of the lab for as long as it lives, and the
//! kernel tells who that is (as a PID of whoever asks): no PID file that could be out of date.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal};

use super::LabError;

/// A living process, held by a descriptor: its PID cannot become another process's while this exists unnoticed.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

/// The file on which the holder in `directory` has its lock.
fn file(directory: &Path) -> PathBuf {
    directory.join("holder")
}

/// Makes this process the holder until it ends. The returned file must stay open, and no other descriptor of it may be closed.
pub(crate) fn hold(directory: &Path) -> Result<File, LabError> {
    let path = file(directory);
    let failed = |source| LabError::File { doing: "hold", path: path.clone(), source };
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    rustix::fs::fcntl_lock(&opened, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok(opened)
}

/// The holder in `directory`; `None` where there is none (any more).
pub(crate) fn find(directory: &Path) -> Result<Option<Process>, LabError> {
    let Some(pid) = locker(directory)? else { return Ok(None) };
    let Some(process) = Process::open(pid, &file(directory))? else { return Ok(None) };
    // Between the two looks the PID may have passed to another process.
    Ok((locker(directory)? == Some(pid)).then_some(process))
}

fn locker(directory: &Path) -> Result<Option<Pid>, LabError> {
    let path = file(directory);
    let opened = match File::open(&path) {
        Ok(opened) => opened,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LabError::File { doing: "open", path, source }),
    };
    // Asking for a read lock: whoever prevents it has the write lock.
    let found = rustix::process::fcntl_getlk(&opened, &Flock::from(FlockType::ReadLock))
        .map_err(|errno| LabError::File { doing: "ask for the holder of", path, source: errno.into() })?;
    Ok(found.and_then(|lock| lock.pid))
}

impl Process {
    /// The process with this PID; `None` where it is gone. `known_from` is for the message.
    pub(crate) fn open(pid: Pid, known_from: &Path) -> Result<Option<Process>, LabError> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Process { pid, pidfd })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(LabError::File {
                doing: "open the process named by",
                path: known_from.to_owned(),
                source: errno.into(),
            }),
        }
    }

    /// Its PID, as we see it.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its descriptor.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Sends a signal; that it is gone already is no failure.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), LabError> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(LabError::Signal { pid: self.pid(), source: errno.into() }),
        }
    }

    /// Whether it has ended by `deadline`. A PID 1 has ended only when everything in its namespace has.
    pub(crate) fn ended_by(&self, deadline: Instant) -> Result<bool, LabError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&self.pidfd), PollFlags::POLLIN)], timeout) {
                Ok(0) if Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(LabError::Signal { pid: self.pid(), source: errno.into() }),
            }
        }
    }

    /// Whether it is stopped by SIGSTOP.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state follows the name, which is in brackets and may itself hold any character.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nobody_holds_what_nobody_locked() {
        let directory = tempfile::tempdir().unwrap();
        assert!(find(directory.path()).unwrap().is_none());
        File::create(file(directory.path())).unwrap();
        assert!(find(directory.path()).unwrap().is_none());
    }

    #[test]
    fn an_end_is_seen_and_a_signal_to_the_dead_is_no_failure() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = Process::open(pid, Path::new("test")).unwrap().unwrap();
        assert!(!process.ended_by(Instant::now()).unwrap());
        process.signal(Signal::KILL).unwrap();
        assert!(process.ended_by(Instant::now() + Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
    }
}
