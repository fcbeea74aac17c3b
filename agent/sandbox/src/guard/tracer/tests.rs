//! The tracer with a test in CRIU's place.

#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};

use super::*;

struct Criu {
    line: OwnedFd,
    tracer: Pid,
    dir: tempfile::TempDir,
}

impl Criu {
    fn start(kind: Kind) -> Criu {
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
            // Somebody who lives, and whose child nobody here is.
            criu_pid: nix::unistd::getppid().as_raw(),
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
        let dir = tempfile::tempdir().unwrap();
        let script = "n=0; while :; do n=$((n+1)); echo $n > count || exit; done";
        let child =
            Command::new("sh").args(["-c", script]).current_dir(dir.path()).stderr(Stdio::null()).spawn().unwrap();
        Busy { child, dir }
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
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        assert!(links.into_iter().all(|link| !link.to_string_lossy().contains("CRIUMFD")), "after {steps} steps");
    }
}

#[test]
fn a_signal_that_came_before_criu_died_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo heard > heard; exit' USR1; echo ready > ready; while :; do :; done";
    let mut child = Command::new("sh").args(["-c", script]).current_dir(dir.path()).spawn().unwrap();
    while !dir.path().join("ready").exists() {
        std::thread::yield_now();
    }
    let pid = child.id() as i32;
    let criu = Criu::start(Kind::Dump);
    criu.ask(HELLO, 0, 0, 0, 0, &[]);
    criu.seize(pid);
    criu.does(pid, request::CONT, 0, 0, &[]);
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    assert_eq!(criu.waits(pid) >> 8, libc::SIGUSR1);
    assert_eq!(criu.dies(), 0);
    child.wait().unwrap();
    assert!(dir.path().join("heard").exists());
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
        criu.does(busy.pid(), request::SET_OPTIONS, 0, libc::PTRACE_O_TRACESYSGOOD as u64, &[]);
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
