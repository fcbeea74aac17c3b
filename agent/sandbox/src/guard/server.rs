//! The guard process: one thread, one poll, one CRIU.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use migrate_proto::api::Exit;
use migrate_proto::handover::Decision;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Pid, setsid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::notes::Notes;
use super::tracer::{Preload, Tracer};
use super::{Call, GATE_SOCKET, GUARD_SOCKET, Hook, Kind, OUTPUT, Order, Told, decision};
use crate::enter::{self, Doorway};
use crate::error::{Result, SandboxError};
use crate::init::spawn;
use crate::process::{Identity, Stat};
use crate::{nearby, reap, wire};

const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// How long a dump's hook waits for an agent that has not called yet.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// How long a command beside the workload may take to stop.
const STANDING_STILL: Duration = Duration::from_secs(5);
/// What a hook says is a word.
const WORD: u64 = 32;

/// `migrate-init guard`: reads a [`Call`] from stdin and holds it to its end.
pub fn serve() -> ExitCode {
    match prepare().and_then(|guard| guard.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Guard {
    call: Call,
    notes: Notes,
    agents: UnixListener,
    gates: UnixListener,
    children: SignalFd,
    criu: Pid,
    /// Until CRIU has ended.
    tracer: Option<Tracer>,
    /// The sandbox's PID 1.
    init: OwnedFd,
    agent: Option<UnixStream>,
    /// Whether an agent has ever called.
    met: bool,
    waiting: Option<(Hook, UnixStream)>,
    /// How long a dump's hook waits for the first agent.
    first_call: Option<Instant>,
}

fn prepare() -> Result<Guard> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(SandboxError::system("read the call"))?;
    let call: Call = serde_json::from_str(&text)
        .map_err(|error| SandboxError::Protocol { who: "the agent", detail: format!("a call: {error}") })?;
    // What came in by accident would stay open for as long as CRIU runs.
    spawn::close_from(3, &[]);
    // Where the guard is a leader already it has what it wants.
    let _ = setsid();
    enter::join(&call.side)?;
    let init = open_process(call.init)?;
    let notes = Notes::prepare(&call.dir).map_err(SandboxError::file("make room in", &call.dir))?;
    let agents = listen(&call.dir, GUARD_SOCKET)?;
    let gates = listen(&call.images, GATE_SOCKET)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().map_err(SandboxError::system("block SIGCHLD"))?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(SandboxError::system("signalfd"))?;
    let (criu, tracer) = start_criu(&call)?;
    // Nobody may listen any more; CRIU has been started all the same.
    let _ = writeln!(std::io::stdout(), "ready");
    spawn::output_to_null()?;
    let (agent, waiting, first_call) = (None, None, None);
    Ok(Guard { call, notes, agents, gates, children, criu, tracer, init, agent, met: false, waiting, first_call })
}

/// Looked at after it was opened: whoever has the PID now is who is opened.
fn open_process(process: Identity) -> Result<OwnedFd> {
    let nobody = || SandboxError::Protocol { who: "the agent", detail: format!("process {} is gone", process.pid) };
    let pid = rustix::process::Pid::from_raw(process.pid).ok_or_else(nobody)?;
    let opened = pidfd_open(pid, PidfdFlags::empty()).map_err(SandboxError::system("pidfd_open"))?;
    let gone = process.is_gone().map_err(SandboxError::file("look at", format!("/proc/{}", process.pid)))?;
    if gone { Err(nobody()) } else { Ok(opened) }
}

fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    let listener = nearby::listen(dir, name).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(SandboxError::file("listen at", dir.join(name)))
}

fn start_criu(call: &Call) -> Result<(Pid, Option<Tracer>)> {
    let output_path = call.dir.join(OUTPUT);
    let output = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&output_path)
        .map_err(SandboxError::file("create", &output_path))?;
    let doorway = Doorway::of(call.init.pid)?;
    // Opened while its PID 1 was still the one that is meant.
    open_process(call.init)?;
    doorway.children_go_in()?;
    let (tracer, preload) = Tracer::start(call)?.unzip();
    match spawn::fork_with_pid(Some(call.criu_pid), 0).map_err(SandboxError::system("clone3"))? {
        Some(pid) => Ok((pid, tracer)),
        None => {
            let error = become_criu(call, &output, &doorway, preload);
            let _ = writeln!(&output, "cannot start CRIU: {error}");
            std::process::exit(127)
        }
    }
}

