//! Running iproute2, nft and nsenter.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use thiserror::Error;

/// Why a tool did not do it.
#[derive(Debug, Error)]
pub(crate) enum ToolError {
    #[error("`{command}` cannot be run: {source}")]
    Start { command: String, source: io::Error },
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
}

impl ToolError {
    /// Whether the tool said that what it should remove or change is not there.
    pub(crate) fn is_absent(&self) -> bool {
        let absent = ["Cannot find device", "No such file or directory", "No such process", "Cannot delete qdisc"];
        matches!(self, ToolError::Failed { said, .. } if absent.iter().any(|words| said.contains(words)))
    }
}

/// Runs a command to its end.
pub(crate) fn run(argv: &[impl AsRef<OsStr>]) -> Result<(), ToolError> {
    let shown = || argv.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let [program, args @ ..] = argv else { return Ok(()) };
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ToolError::Start { command: shown(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(ToolError::Failed { command: shown(), said })
}

/// The same; that the thing is not there is as good.
pub(crate) fn run_if_there(argv: &[impl AsRef<OsStr>]) -> Result<(), ToolError> {
    match run(argv) {
        Err(failure) if failure.is_absent() => Ok(()),
        other => other,
    }
}

/// The words of a command that runs in the network namespace of `pid`.
pub(crate) fn in_network_of(pid: i32, words: &str) -> Vec<String> {
    let prefix = ["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net"), "--".to_owned()];
    prefix.into_iter().chain(words.split_whitespace().map(str::to_owned)).collect()
}
