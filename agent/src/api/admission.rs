//! Who may use the agent's socket: root, the user that the agent runs as, and one group. The socket's mode says the
//! same; this also holds where the mode was changed. A workload may not, whoever it runs as: it is root in its sandbox only.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::UnixStream;

/// Who is let in.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    pub(super) group: Option<u32>,
    pub(super) own_uid: u32,
    /// The control group below which workloads are, from the root of each hierarchy.
    pub(super) workloads: PathBuf,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// The main group and all others.
    pub(super) groups: Vec<u32>,
    /// Its control groups, where it is in a PID namespace below this process's, as every workload is; else none.
    pub(super) cgroups: Vec<PathBuf>,
}

impl Admission {
    pub(super) fn admits(&self, caller: &Caller) -> bool {
        let in_group = self.group.is_some_and(|group| caller.groups.contains(&group));
        (caller.uid == 0 || caller.uid == self.own_uid || in_group) && !self.is_workload(caller)
    }

    /// Whether it is in a sandbox, or was started beside a workload.
    pub(super) fn is_workload(&self, caller: &Caller) -> bool {
        let prefix: Vec<_> = self.workloads.components().collect();
        // A container's groups may lie deeper than its mounts say.
        let is_below =
            |group: &PathBuf| group.components().collect::<Vec<_>>().windows(prefix.len()).any(|at| at == prefix);
        !prefix.is_empty() && caller.cgroups.iter().any(is_below)
    }
}

impl Caller {
    /// As the kernel remembers it from the moment of the connection.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Caller> {
        let credentials = stream.peer_cred()?;
        let mut groups = other_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        let cgroups = match credentials.pid() {
            Some(pid) if pid > 0 => cgroups_of(pid, &peer_process(stream.as_fd())?)?,
            _ => Vec::new(),
        };
        Ok(Caller { uid: credentials.uid(), groups, cgroups })
    }
}

/// The control groups of a process that still is who it was when it connected, if it is in another PID namespace.
fn cgroups_of(pid: i32, process: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/pid"));
    let is_here = namespace(&pid.to_string())? == namespace("self")?;
    let text = fs::read(format!("/proc/{pid}/cgroup"))?;
    // Looked at after it was read: whoever has the PID now is who has it in the descriptor.
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, PollTimeout::ZERO)? > 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the caller has ended"));
    }
    if is_here {
        return Ok(Vec::new());
    }
    let groups = text.split(|byte| *byte == b'\n').filter_map(|line| line.splitn(3, |byte| *byte == b':').nth(2));
    Ok(groups.map(|group| PathBuf::from(OsStr::from_bytes(group))).collect())
}

/// `SO_PEERPIDFD`: the process that connected, not whoever has its PID by now.
#[allow(unsafe_code)]
fn peer_process(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// Linux 6.5, on x86-64 and aarch64.
    const SO_PEERPIDFD: libc::c_int = 77;
    let (mut process, mut bytes): (RawFd, _) = (-1, size_of::<RawFd>() as libc::socklen_t);
    // SAFETY: the kernel writes one descriptor, for which there is room; both live until the call returns.
    let result = unsafe {
        let into = (&raw mut process).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, into, &raw mut bytes)
    };
    match result {
        // SAFETY: the kernel has just put this descriptor into our table for us alone.
        0 => Ok(unsafe { OwnedFd::from_raw_fd(process) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `SO_PEERGROUPS`, which neither the standard library nor nix knows.
#[allow(unsafe_code)]
fn other_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let room = size_of::<u32>() * groups.len();
        let mut bytes = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes, which is the size of the buffer, and then sets `bytes`;
        // both live until the call returns. A gid_t is a u32.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let error = io::Error::last_os_error();
        groups.resize(bytes as usize / size_of::<u32>(), 0);
        match result {
            0 => return Ok(groups),
            // `bytes` now says how much there is.
            _ if error.raw_os_error() == Some(libc::ERANGE) && bytes as usize > room => {}
            _ => return Err(error),
        }
    }
}

/// The number of a group in a file like `/etc/group`; `None` where it has no such group. A static binary cannot ask
/// the C library.
pub(super) fn group_in(path: &Path, name: &str) -> io::Result<Option<u32>> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content?,
    };
    Ok(String::from_utf8_lossy(&content).lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    }))
}
