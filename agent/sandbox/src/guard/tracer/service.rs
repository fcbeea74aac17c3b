//! The tracer's own process: answers CRIU's questions, and when CRIU is gone sees to whoever it held.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::calls::{self, Answer, DUMPS, HELLO, PTRACE, Question, ROOM, WAIT, YOURS, request};
use super::kernel::{self, Waited};
use super::tracee::Tracee;
use super::{KILLED, LET_GO, NOT_MENDED, mending};
use crate::error::{Result, SandboxError};
use crate::guard::{Call, Kind, OUTPUT};
use crate::init::spawn;

/// A tracee ends with its tracer.
const ENDS_WITH_US: u64 = libc::PTRACE_O_EXITKILL as u64;
/// Who is going to wait for a tracee does so sooner.
const QUIET: Duration = Duration::from_millis(50);

/// All of it; returns what the guard should know.
pub(super) fn serve(line: OwnedFd, call: &Call) -> i32 {
    spawn::close_from(3, &[line.as_raw_fd()]);
    let _ = spawn::output_to_null();
    let _ = nix::sys::prctl::set_name(c"migrate-tracer");
    match Service::new(line, call) {
        Ok(mut service) => {
            service.run();
            service.conclude()
        }
        Err(error) => {
            // CRIU finds no tracer, and does without.
            note(call, &[error.to_string()]);
            0
        }
    }
}

