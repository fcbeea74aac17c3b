//! Doing harm, and taking back what ends by itself in real life: power and links come back, somebody makes room on a disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::matrix::Fault;
use crate::stage::Stage;
use crate::wire::Wire;

/// How long an agent is stopped.
const STOPPED: Duration = Duration::from_secs(5);
/// How long a short cut lasts: less than the agents' `link_timeout`.
const SHORT: Duration = Duration::from_millis(800);
/// How long other faults last at most.
const LONG: Duration = Duration::from_secs(5);
/// How long a node is without power.
const DARK: Duration = Duration::from_millis(300);
/// Pieces that are damaged on the wire.
const PIECES: u32 = 3;
/// What the memory that is left is more than what is in use.
const HEADROOM: u64 = 1 << 20;

/// What was done, and how it ends.
pub struct Harm {
    fault: Fault,
    node: String,
    begun: Instant,
    stopped: Option<Pid>,
    limit: Option<(PathBuf, String)>,
    over: bool,
}

/// Does it to `node`, which is `side`'s and where `criu` runs, if it does; `target` is the other's or the same. `None` where there was
/// nothing to do it to.
pub fn strike(
    stage: &Stage,
    fault: Fault,
    (node, criu): (&str, Option<i32>),
    target: &str,
    wire: Option<&Wire>,
) -> Option<Harm> {
    let node = if fault == Fault::OutOfMemory { target } else { node };
    let mut harm =
        Harm { fault, node: node.to_owned(), begun: Instant::now(), stopped: None, limit: None, over: false };
    match fault {
        Fault::AgentKilled => stage.done(&["lab", "crash", node]),
        Fault::AgentStopped => harm.stopped = Some(signal(stage.pid(node, "agent_pid")?, Signal::STOP)?),
        Fault::PowerLoss => stage.done(&["lab", "kill", node]),
        Fault::LinkCut | Fault::LinkHealed => stage.done(&["lab", "cut", "node1:node2"]),
        Fault::DiskFull => stage.done(&["lab", "fill", node]),
        Fault::CorruptBytes => wire.into_iter().for_each(|wire| wire.damage(PIECES)),
        Fault::CriuKilled => drop(signal(criu?, Signal::KILL)?),
        Fault::CriuHangs => drop(signal(criu?, Signal::STOP)?),
        Fault::OutOfMemory => harm.limit = Some(squeeze(&stage.group(node))?),
    }
    Some(harm)
}

impl Harm {
    /// Ends what is to end now; `settled` where nobody waits for it any more.
    pub fn pass(&mut self, stage: &Stage, settled: bool) {
        let lasts = match self.fault {
            Fault::AgentStopped => STOPPED,
            Fault::PowerLoss => DARK,
            Fault::LinkHealed => SHORT,
            Fault::LinkCut | Fault::DiskFull | Fault::OutOfMemory if !settled => LONG,
            _ => Duration::ZERO,
        };
        if !self.over && self.begun.elapsed() >= lasts {
            self.end(stage);
        }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Ends it.
    pub fn end(&mut self, stage: &Stage) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        match self.fault {
            Fault::AgentStopped => drop(self.stopped.map(|pid| kill_process(pid, Signal::CONT))),
            Fault::PowerLoss => stage.done(&["lab", "start", &self.node]),
            Fault::LinkCut | Fault::LinkHealed | Fault::DiskFull => stage.done(&["lab", "heal"]),
            Fault::OutOfMemory => {
                if let Some((file, before)) = &self.limit {
                    let _ = std::fs::write(file, before);
                }
                // The kernel may have killed the agent so often that its supervisor has given up.
                if stage.nodes()[&self.node]["state"] == "agent-gave-up" {
                    stage.done(&["lab", "kill", &self.node]);
                    stage.done(&["lab", "start", &self.node]);
                }
            }
            Fault::AgentKilled | Fault::CorruptBytes | Fault::CriuKilled | Fault::CriuHangs => {}
        }
    }
}

fn signal(pid: i32, signal: Signal) -> Option<Pid> {
    let pid = Pid::from_raw(pid)?;
    kill_process(pid, signal).ok().map(|()| pid)
}

/// Limits a group to what it uses now; the file that says so, and what it said before.
fn squeeze(group: &str) -> Option<(PathBuf, String)> {
    let old = PathBuf::from("/sys/fs/cgroup/memory").join(group);
    let new = PathBuf::from("/sys/fs/cgroup").join(group);
    let (limit, usage) = match old.exists() {
        true => (old.join("memory.limit_in_bytes"), old.join("memory.usage_in_bytes")),
        false => (new.join("memory.max"), new.join("memory.current")),
    };
    let before = std::fs::read_to_string(&limit).ok()?;
    let used: u64 = std::fs::read_to_string(usage).ok()?.trim().parse().ok()?;
    // Version 1 refuses a limit that cannot be reached by forgetting cached files; version 2 kills to reach it.
    let mut wanted = if old.exists() { used / 4 } else { used };
    while std::fs::write(&limit, wanted.to_string()).is_err() {
        wanted += HEADROOM;
    }
    std::fs::write(&limit, (wanted + HEADROOM).to_string()).ok()?;
    Some((limit, before))
}
