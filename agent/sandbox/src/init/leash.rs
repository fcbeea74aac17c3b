//! The leash: a thread of PID 1 that holds the workload while its node has no lease for it.
//!
//! It looks at the lease page when the deadline in it comes near, decides by [`leash`], and obeys by the freezer of the group that it
//! shares with nobody. It is a thread of its own, because the main loop waits for agents, mounts and programs that start; from
//! inside, nobody can stop a thread of PID 1. It goes before everything else that runs, its memory stays where it is, and
//! after its start it neither allocates nor takes a lock, so that the main loop may fork at any time.
//!
//! Where the group cannot be frozen the workload is stopped by SIGSTOP. That is less: what was stopped before goes on with the rest.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use migrate_proto::cluster::lease::{self as rule, ENDLESS, NEVER, Nanos, leash};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::control::Leash;
use crate::error::{Result, SandboxError};
use crate::lease::{self, LeaseView};
use crate::plan::Lease;

/// How long the thread may take to obey; the kernel may be busy with other groups.
const OBEYING: Duration = Duration::from_secs(5);
/// How often what cannot be relied upon is done again.
const AGAIN: u64 = 20_000_000;
const STACK: usize = 128 << 10;
/// Above every other program: it runs for some microseconds, and a workload may have made itself urgent, too.
const PRIORITY: libc::c_int = 99;
/// Where that is not allowed.
const NICE: libc::c_int = -20;
const ANYBODY: Pid = Pid::from_raw(-1);

/// What the thread and the main loop say to each other.
struct Shared {
    /// What the main loop asks for: the session that may run, its margin, and how often it has asked.
    session: AtomicU64,
    margin: AtomicU64,
    asked: AtomicU64,
    /// What the thread has done: how much of that it has obeyed, for which session, and since when it holds (0: it does not).
    obeyed: AtomicU64,
    obeyed_session: AtomicU64,
    since: AtomicU64,
    /// The main loop has asked.
    kick: EventFd,
    /// The thread has done something.
    done: EventFd,
}

/// The main loop's end of it.
pub(super) struct Leashed(Arc<Shared>);

impl Leashed {
    /// Starts the thread. When this returns the workload is held.
    pub(super) fn start(plan: &Lease) -> Result<Leashed> {
        let event = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            EventFd::from_flags(flags).map_err(SandboxError::system("eventfd"))
        };
        let shared = Arc::new(Shared {
            session: AtomicU64::new(NEVER),
            margin: AtomicU64::new(0),
            asked: AtomicU64::new(1),
            obeyed: AtomicU64::new(0),
            obeyed_session: AtomicU64::new(NEVER),
            since: AtomicU64::new(0),
            kick: event()?,
            done: event()?,
        });
        let holder = Holder {
            shared: shared.clone(),
            page: plan.page.as_deref().map(LeaseView::open).transpose()?,
            freezer: plan.freezer.as_deref().map(open_to_write).transpose()?,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
                .map_err(SandboxError::system("timerfd_create"))?,
            frozen: false,
            stopped: false,
        };
        // Where it cannot be opened there is no better group.
        let urgent = plan.urgent.as_deref().and_then(|path| open_to_write(path).ok());
        start_thread(move || holder.run(urgent))?;
        let leashed = Leashed(shared);
        leashed.await_obedience()?;
        Ok(leashed)
    }

    /// From now on only this session may run. Returns when that is obeyed.
    pub(super) fn arm(&self, session: u64, margin: u64) -> Result<Leash> {
        self.0.margin.store(margin, SeqCst);
        self.0.session.store(session, SeqCst);
        self.0.asked.fetch_add(1, SeqCst);
        self.0.kick.write(1).map_err(SandboxError::system("write to an eventfd"))?;
        self.await_obedience()?;
        Ok(self.state())
    }

    fn await_obedience(&self) -> Result<()> {
        let deadline = Instant::now() + OBEYING;
        while self.0.obeyed.load(SeqCst) != self.0.asked.load(SeqCst) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!("that was not done within {} s", OBEYING.as_secs());
                return Err(SandboxError::Init { step: "obey its lease".into(), reason });
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.done(), PollFlags::POLLIN)], timeout);
            self.heard();
        }
        Ok(())
    }

    /// What is obeyed at the moment.
    pub(super) fn state(&self) -> Leash {
        match (self.0.obeyed_session.load(SeqCst), self.0.since.load(SeqCst)) {
            (ENDLESS, 0) => Leash::Unlimited,
            (session, 0) => Leash::Running { session },
            (session, since) => Leash::Frozen { session, since: Nanos(since) },
        }
    }

    /// Whether the workload is held.
    pub(super) fn holds(&self) -> bool {
        self.0.since.load(SeqCst) != 0
    }

    /// Readable when the state may have changed.
    pub(super) fn done(&self) -> BorrowedFd<'_> {
        self.0.done.as_fd()
    }

    /// What is readable there has been heard.
    pub(super) fn heard(&self) {
        let _ = self.0.done.read();
    }
}

