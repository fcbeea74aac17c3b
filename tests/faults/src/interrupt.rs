//! ^C and its like: at the first, what is under way is finished and everything that was made is taken down; at the second this
//! process ends at once, and the labs' survivors (tests/harness) take them down.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Exit code after a second signal.
const AT_ONCE: i32 = 130;

/// From now on SIGINT, SIGTERM and SIGHUP only set a mark, the first time. To be called before any thread is started.
pub fn mark_only() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().unwrap();
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if ASKED.swap(true, Ordering::Relaxed) {
                std::process::exit(AT_ONCE);
            }
            // Whoever started this may be gone, and the terminal with it.
            let _ = writeln!(std::io::stderr(), "ending when what is under way is done; once more ends it at once");
        }
    });
}

/// Whether it shall end.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Prints a line. Where nobody reads any more it shall end, too.
pub fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        ASKED.store(true, Ordering::Relaxed);
    }
}
