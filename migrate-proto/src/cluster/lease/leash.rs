//! Whether a sandbox lets its workload run: what its init decides, from the page that the agent writes.

use super::Nanos;

/// Armed with this, a workload runs whatever the page says.
pub const ENDLESS: u64 = 0;

/// Armed with this, a workload stands still until its init is armed with something else.
pub const NEVER: u64 = u64::MAX;

/// How often init looks again while it holds the workload: a renewal that came just too late costs no more than this.
const AGAIN: u64 = 20_000_000;

/// What the lease page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Page {
    /// The session whose deadline it is.
    pub session: u64,
    /// The deadline, on the clock of the machine that counts sleep.
    pub until: Nanos,
}

/// What init does, and when it looks again. It looks also when it is armed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leash {
    /// Let it run.
    Run {
        /// When to look again; `None`: only when armed anew.
        look_at: Option<Nanos>,
    },
    /// Hold it.
    Freeze {
        /// As above.
        look_at: Option<Nanos>,
    },
}

/// Decides for an init that was `armed` with a session and needs at most `margin` to stop what runs, from when it should.
pub fn leash(armed: u64, page: Page, now: Nanos, margin: u64) -> Leash {
    match armed {
        ENDLESS => Leash::Run { look_at: None },
        NEVER => Leash::Freeze { look_at: None },
        _ if page.session == armed && now.plus(margin) < page.until => {
            Leash::Run { look_at: Some(Nanos(page.until.0.saturating_sub(margin))) }
        }
        _ => Leash::Freeze { look_at: Some(now.plus(AGAIN)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1_000);

    fn page(session: u64, until: u64) -> Page {
        Page { session, until: Nanos(until) }
    }

    #[test]
    fn it_runs_until_the_margin_before_the_deadline() {
        assert_eq!(leash(7, page(7, 1_101), NOW, 100), Leash::Run { look_at: Some(Nanos(1_001)) });
        let held = Leash::Freeze { look_at: Some(Nanos(20_001_000)) };
        assert_eq!(leash(7, page(7, 1_100), NOW, 100), held);
        assert_eq!(leash(7, page(7, 0), NOW, 100), held, "a page without a deadline");
    }

    #[test]
    fn the_page_of_another_session_is_worth_nothing() {
        for other in [6, 8, ENDLESS, NEVER] {
            assert!(matches!(leash(7, page(other, u64::MAX), NOW, 0), Leash::Freeze { look_at: Some(_) }));
        }
    }

    #[test]
    fn without_end_and_never_need_no_page() {
        assert_eq!(leash(ENDLESS, page(7, 0), NOW, 100), Leash::Run { look_at: None });
        assert_eq!(leash(NEVER, page(NEVER, u64::MAX), NOW, 100), Leash::Freeze { look_at: None });
    }

    #[test]
    fn a_margin_beyond_the_end_of_time_freezes() {
        assert!(matches!(leash(7, page(7, u64::MAX), NOW, u64::MAX), Leash::Freeze { .. }));
    }
}
