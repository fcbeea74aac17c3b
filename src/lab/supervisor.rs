//! What PID 1 of a node does: reaps, and starts the agent again whenever it dies, as a supervisor would.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use migrate_proto::name::NodeName;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::layout::Layout;
use super::node::{NodeError, directory};
use super::{LabError, detach};

/// So many deaths in a row …
const DEATHS: usize = 5;

/// … each so soon after its start, and the agent is not started again. One that is killed now and then by somebody else is.
const SOON: Duration = Duration::from_secs(1);

/// Holds the agent's PID as the node sees it; absent while there is none.
pub(crate) const PID_FILE: &str = "agent.pid";

/// Exists when the agent is not started again.
pub(crate) const GAVE_UP_FILE: &str = "agent.gave-up";

/// Variables that say where something is, or who the others are: of this lab, its flags say that.
const MEANT_FOR_OTHERS: [&str; 9] = [
    "MIGRATE_LAB",
    "MIGRATE_AGENT_BIN",
    "MIGRATE_SOCKET",
    "MIGRATE_PEERS",
    "MIGRATE_MEMBERS",
    "MIGRATE_JOIN",
    "MIGRATE_ADVERTISE",
    "NODE_ID",
    "MEMBERS",
];

/// PID 1's work.
pub(crate) struct Supervisor {
    program: PathBuf,
    args: Vec<OsString>,
    directory: PathBuf,
    agent: Option<Pid>,
    started: Instant,
    early_deaths: usize,
    ending: bool,
}

impl Supervisor {
    /// For the agent of `name`.
    pub(crate) fn new(lab: &Path, layout: &Layout, name: &NodeName) -> Supervisor {
        Supervisor {
            program: layout.agent.clone(),
            args: agent_args(lab, layout, name),
            directory: directory(lab, name),
            agent: None,
            started: Instant::now(),
            early_deaths: 0,
            ending: false,
        }
    }

    /// Goes on until SIGTERM has been passed to the agent and it has ended.
    pub(crate) fn run(mut self) -> Result<(), LabError> {
        let failed = |errno: nix::Error| NodeError::System { doing: "cannot wait for signals", source: errno.into() };
        let awaited: SigSet = [Signal::SIGCHLD, Signal::SIGTERM].into_iter().collect();
        // Blocked signals reach PID 1 although it has no handlers for them.
        awaited.thread_block().map_err(failed)?;
        self.start_agent();
        loop {
            match awaited.wait().map_err(failed)? {
                Signal::SIGTERM => self.end_agent(),
                _ => self.reap(),
            }
            if self.ending && self.agent.is_none() {
                return Ok(());
            }
        }
    }

    fn start_agent(&mut self) {
        match self.spawn_agent() {
            Ok(pid) => {
                self.agent = Some(pid);
                self.started = Instant::now();
                self.note_agent();
            }
            Err(e) => {
                self.give_up(&format!("{} cannot be started: {e}", self.program.display()));
            }
        }
    }

    fn spawn_agent(&self) -> io::Result<Pid> {
        let log = OpenOptions::new().append(true).create(true).open(self.directory.join("agent.log"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        // What was meant for the command, or for another agent, is not meant for this one.
        for name in MEANT_FOR_OTHERS {
            command.env_remove(name);
        }
        let child = detach::unblock_signals(&mut command).spawn()?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    fn end_agent(&mut self) {
        self.ending = true;
        if let Some(agent) = self.agent {
            // It has not been reaped, so the PID is still its own.
            let _ = kill(agent, Signal::SIGTERM);
        }
    }

    fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => status,
            };
            if status.pid().is_some() && status.pid() == self.agent {
                log(&format!("the agent ended: {status:?}"));
                self.agent = None;
                self.note_agent();
                self.agent_died();
            }
        }
    }

    fn agent_died(&mut self) {
        if self.ending {
            return;
        }
        self.early_deaths = if self.started.elapsed() < SOON { self.early_deaths + 1 } else { 0 };
        if self.early_deaths < DEATHS {
            self.start_agent();
        } else {
            self.give_up(&format!("it died {DEATHS} times in a row within {SOON:?} of its start"));
        }
    }

    /// The node stays: its workloads need no agent.
    fn give_up(&self, why: &str) {
        log(&format!("the agent is not started again: {why}"));
        try_to("write", &self.directory.join(GAVE_UP_FILE), |path| std::fs::write(path, format!("{why}\n")));
    }

    fn note_agent(&self) {
        let path = self.directory.join(PID_FILE);
        match self.agent {
            Some(pid) => try_to("write", &path, |path| {
                let new = path.with_extension("pid.new");
                std::fs::File::create(&new)?.write_all(format!("{pid}\n").as_bytes())?;
                std::fs::rename(new, path)
            }),
            None => try_to("remove", &path, |path| std::fs::remove_file(path)),
        }
    }
}

/// PID 1 must not end because its log cannot be written.
fn log(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Nor because a file cannot.
fn try_to(doing: &str, path: &Path, work: impl FnOnce(&Path) -> io::Result<()>) {
    if let Err(e) = work(path) {
        log(&format!("cannot {doing} {}: {e}", path.display()));
    }
}

fn agent_args(lab: &Path, layout: &Layout, name: &NodeName) -> Vec<OsString> {
    let own = directory(lab, name);
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: OsString| args.extend([flag.into(), value]);
    add("--node", name.as_str().into());
    for node in &layout.nodes {
        if node.name == *name {
            add("--listen", node.listen().into());
        }
        if layout.cluster {
            add("--member", format!("{}={}", node.name, node.listen()).into());
        } else if node.name != *name {
            add("--peer", format!("{}={}", node.name, node.listen()).into());
        }
    }
    add("--state", super::disk::state(lab, name).into());
    add("--run", "/run/migrate".into());
    add("--key", own.join("cluster.key").into());
    add("--socket", own.join("agent.sock").into());
    add("--cgroup", layout.cgroup(name).into());
    add("--hide", lab.into());
    args
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_agent_is_told_everything_about_its_place() {
        let mut layout = Layout::new("1f".into(), "/agent".into(), 2).unwrap();
        let told = |layout: &Layout| {
            let args = agent_args(Path::new("/lab"), layout, &"node2".parse().unwrap());
            args.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            told(&layout),
            "--node node2 --peer node1=10.77.0.1:7700 --listen 10.77.0.2:7700 --state /lab/node2/state \
             --run /run/migrate --key /lab/node2/cluster.key --socket /lab/node2/agent.sock --cgroup migrate-lab-1f/node2 \
             --hide /lab"
        );
        layout.cluster = true;
        let members = "--member node1=10.77.0.1:7700 --listen 10.77.0.2:7700 --member node2=10.77.0.2:7700 --state";
        assert!(told(&layout).contains(members));
    }
}
