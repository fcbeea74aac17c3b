//! Going into a sandbox: its mount and PID namespaces, with its root as root.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use migrate_proto::api::Exit;
use migrate_proto::text::Text;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize};

use crate::control::Command;
use crate::error::{Result, SandboxError};
use crate::init::spawn;
use crate::reap;

/// A sandbox's namespaces, opened from outside by the PID of its init.
#[derive(Debug)]
pub struct Doorway {
    pid_namespace: File,
    mount_namespace: File,
}

impl Doorway {
    /// Opens the namespaces of the sandbox whose PID 1 is `init` here.
    pub fn of(init: i32) -> Result<Doorway> {
        let open = |which: &str| {
            let path = format!("/proc/{init}/ns/{which}");
            File::open(&path).map_err(SandboxError::file("open", path))
        };
        Ok(Doorway { pid_namespace: open("pid")?, mount_namespace: open("mnt")? })
    }

    /// Children of the caller will be in the sandbox's PID namespace; the caller itself stays where it is.
    pub fn children_go_in(&self) -> Result<()> {
        setns(&self.pid_namespace, CloneFlags::CLONE_NEWPID).map_err(SandboxError::system("setns(pid)"))
    }

    /// The caller's files are the sandbox's from now on. Not for processes with threads.
    pub fn step_through(&self) -> io::Result<()> {
        setns(&self.mount_namespace, CloneFlags::CLONE_NEWNS)?;
        // setns has made the namespace's root the caller's root already; this says so for the working directory.
        chroot("/")?;
        chdir("/")?;
        Ok(())
    }
}

/// Joins control groups by their `cgroup.procs` files.
pub fn join(groups: &[impl AsRef<Path>]) -> Result<()> {
    for path in groups {
        std::fs::write(path, "0").map_err(SandboxError::file("join", path))?;
    }
    Ok(())
}

/// Executes a program; only returns where that failed.
pub(crate) fn execute(argv: &[Text], env: &[(&str, &str)]) -> Result<std::convert::Infallible> {
    let c_string = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| SandboxError::Protocol { who: "the agent", detail: "a NUL byte".into() })
    };
    let argv: Vec<CString> = argv.iter().map(|arg| c_string(arg.as_bytes())).collect::<Result<_>>()?;
    let env: Vec<CString> =
        env.iter().map(|(name, value)| c_string(format!("{name}={value}").as_bytes())).collect::<Result<_>>()?;
    let Some(program) = argv.first() else {
        return Err(SandboxError::Protocol { who: "the agent", detail: "no program".into() });
    };
    nix::unistd::execve(program, &argv, &env).map_err(SandboxError::file("execute", program.to_string_lossy().as_ref()))
}

/// The environment variable that carries an [`Errand`] to `migrate-init exec`.
pub const ERRAND: &str = "MIGRATE_ERRAND";

/// A command to run beside a workload, in its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The sandbox's PID 1, as the caller's namespace numbers it.
    pub init: i32,
    /// The workload's first process, whose IPC and UTS namespaces the command shares.
    pub main: Option<i32>,
    /// `cgroup.procs` files to join.
    pub groups: Vec<PathBuf>,
    /// What to run.
    pub command: Command,
}

/// `migrate-init exec`: runs an [`Errand`] with its own stdin, stdout and stderr, and ends as the command ends (128 + n for
/// signal n, 126 or 127 where it could not be executed).
pub fn exec() -> ExitCode {
    let errand = std::env::var(ERRAND).ok().and_then(|text| serde_json::from_str::<Errand>(&text).ok());
    let Some(errand) = errand else {
        eprintln!("{ERRAND} holds no errand");
        return ExitCode::from(126);
    };
    match run(&errand) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(126)
        }
    }
}

fn run(errand: &Errand) -> Result<u8> {
    let doorway = Doorway::of(errand.init)?;
    let own = errand.main.map(open_own_namespaces).transpose()?.unwrap_or_default();
    join(&errand.groups)?;
    doorway.children_go_in()?;
    let Some(child) = spawn::fork_with_pid(None, 0).map_err(SandboxError::system("clone3"))? else {
        let error = go(errand, &doorway, &own);
        eprintln!("{error}");
        std::process::exit(127)
    };
    Ok(match reap::await_end(child).map_err(SandboxError::system("waitpid"))? {
        Exit::Code(code) => code as u8,
        Exit::Signal(signal) => 128 + signal as u8,
    })
}

fn open_own_namespaces(main: i32) -> Result<Vec<File>> {
    let open = |which: &str| {
        let path = format!("/proc/{main}/ns/{which}");
        File::open(&path).map_err(SandboxError::file("open", path))
    };
    Ok(vec![open("ipc")?, open("uts")?])
}

/// Only returns where it failed.
fn go(errand: &Errand, doorway: &Doorway, own: &[File]) -> SandboxError {
    let entered = (|| -> Result<()> {
        // The command ends with whoever asked for it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(SandboxError::system("prctl"))?;
        for namespace in own {
            setns(namespace, CloneFlags::empty()).map_err(SandboxError::system("setns"))?;
        }
        doorway.step_through().map_err(SandboxError::system("enter the sandbox"))
    })();
    match entered {
        Err(error) => error,
        Ok(()) => spawn::become_command(&errand.command),
    }
}