/// Only returns where it failed.
fn become_criu(call: &Call, output: &File, doorway: &Doorway, preload: Option<Preload>) -> SandboxError {
    let outcome = (|| -> Result<std::convert::Infallible> {
        // Who has started the guard waits until nobody has its output any more, and where the lease holds the workload's
        // groups this stands still in them.
        spawn::output_to_null()?;
        enter::join(&call.groups)?;
        doorway.step_through().map_err(SandboxError::system("enter the sandbox"))?;
        if call.kind == Kind::Restore {
            // CRIU's own children must not take PIDs that the workload is going to get.
            let path = "/proc/sys/kernel/ns_last_pid";
            std::fs::write(path, call.criu_pid.to_string()).map_err(SandboxError::file("write", path))?;
        }
        spawn::replace(output, 1).and_then(|()| spawn::replace(output, 2)).map_err(SandboxError::system("dup2"))?;
        let (keep, preloaded) = preload.as_ref().map(|preload| (preload.descriptors(), preload.environment())).unzip();
        spawn::close_from(3, keep.as_ref().map_or(&[], |keep| keep));
        spawn::reset_signals().map_err(SandboxError::system("reset signals"))?;
        if let Some(preload) = &preload {
            preload.keep().map_err(SandboxError::system("pass on a descriptor"))?;
        }
        let mut environment = vec![("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")];
        environment.extend(preloaded.iter().flatten().map(|(name, value)| (*name, value.as_str())));
        enter::execute(&call.argv, &environment)
    })();
    match outcome {
        Err(error) => error,
    }
}

impl Guard {
    fn run(mut self) -> Result<()> {
        loop {
            self.wait();
            if let Some(exit) = self.ended() {
                // Whoever CRIU held is in order before anything else is done.
                let exit = self.tracer.take().map_or(exit, |tracer| tracer.conclude(exit));
                return self.finish(exit);
            }
            self.accept();
            self.hear_agent();
            self.give_up_waiting();
        }
    }

    fn wait(&self) {
        let mut fds = vec![
            PollFd::new(self.agents.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.gates.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(agent) = &self.agent {
            fds.push(PollFd::new(agent.as_fd(), PollFlags::POLLIN));
        }
        let left = self.first_call.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, so that the deadline has passed when it wakes.
        let timeout = left.map(|left| PollTimeout::try_from(left + Duration::from_millis(1)));
        let _ = poll(&mut fds, timeout.and_then(|timeout| timeout.ok()).unwrap_or(PollTimeout::NONE));
    }

    /// An agent that never called is gone as well.
    fn give_up_waiting(&mut self) {
        if self.first_call.is_some_and(|deadline| deadline <= Instant::now()) {
            self.first_call = None;
            self.agent_gone();
        }
    }

    fn ended(&self) -> Option<Exit> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        reap::take_ended(self.criu).ok()?.map(|(_, exit)| exit)
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.agents.accept() {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_write_timeout(Some(MESSAGE_TIME));
            // The newest agent is the one that lives.
            self.agent = Some(stream);
            self.met = true;
            self.first_call = None;
            if let Some((hook, _)) = &self.waiting {
                self.tell(Told::Hook(*hook));
            }
        }
        if let Ok((stream, _)) = self.gates.accept() {
            self.hook_arrived(stream);
        }
    }

    fn hook_arrived(&mut self, stream: UnixStream) {
        // The socket is within the workload's reach; and CRIU has one hook at a time.
        if !self.is_of_criu(&stream) || self.waiting.is_some() {
            return;
        }
        let _ = stream.set_nonblocking(false);
        let Some(hook) = read_hook(&stream, Instant::now() + MESSAGE_TIME) else { return };
        self.waiting = Some((hook, stream));
        // What cannot be held could run on when CRIU dies, whatever was decided.
        if hook == Hook::PostDump && !self.hold(true) {
            return self.refuse();
        }
        match self.agent {
            Some(_) => self.tell(Told::Hook(hook)),
            None if self.met => self.agent_gone(),
            // CRIU was quicker than the agent that started it, or than the one that will take it over.
            None => self.first_call = Some(Instant::now() + FIRST_CALL),
        }
    }

    /// Whether CRIU itself has started who calls.
    fn is_of_criu(&self, stream: &UnixStream) -> bool {
        let Ok(caller) = getsockopt(stream, PeerCredentials) else { return false };
        Stat::read(caller.pid()).is_ok_and(|stat| stat.parent == self.criu.as_raw())
    }

    /// The cgroups keep the workload and all beside it frozen whatever becomes of CRIU. Says whether that worked.
    fn hold(&self, frozen: bool) -> bool {
        let write = |path: &PathBuf| std::fs::write(path, if frozen { "1" } else { "0" }).is_ok();
        let workload = self.call.freezer.as_ref().is_some_and(write);
        let beside = self.call.beside.as_ref().is_none_or(|path| write(path) && (!frozen || stands_still(path)));
        workload && beside
    }

    fn tell(&mut self, told: Told) {
        let Some(agent) = &mut self.agent else { return };
        let sent = serde_json::to_string(&told).map(|line| writeln!(agent, "{line}"));
        if !matches!(sent, Ok(Ok(()))) {
            self.agent = None;
            self.agent_gone();
        }
    }

    fn hear_agent(&mut self) {
        let Some(agent) = &self.agent else { return };
        let mut fds = [PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1)) {
            return;
        }
        let order = read_order(agent);
        if order.is_some() {
            self.wake();
        }
        match order {
            Some(Order::Continue) => self.go_on(),
            Some(Order::Refuse) => self.refuse(),
            Some(Order::Kill) => {
                let _ = kill(self.criu, Signal::SIGKILL);
            }
            None => {
                self.agent = None;
                self.agent_gone();
            }
        }
    }

