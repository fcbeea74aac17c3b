//! The listening socket in CRIU's images directory.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

use super::StreamError;

/// A socket that takes one connection, and whose name vanishes with it.
#[derive(Debug)]
pub(super) struct Listening {
    listener: UnixListener,
    name: SocketName,
}

impl Listening {
    pub(super) fn bind(dir: &Path, name: &str) -> Result<Listening, StreamError> {
        let path = dir.join(name);
        match listen(dir, name) {
            Ok(listener) => Ok(Listening { listener, name: SocketName(path) }),
            Err(source) => Err(StreamError::Listen { path, source }),
        }
    }

    /// The connection of who `is_meant`, by the PID that it had when it connected.
    pub(super) async fn accept(&self, is_meant: impl Fn(i32) -> bool) -> Result<UnixStream, StreamError> {
        let failed = |source| StreamError::Accept { path: self.name.0.clone(), source };
        loop {
            let (stream, _) = self.listener.accept().await.map_err(failed)?;
            if stream.peer_cred().map_err(failed)?.pid().is_some_and(&is_meant) {
                return Ok(stream);
            }
        }
    }
}

/// Removes the socket's name when dropped.
#[derive(Debug)]
struct SocketName(PathBuf);

impl Drop for SocketName {
    fn drop(&mut self) {
        // It may have been removed with its directory; nothing else could be done about it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds by way of the directory's descriptor: a socket's address holds 107 bytes, and a node's directories may well be
/// longer. Nobody can connect before the mode is set, because only then the socket listens.
fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(dir, flags, Mode::empty())?;
    let socket = bind(&directory, name)?;
    let listening = fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))
        .and_then(|()| Ok(rustix::net::listen(&socket, 1)?))
        .and_then(|()| UnixListener::from_std(socket.into()));
    if listening.is_err() {
        let _ = fs::remove_file(dir.join(name));
    }
    listening
}

fn bind(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
