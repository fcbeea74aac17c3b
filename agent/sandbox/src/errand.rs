//! A command beside a workload: `migrate-init exec`.
//!
//! ```text
//! agent ── helper (ended by the agent when nobody listens any more)
//!            └── keeper (outlives the helper, ends what the command left)
//!                  └── the command, inside, in a control group of its own
//! ```
//!
//! The command and everything that it started end when the command ends, or when its helper does.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use migrate_proto::api::Exit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, setsid};
use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::cgroup::Beside;
use crate::control::Command;
use crate::enter::{self, Doorway};
use crate::error::{Result, SandboxError};
use crate::init::spawn;
use crate::reap;

/// The environment variable that tells `migrate-init exec` which file holds its [`Errand`].
pub const ERRAND: &str = "MIGRATE_ERRAND";

/// A command to run beside a workload, in its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The sandbox's PID 1, as the caller's namespace numbers it.
    pub init: i32,
    /// The workload's first process, whose IPC and UTS namespaces the command shares.
    pub main: i32,
    /// `cgroup.procs` files that the command's keeper joins.
    pub groups: Vec<PathBuf>,
    /// The group below which the command has its own.
    pub beside: Option<PathBuf>,
    /// What to run.
    pub command: Command,
}

/// An errand in memory, for a helper to read. It may be longer than an argument or an environment variable, and nobody
/// else sees it. To be kept until the helper has ended.
#[derive(Debug)]
pub struct Letter {
    memory: File,
}

impl Errand {
    /// Writes it down.
    pub fn letter(&self) -> Result<Letter> {
        let memory = rustix::fs::memfd_create("errand", MemfdFlags::CLOEXEC);
        let mut memory = File::from(memory.map_err(SandboxError::system("memfd_create"))?);
        let text = serde_json::to_vec(self).unwrap_or_default();
        memory.write_all(&text).map_err(SandboxError::system("write the errand"))?;
        Ok(Letter { memory })
    }
}

impl Letter {
    /// What [`ERRAND`] is to be.
    pub fn address(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.memory.as_raw_fd())
    }
}

/// `migrate-init exec`: runs an [`Errand`] with its own stdin, stdout and stderr, and ends as the command ends (128 + n for
/// signal n, 126 or 127 where it could not be executed).
pub fn exec() -> ExitCode {
    let run = read().and_then(|errand| run(&errand));
    match run {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(126)
        }
    }
}

fn read() -> Result<Errand> {
    let address = std::env::var_os(ERRAND).unwrap_or_default();
    let text = std::fs::read(&address).map_err(SandboxError::file("read the errand", &address))?;
    serde_json::from_slice(&text)
        .map_err(|error| SandboxError::Protocol { who: "the agent", detail: format!("an errand: {error}") })
}

fn run(errand: &Errand) -> Result<u8> {
    let helper = open_process(rustix::process::getpid())?;
    match spawn::fork_with_pid(None, 0).map_err(SandboxError::system("clone3"))? {
        Some(keeper) => Ok(code(reap::await_end(keeper).map_err(SandboxError::system("waitpid"))?)),
        None => {
            let code = keep(errand, &helper).unwrap_or_else(|error| {
                eprintln!("{error}");
                126
            });
            std::process::exit(code.into())
        }
    }
}

fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code as u8,
        Exit::Signal(signal) => 128 + signal as u8,
    }
}

fn keep(errand: &Errand, helper: &OwnedFd) -> Result<u8> {
    setsid().map_err(SandboxError::system("setsid"))?;
    let doorway = Doorway::of(errand.init)?;
    let own = own_namespaces(errand.main)?;
    enter::join(&errand.groups)?;
    let group = errand.beside.as_deref().map(Beside::create).transpose()?;
    let keeper = open_process(rustix::process::getpid())?;
    doorway.children_go_in()?;
    let Some(child) = spawn::fork_with_pid(None, 0).map_err(SandboxError::system("clone3"))? else {
        let error = go(errand, &doorway, &own, group.as_ref(), &keeper);
        eprintln!("{error}");
        std::process::exit(127)
    };
    let ended = await_either(child, helper);
    if let Some(group) = group {
        group.end();
    }
    ended.map(code)
}

/// Waits for the command's end, or for the helper's, with which the command ends too.
fn await_either(child: Pid, helper: &OwnedFd) -> Result<Exit> {
    let command = rustix::process::Pid::from_raw(child.as_raw()).map(open_process).transpose()?;
    loop {
        let watched = command.iter().chain([helper]);
        let mut fds: Vec<PollFd<'_>> = watched.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        let woken = poll(&mut fds, PollTimeout::NONE);
        if let Some((_, exit)) = reap::take_ended(child).map_err(SandboxError::system("waitpid"))? {
            return Ok(exit);
        }
        if woken.is_ok() && has_ended(helper) {
            let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
            return reap::await_end(child).map_err(SandboxError::system("waitpid"));
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

fn open_process(pid: rustix::process::Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(SandboxError::system("pidfd_open"))
}

fn own_namespaces(main: i32) -> Result<Vec<File>> {
    let open = |which: &str| {
        let path = format!("/proc/{main}/ns/{which}");
        File::open(&path).map_err(SandboxError::file("open", path))
    };
    Ok(vec![open("ipc")?, open("uts")?])
}

/// Only returns where it failed.
fn go(errand: &Errand, doorway: &Doorway, own: &[File], group: Option<&Beside>, keeper: &OwnedFd) -> SandboxError {
    let entered = (|| -> Result<()> {
        if let Some(group) = group {
            enter::join(&[group.procs()])?;
        }
        setsid().map_err(SandboxError::system("setsid"))?;
        for namespace in own {
            setns(namespace, CloneFlags::empty()).map_err(SandboxError::system("setns"))?;
        }
        doorway.step_through().map_err(SandboxError::system("enter the sandbox"))
    })();
    match entered {
        Err(error) => error,
        Ok(()) => spawn::become_command(&errand.command, keeper),
    }
}
