//! Unix sockets in a directory, reached by a short path: an address has room for 108 bytes, directories may be longer.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listens at `name` in `dir`; only the owner may connect.
pub fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let directory = File::open(dir)?;
    let listener = UnixListener::bind(short(&directory, name))?;
    std::fs::set_permissions(dir.join(name), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to whoever listens at `name` in `dir`.
pub fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let directory = File::open(dir)?;
    UnixStream::connect(short(&directory, name))
}

fn short(directory: &File, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_may_have_a_long_name() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("x".repeat(200));
        std::fs::create_dir(&dir).unwrap();
        let listener = listen(&dir, "socket").unwrap();
        assert_eq!(std::fs::metadata(dir.join("socket")).unwrap().permissions().mode() & 0o777, 0o600);
        let _client = connect(&dir, "socket").unwrap();
        listener.accept().unwrap();
        assert_eq!(connect(&dir, "other").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(listen(&dir, "socket").unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
