//! What can go wrong around a sandbox.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A failure of a sandbox. None of them leaves a workload running that was not running before.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// Which.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that we called failed.
    #[error("{command} failed: {output}")]
    Tool {
        /// The command line.
        command: String,
        /// What it said, bounded.
        output: String,
    },
    /// PID 1 of the sandbox could not set itself up, or refused a request.
    #[error("the sandbox could not {step}: {reason}")]
    Init {
        /// What it was doing.
        step: String,
        /// Why it failed.
        reason: String,
    },
    /// The workload's command could not be executed.
    #[error("cannot execute {program}: {reason}")]
    CannotExecute {
        /// The program asked for.
        program: String,
        /// Why.
        reason: String,
    },
    /// Nothing can be started: the node's lease has ended, or is not this sandbox's.
    #[error("the sandbox in {} is held by its lease", dir.display())]
    Held {
        /// Its directory.
        dir: PathBuf,
    },
    /// An older version has built it.
    #[error("the sandbox in {} is of a version that knows no leases", dir.display())]
    NoLeash {
        /// Its directory.
        dir: PathBuf,
    },
    /// PID 1 of the sandbox is gone.
    #[error("the sandbox in {} is gone", dir.display())]
    Gone {
        /// Its directory.
        dir: PathBuf,
    },
    /// Killed, and still there.
    #[error("process {pid}, the init of the sandbox in {}, was killed {seconds} s ago and is still there", dir.display())]
    DoesNotEnd {
        /// The sandbox's directory.
        dir: PathBuf,
        /// Its PID 1, as the caller's namespace numbers it.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
    /// A layer that is mounted already must not be mounted a second time: the two would overwrite each other.
    #[error("{} is still mounted, by /dev/loop{device}", path.display())]
    StillMounted {
        /// The layer's file.
        path: PathBuf,
        /// The number of the loop device that holds it.
        device: u32,
    },
    /// Something said what it cannot say.
    #[error("{who} answered with something unexpected: {detail}")]
    Protocol {
        /// Who.
        who: &'static str,
        /// What.
        detail: String,
    },
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, SandboxError>;

impl SandboxError {
    /// For `map_err` on file operations.
    pub fn file<E: Into<io::Error>>(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> SandboxError {
        let path = path.as_ref().to_owned();
        move |source| SandboxError::File { action, path, source: source.into() }
    }

    /// For `map_err` on system calls.
    pub fn system<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> SandboxError {
        move |source| SandboxError::System { call, source: source.into() }
    }
}
