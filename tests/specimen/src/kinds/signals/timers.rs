//! Timers: they go on firing with the same period, and a distant one does not forget how far it is.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::libc::{self, ITIMER_REAL, ITIMER_VIRTUAL};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::sys::timerfd::{self, ClockId, TimerFd, TimerFlags};

use super::{eventually, rest};
use crate::part::Part;
use crate::rawsignal::{handle, interval_timer_period, set_interval_timer, value_of};
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

const PERIOD: Duration = Duration::from_millis(20);

static REAL: AtomicU64 = AtomicU64::new(0);
static VIRTUAL: AtomicU64 = AtomicU64::new(0);
static POSIX: AtomicU64 = AtomicU64::new(0);
static POSIX_VALUE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_timer(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    match signal {
        libc::SIGALRM => REAL.fetch_add(1, SeqCst),
        libc::SIGVTALRM => VIRTUAL.fetch_add(1, SeqCst),
        _ => {
            POSIX_VALUE.store(value_of(info), SeqCst);
            POSIX.fetch_add(1, SeqCst)
        }
    };
}

/// Uses the processor for a moment.
fn compute() {
    std::hint::black_box((0..10_000_u64).fold(1, |product: u64, factor| product.wrapping_mul(factor | 1)));
}

/// A timer by `setitimer`.
pub(super) struct Interval {
    name: &'static str,
    which: c_int,
    fired: &'static AtomicU64,
    meanwhile: fn(),
}

impl Interval {
    /// One that counts real time.
    pub(super) fn real() -> Verdict<Self> {
        let timer = Self { name: "interval", which: ITIMER_REAL as c_int, fired: &REAL, meanwhile: rest };
        timer.start(libc::SIGALRM)
    }

    /// One that only goes while the process computes.
    pub(super) fn of_cpu_time() -> Verdict<Self> {
        let timer = Self { name: "cpu_interval", which: ITIMER_VIRTUAL as c_int, fired: &VIRTUAL, meanwhile: compute };
        timer.start(libc::SIGVTALRM)
    }

    fn start(self, signal: c_int) -> Verdict<Self> {
        handle(signal, on_timer, &[])?;
        let micros = PERIOD.as_micros() as i64;
        set_interval_timer(self.which, micros, micros)?;
        Ok(self)
    }
}

impl Part for Interval {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        // The kernel rounds periods of CPU time up to its ticks.
        let period = interval_timer_period(self.which)?;
        let expected = PERIOD.as_micros() as i64;
        holds(
            format_args!("period of {}", self.name),
            (expected..expected + 10_000).contains(&period),
            expected,
            period,
        )?;
        if cycle.is_multiple_of(5) {
            let before = self.fired.load(SeqCst);
            eventually(self.name, self.meanwhile, || Ok(self.fired.load(SeqCst) > before))?;
        }
        Ok(self.fired.load(SeqCst))
    }

    fn sabotage(&mut self) -> Verdict {
        set_interval_timer(self.which, 0, 0)
    }
}

fn monotonic_timer(notify: SigevNotify) -> Verdict<Timer> {
    Timer::new(nix::time::ClockId::CLOCK_MONOTONIC, SigEvent::new(notify)).must("timer_create")
}

/// A POSIX timer that sends a value with its signal.
pub(super) struct Posix {
    timer: Timer,
}

impl Posix {
    const VALUE: usize = 0x1234_5678;

    pub(super) fn new() -> Verdict<Self> {
        handle(libc::SIGPROF, on_timer, &[])?;
        let notify = SigevNotify::SigevSignal { signal: Signal::SIGPROF, si_value: Self::VALUE as isize };
        let mut timer = monotonic_timer(notify)?;
        let every = Expiration::Interval(TimeSpec::from_duration(PERIOD));
        timer.set(every, TimerSetTimeFlags::empty()).must("timer_settime")?;
        Ok(Self { timer })
    }
}

impl Part for Posix {
    fn name(&self) -> &'static str {
        "posix_timer"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        if cycle.is_multiple_of(5) {
            let before = POSIX.load(SeqCst);
            eventually("POSIX timer", rest, || Ok(POSIX.load(SeqCst) > before))?;
            same("value sent by a POSIX timer", Self::VALUE, POSIX_VALUE.load(SeqCst))?;
        }
        match self.timer.get().must("timer_gettime")? {
            Some(Expiration::IntervalDelayed(_, period)) => same("period of a POSIX timer", PERIOD, period.into())?,
            other => return Err(Violation::new("POSIX timer", "periodic", format_args!("{other:?}"))),
        }
        Ok(POSIX.load(SeqCst))
    }

    fn sabotage(&mut self) -> Verdict {
        let slower = Expiration::Interval(TimeSpec::from_duration(2 * PERIOD));
        self.timer.set(slower, TimerSetTimeFlags::empty()).must("timer_settime")
    }
}

/// A POSIX timer days away, which notifies nobody: what remains only shrinks, and not by leaps.
pub(super) struct Distant {
    timer: Timer,
    remaining: Duration,
}

impl Distant {
    /// More than any move takes: the clock stands still for a process that is being moved.
    const LEAP: Duration = Duration::from_secs(600);

