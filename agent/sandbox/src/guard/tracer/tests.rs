//! The tracer with a test in CRIU's place.

#![allow(clippy::unwrap_used)]

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv, send};

use super::calls::{Answer, HELLO, PTRACE, Question, ROOM, WAIT, request};
use super::service::Service;
use super::*;
use crate::guard::Kind;

mod drained;

struct Criu {
    line: OwnedFd,
    tracer: Pid,
    dir: tempfile::TempDir,
}

impl Criu {
    fn start(kind: Kind) -> Criu {
        // Somebody who lives, and whose child nobody here is.
        Criu::stand_in(kind, nix::unistd::getppid().as_raw())
    }

    fn stand_in(kind: Kind, criu_pid: i32) -> Criu {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let call = Call {
            kind,
            init: crate::process::Identity { pid: 1, start: 0, boot: None },
            argv: Vec::new(),
            dir: dir.path().to_owned(),
            images: dir.path().to_owned(),
            side: Vec::new(),
            groups: Vec::new(),
            freezer: None,
            beside: None,
            criu_pid,
        };
        // Who is traced tells only a process without other threads that it has stopped.
        // SAFETY: the child does what a program with one thread may, and ends.
        #[allow(unsafe_code)]
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { child: tracer } => Criu { line: theirs, tracer, dir },
            nix::unistd::ForkResult::Child => {
                drop(theirs);
                let mut service = Service::new(ours, &call).unwrap();
                service.proc = "/proc".into();
                service.run();
                let code = service.conclude();
                // Nothing of the test's is dropped here.
                std::process::exit(code)
            }
        }
    }

    fn ask(&self, call: u32, pid: i32, kind: u64, addr: u64, data: u64, bytes: &[u8]) -> (Answer, Vec<u8>) {
        self.says(call, pid, kind, addr, data, bytes);
        self.hears()
    }

    fn says(&self, call: u32, pid: i32, kind: u64, addr: u64, data: u64, bytes: &[u8]) {
        let length = if bytes.is_empty() { 4096 } else { bytes.len() as u64 };
        let shape = if call == PTRACE { calls::shape(kind, addr, data, length).unwrap() } else { shape_of_nothing() };
        let question = Question { call, pid, request: kind, addr, data, shape };
        // SAFETY: a question has no padding: 4, 4, 8, 8, 8 and four times 4 bytes.
        #[allow(unsafe_code)]
        let head = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&question).cast(), size_of::<Question>()) };
        send(self.line.as_raw_fd(), &[head, bytes].concat(), MsgFlags::empty()).unwrap();
    }

    fn hears(&self) -> (Answer, Vec<u8>) {
        let mut buffer = vec![0; ROOM + 64];
        let length = recv(self.line.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        let (head, rest) = buffer[..length].split_at(size_of::<Answer>());
        let number = |range: std::ops::Range<usize>| i64::from_ne_bytes(head[range].try_into().unwrap());
        let status = i32::from_ne_bytes(head[8..12].try_into().unwrap());
        (Answer { result: number(0..8), status, written: rest.len() as u32 }, rest.to_vec())
    }

    fn does(&self, pid: i32, kind: u64, addr: u64, data: u64, bytes: &[u8]) -> Vec<u8> {
        let (answer, bytes) = self.ask(PTRACE, pid, kind, addr, data, bytes);
        assert_eq!(answer.result, 0, "{kind:#x}: {}", io::Error::from_raw_os_error(-answer.result as i32));
        bytes
    }

    fn waits(&self, pid: i32) -> i32 {
        let (answer, _) = self.ask(WAIT, pid, libc::__WALL as u64, 0, 0, &[]);
        assert_eq!(answer.result, i64::from(pid));
        answer.status
    }

    /// Wherever it has stopped: it stands only because it was asked to.
    fn stands(&self, pid: i32) {
        self.does(pid, request::INTERRUPT, 0, 0, &[]);
        self.does(pid, request::CONT, 0, 0, &[]);
        assert_eq!(self.waits(pid) >> 16, libc::PTRACE_EVENT_STOP);
    }

    fn sets_options(&self, pid: i32, more: i32) {
        let options = libc::PTRACE_O_TRACESYSGOOD | more;
        self.does(pid, request::SET_OPTIONS, 0, options as u64, &[]);
    }

    fn seize(&self, pid: i32) {
        self.does(pid, request::SEIZE, 0, 0, &[]);
        self.does(pid, request::INTERRUPT, 0, 0, &[]);
        self.waits(pid);
    }

    fn dies(self) -> i32 {
        drop(self.line);
        let exit = reap::await_end(self.tracer).unwrap();
        let said = std::fs::read_to_string(self.dir.path().join(crate::guard::OUTPUT)).unwrap_or_default();
        assert_eq!(said, "");
        let Exit::Code(code) = exit else { panic!("{exit:?}") };
        code
    }
}

