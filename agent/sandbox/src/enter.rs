//! Going into a sandbox: its mount, network and PID namespaces, with its root as root.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;

use migrate_proto::text::Text;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{chdir, chroot};

use crate::error::{Result, SandboxError};

/// A sandbox's namespaces, opened from outside by the PID of its init.
#[derive(Debug)]
pub struct Doorway {
    pid_namespace: File,
    mount_namespace: File,
    network: File,
}

impl Doorway {
    /// Opens the namespaces of the sandbox whose PID 1 is `init` here.
    pub fn of(init: i32) -> Result<Doorway> {
        let open = |which: &str| {
            let path = format!("/proc/{init}/ns/{which}");
            File::open(&path).map_err(SandboxError::file("open", path))
        };
        Ok(Doorway { pid_namespace: open("pid")?, mount_namespace: open("mnt")?, network: open("net")? })
    }

    /// Children of the caller will be in the sandbox's PID namespace; the caller itself stays where it is.
    pub fn children_go_in(&self) -> Result<()> {
        setns(&self.pid_namespace, CloneFlags::CLONE_NEWPID).map_err(SandboxError::system("setns(pid)"))
    }

    /// The caller's files and network are the sandbox's from now on. Not for processes with threads.
    pub fn step_through(&self) -> io::Result<()> {
        setns(&self.network, CloneFlags::CLONE_NEWNET)?;
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