    /// CRIU that somebody has stopped obeys nobody.
    fn wake(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.wake();
        }
        let _ = kill(self.criu, Signal::SIGCONT);
    }

    fn agent_gone(&mut self) {
        self.wake();
        match &self.waiting {
            Some((Hook::PreDump | Hook::PostDump, _)) => self.refuse(),
            // The owner may have changed: only an agent that knows the record can say.
            Some((Hook::PostRestore, _)) | None => {}
        }
    }

    fn go_on(&mut self) {
        match &self.waiting {
            Some((Hook::PostDump, _)) if !self.committed() => self.refuse(),
            // Written down first. What cannot be written down stays held; the agent orders again.
            Some((Hook::PostRestore, _)) if self.notes.released().is_err() => {}
            Some(_) => self.answer(true),
            None => {}
        }
    }

    /// For a complete dump, to refuse is to decide; somebody may have decided otherwise before. What cannot be decided
    /// stays frozen.
    fn refuse(&mut self) {
        self.wake();
        match &self.waiting {
            Some((Hook::PostDump, _)) => match decision::decide(&self.call.dir, Decision::Abort) {
                Ok(Decision::Abort) => {
                    let _ = self.hold(false);
                    self.answer(false);
                }
                Ok(Decision::Commit) => self.answer(true),
                Err(_) => {}
            },
            Some(_) => self.answer(false),
            None => {}
        }
    }

    fn committed(&self) -> bool {
        matches!(decision::read(&self.call.dir), Ok(Some(Decision::Commit)))
    }

    fn answer(&mut self, yes: bool) {
        if let Some((_, mut gate)) = self.waiting.take() {
            let _ = gate.write_all(if yes { b"y" } else { b"n" });
        }
    }

    /// CRIU is gone. A dump that was not committed leaves a workload that runs; one that was leaves none.
    fn finish(mut self, exit: Exit) -> Result<()> {
        if self.call.kind == Kind::Dump {
            match decision::decide(&self.call.dir, Decision::Abort) {
                Ok(Decision::Abort) => drop(self.hold(false)),
                Ok(Decision::Commit) => self.end_source(),
                // Doubt means frozen.
                Err(_) => {}
            }
        }
        // Whoever listens is told in any case.
        let noted = self.notes.ended(exit);
        self.tell(Told::Exited(exit));
        noted.map_err(SandboxError::file("write the result into", &self.call.dir))
    }

    /// A committed dump leaves nothing of the workload. Where its group cannot be killed, its sandbox is.
    fn end_source(&self) {
        let group = self.call.freezer.as_ref().map(|path| path.with_file_name("cgroup.kill"));
        if group.is_none_or(|path| std::fs::write(path, "1").is_err()) {
            let _ = pidfd_send_signal(&self.init, rustix::process::Signal::KILL);
        }
    }
}

/// Waits until what is being frozen has not only been told. Whoever writes to a slow disk stops only after that.
fn stands_still(freezer: &Path) -> bool {
    let events = freezer.with_file_name("cgroup.events");
    let deadline = Instant::now() + STANDING_STILL;
    while !std::fs::read_to_string(&events).is_ok_and(|text| text.lines().any(|line| line == "frozen 1")) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Which hook calls; `None` where it does not say one that matters. A word that was cut off is none.
pub(crate) fn read_hook(gate: &UnixStream, deadline: Instant) -> Option<Hook> {
    let word = wire::Until { socket: gate, deadline };
    let mut name = String::new();
    BufReader::new(word.take(WORD)).read_line(&mut name).ok()?;
    Hook::parse(name.strip_suffix('\n')?)
}

/// One line; `None` where the agent is gone or talks nonsense.
pub(crate) fn read_order(agent: &UnixStream) -> Option<Order> {
    let mut agent = wire::Until { socket: agent, deadline: Instant::now() + MESSAGE_TIME };
    let mut line = Vec::new();
    let mut byte = [0u8];
    while agent.read(&mut byte).ok()? == 1 {
        if byte[0] == b'\n' {
            return serde_json::from_slice(&line).ok();
        }
        line.push(byte[0]);
        if line.len() > 1024 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_hook_is_a_whole_line() {
        let read = |said: &str| {
            let (mut gate, guard) = UnixStream::pair().unwrap();
            gate.write_all(said.as_bytes()).unwrap();
            drop(gate);
            read_hook(&guard, Instant::now() + MESSAGE_TIME)
        };
        assert_eq!(read("post-dump\n"), Some(Hook::PostDump));
        let cut_off = format!("post-dump{}and what would follow\n", "\u{b}".repeat(32));
        for other in ["", "\n", "post-dump", "post-dump \n", "post-dumped\n", " post-dump\n", &cut_off] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
