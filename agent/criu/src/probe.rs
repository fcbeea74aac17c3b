//! Finds a CRIU and asks what it, and the kernel under it, can do.
//!
//! CRIU keeps what it found out about the kernel in `/run/criu.kdat`, where that is a tmpfs, and believes it afterwards. So
//! an answer here is as old as that file: whoever gives CRIU more rights or changes the kernel's settings removes it. A
//! sandbox has a `/run` of its own, in which a workload could leave such a file: it must not be visible to CRIU there.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::process::Command;

mod pipes;
#[cfg(test)]
mod tests;

pub use pipes::{PipeLimit, raise_pipe_max_size};

/// The oldest CRIU that will do: its page server's wire format, and TCP sockets on Linux 6.16 and newer.
pub const MINIMUM: Version = Version(4, 2, 0);
/// Where `scripts/setup` puts a private CRIU, unless `MIGRATE_CRIU_PREFIX` says otherwise.
pub const DEFAULT_PREFIX: &str = "/opt/migrate/criu";

/// What no workload can be moved without: choosing a PID, glibc's restartable sequences, the monotonic clock, descriptors
/// and what is behind them.
const REQUIRED: &[&str] =
    &["clone3_set_tid", "get_rseq_conf", "timens", "mnt_id", "fdinfo_lock", "kcmp_epoll", "can_map_vdso", "openat2"];
/// What makes a difference, but not for every workload.
const USEFUL: &[&str] = &[
    "pagemap_scan",
    "mem_dirty_track",
    "uffd",
    "uffd-noncoop",
    "network_lock_nftables",
    "sk_unix_file",
    "seccomp_filters",
    "memfd_hugetlb",
    "overlayfs_maps",
];
/// CRIU answers in milliseconds; a machine that swaps may take longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Why there is no usable CRIU.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is none.
    #[error("no criu in {prefix}, nor in PATH: run scripts/setup", prefix = prefix.display())]
    Missing {
        /// Where a private one would be.
        prefix: PathBuf,
    },
    /// The one that was named is none.
    #[error("{} is not an executable file: correct it, or run scripts/setup and leave it out", path.display())]
    NotExecutable {
        /// The path that was named.
        path: PathBuf,
    },
    /// It could not be run.
    #[error("cannot run {command}: {source}")]
    Run {
        /// What was called.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It did not answer.
    #[error("{command} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// What was called.
        command: String,
        /// For how long.
        limit: Duration,
    },
    /// It does not even say its version.
    #[error("{command} does not work here: {said}. Run scripts/setup for a CRIU that fits this kernel")]
    Broken {
        /// What was called.
        command: String,
        /// What it said.
        said: String,
    },
    /// It is too old.
    #[error("{} is version {found}, and {MINIMUM} is needed: run scripts/setup", path.display())]
    TooOld {
        /// Which CRIU.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The kernel, or the agent's rights, do not suffice.
    #[error("{} cannot move workloads on this node: {}", path.display(), missing.join("; "))]
    Insufficient {
        /// Which CRIU.
        path: PathBuf,
        /// What it misses, in its words.
        missing: Vec<String>,
    },
}

/// What a CRIU can do on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Which CRIU.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// What was asked for, by CRIU's names, and whether it is there.
    pub features: BTreeMap<String, bool>,
    /// The kernel's release.
    pub kernel: String,
}

impl Capabilities {
    /// Whether CRIU found the feature of this name.
    pub fn has(&self, feature: &str) -> bool {
        self.features.get(feature).copied().unwrap_or(false)
    }

    /// Whether this CRIU can restore what the CRIU of version `source` dumped. Images are read by newer ones, not by older.
    pub fn reads_images_of(&self, source: Version) -> bool {
        self.version >= source
    }
}

/// The CRIU to use: `configured`, or `$MIGRATE_CRIU`, or the private one, or the first in `$PATH`. One that was named and
/// does not exist is an error, never a reason to take another.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, ProbeError> {
    find_with(configured, |name| env::var_os(name).filter(|value| !value.is_empty()))
}