    pub(super) fn new() -> Verdict<Self> {
        let mut timer = monotonic_timer(SigevNotify::SigevNone)?;
        let mut distant = Duration::from_secs(10 * 24 * 3600);
        timer
            .set(Expiration::OneShot(TimeSpec::from_duration(distant)), TimerSetTimeFlags::empty())
            .must("timer_settime")?;
        distant += PERIOD;
        Ok(Self { timer, remaining: distant })
    }
}

impl Part for Distant {
    fn name(&self) -> &'static str {
        "distant_timer"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let remaining = match self.timer.get().must("timer_gettime")? {
            Some(Expiration::OneShot(remaining)) => Duration::from(remaining),
            other => return Err(Violation::new("distant timer", "armed once", format_args!("{other:?}"))),
        };
        let near = remaining <= self.remaining && self.remaining - remaining < Self::LEAP;
        holds(
            "time until the distant timer",
            near,
            format_args!("a little less than {:?}", self.remaining),
            format_args!("{remaining:?}"),
        )?;
        self.remaining = remaining;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        let sooner = Expiration::OneShot(TimeSpec::from_duration(self.remaining / 2));
        self.timer.set(sooner, TimerSetTimeFlags::empty()).must("timer_settime")
    }
}

fn timer_descriptor() -> Verdict<TimerFd> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).must("timerfd_create")
}

/// How often a timerfd has expired since it was last read.
fn unread_expirations(timer: &TimerFd) -> Verdict<u64> {
    let mut word = [0; 8];
    match nix::unistd::read(timer, &mut word) {
        Ok(len) => same("bytes from a timerfd", word.len(), len).map(|()| u64::from_le_bytes(word)),
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => Err(Violation::new("reading a timerfd", "success", error)),
    }
}

/// A timerfd that is armed anew after each expiration: each comes exactly once.
pub(crate) struct TimerDescriptor {
    timer: TimerFd,
    expirations: u64,
}

impl TimerDescriptor {
    /// Arms it.
    pub(crate) fn new() -> Verdict<Self> {
        let armed = Self { timer: timer_descriptor()?, expirations: 0 };
        armed.arm()?;
        Ok(armed)
    }

    fn arm(&self) -> Verdict {
        let once = timerfd::Expiration::OneShot(TimeSpec::from_duration(PERIOD));
        self.timer.set(once, timerfd::TimerSetTimeFlags::empty()).must("timerfd_settime")
    }
}

impl Part for TimerDescriptor {
    fn name(&self) -> &'static str {
        "timer"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let mut expirations = 0;
        eventually("timerfd", rest, || {
            expirations = unread_expirations(&self.timer)?;
            Ok(expirations > 0)
        })?;
        same("expirations of a timerfd", 1, expirations)?;
        self.expirations += 1;
        self.arm()?;
        Ok(self.expirations)
    }

    fn sabotage(&mut self) -> Verdict {
        self.timer.unset().must("timerfd_settime")
    }
}

/// A periodic timerfd, so fast that nearly always it has expired and was not read; and one that was disarmed, which looks
/// nearly the same from outside.
pub(super) struct PeriodicDescriptor {
    timer: TimerFd,
    disarmed: TimerFd,
    since: Instant,
    expirations: u64,
}

impl PeriodicDescriptor {
    const FAST: Duration = Duration::from_millis(3);

    pub(super) fn new() -> Verdict<Self> {
        let disarmed = timer_descriptor()?;
        let never = timerfd::Expiration::IntervalDelayed(TimeSpec::from_duration(Duration::ZERO), Self::FAST.into());
        disarmed.set(never, timerfd::TimerSetTimeFlags::empty()).must("timerfd_settime")?;
        let periodic = Self { timer: timer_descriptor()?, disarmed, since: Instant::now(), expirations: 0 };
        periodic.arm(Self::FAST)?;
        Ok(periodic)
    }

    fn arm(&self, period: Duration) -> Verdict {
        let every = timerfd::Expiration::Interval(TimeSpec::from_duration(period));
        self.timer.set(every, timerfd::TimerSetTimeFlags::empty()).must("timerfd_settime")
    }

    fn period(&self) -> Verdict<Option<Duration>> {
        Ok(match self.timer.get().must("timerfd_gettime")? {
            Some(timerfd::Expiration::IntervalDelayed(_, period) | timerfd::Expiration::Interval(period)) => {
                Some(period.into())
            }
            _ => None,
        })
    }
}

impl Part for PeriodicDescriptor {
    fn name(&self) -> &'static str {
        "periodic_timer"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        // The one that was due already, and one more: reading must have armed it again.
        for which in ["due expiration of a periodic timerfd", "next expiration of a periodic timerfd"] {
            let before = self.expirations;
            eventually(which, rest, || {
                self.expirations += unread_expirations(&self.timer)?;
                Ok(self.expirations > before)
            })?;
        }
        let possible = (self.since.elapsed().as_nanos() / Self::FAST.as_nanos()) as u64;
        holds(
            "expirations of a periodic timerfd",
            self.expirations <= possible,
            format_args!("at most {possible}"),
            self.expirations,
        )?;
        same("period of a timerfd", Some(Self::FAST), self.period()?)?;
        same("expirations of a disarmed timerfd", 0, unread_expirations(&self.disarmed)?)?;
        Ok(self.expirations)
    }

    fn sabotage(&mut self) -> Verdict {
        self.arm(2 * Self::FAST)
    }
}
