//! Proves that time only goes forward: clocks never go back, sleeps last as long as was asked also when a move interrupts
//! them, and an alarm comes once, not early.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use rustix::thread::{NanosleepRelativeResult, Timespec, clock_nanosleep_relative};

use super::Parts;
use crate::part::Part;
use crate::rawsignal::{handle, set_interval_timer};
use crate::verdict::{MustSucceed, Verdict, holds, same};

/// The kind's parts.
pub(crate) fn parts() -> Verdict<Parts> {
    Ok(vec![Box::new(Readings::new()?), Box::new(Sleep { asked: Duration::from_millis(10) }), Box::new(Alarm::new()?)])
}

fn now(clock: ClockId) -> Verdict<Duration> {
    clock_gettime(clock).must("clock_gettime").map(Duration::from)
}

/// The last reading of each clock.
struct Readings {
    last: Vec<(&'static str, ClockId, Duration)>,
}

impl Readings {
    fn new() -> Verdict<Self> {
        let clocks = [
            ("CLOCK_REALTIME", ClockId::CLOCK_REALTIME),
            ("CLOCK_MONOTONIC", ClockId::CLOCK_MONOTONIC),
            ("CLOCK_MONOTONIC_RAW", ClockId::CLOCK_MONOTONIC_RAW),
            ("CLOCK_BOOTTIME", ClockId::CLOCK_BOOTTIME),
        ];
        let read = |(name, clock)| Ok((name, clock, now(clock)?));
        Ok(Self { last: clocks.into_iter().map(read).collect::<Verdict<_>>()? })
    }
}

impl Part for Readings {
    fn name(&self) -> &'static str {
        "clocks"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        for (name, clock, last) in &mut self.last {
            let reading = now(*clock)?;
            holds(&name, reading >= *last, format_args!("at least {last:?}"), format_args!("{reading:?}"))?;
            *last = reading;
        }
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.last[1].2 += Duration::from_secs(3600);
        Ok(())
    }
}

/// Sleeps of both sorts: for a time, and until a time.
struct Sleep {
    asked: Duration,
}

/// Sleeps for `time` by the relative call, going on with what remains when interrupted.
fn sleep_for(time: Duration) -> Verdict {
    let mut remaining = Timespec::try_from(time).must("converting a time")?;
    loop {
        match clock_nanosleep_relative(rustix::thread::ClockId::Monotonic, &remaining) {
            NanosleepRelativeResult::Ok => return Ok(()),
            NanosleepRelativeResult::Interrupted(rest) => remaining = rest,
            NanosleepRelativeResult::Err(error) => return Err(error).must("clock_nanosleep"),
        }
    }
}

fn sleep_until(time: Duration) -> Verdict {
    let until = TimeSpec::from_duration(time);
    loop {
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until) {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map(drop).must("clock_nanosleep"),
        }
    }
}

impl Part for Sleep {
    fn name(&self) -> &'static str {
        "sleeps"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let asked = Duration::from_millis(10);
        let start = now(ClockId::CLOCK_MONOTONIC)?;
        sleep_for(self.asked)?;
        let slept = now(ClockId::CLOCK_MONOTONIC)? - start;
        holds("length of a sleep", slept >= asked, format_args!("at least {asked:?}"), format_args!("{slept:?}"))?;
        let end = start + slept + self.asked;
        sleep_until(end)?;
        let woken = now(ClockId::CLOCK_MONOTONIC)?;
        holds("end of a sleep", woken >= end, format_args!("at least {end:?}"), format_args!("{woken:?}"))?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.asked = Duration::from_micros(10);
        Ok(())
    }
}

static ALARMS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_alarm(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    ALARMS.fetch_add(1, SeqCst);
}

/// An alarm a second away, set again each time it came.
struct Alarm {
    set_at: Duration,
    came: u64,
}

impl Alarm {
    const AWAY: Duration = Duration::from_secs(1);
    /// How late an alarm may be on a busy machine; a move does not count, its time does not pass here.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn new() -> Verdict<Self> {
        crate::rawsignal::use_alternate_stack()?;
        handle(libc::SIGALRM, on_alarm, &[])?;
        let mut alarm = Self { set_at: Duration::ZERO, came: 0 };
        alarm.set()?;
        Ok(alarm)
    }

    fn set(&mut self) -> Verdict {
        self.set_at = now(ClockId::CLOCK_MONOTONIC)?;
        set_interval_timer(libc::ITIMER_REAL as c_int, Self::AWAY.as_micros() as i64, 0)
    }
}

impl Part for Alarm {
    fn name(&self) -> &'static str {
        "alarms"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let came = ALARMS.load(SeqCst);
        let waited = now(ClockId::CLOCK_MONOTONIC)? - self.set_at;
        if came == self.came {
            holds("alarm", waited < Self::PATIENCE, "after a second", format_args!("none after {waited:?}"))?;
        } else {
            same("alarms that came", self.came + 1, came)?;
            holds("alarm", waited >= Self::AWAY, "after a second", format_args!("after {waited:?}"))?;
            self.came = came;
            self.set()?;
        }
        Ok(came)
    }

    fn sabotage(&mut self) -> Verdict {
        set_interval_timer(libc::ITIMER_REAL as c_int, 1000, 0)
    }
}
