//! A sandbox whose node has a lease that ends: real namespaces, real control groups. What matters is when the workload last ran, which
//! it says itself.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::Duration;

use house::clock::{Busy, Leased, MARGIN, Restless, SESSION};
use house::held::{Held, hear, order};
use house::{House, command, program, wait_until};
use migrate_proto::api::Exit;
use migrate_proto::cluster::lease::{ENDLESS, NEVER, Nanos, Page};
use migrate_sandbox::control::Leash;
use migrate_sandbox::guard::{Hook, Kind, Order, Told};
use migrate_sandbox::process::Identity;
use migrate_sandbox::{Sandbox, SandboxError, lease};

/// Nothing may run this long after its deadline. It is much more than it takes, for a busy machine is no failure.
const ALLOWED: u64 = 2_000_000_000;
const SOON: Duration = Duration::from_millis(400);

/// Waits until the workload stands still; then it has not run for long, and does not run any more.
fn ends_in_time(leased: &Leased, deadline: Nanos) {
    leased.await_frozen();
    let last = leased.last_ran();
    println!("it last ran {} µs after its deadline", (last.0 as i64 - deadline.0 as i64) / 1000);
    assert!(last <= deadline.plus(ALLOWED), "{} ms late", last.since(deadline) / 1_000_000);
    assert_eq!(leased.last_ran(), last);
}

#[test]
fn it_freezes_at_the_deadline_when_nobody_says_anything() {
    let leased = Leased::running("leash-silent");
    let deadline = leased.lease_for(SOON);
    ends_in_time(&leased, deadline);
    let Leash::Frozen { session: SESSION, since } = leased.house.sandbox.leash().unwrap() else { panic!("it runs") };
    assert!(since.plus(MARGIN.as_nanos() as u64) >= leased.page.read().until, "not before it has to be");
    // Whoever is killed ends all the same.
    leased.house.cgroup.kill();
    assert_eq!(leased.house.sandbox.wait().unwrap(), Exit::Signal(9));
}

#[test]
fn it_freezes_while_every_processor_is_busy() {
    let leased = Leased::running("leash-busy");
    let _busy = Busy::start();
    let deadline = leased.lease_for(SOON);
    ends_in_time(&leased, deadline);
}

#[test]
fn it_freezes_while_pid_1_waits_for_a_request() {
    let leased = Leased::running("leash-request");
    let deadline = leased.lease_for(SOON);
    // Each is waited for five seconds, one after the other: longer than this test waits for anything.
    let socket = leased.house.sandbox.dir().join("control.sock");
    let halves: Vec<UnixStream> = (0..10)
        .map(|_| {
            let mut half = UnixStream::connect(&socket).unwrap();
            half.write_all(&[0, 0]).unwrap();
            half
        })
        .collect();
    let (answered, asked) = mpsc::channel();
    let sandbox = leased.house.sandbox.clone();
    let asking = std::thread::spawn(move || answered.send(sandbox.status().is_ok()));
    ends_in_time(&leased, deadline);
    assert_eq!(asked.try_recv(), Err(mpsc::TryRecvError::Empty), "PID 1 was held up");
    drop(halves);
    assert!(asked.recv().unwrap());
    asking.join().unwrap().unwrap();
}

/// A mount that hangs, a disk that does not answer: whatever holds the main loop up, it does not hold up the leash.
#[test]
fn it_freezes_while_the_main_loop_of_pid_1_does_not_run_at_all() {
    let leased = Leased::running("leash-stuck");
    let deadline = leased.lease_for(SOON);
    let stopped = Stopped::stop(leased.house.sandbox.init().pid);
    ends_in_time(&leased, deadline);
    drop(stopped);
    assert!(matches!(leased.house.sandbox.leash().unwrap(), Leash::Frozen { session: SESSION, .. }));
}

/// One thread of a process, stopped until this is dropped.
struct Stopped(i32);

impl Stopped {
    #[allow(unsafe_code)]
    fn stop(thread: i32) -> Stopped {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain calls; no memory is handed over.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none), 0);
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none), 0);
            assert_eq!(libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL), thread);
        }
        Stopped(thread)
    }
}