fn shape_of_nothing() -> calls::Shape {
    calls::Shape { form: calls::VALUES, addr_in: 0, data_in: 0, out: 0 }
}

/// Counts by itself.
struct Busy {
    child: Child,
    dir: tempfile::TempDir,
}

impl Busy {
    fn start() -> Busy {
        Busy::run("sh", "n=0; while :; do n=$((n+1)); echo $n > count || exit; done")
    }

    fn start_by(python: &str) -> Busy {
        Busy::run("python3", python)
    }

    fn run(program: &str, script: &str) -> Busy {
        let dir = tempfile::tempdir().unwrap();
        let child =
            Command::new(program).args(["-c", script]).current_dir(dir.path()).stderr(Stdio::null()).spawn().unwrap();
        Busy { child, dir }
    }

    /// Whether it has no descriptor of CRIU's.
    fn is_clean(&self) -> bool {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let mut links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.all(|link| !link.to_string_lossy().contains("CRIUMFD"))
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn goes_on(&self) -> bool {
        let count = || std::fs::read_to_string(self.dir.path().join("count")).unwrap_or_default();
        let (before, deadline) = (count(), Instant::now() + std::time::Duration::from_secs(20));
        while Instant::now() < deadline {
            if !count().is_empty() && count() != before {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What CRIU does to have a system call made; stops after `steps` of it.
fn inject(criu: &Criu, pid: i32, steps: usize) {
    let before = criu.does(pid, request::GET_REG_SET, tracee::GENERAL, 0, &[]);
    let place = tracee::word(&before, tracee::INSTRUCTION);
    let mut registers = before.clone();
    tracee::set_word(&mut registers, tracee::RESULT, libc::SYS_memfd_create as u64);
    tracee::set_word(&mut registers, tracee::CALL, u64::MAX);
    let name = u64::from_ne_bytes(*b"CRIUMFD\0");
    // Its name is written where it is going to stand.
    tracee::set_word(&mut registers, tracee::ARGUMENTS[0], place + 8);
    tracee::set_word(&mut registers, tracee::ARGUMENTS[1], 0);
    // system call, breakpoint
    let code = u64::from_ne_bytes([0x0f, 0x05, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc]);
    let mask = !(1u64 << (libc::SIGTRAP - 1));
    let all: [&dyn Fn(); 7] = [
        &|| drop(criu.does(pid, request::POKE_DATA, place + 8, name, &[])),
        &|| drop(criu.does(pid, request::POKE_DATA, place, code, &[])),
        &|| drop(criu.does(pid, request::SET_SIG_MASK, 8, 0, &mask.to_ne_bytes())),
        &|| drop(criu.does(pid, request::SET_REG_SET, tracee::GENERAL, 0, &registers)),
        &|| drop(criu.does(pid, request::CONT, 0, 0, &[])),
        &|| assert_eq!(criu.waits(pid) >> 8, libc::SIGTRAP),
        &|| drop(criu.does(pid, request::SET_REG_SET, tracee::GENERAL, 0, &before)),
    ];
    all.iter().take(steps).for_each(|step| step());
}

#[test]
fn a_criu_that_dies_at_any_step_leaves_the_process_as_it_was() {
    for steps in 0..=7 {
        let busy = Busy::start();
        let pid = busy.pid();
        assert!(busy.goes_on());
        let criu = Criu::start(Kind::Dump);
        assert_eq!(criu.ask(HELLO, 0, 0, 0, 0, &[]).0.result, 0);
        criu.seize(pid);
        inject(&criu, pid, steps);
        assert_eq!(criu.dies(), 0);
        assert!(busy.goes_on(), "after {steps} steps");
        assert!(!crate::process::is_traced(pid));
        assert!(busy.is_clean(), "after {steps} steps");
    }
}

/// CRIU's code sees by itself that CRIU is gone. It may return before the tracer looks.
#[test]
fn a_thread_that_went_on_by_itself_is_not_sent_back() {
    let mut child =
        Command::new("sh").args(["-c", "read word; exec sleep 1000"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    let deadline = Instant::now() + Duration::from_secs(20);
    let await_call = |call: libc::c_long| {
        let is_in = |text: String| text.starts_with(&format!("{call} "));
        while !std::fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(is_in) {
            assert!(Instant::now() < deadline, "it is not in {call}");
            std::thread::yield_now();
        }
    };
    await_call(libc::SYS_read);
    let criu = Criu::start(Kind::Dump);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    criu.seize(pid);
    criu.does(pid, request::SET_SIG_MASK, 8, 0, &0u64.to_ne_bytes());
    criu.does(pid, request::CONT, 0, 0, &[]);
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"word\n").unwrap();
    await_call(libc::SYS_clock_nanosleep);
    assert_eq!(criu.dies(), 0);
    // It has been stopped meanwhile.
    await_call(libc::SYS_restart_syscall);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A signal stops a thread, CRIU is told of it and dies: the thread must get it all the same. `name` is the shell's for it.
fn hears_after_criu_died(signal: Signal, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("trap 'echo heard > heard; exit' {name}; echo ready > ready; while :; do :; done");
    let mut child = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).spawn().unwrap();
    while !dir.path().join("ready").exists() {
        std::thread::yield_now();
    }
    let pid = child.id() as i32;
    let criu = Criu::start(Kind::Dump);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    criu.seize(pid);
    criu.does(pid, request::CONT, 0, 0, &[]);
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
    assert_eq!(criu.waits(pid) >> 8, signal as i32);
    assert_eq!(criu.dies(), 0);
    child.wait().unwrap();
    assert!(dir.path().join("heard").exists());
}

#[test]
fn a_signal_that_came_before_criu_died_is_not_lost() {
    hears_after_criu_died(Signal::SIGUSR1, "USR1");
}

#[test]
fn a_breakpoint_of_its_own_is_not_taken_from_a_thread() {
    hears_after_criu_died(Signal::SIGTRAP, "TRAP");
}

#[test]
fn a_restore_whose_criu_dies_in_the_middle_leaves_nobody_or_all() {
    for (let_go, code) in [(false, KILLED), (true, LET_GO)] {
        let mut two = [Busy::start(), Busy::start()];
        assert!(two.iter().all(Busy::goes_on));
        let criu = Criu::start(Kind::Restore);
        criu.ask(HELLO, 0, 0, 0, 0, &[]);
        two.iter().for_each(|busy| criu.seize(busy.pid()));
        if let_go {
            two.iter().for_each(|busy| criu.sets_options(busy.pid(), 0));
            criu.does(two[0].pid(), request::DETACH, 0, 0, &[]);
        }
        assert_eq!(criu.dies(), code);
        if let_go {
            assert!(two.iter().all(Busy::goes_on));
        } else {
            two.iter_mut().for_each(|busy| assert_eq!(busy.child.wait().unwrap().code(), None));
        }
        assert!(two.iter_mut().all(|busy| busy.is_alive() == let_go));
    }
}

#[test]
fn a_tracer_that_is_killed_takes_an_unfinished_restore_with_it_and_no_dump() {
    for (kind, survives) in [(Kind::Dump, true), (Kind::Restore, false)] {
        let mut busy = Busy::start();
        assert!(busy.goes_on());
        let criu = Criu::start(kind);
        criu.ask(HELLO, 0, 0, 0, 0, &[]);
        criu.seize(busy.pid());
        criu.sets_options(busy.pid(), 0);
        nix::sys::signal::kill(criu.tracer, Signal::SIGKILL).unwrap();
        assert_eq!(reap::await_end(criu.tracer).unwrap(), Exit::Signal(9));
        if survives {
            assert!(busy.goes_on());
        } else {
            busy.child.wait().unwrap();
        }
    }
}

#[test]
fn an_interrupted_wait_is_answered_once() {
    let busy = Busy::start();
    let criu = Criu::start(Kind::Dump);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    criu.does(busy.pid(), request::SEIZE, 0, 0, &[]);
    criu.says(calls::WAIT, busy.pid(), libc::__WALL as u64, 0, 0, &[]);
    criu.says(calls::INTERRUPTED, busy.pid(), 0, 0, 0, &[]);
    assert_eq!(criu.hears().0.result, -i64::from(libc::EINTR));
    // One that comes when the wait is over is no question.
    criu.says(calls::INTERRUPTED, busy.pid(), 0, 0, 0, &[]);
    criu.does(busy.pid(), request::INTERRUPT, 0, 0, &[]);
    criu.waits(busy.pid());
    criu.dies();
}

#[test]
fn who_is_not_held_cannot_be_changed() {
    let busy = Busy::start();
    let criu = Criu::start(Kind::Dump);
    let (answer, _) = criu.ask(PTRACE, busy.pid(), request::POKE_DATA, 0x1000, 1, &[]);
    assert_eq!(answer.result, -i64::from(libc::ESRCH));
    criu.dies();
}

#[test]
fn who_was_held_before_a_restore_was_complete_was_not_let_go() {
    let two = [Busy::start(), Busy::start()];
    let criu = Criu::start(Kind::Restore);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    // To unlock its shadow stack.
    criu.seize(two[0].pid());
    criu.does(two[0].pid(), request::DETACH, 0, 0, &[]);
    criu.seize(two[1].pid());
    assert_eq!(criu.dies(), KILLED);
}

#[test]
fn who_was_killed_by_one_that_runs_already_needs_no_letting_go() {
    let two = [Busy::start(), Busy::start()];
    let criu = Criu::start(Kind::Restore);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    for busy in &two {
        criu.seize(busy.pid());
        criu.sets_options(busy.pid(), 0);
    }
    criu.does(two[0].pid(), request::DETACH, 0, 0, &[]);
    nix::sys::signal::kill(Pid::from_raw(two[1].pid()), Signal::SIGKILL).unwrap();
    criu.does(two[1].pid(), request::DETACH, 0, 0, &[]);
    assert_eq!(criu.dies(), LET_GO);
    assert!(two[0].goes_on());
}

#[test]
fn what_a_failed_criu_says_counts_only_where_its_tracer_can_say_so() {
    let code = |code| Some(Exit::Code(code));
    let killed = Exit::Signal(9);
    assert_eq!(
        [code(LET_GO), code(KILLED), code(0), None].map(|tracer| understood(killed, tracer)),
        [Exit::Code(0), Exit::Code(1), killed, killed]
    );
    assert_eq!([code(0), code(KILLED)].map(|tracer| understood(Exit::Code(1), tracer)), [Exit::Code(1); 2]);
    for doubtful in [code(LET_GO), code(NOT_MENDED), Some(killed), None] {
        assert_eq!(understood(Exit::Code(1), doubtful), killed, "{doubtful:?}");
        assert_eq!(understood(Exit::Code(0), doubtful), Exit::Code(0));
    }
}

#[test]
#[allow(clippy::zombie_processes, reason = "it is waited for by what is tested")]
fn a_tracer_that_does_not_end_is_killed() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let tracer = Tracer { child: Pid::from_raw(child.id() as i32) };
    assert_eq!(tracer.conclude(Exit::Code(1)), Exit::Signal(9));
}

#[test]
fn a_filter_of_the_workload_does_not_hinder_mending() {
    let busy = Busy::start_by("import ctypes, sys
libc = ctypes.CDLL(None)
# Whoever closes a descriptor or makes a memory file is killed.
code = [(0x20, 0, 0, 0), (0x15, 1, 0, 3), (0x15, 0, 1, 319), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7fff0000)]
class Rule(ctypes.Structure): _fields_ = [('code', ctypes.c_ushort), ('jt', ctypes.c_ubyte), ('jf', ctypes.c_ubyte), ('k', ctypes.c_uint)]
class Program(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.POINTER(Rule))]
out = open('count', 'w')
rules = (Rule * len(code))(*[Rule(*rule) for rule in code])
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(Program(len(code), rules)), 0, 0) == 0
n = 0
while True:
    n += 1
    out.seek(0), out.write(str(n)), out.flush()");
    assert!(busy.goes_on());
    for stands in [false, true] {
        let criu = Criu::start(Kind::Dump);
        criu.ask(HELLO, 0, 0, 0, 0, &[]);
        criu.seize(busy.pid());
        criu.sets_options(busy.pid(), libc::PTRACE_O_SUSPEND_SECCOMP);
        inject(&criu, busy.pid(), 7);
        if stands {
            criu.stands(busy.pid());
        }
        assert_eq!(criu.dies(), 0);
        assert!(busy.goes_on(), "stands: {stands}");
        assert!(busy.is_clean(), "stands: {stands}");
    }
}

#[test]
fn a_signal_to_stop_that_criu_kept_stops_the_process_afterwards() {
    for is_changed in [false, true] {
        let busy = Busy::start();
        let pid = busy.pid();
        assert!(busy.goes_on());
        let criu = Criu::start(Kind::Dump);
        criu.ask(HELLO, 0, 0, 0, 0, &[]);
        criu.seize(pid);
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        criu.does(pid, request::CONT, 0, 0, &[]);
        assert_eq!(criu.waits(pid) >> 8, libc::SIGSTOP);
        if is_changed {
            criu.stands(pid);
            inject(&criu, pid, 7);
        }
        assert_eq!(criu.dies(), 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while crate::process::Stat::read(pid).unwrap().state != 'T' {
            assert!(Instant::now() < deadline, "changed: {is_changed}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn criu_is_told_of_a_halt_that_it_does_not_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo told > told' CHLD; echo ready > ready; while :; do :; done";
    let mut stand_in = Command::new("sh").args(["-c", script]).current_dir(dir.path()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let await_file = |name: &str| {
        while !dir.path().join(name).exists() {
            assert!(Instant::now() < deadline, "{name}");
            std::thread::yield_now();
        }
    };
    await_file("ready");
    let busy = Busy::start();
    let criu = Criu::stand_in(Kind::Dump, stand_in.id() as i32);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    criu.seize(busy.pid());
    criu.does(busy.pid(), request::CONT, 0, 0, &[]);
    // Of the halt that it waited for it may have been told, too.
    let _ = std::fs::remove_file(dir.path().join("told"));
    nix::sys::signal::kill(Pid::from_raw(busy.pid()), Signal::SIGSTOP).unwrap();
    await_file("told");
    // As its handler asks.
    let (answer, _) = criu.ask(WAIT, -1, libc::WNOHANG as u64, 0, 0, &[]);
    assert_eq!((answer.result, answer.status >> 8), (i64::from(busy.pid()), libc::SIGSTOP));
    assert_eq!(criu.ask(WAIT, -1, libc::WNOHANG as u64, 0, 0, &[]).0.result, 0);
    criu.dies();
    stand_in.kill().unwrap();
    stand_in.wait().unwrap();
}
