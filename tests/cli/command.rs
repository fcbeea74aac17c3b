//! Running the command without letting anything of this machine in: no lab, no agent but the one that is named.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// `migrate`, which knows of no agent and no lab.
pub(crate) fn migrate(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migrate"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("MIGRATE_LAB", "/nonexistent/lab").env_remove("MIGRATE_SOCKET").env_remove("NO_COLOR");
    command
}

/// `migrate` that asks the agent at `socket`.
pub(crate) fn asking(socket: &Path, words: &[&str]) -> Command {
    let mut command = migrate(words);
    command.env("MIGRATE_SOCKET", socket);
    command
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// stdout as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or_else(|| panic!("{:?}", output.status)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub(crate) fn said(mut command: Command) -> Said {
    command.output().unwrap().into()
}
