//! A lab of three nodes, and the workloads in it, by the `migrate` command.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use migrate_proto::api::{MoveReport, Outcome};
use serde::Deserialize;

use crate::observer::Observer;

/// A lab, which is taken down when dropped.
pub(crate) struct Lab {
    directory: PathBuf,
    programs: PathBuf,
    /// Of its agents: also of those that are started again.
    settings: Vec<(String, String)>,
    is_up: bool,
}

/// What is needed of `migrate lab status --json`.
#[derive(Deserialize)]
struct Status {
    nodes: Vec<Node>,
}

/// A node of the lab.
#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// With the agent's port.
    pub(crate) address: String,
    /// As the host sees it.
    pub(crate) agent_pid: Option<i32>,
}

impl Lab {
    /// Starts it below `place`.
    pub(crate) fn up(place: &Path, programs: &Path) -> Result<Lab> {
        let lab = Lab::at(place, programs, &[]);
        lab.migrate(["-q", "lab", "up", "--nodes", "3"])?;
        Ok(lab)
    }

    /// The same, of nodes that are a cluster, with these settings of their agents.
    pub(crate) fn cluster(place: &Path, programs: &Path, nodes: u8, settings: &[(&str, &str)]) -> Result<Lab> {
        let lab = Lab::at(place, programs, settings);
        lab.migrate(["-q", "lab", "up", "--cluster", "--nodes", &nodes.to_string()])?;
        Ok(lab)
    }

    fn at(place: &Path, programs: &Path, settings: &[(&str, &str)]) -> Lab {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Lab { directory: place.join("lab"), programs: programs.to_owned(), settings, is_up: true }
    }

    /// Takes it down.
    pub(crate) fn down(mut self) -> Result<()> {
        self.is_up = false;
        self.migrate(["lab", "down"]).map(drop)
    }

    /// What `migrate` answers to these words; it must succeed.
    pub(crate) fn migrate<const N: usize>(&self, words: [&str; N]) -> Result<String> {
        self.migrate_words(&words)
    }

    /// The same to any number of them.
    pub(crate) fn migrate_words(&self, words: &[&str]) -> Result<String> {
        run(self.command().args(words))
    }

    /// `migrate`, for this lab.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.programs.join("migrate"));
        command.env("MIGRATE_LAB", &self.directory).env_remove("MIGRATE_SOCKET");
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<Node>> {
        Ok(serde_json::from_str::<Status>(&self.migrate(["--json", "lab", "status"])?)?.nodes)
    }

    /// Starts `specimen` with these words as workload `name` on node1. The programs lie where every node has them.
    pub(crate) fn specimen(&self, name: &str, words: &[&str]) -> Result<Workload<'_>> {
        self.run_specimen(name, &["--on", "node1"], words)?;
        Ok(Workload { lab: self, name: name.to_owned() })
    }

    /// The same with these options of `run`.
    pub(crate) fn run_specimen(&self, name: &str, options: &[&str], words: &[&str]) -> Result<()> {
        let volume = format!("{}:/programs:ro", self.programs.display());
        let mut command = self.command();
        command.args(["-q", "run", "--name", name, "--volume", &volume]).args(options);
        run(command.args(["--", "/programs/specimen"]).args(words)).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_up {
            // The failure that led here is what matters.
            let _ = self.migrate(["lab", "down"]);
        }
    }
}

/// A workload of the lab.
pub(crate) struct Workload<'a> {
    lab: &'a Lab,
    name: String,
}

impl Workload<'_> {
    /// What it has written.
    pub(crate) fn output(&self) -> Result<String> {
        self.lab.migrate(["logs", &self.name])
    }

    /// Its observer, once it is ready.
    pub(crate) fn observer(&self) -> Result<Observer> {
        Observer::ready(|| self.output())
    }

    /// Moves it.
    pub(crate) fn move_to(&self, node: &str) -> Result<MoveReport> {
        let answer = self.lab.migrate(["--json", "--force", &self.name, "--to", node])?;
        let report: MoveReport = serde_json::from_str(&answer)?;
        if report.outcome != Outcome::Moved {
            bail!("{} did not move: {answer}", self.name);
        }
        Ok(report)
    }

    /// Ends it.
    pub(crate) fn remove(self) -> Result<()> {
        self.lab.migrate(["rm", "-f", &self.name]).map(drop)
    }
}

/// Runs a command to its end; what it wrote to stdout.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let ended = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{}: {}: {}", words(command), ended.status, said.trim());
    }
    Ok(String::from_utf8(ended.stdout)?)
}

fn words(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
