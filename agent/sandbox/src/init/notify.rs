//! `NOTIFY_SOCKET`: where programs that speak systemd's protocol send their signs of life.
//!
//! PID 1 has it, and not the agent: a sender would wait, or lose its connection, while there is no agent. All that is made of what is
//! sent is the time of a file. Nothing is answered; descriptors that come along are closed by the kernel, which is all that
//! `sd_notify_barrier` waits for.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::SystemTime;

use crate::plan::RUN;
use crate::pulse;

/// Longer messages are cut: what is looked for is short, and comes first in those that people write.
const LONGEST: usize = 4096;
/// Taken at a time: who floods the socket waits, not who asks PID 1.
const AT_A_TIME: usize = 64;

/// The socket, and the file that says when it was heard of.
pub(super) struct Notify {
    socket: UnixDatagram,
    heard: File,
}

impl Notify {
    /// Opens it where the workload will look for it; `None` where that cannot be done: there still is the file to touch.
    pub(super) fn open() -> Option<Notify> {
        Notify::at(Path::new(pulse::SOCKET), &Path::new(RUN).join(pulse::HEARD)).ok()
    }

    fn at(socket: &Path, heard: &Path) -> io::Result<Notify> {
        let _ = std::fs::remove_file(socket);
        let heard = File::create(heard)?;
        let bound = UnixDatagram::bind(socket)?;
        std::fs::set_permissions(socket, Permissions::from_mode(0o666))?;
        bound.set_nonblocking(true)?;
        Ok(Notify { socket: bound, heard })
    }

    /// To be polled.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes what has come.
    pub(super) fn listen(&self) {
        let mut message = [0; LONGEST];
        for _ in 0..AT_A_TIME {
            let Ok(length) = self.socket.recv(&mut message) else { return };
            if is_sign_of_life(&message[..length]) {
                let _ = self.heard.set_modified(SystemTime::now());
            }
        }
    }
}

fn is_sign_of_life(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"WATCHDOG=1")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_sign_of_life_is_one() {
        let yes: [&[u8]; 3] = [b"WATCHDOG=1", b"READY=1\nWATCHDOG=1\n", b"STATUS=busy\nWATCHDOG=1\nMAINPID=7"];
        let no: [&[u8]; 6] = [b"", b"READY=1", b"WATCHDOG=12", b"xWATCHDOG=1", b"WATCHDOG=trigger", b"WATCHDOG_USEC=1"];
        assert!(yes.into_iter().all(is_sign_of_life));
        assert!(!no.into_iter().any(is_sign_of_life));
    }

    #[test]
    fn what_is_heard_is_the_time_of_a_file_and_nobody_has_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, heard) = (dir.path().join("notify"), dir.path().join("heard"));
        let notify = Notify::at(&socket, &heard).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH;
        notify.heard.set_modified(long_ago).unwrap();
        let modified = || std::fs::metadata(&heard).unwrap().modified().unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.send_to(b"READY=1", &socket).unwrap();
        notify.listen();
        assert_eq!(modified(), long_ago);
        // Far more than the kernel keeps.
        for _ in 0..1000 {
            sender.send_to(b"WATCHDOG=1", &socket).unwrap();
            notify.listen();
        }
        assert!(modified() > long_ago);
        // A sandbox that is built again in the same place.
        drop(notify);
        assert!(Notify::at(&socket, &heard).is_ok());
    }
}
