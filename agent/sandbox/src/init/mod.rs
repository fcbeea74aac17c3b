//! PID 1 of a sandbox: it holds the namespaces, starts the workload, reaps, and answers the agent.
//!
//! A second thread, the `leash`, holds the workload while the node has no lease for it.
//!
//! It depends on nobody: the agent may die and come back. It never runs code of the workload's, never allocates without
//! bound, and treats every failed request as an answer, never as a reason to end: when it ends, the kernel ends everything
//! in the sandbox.

mod hidden;
mod imitation;
mod leash;
mod main_loop;
mod mounts;
mod network;
mod notify;
mod powers;
mod requests;
pub(crate) mod spawn;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork, pipe, setsid};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SandboxError};
use crate::plan::Plan;
use crate::process::Identity;
use crate::{enter, nearby};

/// How the socket of a sandbox's PID 1 is called in its directory.
pub(crate) const SOCKET: &str = "control.sock";
/// Who PID 1 is.
pub(crate) const IDENTITY: &str = "sandbox.json";
/// Where PID 1 writes how the workload ended.
pub(crate) const EXIT_FILE: &str = "exit.json";

/// What [`launch`] says on its stdout.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Launched {
    /// PID 1 is there and answers; as the caller sees it.
    Ready { init: Identity },
    /// It could not be set up.
    Failed { reason: String },
}

/// `migrate-init init`: reads a [`Plan`] from stdin, leaves a sandbox behind, and says on stdout which process holds it.
pub fn launch() -> std::process::ExitCode {
    let outcome = read_plan().and_then(|plan| leave_init_behind(&plan));
    let said = match outcome {
        Ok(init) => Launched::Ready { init },
        Err(error) => Launched::Failed { reason: error.to_string() },
    };
    let failed = matches!(said, Launched::Failed { .. });
    let written = serde_json::to_vec(&said).map(|line| std::io::stdout().write_all(&line));
    if failed || !matches!(written, Ok(Ok(()))) {
        std::process::ExitCode::FAILURE
    } else {
        std::process::ExitCode::SUCCESS
    }
}

fn read_plan() -> Result<Plan> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(SandboxError::system("read the plan"))?;
    serde_json::from_str(&text)
        .map_err(|error| SandboxError::Protocol { who: "the agent", detail: format!("a plan: {error}") })
}

/// Forks PID 1, writes down who that is, and waits until it is ready. Its last words, if it has any, come through a pipe. It does
/// nothing before it stands in its directory, and ends where that does not come about: nobody would find it.
#[allow(unsafe_code)]
fn leave_init_behind(plan: &Plan) -> Result<Identity> {
    enter::join(&plan.side_cgroup)?;
    setsid().map_err(SandboxError::system("setsid"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).map_err(SandboxError::system("unshare"))?;
    if plan.alone {
        network::be_alone()?;
    }
    let (reader, writer) = pipe().map_err(SandboxError::system("pipe"))?;
    let (told, tell) = pipe().map_err(SandboxError::system("pipe"))?;
    // SAFETY: this program has one thread.
    match unsafe { fork() }.map_err(SandboxError::system("fork"))? {
        ForkResult::Child => {
            drop((reader, tell));
            be_init(plan, told, writer);
        }
        ForkResult::Parent { child } => {
            drop((writer, told));
            let init = Identity::of(child.as_raw()).map_err(SandboxError::file("look at", format!("/proc/{child}")))?;
            write_down(&plan.dir, init)?;
            File::from(tell).write_all(b"go").map_err(SandboxError::system("write to init"))?;
            let mut words = String::new();
            File::from(reader).read_to_string(&mut words).map_err(SandboxError::system("read from init"))?;
            match words.strip_prefix("ready") {
                Some(_) => Ok(init),
                None if words.is_empty() => {
                    Err(SandboxError::Init { step: "start".into(), reason: "its init died without a word".into() })
                }
                None => Err(SandboxError::Init { step: "set itself up".into(), reason: words }),
            }
        }
    }
}

fn write_down(dir: &Path, init: Identity) -> Result<()> {
    let (draft, path) = (dir.join("sandbox.draft"), dir.join(IDENTITY));
    let text = serde_json::to_vec(&init).unwrap_or_default();
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path));
    written.map_err(SandboxError::file("write", &path))
}

fn be_init(plan: &Plan, told: OwnedFd, parent: OwnedFd) -> ! {
    if File::from(told).read_exact(&mut [0; 2]).is_err() {
        std::process::exit(1);
    }
    let mut parent = File::from(parent);
    match set_up(plan, parent.as_raw_fd()) {
        Ok(parts) => {
            let _ = parent.write_all(b"ready");
            drop(parent);
            main_loop::run(parts)
        }
        Err(error) => {
            let _ = parent.write_all(error.to_string().as_bytes());
            std::process::exit(1)
        }
    }
}

/// What the main loop works with.
pub(crate) struct Parts {
    listener: UnixListener,
    /// The sandbox's directory: out of sight after the pivot, but this descriptor still reaches it. It is of a mount of its own,
    /// so that nothing above the directory can be reached through it.
    directory: File,
    house: mounts::House,
    leash: leash::Leashed,
}

fn set_up(plan: &Plan, parent: i32) -> Result<Parts> {
    spawn::close_from(3, &[parent]);
    mounts::make_private()?;
    let directory = File::from(mounts::take(&plan.dir, false)?);
    let listener = nearby::listen(&plan.dir, SOCKET).map_err(SandboxError::file("listen at", plan.dir.join(SOCKET)))?;
    spawn::output_to_null()?;
    // What it needs is out of sight after the pivot.
    let leash = leash::Leashed::start(&plan.lease)?;
    let house = mounts::House::build(plan)?;
    Ok(Parts { listener, directory, house, leash })
}
