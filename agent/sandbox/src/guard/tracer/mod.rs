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
// Built by the build script; named here for those who format.
#[cfg(any())]
mod shim;
#[cfg(test)]
mod tests;
mod tracee;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use migrate_proto::api::Exit;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use self::calls::{Answer, HELLO, LINE_VARIABLE, PTRACE, Question, ROOM, WAIT, YOURS, request};
use self::kernel::Waited;
pub use self::mending::criu_mappings;
use self::tracee::Tracee;
use super::{Call, Kind};
use crate::error::{Result, SandboxError};
use crate::init::spawn;
use crate::reap;

/// What is preloaded into CRIU; empty for processors for which there is none.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));
/// A restore's threads were all let go, although CRIU has not ended as it should.
const LET_GO: i32 = 10;
/// A restore's threads were killed before any of them had run.
const KILLED: i32 = 11;
/// A tracee ends with its tracer.
const ENDS_WITH_US: u64 = libc::PTRACE_O_EXITKILL as u64;

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
                std::process::exit(serve(ours, call))
            }
        }
    }

    /// CRIU has ended like this. Waits until everything that it held is in order; how the call ended, then.
    pub(super) fn conclude(self, exit: Exit) -> Exit {
        match (exit, reap::await_end(self.child)) {
            // What CRIU had to do was done; what was left of it, is.
            (Exit::Signal(_), Ok(Exit::Code(LET_GO))) => Exit::Code(0),
            // As if CRIU had failed by itself.
            (Exit::Signal(_), Ok(Exit::Code(KILLED))) => Exit::Code(1),
            _ => exit,
        }
    }
}

/// The tracer's own process, from beginning to end.
fn serve(line: OwnedFd, call: &Call) -> i32 {
    spawn::close_from(3, &[line.as_raw_fd()]);
    let _ = spawn::output_to_null();
    let _ = nix::sys::prctl::set_name(c"migrate-tracer");
    match Service::new(line, call) {
        Ok(mut service) => {
            service.run();
            service.conclude()
        }
        Err(error) => {
            note(call, &[error.to_string()]);
            1
        }
    }
}

/// What a person may want to know stands with CRIU's own last words.
fn note(call: &Call, complaints: &[String]) {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(call.dir.join(super::OUTPUT));
    if let Ok(mut file) = file {
        complaints.iter().for_each(|complaint| drop(writeln!(file, "tracer: {complaint}")));
    }
}

/// Tells that a tracee has stopped or ended.
struct Stops(SignalFd);

impl Stops {
    fn new() -> Result<Stops> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(SandboxError::system("block SIGCHLD"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&mask, flags).map(Stops).map_err(SandboxError::system("signalfd"))
    }

    /// Waits for something to happen, which may have been looked at before. Says whether it came to that.
    fn await_any(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let woken = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout);
        self.drain();
        !matches!(woken, Ok(0)) || !left.is_zero() && Instant::now() < until
    }

    fn drain(&self) {
        while let Ok(Some(_)) = self.0.read_signal() {}
    }
}

struct Service<'a> {
    call: &'a Call,
    line: OwnedFd,
    stops: Stops,
    /// CRIU, once its shim has said hello.
    criu: Option<OwnedFd>,
    /// The `/proc` of the sandbox: there PIDs are as they are to us.
    proc: PathBuf,
    tracees: BTreeMap<i32, Tracee>,
    /// A restore's CRIU has begun to let threads go.
    letting_go: bool,
    buffer: Vec<u8>,
}

/// CRIU is gone.
struct Gone;

impl<'a> Service<'a> {
    fn new(line: OwnedFd, call: &'a Call) -> Result<Service<'a>> {
        let proc = Path::new("/proc").join(call.init.pid.to_string()).join("root/proc");
        let buffer = vec![0; size_of::<Question>() + ROOM];
        let (criu, tracees, letting_go) = (None, BTreeMap::new(), false);
        Ok(Service { call, line, stops: Stops::new()?, criu, proc, tracees, letting_go, buffer })
    }

    /// Answers until CRIU is gone.
    fn run(&mut self) {
        while let Ok((question, bytes)) = self.hear() {
            if self.answer(&question, bytes).is_err() {
                return;
            }
        }
    }

    fn hear(&mut self) -> std::result::Result<(Question, Vec<u8>), Gone> {
        self.await_line(false)?;
        let length = recv(self.line.as_raw_fd(), &mut self.buffer, MsgFlags::empty()).map_err(|_| Gone)?;
        let (head, rest) = self.buffer[..length].split_at_checked(size_of::<Question>()).ok_or(Gone)?;
        Ok((calls::question_of(head).ok_or(Gone)?, rest.to_vec()))
    }

    /// Waits for a word of CRIU, or also for what happens to a tracee. Says whether there is a word.
    fn await_line(&self, or_tracees: bool) -> std::result::Result<bool, Gone> {
        let mut fds = vec![PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.criu.as_ref().map(|criu| PollFd::new(criu.as_fd(), PollFlags::POLLIN)));
        if or_tracees {
            fds.push(PollFd::new(self.stops.0.as_fd(), PollFlags::POLLIN));
        }
        while let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            if error != nix::Error::EINTR {
                return Err(Gone);
            }
        }
        let woken = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if self.criu.is_some() && fds.get(1).is_some_and(woken) {
            return Err(Gone);
        }
        Ok(fds.first().is_some_and(woken))
    }

