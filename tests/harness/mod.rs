//! A lab of real agents for a test, with real CRIU: `Lab::up(3)`. It is gone when the `Lab` is dropped, also on panic and when
//! the test process is killed; whatever it leaves behind fails the test. A test target takes this in with `mod harness;`, another
//! package with `#[path]`.
//!
//! Workloads are programs that print `ok N`, N rising by one, as long as their state is intact, and `BAD` when it is not
//! (tests/specimen, tests/programs). `workloads` starts and moves them, `progress` reads those lines.

// Each test target uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod deadline;
pub(crate) mod leftovers;
mod progress;
mod survivor;
pub(crate) mod vaults;
mod workloads;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) use deadline::{PATIENCE, eventually};

/// Where a workload finds the binaries of the workspace, such as `/programs/specimen`.
pub(crate) const PROGRAMS: &str = "/programs";
/// Where a workload finds tests/programs.
pub(crate) const SCRIPTS: &str = "/scripts";

/// Short: sockets live below it. Not below /run or /proc, which every node has for itself.
const PLACE: &str = "/var/tmp";

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its exit code.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// stdout as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Output {
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running lab of a test's own.
pub(crate) struct Lab {
    /// Holds the lab's directory, and is there for files that all nodes see.
    place: Option<tempfile::TempDir>,
    id: String,
    survivor: survivor::Survivor,
}

impl Lab {
    /// Starts a lab of `nodes` nodes: node1, …
    pub(crate) fn up(nodes: u8) -> Lab {
        Lab::up_with(nodes, &[])
    }

    /// The same, with variables for its agents, which inherit them.
    pub(crate) fn up_with(nodes: u8, environment: &[(&str, &OsStr)]) -> Lab {
        Lab::up_as(&["--nodes", &nodes.to_string()], environment)
    }

    /// The same, with these options of `migrate lab up`.
    pub(crate) fn up_as(options: &[&str], environment: &[(&str, &OsStr)]) -> Lab {
        Lab::up_in(Lab::find_place(), options, environment)
    }

    /// A new directory for a lab, for whoever has to put something there before the lab is up.
    pub(crate) fn find_place() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("migrate-t.").tempdir_in(PLACE).unwrap()
    }

    /// The same, in such a directory.
    pub(crate) fn up_in(place: tempfile::TempDir, options: &[&str], environment: &[(&str, &OsStr)]) -> Lab {
        need_binaries();
        let survivor = survivor::Survivor::watch(place.path(), &directory(place.path()));
        // From here on, dropping it takes down what there is.
        let mut lab = Lab { place: Some(place), id: String::new(), survivor };
        let mut up = lab.command([&["lab", "up"], options].concat());
        let up = Output::from(up.envs(environment.iter().copied()).output().unwrap());
        assert!(up.status.success(), "the lab did not come up: {up:?}");
        let id = lab.status()["id"].as_str().unwrap().to_owned();
        lab.id = id;
        lab
    }

    /// `migrate` with these words and this lab, to be started in any way.
    pub(crate) fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(program());
        command.args(words).env("MIGRATE_LAB", self.directory()).env_remove("MIGRATE_SOCKET").env_remove("NO_COLOR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `migrate` with these words to its end, whatever that is.
    pub(crate) fn migrate(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command(words).output().unwrap().into()
    }

    /// The same; it must succeed.
    pub(crate) fn done(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        let mut command = self.command(words);
        let output = Output::from(command.output().unwrap());
        assert!(output.status.success(), "{command:?}: {output:?}");
        output
    }

    /// The lab's directory.
    pub(crate) fn directory(&self) -> PathBuf {
        directory(self.place())
    }

    /// A directory for a test's files, the same on every node; inside a sandbox only through `--volume`.
    pub(crate) fn place(&self) -> &Path {
        self.place.as_ref().unwrap().path()
    }

    /// `lab status --json`.
    pub(crate) fn status(&self) -> Value {
        self.done(["--json", "lab", "status"]).json()
    }

    /// The host's PIDs in the control group of a node's workload.
    pub(crate) fn processes(&self, node: &str, name: &str) -> Vec<i32> {
        leftovers::processes_in(&format!("/migrate-lab-{}/{node}/{name}", self.id))
    }

    /// What there is of the lab on this machine, one line each.
    pub(crate) fn traces(&self) -> Vec<String> {
        leftovers::of_lab(&self.id, &self.directory())
    }

    /// Takes the lab down; panics, as every drop does, when something is left behind: a process, mount, loop device, control
    /// group or file.
    pub(crate) fn assert_clean(self) {
        drop(self);
    }

    /// What agents and workloads have to say, for whoever reads a failed test.
    fn tell_state(&self) {
        let ps = self.migrate(["ps"]);
        eprintln!("--- ps\n{}{}", ps.stdout, ps.stderr);
        for name in ps.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
            let logs = self.migrate(["logs", "--tail", "5", name]);
            eprintln!("--- end of the log of {name}\n{}{}", logs.stdout, logs.stderr);
        }
        let nodes = std::fs::read_dir(self.directory()).into_iter().flatten().flatten();
        for log in nodes.map(|node| node.path().join("agent.log")).filter(|log| log.exists()) {
            let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            eprintln!("--- {}\n{}", log.display(), tail.join("\n"));
        }
    }

    /// What is left of the lab once it is down.
    fn take_down(&self) -> Result<(), String> {
        let down = self.migrate(["lab", "down"]);
        if !down.status.success() {
            return Err(format!("the lab did not go down: {down:?}"));
        }
        // The kernel takes loop devices, mounts and groups down a moment after their last process.
        if eventually(|| self.traces().is_empty()) {
            Ok(())
        } else {
            Err(format!("the lab left behind:\n{}", self.traces().join("\n")))
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            self.tell_state();
        }
        // A lab that never came up has cleaned up after itself.
        let down = if self.id.is_empty() { Ok(()) } else { self.take_down() };
        self.survivor.dismiss();
        let Err(why) = down else { return };
        if let Some(place) = self.place.take() {
            // Something may still use it, or be mounted below it.
            eprintln!("kept: {}", place.keep().display());
        }
        assert!(panicking, "{why}");
        eprintln!("{why}");
    }
}

fn directory(place: &Path) -> PathBuf {
    place.join("lab")
}

/// Other packages' binaries, which this package's tests do not cause to be built.
fn need_binaries() {
    for name in ["migrate-agent", "migrate-init", "specimen"] {
        let path = binaries().join(name);
        assert!(path.exists(), "{} is missing: run scripts/test, or cargo build --workspace --bins", path.display());
    }
}

/// The `migrate` under test.
fn program() -> PathBuf {
    binaries().join("migrate")
}

/// Where the workspace's binaries are: cargo says so to the root package's tests; what other packages have lies beside them, or
/// in `deps`, which is beside them.
pub(crate) fn binaries() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| match option_env!("CARGO_BIN_EXE_migrate") {
        Some(migrate) => Path::new(migrate).parent().unwrap().to_owned(),
        None => {
            let own = std::env::current_exe().unwrap();
            let beside = own.parent().unwrap();
            if beside.ends_with("deps") { beside.parent().unwrap() } else { beside }.to_owned()
        }
    })
}
