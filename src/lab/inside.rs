//! Running a command on a node, as if somebody had logged in there.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use super::holder::Process;
use super::{LabError, detach};

/// Runs `argv` in all namespaces of the node; its exit code, as a shell would give it.
pub(super) fn exec(first: &Process, argv: &[OsString]) -> Result<u8, LabError> {
    let entered = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let failed = |source| LabError::Enter { pid: first.pid(), source };
    detach::keep_descriptors_to_ourselves().map_err(failed)?;
    setns(first.pidfd(), entered).map_err(|errno| failed(errno.into()))?;
    let [program, args @ ..] = argv else { return Ok(0) };
    // A PID namespace is entered by what is started after this.
    let status = Command::new(program)
        .args(args)
        .current_dir("/")
        .status()
        .map_err(|source| LabError::Exec { program: program.to_string_lossy().into_owned(), source })?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}