    fn answer(&mut self, question: &Question, mut bytes: Vec<u8>) -> std::result::Result<(), Gone> {
        let (result, status) = match question.call {
            HELLO => (self.meet().map(|()| 0), 0),
            PTRACE => (self.trace(question, &mut bytes), 0),
            WAIT => match self.wait(question)? {
                Ok(Some(waited)) => (Ok(i64::from(waited.pid)), waited.status),
                Ok(None) => (Ok(0), 0),
                Err(error) => (Err(error), 0),
            },
            // Of a wait that was just over.
            _ => return Ok(()),
        };
        if question.call != PTRACE || !matches!(result, Ok(result) if result != YOURS) {
            bytes.clear();
        }
        let result = result.unwrap_or_else(|error| -i64::from(error.raw_os_error().unwrap_or(libc::EIO)));
        let answer = Answer { result, status, written: bytes.len() as u32 };
        let datagram = [calls::answer_bytes(&answer), bytes.as_slice()].concat();
        send(self.line.as_raw_fd(), &datagram, MsgFlags::MSG_NOSIGNAL).map(drop).map_err(|_| Gone)
    }

    /// From now on CRIU's life is followed.
    fn meet(&mut self) -> io::Result<()> {
        let criu = rustix::process::Pid::from_raw(self.call.criu_pid).ok_or(io::ErrorKind::InvalidInput)?;
        self.criu = Some(pidfd_open(criu, PidfdFlags::empty())?);
        Ok(())
    }

    fn trace(&mut self, question: &Question, bytes: &mut Vec<u8>) -> io::Result<i64> {
        let (kind, pid) = (question.request, question.pid);
        if kind == request::SEIZE && self.is_a_trial(pid) {
            return Ok(YOURS);
        }
        let restores = self.call.kind == Kind::Restore;
        let mut question = *question;
        match self.tracees.get_mut(&pid) {
            None if kind != request::SEIZE => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            Some(tracee) if !restores => tracee.about_to(pid, kind, question.addr)?,
            _ => {}
        }
        if restores && kind == request::DETACH {
            self.let_go()?;
        }
        if restores && !self.letting_go && matches!(kind, request::SEIZE | request::SET_OPTIONS) {
            question.data |= ENDS_WITH_US;
        }
        let result = kernel::call(&question, bytes)?;
        match kind {
            request::SEIZE => drop(self.tracees.insert(pid, Tracee::default())),
            request::DETACH => drop(self.tracees.remove(&pid)),
            _ => {
                if let Some(tracee) = self.tracees.get_mut(&pid) {
                    tracee.did(kind);
                }
            }
        }
        Ok(result)
    }

    /// Whether CRIU only wants to know what the kernel can do, and tries it on a child of its own.
    fn is_a_trial(&self, pid: i32) -> bool {
        let stat = std::fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        // What CRIU restores are children of CRIU, too; but their PIDs are far below.
        parent == Some(self.call.criu_pid) && (self.call.kind == Kind::Dump || pid > self.call.criu_pid)
    }

    /// CRIU lets the first thread of a restore go: all are made. None must end with us any more.
    fn let_go(&mut self) -> io::Result<()> {
        if !self.letting_go {
            for pid in self.tracees.keys() {
                kernel::plain(request::SET_OPTIONS, *pid, 0, libc::PTRACE_O_TRACESYSGOOD as u64)?;
            }
            self.letting_go = true;
        }
        Ok(())
    }

    fn wait(&mut self, question: &Question) -> std::result::Result<io::Result<Option<Waited>>, Gone> {
        let options = question.request as i32;
        loop {
            match kernel::wait(question.pid, options) {
                Ok(Some(waited)) => {
                    if let Some(tracee) = self.tracees.get_mut(&waited.pid) {
                        tracee.stopped(waited);
                    }
                    return Ok(Ok(Some(waited)));
                }
                Ok(None) if options & libc::WNOHANG == 0 => {}
                other => return Ok(other),
            }
            if self.await_line(true)? {
                // It is interrupted; there is nothing else that CRIU could say.
                self.hear()?;
                return Ok(Err(io::Error::from_raw_os_error(libc::EINTR)));
            }
            self.stops.drain();
        }
    }

    /// CRIU is gone. Returns what the guard should know.
    fn conclude(&mut self) -> i32 {
        match self.call.kind {
            Kind::Dump => {
                note(self.call, &mending::mend(&mut self.tracees, &self.proc, &self.stops));
                0
            }
            Kind::Restore if self.criu.is_none() => 0,
            Kind::Restore if self.letting_go => {
                for pid in self.tracees.keys() {
                    let _ = kernel::plain(request::DETACH, *pid, 0, 0);
                }
                LET_GO
            }
            Kind::Restore => {
                for pid in self.tracees.keys() {
                    let _ = nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
                KILLED
            }
        }
    }
}
