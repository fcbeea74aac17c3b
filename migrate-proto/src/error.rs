//! The one error that crosses the wire and the API. What happens inside a module has that module's own error type.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of thing went wrong: stable, for programs. Append variants only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A bad argument, a bad configuration, or something that is not there yet.
    Usage,
    /// No workload of that name.
    UnknownWorkload,
    /// No node of that name.
    UnknownNode,
    /// The workload is already there.
    SameNode,
    /// The name is in use.
    NameTaken,
    /// The workload is in a state that does not allow this.
    WrongState,
    /// Another move of the same workload is going on.
    Busy,
    /// The peer did not answer.
    PeerDown,
    /// The peer has another cluster key, or a certificate that does not name it.
    PeerUntrusted,
    /// The peer speaks no version that we speak.
    PeerVersion,
    /// There is no usable CRIU.
    CriuMissing,
    /// The target's CRIU, kernel or CPU cannot take what the source's made.
    Incompatible,
    /// Too little memory.
    NoMemory,
    /// Too little disk.
    NoDisk,
    /// A mapped file is missing on the target, or differs.
    FileMismatch,
    /// The workload ended while it was being moved.
    WorkloadEnded,
    /// CRIU could not dump the workload.
    DumpFailed,
    /// CRIU could not restore the workload.
    RestoreFailed,
    /// Bytes arrived damaged, or not all of them.
    Corrupt,
    /// The connection was lost.
    LinkLost,
    /// It took longer than allowed.
    TimedOut,
    /// Somebody asked for it to stop.
    Cancelled,
    /// The command to run does not exist or cannot be executed.
    CannotExecute,
    /// A failure of the agent or the machine: the message says which.
    Internal,
    /// It is not known where the workload may run; it stays frozen until a person or the record says.
    Unknown,
    /// The workload's memory went with a node that lost its power. Its files are there: a person decides whether to start it afresh.
    Lost,
}

impl Code {
    /// The exit code of `migrate` for this error.
    pub fn exit_code(self) -> u8 {
        match self {
            Code::Usage | Code::UnknownWorkload | Code::UnknownNode | Code::SameNode | Code::NameTaken => 2,
            Code::Unknown | Code::Lost => 3,
            _ => 1,
        }
    }
}

/// What failed, where things stand now, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// For people: what failed, and where the workload is now.
    pub message: String,
    /// For people: what to do. May be empty.
    #[serde(default)]
    pub hint: String,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), hint: String::new() }
    }

    /// Something of ours failed that nobody expected to fail.
    pub fn internal(what: impl fmt::Display) -> Problem {
        Problem::new(Code::Internal, what.to_string())
    }

    /// The same problem with a hint.
    pub fn hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: hint.into(), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
