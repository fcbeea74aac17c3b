//! Taking children that have ended.
//!
//! Raw, because a child may be ended by a real-time signal, too. For those nix has no name: its `waitpid` fails after the
//! kernel has handed the child over, and how it ended would be lost.

use std::io;

use migrate_proto::api::Exit;
use nix::unistd::Pid;

/// Any child, in [`take_ended`].
pub(crate) const ANY: Pid = Pid::from_raw(-1);

/// Takes a child that has ended; `None` while it has not. An error with `ECHILD` where there is no such child.
pub(crate) fn take_ended(child: Pid) -> io::Result<Option<(Pid, Exit)>> {
    wait(child, libc::WNOHANG | libc::__WALL)
}

/// Waits for a child's end.
pub(crate) fn await_end(child: Pid) -> io::Result<Exit> {
    loop {
        if let Some((_, exit)) = wait(child, libc::__WALL)? {
            return Ok(exit);
        }
    }
}

#[allow(unsafe_code)]
fn wait(child: Pid, flags: libc::c_int) -> io::Result<Option<(Pid, Exit)>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes an int to the pointer, which outlives the call.
        match unsafe { libc::waitpid(child.as_raw(), &mut status, flags) } {
            0 => return Ok(None),
            pid if pid > 0 => return Ok(exit_of(status).map(|exit| (Pid::from_raw(pid), exit))),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn exit_of(status: libc::c_int) -> Option<Exit> {
    if libc::WIFEXITED(status) {
        Some(Exit::Code(libc::WEXITSTATUS(status)))
    } else if libc::WIFSIGNALED(status) {
        Some(Exit::Signal(libc::WTERMSIG(status)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    #[allow(clippy::zombie_processes, reason = "it is waited for by what is tested")]
    fn every_way_to_end_is_understood() {
        for (script, expected) in [
            ("exit 7", Exit::Code(7)),
            ("kill -9 $$", Exit::Signal(9)),
            ("kill -34 $$", Exit::Signal(34)),
            ("kill -64 $$", Exit::Signal(64)),
        ] {
            // Waited for below, which is what this is about.
            #[allow(clippy::zombie_processes)]
            let child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            assert_eq!(await_end(Pid::from_raw(child.id() as i32)).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn a_child_that_is_not_there_is_an_error() {
        let error = take_ended(Pid::from_raw(i32::MAX)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
    }
}
