//! `specimen`: programs that are moved between nodes, and verify their own state all the while.
//!
//! `specimen KIND` prints `ok N …` after each full verification, N rising by one, and at the first thing that is not as
//! it was left `BAD what: expected …, found …` and exits 1. It takes no notice of time passing, and never ends by itself.
//! It works in the current directory. What CRIU does not carry is in NOT_CARRIED.md and not checked here.

mod backlog;
mod beacon;
mod blocks;
mod code;
mod family;
mod kinds;
mod mapping;
mod part;
mod pause;
mod rawsignal;
mod sysv;
mod verdict;
mod writer;

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::blocks::Content;
use crate::kinds::Parts;
use crate::part::{Rhythm, say};
use crate::verdict::{MustSucceed, Verdict};

/// Programs that verify their own state
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    kind: Kind,
    /// Milliseconds between two cycles (30; the demo 100, the beacon 2)
    #[arg(long, global = true)]
    pause_ms: Option<u64>,
    /// Where POSIX shared memory lies
    #[arg(long, global = true, default_value = "/dev/shm")]
    shm_dir: PathBuf,
    /// Break this part's state after two cycles
    #[arg(long, global = true, hide = true)]
    sabotage: Option<String>,
}

#[derive(Subcommand)]
enum Kind {
    /// A counter in three places
    Counter,
    /// Threads, their identity and futexes
    Threads,
    /// A process tree with groups, sessions, zombies, an orphan
    Tree,
    /// Signals, timers and event descriptors
    Signals,
    /// Shared memory and System V IPC
    Shm,
    /// File locks
    Locks,
    /// Open files
    Files,
    /// Files with odd names, links, attributes, inode numbers
    TreeOfFiles,
    /// Sockets
    Sockets,
    /// Memory
    Memory {
        #[arg(long, default_value_t = 64)]
        mib: usize,
        /// What it is filled with
        #[arg(long = "kind", value_enum, default_value = "mixed")]
        content: Content,
        /// Fill, then touch nothing but a counter
        #[arg(long)]
        quiet: bool,
    },
    /// Clocks and sleeps
    Clocks,
    /// Environment, limits, identity, capabilities
    Surroundings {
        /// Not looked at: they are there to be kept
        #[arg(trailing_var_arg = true, hide = true)]
        odd: Vec<OsString>,
    },
    /// A little of everything, for the demonstration
    Demo {
        #[arg(long, default_value_t = 256)]
        mib: usize,
    },
    /// Append numbered records to a file on shared storage
    Writer { path: PathBuf },
    /// Check such a file for gaps and overlaps
    CheckWriter { path: PathBuf },
    /// Say in a file on shared storage when and where it runs
    Beacon {
        path: PathBuf,
        /// Memory to hold meanwhile
        #[arg(long, default_value_t = 0)]
        mib: usize,
    },
    /// Print gaps in time
    Pause {
        /// Memory to hold meanwhile
        #[arg(long, default_value_t = 0)]
        mib: usize,
        /// What it is filled with
        #[arg(long = "kind", value_enum, default_value = "random")]
        content: Content,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.kind {
        Kind::CheckWriter { path } => match check_writer(path) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(violation) => Err(violation),
        },
        Kind::Pause { mib, content } => pause::observe(*mib, *content),
        Kind::Beacon { path, mib } => beacon::shine(path, *mib, Duration::from_millis(options.pause_ms.unwrap_or(2))),
        _ => verify_for_ever(&options),
    };
    let Err(violation) = outcome;
    family::report(&violation);
    ExitCode::FAILURE
}

fn verify_for_ever(options: &Options) -> Verdict<Infallible> {
    let usual_pause = if matches!(options.kind, Kind::Demo { .. }) { 100 } else { 30 };
    let pause = Duration::from_millis(options.pause_ms.unwrap_or(usual_pause));
    let mut parts = parts(options)?;
    part::run(&mut parts, &Rhythm { pause, sabotage: options.sabotage.clone() })
}

fn parts(options: &Options) -> Verdict<Parts> {
    match &options.kind {
        Kind::Counter => kinds::counter::parts(),
        Kind::Threads => kinds::threads::parts(),
        Kind::Tree => kinds::tree::parts(),
        Kind::Signals => kinds::signals::parts(&fresh_directory("signals")?),
        Kind::Shm => kinds::shm::parts(&fresh_directory("shm")?, &options.shm_dir),
        Kind::Locks => kinds::locks::parts(&fresh_directory("locks")?),
        Kind::Files => kinds::files::parts(&fresh_directory("files")?),
        Kind::TreeOfFiles => kinds::tree_of_files::parts(&fresh_directory("tree-of-files")?),
        Kind::Sockets => kinds::sockets::parts(&fresh_directory("sockets")?),
        Kind::Memory { mib, content, quiet: true } => kinds::memory::quiet_parts(*mib, *content),
        Kind::Memory { mib, content, quiet: false } => kinds::memory::parts(*mib, *content),
        Kind::Clocks => kinds::clocks::parts(),
        Kind::Surroundings { .. } => kinds::surroundings::parts(),
        Kind::Demo { mib } => kinds::demo::parts(*mib, &fresh_directory("demo")?),
        Kind::Writer { path } => Ok(vec![Box::new(writer::Writer::open(path)?)]),
        Kind::CheckWriter { .. } | Kind::Pause { .. } | Kind::Beacon { .. } => Ok(Parts::new()),
    }
}

/// A directory of the kind's own below the current one, as an absolute path. What an earlier run left there goes.
fn fresh_directory(kind: &str) -> Verdict<PathBuf> {
    let directory = std::env::current_dir().must("getcwd")?.join(format!("specimen-{kind}"));
    if directory.exists() {
        std::fs::remove_dir_all(&directory).must(format_args!("removing {}", directory.display()))?;
    }
    std::fs::create_dir(&directory).must(format_args!("making {}", directory.display()))?;
    Ok(directory)
}

fn check_writer(path: &Path) -> Verdict {
    let findings = writer::check_file(path)?;
    say(&format!("records {} writers {}", findings.records, findings.writers.join(" ")))
}
