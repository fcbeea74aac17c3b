//! The tracer carries out CRIU's `ptrace` calls, so that CRIU's death in the middle of its work harms no workload.
//!
//! Who is traced belongs to its tracer: when that dies the kernel lets it run, from wherever it stands, with whatever registers it has.
//! CRIU has code of its own run in every task that it dumps, and a CRIU that is killed leaves tasks in that code, or at a
//! breakpoint that then ends them. Therefore CRIU is not the tracer. A shim that is preloaded into it passes its calls on:
//!
//! ```text
//! criu (shim) ── a datagram for each ptrace, wait4 ── tracer ══ ptrace ══ the workload's threads
//! ```
//!
//! The tracer notes what each thread was before CRIU changed it. When CRIU is gone it puts everything back ([`mending`]). Of a
//! restore it knows whether CRIU had begun to let threads go: then their making is complete, and it lets go of the others; if
//! not, it kills them, and none has run an instruction.
//!
//! It is a process of its own, without threads, because only that task may use `ptrace` that attached. It is in the sandbox's PID namespace, so
//! that a PID means the same to it and to CRIU.

#[allow(dead_code, reason = "some of it is for the shim")]
mod calls;
mod kernel;
mod mending;
mod service;
// Built by the build script; named here for those who format.
#[cfg(any())]
mod shim;
#[cfg(test)]
mod tests;
mod tracee;

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use migrate_proto::api::Exit;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use self::calls::LINE_VARIABLE;
pub use self::mending::criu_mappings;
use super::Call;
use crate::error::{Result, SandboxError};
use crate::init::spawn;
use crate::process::ends_within;
use crate::reap;

/// What is preloaded into CRIU; empty for processors for which there is none.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));
/// A restore's threads were all let go, although CRIU has not ended as it should.
const LET_GO: i32 = 10;
/// A restore's threads were killed before any of them had run.
const KILLED: i32 = 11;
/// A dump's threads are not all what they were.
const NOT_MENDED: i32 = 12;
/// How long the tracer may take once CRIU is gone: longer than mending takes.
const PATIENCE: Duration = Duration::from_secs(4);

/// The guard's end of it: a child.
#[derive(Debug)]
pub(super) struct Tracer {
    child: Pid,
}

/// What CRIU is to be started with.
#[derive(Debug)]
pub(super) struct Preload {
    line: OwnedFd,
    shim: OwnedFd,
}

impl Preload {
    /// The descriptors that CRIU must get.
    pub(super) fn descriptors(&self) -> [i32; 2] {
        [self.line.as_raw_fd(), self.shim.as_raw_fd()]
    }

    /// The environment that CRIU must get.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        let [line, shim] = self.descriptors();
        [(LINE_VARIABLE, line.to_string()), ("LD_PRELOAD", format!("/proc/self/fd/{shim}"))]
    }

    /// In the process that becomes CRIU.
    pub(super) fn keep(&self) -> nix::Result<()> {
        [&self.line, &self.shim].into_iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop))
    }
}

impl Tracer {
    /// Starts a tracer for CRIU, where children go into the sandbox's PID namespace. `None` where there is no shim.
    pub(super) fn start(call: &Call) -> Result<Option<(Tracer, Preload)>> {
        if SHIM.is_empty() {
            return Ok(None);
        }
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(SandboxError::system("socketpair"))?;
        let shim = memfd_create("migrate-shim", MFdFlags::MFD_CLOEXEC).map_err(SandboxError::system("memfd_create"))?;
        let mut file = std::fs::File::from(shim);
        file.write_all(SHIM).map_err(SandboxError::system("write the shim"))?;
        let preload = Preload { line: theirs, shim: file.into() };
        match spawn::fork_with_pid(Some(call.criu_pid - 1), 0).map_err(SandboxError::system("clone3"))? {
            Some(child) => Ok(Some((Tracer { child }, preload))),
            None => {
                drop(preload);
                std::process::exit(service::serve(ours, call))
            }
        }
    }

    /// A tracer that somebody has stopped answers nobody.
    pub(super) fn wake(&self) {
        let _ = kill(self.child, Signal::SIGCONT);
    }

    /// CRIU has ended like this. Waits until everything that it held is in order; how the call ended, then.
    pub(super) fn conclude(self, exit: Exit) -> Exit {
        self.wake();
        let ended = self.await_end().then(|| reap::take_ended(self.child));
        understood(exit, ended.and_then(|ended| Some(ended.ok()??.1)))
    }

    /// Who does not end in time is killed: the guard has the workload to see to.
    fn await_end(&self) -> bool {
        let Some(child) = rustix::process::Pid::from_raw(self.child.as_raw()) else { return false };
        let Ok(process) = pidfd_open(child, PidfdFlags::empty()) else { return false };
        ends_within(&process, PATIENCE) || {
            let _ = kill(self.child, Signal::SIGKILL);
            ends_within(&process, PATIENCE / 8)
        }
    }
}

/// How a call ended, of CRIU's end and of its tracer's, where that is known.
fn understood(criu: Exit, tracer: Option<Exit>) -> Exit {
    match (criu, tracer) {
        // What CRIU had to do was done; what was left of it, is.
        (Exit::Signal(_), Some(Exit::Code(LET_GO))) => Exit::Code(0),
        // As if CRIU had failed by itself.
        (Exit::Signal(_), Some(Exit::Code(KILLED))) => Exit::Code(1),
        (Exit::Signal(_) | Exit::Code(0), _) | (_, Some(Exit::Code(0 | KILLED))) => criu,
        // CRIU that failed says that everybody is as before, or that nobody has run. Its tracer cannot say so.
        _ => Exit::Signal(libc::SIGKILL),
    }
}
