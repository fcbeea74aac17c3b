//! Who may use the agent's socket: root, the user that the agent runs as, and one group. The socket's mode says the
//! same; this also holds where the mode was changed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use tokio::net::UnixStream;

/// Who is let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    pub(super) group: Option<u32>,
    pub(super) own_uid: u32,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    /// The main group and all others.
    pub(super) groups: Vec<u32>,
}

impl Admission {
    pub(super) fn admits(&self, caller: &Caller) -> bool {
        let in_group = self.group.is_some_and(|group| caller.groups.contains(&group));
        caller.uid == 0 || caller.uid == self.own_uid || in_group
    }
}

impl Caller {
    /// As the kernel remembers it from the moment of the connection.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Caller> {
        use std::os::fd::AsFd;
        let credentials = stream.peer_cred()?;
        let mut groups = other_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        Ok(Caller { uid: credentials.uid(), groups })
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