impl Drop for Stopped {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

/// PID 1 waits for the program meanwhile, and would for ever if that were frozen on its way.
#[test]
fn a_start_that_the_deadline_overtakes_is_given_up() {
    let leased = Leased::new("leash-overtaken");
    let fifo = leased.outside.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut full = std::fs::OpenOptions::new();
    let mut full = full.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    while full.write(&[0; 4096]).is_ok() {}
    let _stand_in = leased.stand_in();
    let overtaken = || {
        let deadline = leased.lease_for(Duration::from_secs(1));
        (leased.house.sandbox.start(&command(&["sleep", "1000"]), std::slice::from_ref(&fifo)), deadline)
    };
    // The second is refused at once. Which the first is depends on how busy the machine is.
    let (first, deadline) = overtaken();
    ends_in_time(&leased, deadline);
    let second = leased.house.sandbox.start(&command(&["sleep", "1000"]), &leased.house.cgroup.load_procs());
    for start in [first, second] {
        assert!(matches!(start, Err(SandboxError::Held { .. })), "{start:?}");
    }
    assert_eq!(leased.house.sandbox.outer_pid(100), None, "nothing is left of it");
    leased.set_free();
    leased.house.start(&command(&["sleep", "1000"]));
}

#[test]
fn a_guard_cannot_thaw_what_the_lease_holds() {
    const DUMPED: &str = "CRTOOLS_SCRIPT_ACTION=post-dump CRTOOLS_IMAGE_DIR=/.migrate/run/images /.migrate/bin/gate";
    let leased = Leased::running("leash-guard");
    let house = &leased.house;
    let script = ["/bin/sh", "-c", &format!("{DUMPED}; exit $?")].map(Into::into).to_vec();
    let held = Held::new(house, Kind::Dump, script, house.cgroup.side_procs());
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostDump));
    assert!(matches!(house.sandbox.arm(NEVER, MARGIN).unwrap(), Leash::Frozen { session: NEVER, .. }));
    order(&mut agent, Order::Refuse);
    assert_eq!(held.end(), Exit::Code(1));
    assert_eq!(std::fs::read_to_string(house.cgroup.freezer().unwrap()).unwrap().trim(), "0", "the guard has let go");
    leased.await_frozen();
    let last = leased.last_ran();
    house.cgroup.freeze(false).unwrap();
    assert!(leased.is_frozen());
    assert_eq!(leased.last_ran(), last);
    leased.set_free();
    leased.await_stamps();
}

#[test]
fn a_renewal_that_comes_in_time_is_not_noticed_and_one_that_comes_late_thaws() {
    let leased = Leased::running("leash-renewal");
    let mut changes = leased.house.sandbox.follow_leash().unwrap();
    assert_eq!(changes.next().unwrap().unwrap(), Leash::Unlimited);
    leased.renew(Duration::from_secs(3600));
    assert_eq!(leased.house.sandbox.arm(SESSION, MARGIN).unwrap(), Leash::Running { session: SESSION });
    assert_eq!(changes.next().unwrap().unwrap(), Leash::Running { session: SESSION });
    leased.await_stamps();

    let deadline = leased.lease_for(Duration::ZERO);
    ends_in_time(&leased, deadline);
    assert!(matches!(changes.next().unwrap().unwrap(), Leash::Frozen { session: SESSION, .. }));
    // Nobody tells init.
    leased.renew(Duration::from_secs(3600));
    assert_eq!(changes.next().unwrap().unwrap(), Leash::Running { session: SESSION });
    leased.await_stamps();
}

#[test]
fn a_deadline_that_was_renewed_before_init_looked_freezes_nothing() {
    const MARGIN: Duration = Duration::from_secs(3600);
    let leased = Leased::running("leash-renewed");
    let sandbox = &leased.house.sandbox;
    let (mut changes, looked) = loop {
        let until = leased.renew(MARGIN + SOON);
        let armed = sandbox.arm(SESSION, MARGIN).unwrap();
        let looks = Nanos(until.0 - MARGIN.as_nanos() as u64);
        leased.renew(2 * MARGIN);
        let changes = sandbox.follow_leash().unwrap();
        if lease::now() < looks {
            assert_eq!(armed, Leash::Running { session: SESSION });
            break (changes, looks);
        }
        leased.set_free();
    };
    assert_eq!(changes.next().unwrap().unwrap(), Leash::Running { session: SESSION });
    wait_until("init has looked", || leased.last_ran() > looked.plus(SOON.as_nanos() as u64));
    leased.set_free();
    assert_eq!(changes.next().unwrap().unwrap(), Leash::Unlimited, "that is the first change");
}