/// What a person may want to know stands with CRIU's own last words.
fn note(call: &Call, complaints: &[String]) {
    // Whoever has nothing to say leaves nothing behind, where the directory may be going just now.
    if complaints.is_empty() {
        return;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(call.dir.join(OUTPUT));
    if let Ok(mut file) = file {
        complaints.iter().for_each(|complaint| drop(writeln!(file, "tracer: {complaint}")));
    }
}

/// Tells that a tracee has stopped or ended.
pub(super) struct Stops(SignalFd);

impl Stops {
    fn new() -> Result<Stops> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(SandboxError::system("block SIGCHLD"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&mask, flags).map(Stops).map_err(SandboxError::system("signalfd"))
    }

    /// Waits for something to happen, which may have been looked at before. Says whether it came to that.
    pub(super) fn await_any(&self, until: Instant) -> bool {
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

pub(super) struct Service<'a> {
    call: &'a Call,
    line: OwnedFd,
    stops: Stops,
    /// Something may have happened to a tracee that CRIU has not heard of.
    news: bool,
    /// CRIU, once its shim has said hello.
    criu: Option<OwnedFd>,
    /// The `/proc` of the sandbox: there PIDs are as they are to us.
    pub(super) proc: PathBuf,
    tracees: BTreeMap<i32, Tracee>,
    /// A restore's CRIU has begun to let threads go.
    letting_go: bool,
    buffer: Vec<u8>,
}

/// CRIU is gone.
pub(super) struct Gone;

/// Why a wait is over.
enum Woken {
    /// CRIU has said something.
    Line,
    /// Something has happened to a tracee.
    Stop,
    /// It took too long.
    Nothing,
}

impl<'a> Service<'a> {
    pub(super) fn new(line: OwnedFd, call: &'a Call) -> Result<Service<'a>> {
        let proc = Path::new("/proc").join(call.init.pid.to_string()).join("root/proc");
        let buffer = vec![0; size_of::<Question>() + ROOM];
        let (criu, tracees, letting_go) = (None, BTreeMap::new(), false);
        Ok(Service { call, line, stops: Stops::new()?, news: false, criu, proc, tracees, letting_go, buffer })
    }

    /// Answers until CRIU is gone.
    pub(super) fn run(&mut self) {
        while let Ok((question, bytes)) = self.hear() {
            if self.answer(&question, bytes).is_err() {
                return;
            }
        }
    }

    fn hear(&mut self) -> std::result::Result<(Question, Vec<u8>), Gone> {
        loop {
            match self.await_line(self.news.then_some(QUIET))? {
                Woken::Line => break,
                Woken::Stop => self.stop_came(),
                Woken::Nothing => self.pass_on_news(),
            }
        }
        let length = recv(self.line.as_raw_fd(), &mut self.buffer, MsgFlags::empty()).map_err(|_| Gone)?;
        let (head, rest) = self.buffer[..length].split_at_checked(size_of::<Question>()).ok_or(Gone)?;
        Ok((calls::question_of(head).ok_or(Gone)?, rest.to_vec()))
    }

    fn stop_came(&mut self) {
        self.stops.drain();
        self.news = true;
    }

    /// CRIU that dumps talks with its code in a task, and hears of that task's end, or of its halt, by a signal only: as from the kernel,
    /// were it the tracer.
    fn pass_on_news(&mut self) {
        self.news = self.call.kind == Kind::Dump && kernel::has_news();
        if let Some(criu) = &self.criu
            && self.news
        {
            let _ = pidfd_send_signal(criu, rustix::process::Signal::CHILD);
        }
    }

    /// Waits for a word of CRIU, or for something to happen to a tracee, or for a time.
    fn await_line(&self, time: Option<Duration>) -> std::result::Result<Woken, Gone> {
        let mut fds = vec![PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
        fds.push(PollFd::new(self.stops.0.as_fd(), PollFlags::POLLIN));
        fds.extend(self.criu.as_ref().map(|criu| PollFd::new(criu.as_fd(), PollFlags::POLLIN)));
        let timeout = time.and_then(|time| PollTimeout::try_from(time).ok()).unwrap_or(PollTimeout::NONE);
        while let Err(error) = poll(&mut fds, timeout) {
            if error != nix::Error::EINTR {
                return Err(Gone);
            }
        }
        let mut woken = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        match (woken.next(), woken.next(), woken.next()) {
            (_, _, Some(true)) => Err(Gone),
            (Some(true), _, _) => Ok(Woken::Line),
            (_, Some(true), _) => Ok(Woken::Stop),
            _ => Ok(Woken::Nothing),
        }
    }

    fn answer(&mut self, question: &Question, mut bytes: Vec<u8>) -> std::result::Result<(), Gone> {
        let (result, status) = match question.call {
            HELLO => (self.meet().map(|()| 0), if self.call.kind == Kind::Dump { DUMPS } else { 0 }),
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
        // One of which nothing was ever asked was held to unlock its shadow stack, long before.
        if restores && kind == request::DETACH && self.tracees.get(&pid).is_some_and(|tracee| tracee.options != 0) {
            self.let_go()?;
        }
        let options = question.data;
        if restores && !self.letting_go && matches!(kind, request::SEIZE | request::SET_OPTIONS) {
            question.data |= ENDS_WITH_US;
        }
        let result = match kernel::call(&question, bytes) {
            // Whom one that runs already has killed needs no letting go. CRIU would fail for it, and kill them all.
            Err(error) if self.letting_go && kind == request::DETACH && error.raw_os_error() == Some(libc::ESRCH) => 0,
            other => other?,
        };
        match kind {
            request::SEIZE => drop(self.tracees.insert(pid, Tracee::default())),
            request::DETACH => drop(self.tracees.remove(&pid)),
            _ => {
                if let Some(tracee) = self.tracees.get_mut(&pid) {
                    tracee.did(kind, options);
                }
            }
        }
        Ok(result)
    }

    /// Whether CRIU only wants to know what the kernel can do, and tries it on a child of its own.
    fn is_a_trial(&self, pid: i32) -> bool {
        // Not its `stat`, which takes the longer the more threads there are.
        let parent = kernel::status(&self.proc.join(pid.to_string()), "PPid:");
        // What CRIU restores are children of CRIU, too; but their PIDs are far below.
        parent == Some(self.call.criu_pid) && (self.call.kind == Kind::Dump || pid > self.call.criu_pid)
    }

    /// CRIU lets the first thread of a restore go: all are made. None must end with us any more.
    fn let_go(&mut self) -> io::Result<()> {
        if !self.letting_go {
            for (pid, tracee) in &self.tracees {
                match kernel::plain(request::SET_OPTIONS, *pid, 0, tracee.options) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                    _ => {}
                }
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
            if let Woken::Line = self.await_line(None)? {
                // It is interrupted; there is nothing else that CRIU could say.
                self.hear()?;
                return Ok(Err(io::Error::from_raw_os_error(libc::EINTR)));
            }
            self.stop_came();
        }
    }

    /// CRIU is gone. Returns what the guard should know.
    pub(super) fn conclude(&mut self) -> i32 {
        match self.call.kind {
            Kind::Dump => {
                let complaints = mending::mend(&self.tracees, &self.proc, &self.stops);
                note(self.call, &complaints);
                if complaints.is_empty() { 0 } else { NOT_MENDED }
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
