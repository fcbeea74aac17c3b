//! A kind of specimen is a list of parts; the loop here checks them in turn, for ever.

use std::io::Write;
use std::time::Duration;

use crate::code::Code;
use crate::verdict::{MustSucceed, Verdict, Violation};

/// One sort of state, with the knowledge of how it was left.
pub(crate) trait Part {
    /// Its name in the `ok` line and for `--sabotage`.
    fn name(&self) -> &'static str;

    /// Verifies the state and moves it on by one step. Returns a figure for the `ok` line that never falls.
    fn check(&mut self, cycle: u64) -> Verdict<u64>;

    /// Breaks the state as a bad move would: a check soon after must see it.
    fn sabotage(&mut self) -> Verdict;
}

/// How the loop runs.
pub(crate) struct Rhythm {
    /// Time between two cycles.
    pub(crate) pause: Duration,
    /// The part to break after a few cycles.
    pub(crate) sabotage: Option<String>,
}

/// The first cycle that meets sabotaged state.
const SABOTAGED_CYCLE: u64 = 3;

/// Checks all parts and the program's code for ever, one `ok` line a cycle; returns at the first violation.
pub(crate) fn run(parts: &mut [Box<dyn Part>], rhythm: &Rhythm) -> Verdict<std::convert::Infallible> {
    let mut cycle = 0;
    let code = Code::now()?;
    loop {
        cycle += 1;
        code.check()?;
        if cycle == SABOTAGED_CYCLE
            && let Some(victim) = &rhythm.sabotage
        {
            sabotage(parts, victim)?;
        }
        let mut line = format!("ok {cycle}");
        for part in parts.iter_mut() {
            let figure = part.check(cycle)?;
            line.push_str(&format!(" {}={figure}", part.name()));
        }
        say(&line)?;
        std::thread::sleep(rhythm.pause);
    }
}

fn sabotage(parts: &mut [Box<dyn Part>], victim: &str) -> Verdict {
    let known: Vec<_> = parts.iter().map(|part| part.name()).collect();
    match parts.iter_mut().find(|part| part.name() == victim) {
        Some(part) => part.sabotage(),
        None => Err(Violation::new("--sabotage", format_args!("one of {known:?}"), victim)),
    }
}

/// Writes one line to stdout in one call, so that lines of several processes do not mix.
pub(crate) fn say(line: &str) -> Verdict {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).must("writing to stdout")
}