fn find_with(configured: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, ProbeError> {
    let named = configured.map(Path::to_owned).or_else(|| variable("MIGRATE_CRIU").map(PathBuf::from));
    if let Some(path) = named {
        return if is_executable(&path) { Ok(path) } else { Err(ProbeError::NotExecutable { path }) };
    }
    let prefix = variable("MIGRATE_CRIU_PREFIX").unwrap_or_else(|| DEFAULT_PREFIX.into());
    let private = Path::new(&prefix).join("bin/criu");
    // A supervisor's PATH may lack the places where distributions put it.
    let path = variable("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let in_path = env::split_paths(&path).chain(usual).filter(|dir| dir.is_absolute()).map(|dir| dir.join("criu"));
    std::iter::once(private)
        .chain(in_path)
        .find(|candidate| is_executable(candidate))
        .ok_or(ProbeError::Missing { prefix: prefix.into() })
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Asks the CRIU at `path`. What it cannot do without is an error that names it.
pub async fn probe(path: &Path) -> Result<Capabilities, ProbeError> {
    let criu = Criu { path, limit: TIMEOUT };
    let version = criu.version().await?;
    if version < MINIMUM {
        return Err(ProbeError::TooOld { path: path.to_owned(), found: version });
    }
    let mut missing: Vec<String> = criu.check().await?.err().into_iter().collect();
    let mut features = BTreeMap::new();
    for feature in REQUIRED.iter().chain(USEFUL) {
        let answer = criu.check_feature(feature).await?;
        if let (Err(said), true) = (&answer, REQUIRED.contains(feature)) {
            missing.push(format!("{feature}: {said}"));
        }
        features.insert((*feature).to_owned(), answer.is_ok());
    }
    if !missing.is_empty() {
        return Err(ProbeError::Insufficient { path: path.to_owned(), missing });
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(Capabilities { path: path.to_owned(), version, features, kernel })
}

/// A CRIU to ask.
struct Criu<'a> {
    path: &'a Path,
    limit: Duration,
}

impl Criu<'_> {
    async fn version(&self) -> Result<Version, ProbeError> {
        let output = self.call(&["--version"]).await?;
        parse_version(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| ProbeError::Broken { command: self.shown(&["--version"]), said: what_it_said(&output) })
    }

    /// The inner result is CRIU's answer: what it said where it misses something.
    async fn check(&self) -> Result<Result<(), String>, ProbeError> {
        self.ask(&["check", "--no-default-config"]).await
    }

    async fn check_feature(&self, feature: &str) -> Result<Result<(), String>, ProbeError> {
        self.ask(&["check", "--no-default-config", "--feature", feature]).await
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Result<(), String>, ProbeError> {
        let output = self.call(arguments).await?;
        Ok(if output.status.success() { Ok(()) } else { Err(what_it_said(&output)) })
    }

    async fn call(&self, arguments: &[&str]) -> Result<Output, ProbeError> {
        let mut command = Command::new(self.path);
        command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(self.limit, command.output()).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(source)) => Err(ProbeError::Run { command: self.shown(arguments), source }),
            Err(_) => Err(ProbeError::TimedOut { command: self.shown(arguments), limit: self.limit }),
        }
    }

    fn shown(&self, arguments: &[&str]) -> String {
        format!("{} {}", self.path.display(), arguments.join(" "))
    }
}

/// `Version: 4.2.1`, perhaps with more behind it; a missing third number is 0.
fn parse_version(output: &str) -> Option<Version> {
    let text = output.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut numbers = text.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
        digits.parse().ok()
    });
    Some(Version(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// The last thing that a failed call said.
fn what_it_said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = stderr.lines().chain(stdout.lines()).rfind(|line| !line.trim().is_empty());
    match line {
        Some(line) => line.trim().escape_debug().take(300).collect(),
        None => output.status.to_string(),
    }
}