#[test]
fn another_session_is_none_until_init_is_armed_with_it() {
    let leased = Leased::running("leash-session");
    let deadline = leased.lease_for(Duration::ZERO);
    ends_in_time(&leased, deadline);
    let (sandbox, last) = (&leased.house.sandbox, leased.last_ran());
    let for_ever = Nanos(u64::MAX);
    leased.page.write(Page { session: SESSION + 1, until: for_ever });
    assert!(matches!(sandbox.arm(SESSION, MARGIN).unwrap(), Leash::Frozen { session: SESSION, .. }));
    assert!(matches!(sandbox.arm(SESSION + 2, MARGIN).unwrap(), Leash::Frozen { session: 9, .. }));
    assert_eq!(leased.last_ran(), last);
    assert_eq!(sandbox.arm(SESSION + 1, MARGIN).unwrap(), Leash::Running { session: SESSION + 1 });
    leased.await_stamps();
}

#[test]
fn nothing_starts_in_a_sandbox_that_is_held() {
    let leased = Leased::new("leash-held");
    let sandbox = &leased.house.sandbox;
    for session in [NEVER, SESSION] {
        assert!(matches!(sandbox.arm(session, MARGIN).unwrap(), Leash::Frozen { .. }));
        let refused = sandbox.start(&command(&["true"]), &leased.house.cgroup.load_procs()).unwrap_err();
        assert!(matches!(refused, SandboxError::Held { .. }), "{refused}");
        assert!(leased.house.cgroup.pids().is_empty());
    }
    leased.set_free();
    assert_eq!(leased.house.run(&["true"]), Exit::Code(0));
}

#[test]
fn a_new_sandbox_is_held_until_it_is_armed() {
    let (dir, cgroup) = (tempfile::tempdir().unwrap(), house::cgroup("leash-new"));
    let sandbox = Sandbox::build(program(), &house::plan(dir.path(), &cgroup)).unwrap();
    let house = House { sandbox, cgroup, dir };
    assert!(matches!(house.sandbox.leash().unwrap(), Leash::Frozen { session: NEVER, .. }));
    let again = Sandbox::adopt(program(), house.sandbox.dir()).unwrap().unwrap();
    assert_eq!(again.arm(ENDLESS, Duration::ZERO).unwrap(), Leash::Unlimited);
}

/// What can be tried by a workload that is root inside.
const ATTACK: &str = "import ctypes, os, signal
libc, reached = ctypes.CDLL(None, use_errno=True), []
def attempt(name, what):
    try:
        what()
        reached.append(name)
    except OSError:
        pass
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
def pid_descriptor():
    descriptor = libc.syscall(434, 1, 0)
    assert descriptor >= 0
    return descriptor
attempt('maps', lambda: open('/proc/1/maps').read())
attempt('map_files', lambda: os.listdir('/proc/1/map_files'))
attempt('mem', lambda: os.open('/proc/1/mem', os.O_RDWR))
attempt('trace', lambda: call(101, 0x4206, 1, 0, 0))
for number in range(64):
    attempt(f'open {number}', lambda: os.open(f'/proc/1/fd/{number}', os.O_RDWR))
    attempt(f'read {number}', lambda: os.readlink(f'/proc/1/fd/{number}'))
    attempt(f'get {number}', lambda: call(438, pid_descriptor(), number, 0))
for directory, _, files in os.walk('/sys/fs/cgroup'):
    if 'cgroup.freeze' in files:
        attempt(directory, lambda: os.open(os.path.join(directory, 'cgroup.freeze'), os.O_WRONLY))
print(reached, flush=True)
threads = [int(thread) for thread in os.listdir('/proc/1/task')]
print(len(threads), flush=True)
while True:
    for thread in threads:
        for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
            attempt('signal', lambda: call(234, 1, thread, number))
            os.kill(1, number)";

#[test]
fn from_inside_nobody_reaches_the_page_nor_stops_the_leash() {
    let leased = Leased::new("leash-attack");
    let sandbox = &leased.house.sandbox;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", sandbox.init().pid)).unwrap();
    assert!(maps.lines().any(|map| map.ends_with("/lease")), "it is there, and seen from outside: {maps}");
    leased.house.start(&command(&["python3", "-c", ATTACK]));
    wait_until("all was tried", || leased.house.output().lines().count() > 1);
    assert_eq!(leased.house.output(), "[]\n2\n", "what was reached, and how many threads could have been stopped");
    let _stand_in = leased.stand_in();
    let deadline = leased.lease_for(SOON);
    ends_in_time(&leased, deadline);
}

