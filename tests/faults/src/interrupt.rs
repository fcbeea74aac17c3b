//! ^C and its like: what is under way is finished, and everything that was made is taken down.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP only set a mark. To be called before any thread is started.
pub fn mark_only() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().unwrap();
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            ASKED.store(true, Ordering::Relaxed);
            eprintln!("ending when what is under way is done");
        }
    });
}

/// Whether it shall end.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