fn open_to_write(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(path).map_err(SandboxError::file("open", path))
}

/// No signal is for the thread. Its PID is the largest: with the next one it would be in the way of a restored process, since inside
/// the first child of a workload has that.
fn start_thread(run: impl FnOnce() + Send + 'static) -> Result<()> {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    if let Ok(largest) = text.trim().parse::<i32>() {
        // The one before the PID that comes, which is below the limit.
        let _ = std::fs::write(LAST, (largest - 2).to_string());
    }
    let before =
        SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(SandboxError::system("sigprocmask"))?;
    let started = std::thread::Builder::new().name("leash".into()).stack_size(STACK).spawn(run);
    before.thread_set_mask().map_err(SandboxError::system("sigprocmask"))?;
    let _ = std::fs::write(LAST, std::process::id().to_string());
    started.map(drop).map_err(SandboxError::system("start a thread"))
}

/// The thread's end of it.
struct Holder {
    shared: Arc<Shared>,
    page: Option<LeaseView>,
    freezer: Option<File>,
    timer: TimerFd,
    /// By the group's freezer.
    frozen: bool,
    /// By signals.
    stopped: bool,
}

impl Holder {
    fn run(mut self, urgent: Option<File>) {
        go_before_all(urgent);
        loop {
            let look_at = self.look();
            self.wait(look_at);
        }
    }

    /// Obeys, and says when to look again.
    fn look(&mut self) -> Option<Nanos> {
        let asked = self.shared.asked.load(SeqCst);
        let (session, margin) = (self.shared.session.load(SeqCst), self.shared.margin.load(SeqCst));
        let page = self.page.as_ref().map(LeaseView::read).unwrap_or_default();
        let before = self.shared.since.load(SeqCst);
        let (look_at, certain) = match leash(session, page, lease::now(), margin) {
            rule::Leash::Run { look_at } => (look_at, self.let_go()),
            rule::Leash::Freeze { look_at } => (look_at, self.hold()),
        };
        self.shared.obeyed_session.store(session, SeqCst);
        let is_new = self.shared.obeyed.swap(asked, SeqCst) != asked;
        if is_new || self.shared.since.load(SeqCst) != before {
            let _ = self.shared.done.write(1);
        }
        if certain { look_at } else { Some(lease::now().plus(AGAIN)) }
    }

    /// Says whether that will last.
    fn hold(&mut self) -> bool {
        if !self.frozen {
            self.frozen = self.write(b"1");
        }
        if !self.frozen {
            // There may be nobody to stop. Who comes later is stopped the next time.
            let _ = kill(ANYBODY, Signal::SIGSTOP);
            self.stopped = true;
        }
        if self.shared.since.load(SeqCst) == 0 {
            self.shared.since.store(lease::now().0, SeqCst);
        }
        self.frozen
    }

    /// Says whether that worked.
    fn let_go(&mut self) -> bool {
        if self.frozen {
            if !self.write(b"0") {
                return false;
            }
            self.frozen = false;
        }
        if self.stopped {
            let _ = kill(ANYBODY, Signal::SIGCONT);
            self.stopped = false;
        }
        self.shared.since.store(0, SeqCst);
        true
    }

    fn write(&self, word: &[u8]) -> bool {
        self.freezer.as_ref().is_some_and(|freezer| rustix::io::pwrite(freezer, word, 0).is_ok())
    }

    fn wait(&self, look_at: Option<Nanos>) {
        const SECOND: u64 = 1_000_000_000;
        let set = match look_at {
            // A time of zero would be none; nothing has to be done that early.
            Some(Nanos(at)) => {
                let at = at.max(1);
                let at = TimeSpec::new((at / SECOND) as i64, (at % SECOND) as i64);
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            None => self.timer.unset(),
        };
        let watched = [self.timer.as_fd(), self.shared.kick.as_fd()];
        let mut watched = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // A timer that cannot be set is not waited for.
        let _ = poll(&mut watched, if set.is_ok() { PollTimeout::NONE } else { PollTimeout::from(20u8) });
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        let _ = self.shared.kick.read();
    }
}

/// Each of these makes it later that a workload runs too long, and none is needed for it to be held in the end.
#[allow(unsafe_code)]
fn go_before_all(urgent: Option<File>) {
    if !become_urgent() {
        // v1 gives a new group no time for such threads.
        if let Some(tasks) = urgent {
            let _ = rustix::io::write(&tasks, b"0");
        }
        if !become_urgent() {
            // SAFETY: a plain call. Here a process is a thread, and 0 is this one.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        }
    }
    // SAFETY: a plain call. What is in memory stays there, and so does what comes into it of what is mapped by now: all that
    // this thread ever uses. What is forked is not concerned.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) };
    // What PID 1 starts goes back to 0.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
}

/// This thread alone. Nothing that it would start would be urgent, too.
#[allow(unsafe_code)]
fn become_urgent() -> bool {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameters outlive the call, and 0 is this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) == 0 }
}