#[test]
fn where_there_is_no_freezer_signals_stop_it() {
    let leased = Leased::with("leash-signals", None, |plan| plan.lease.freezer = None).and_running();
    let main = leased.house.sandbox.outer_pid(100).unwrap();
    let state = || migrate_sandbox::process::Stat::read(main).unwrap().state;
    let deadline = leased.lease_for(SOON);
    wait_until("it is stopped", || state() == 'T');
    assert!(!leased.is_frozen());
    assert!(leased.last_ran() <= deadline.plus(ALLOWED));
    // Whoever lets it go on does so for a moment.
    let before = leased.last_ran();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(main), nix::sys::signal::Signal::SIGCONT).unwrap();
    wait_until("it went on", || leased.last_ran() != before);
    wait_until("it is stopped again", || state() == 'T');
    leased.renew(Duration::from_secs(3600));
    leased.await_stamps();
    wait_until("it goes on", || leased.house.sandbox.leash().unwrap() == Leash::Running { session: SESSION });
    leased.await_stamps();
}

/// An init of a version before leases answers what it understands, and hangs up on everything else.
#[test]
fn an_older_init_has_no_leash_and_its_answers_are_understood() {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    let me = Identity::of(std::process::id() as i32).unwrap();
    std::fs::write(dir.path().join("sandbox.json"), serde_json::to_vec(&me).unwrap()).unwrap();
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let old = std::thread::spawn(move || {
        let mut asked = Vec::new();
        while asked.len() < 5 {
            let (mut agent, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            agent.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            agent.read_exact(&mut request).unwrap();
            if request == b"\"Status\"" {
                let answer = br#"{"Status":{"Running":{"pid":100}}}"#;
                agent.write_all(&(answer.len() as u32).to_be_bytes()).unwrap();
                agent.write_all(answer).unwrap();
            }
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    });
    let sandbox = Sandbox::adopt(program(), dir.path()).unwrap().unwrap();
    assert_eq!(sandbox.status().unwrap(), migrate_sandbox::control::Status::Running { pid: 100 });
    assert!(matches!(sandbox.arm(SESSION, MARGIN), Err(SandboxError::NoLeash { .. })));
    assert!(matches!(sandbox.leash(), Err(SandboxError::NoLeash { .. })));
    let asked = old.join().unwrap();
    assert_eq!(asked[1], r#"{"Arm":{"session":7,"margin":150000000}}"#);
}

/// How late, without a margin: figures, not a test. `cargo nextest run -p migrate-sandbox --run-ignored only lateness --no-capture`
#[test]
#[ignore = "it takes minutes, and says something on a quiet machine only"]
fn lateness() {
    for (name, busy, urgent, restless) in [
        ("idle", false, true, false),
        ("every processor busy", true, true, false),
        ("busy, and groups made and removed", true, true, true),
        ("busy, and the leash is not urgent", true, false, false),
    ] {
        let urgency =
            |plan: &mut migrate_sandbox::Plan| plan.lease.urgent = plan.lease.urgent.take().filter(|_| urgent);
        let leased = Leased::with("late", None, urgency).and_running();
        let (_busy, _restless) = (busy.then(Busy::start), restless.then(Restless::start));
        let (mut ran, mut written, mut frozen) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            leased.set_free();
            leased.await_stamps();
            let until = leased.renew(Duration::from_millis(100));
            leased.house.sandbox.arm(SESSION, Duration::ZERO).unwrap();
            let armed = lease::now();
            while !leased.is_frozen() {
                std::thread::yield_now();
            }
            let seen = lease::now();
            let Leash::Frozen { since, .. } = leased.house.sandbox.leash().unwrap() else { panic!("it runs") };
            // Whoever is armed after the deadline says nothing.
            if armed < until {
                let late = |at: Nanos| (at.0 as i64 - until.0 as i64) / 1000;
                for (figures, at) in [(&mut ran, leased.last_ran()), (&mut written, since), (&mut frozen, seen)] {
                    figures.push(late(at));
                }
            }
        }
        for (what, mut figures) in [("last ran", ran), ("freezer written", written), ("all seen frozen", frozen)] {
            figures.sort_unstable();
            let at = |percent: usize| figures[(figures.len() - 1) * percent / 100];
            let count = figures.len();
            println!("{name}: {what}: p50 {} µs, p99 {} µs, max {} µs of {count}", at(50), at(99), at(100));
        }
    }
}
