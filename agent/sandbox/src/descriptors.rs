//! How many descriptors the agent may have, and how many those may have that it starts.
//!
//! An agent without descriptors cannot look at its workloads. So it raises its own limit as far as it may. Workloads keep the
//! limit that the agent was started with: programs that use `select`, or that close every descriptor there could be, depend on it.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The environment variable that tells `migrate-init` which limit was there before.
const BEFORE: &str = "MIGRATE_DESCRIPTORS";

static RAISED_FROM: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to its hard one, and says what that is.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let _ = RAISED_FROM.set(soft);
    Ok(hard)
}

/// What to add to the environment of `migrate-init`.
pub fn for_helpers() -> Option<(&'static str, String)> {
    RAISED_FROM.get().map(|soft| (BEFORE, soft.to_string()))
}

/// In `migrate-init`: goes back to the limit that was there before, for itself and all that it starts.
pub fn give_back() {
    let before = std::env::var(BEFORE).ok().and_then(|text| text.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (before, getrlimit(Resource::RLIMIT_NOFILE)) {
        // It is lowered: that is always allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft), hard);
    }
}
