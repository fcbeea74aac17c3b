//! Why a command did not do what was asked, and the exit code that says so.

use std::path::PathBuf;

use migrate_proto::api::ErrorBody;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use thiserror::Error;

use crate::cli::run::RunError;
use crate::client::ClientError;
use crate::command::key::KeyError;
use crate::command::key::rotation::RotationError;
use crate::lab::LabError;
use crate::show::answer::{self, AnswerError};
use crate::show::remark::Remarks;

/// What was typed was not understood: the answer in JSON. In words clap tells it.
pub(crate) fn tell_misuse(error: &clap::Error) {
    let whole = error.to_string();
    let what = whole.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // Where stdout cannot take it there is nobody left to tell.
    let _ =
        answer::json(&ErrorBody { error: Problem::new(Code::Usage, what).hint("migrate --help says what there is") });
}

/// A command that failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("{what} is not there yet")]
    NotThereYet { what: &'static str },
    #[error("--force does not go together with a command")]
    ForceWithCommand,
    #[error("there is no workload on {node} to move")]
    NothingToMove { node: String },
    #[error("there are {} workloads on {node}: {}", names.len(), joined(names))]
    WhichOne { node: String, names: Vec<WorkloadName> },
    #[error("there is no workload named {}", joined(names))]
    NoSuchWorkload { names: Vec<WorkloadName>, silent: Vec<NodeName> },
    #[error("there is no workload named {}", joined(names))]
    NotListed { names: Vec<WorkloadName> },
    #[error("the agent sent output that is no base64: {0}")]
    Encoding(#[from] base64::DecodeError),
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
    #[error("no random bytes from {}: {source}", path.display())]
    Random { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("not done within the time that --timeout allows")]
    TimedOut,
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Lab(#[from] LabError),
}

fn joined(names: &[WorkloadName]) -> String {
    names.iter().map(WorkloadName::as_str).collect::<Vec<_>>().join(", ")
}

impl Failure {
    /// The exit code of `migrate`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::NotThereYet { .. } | Failure::ForceWithCommand | Failure::Run(_) => 2,
            Failure::NothingToMove { .. } | Failure::WhichOne { .. } => 2,
            Failure::NoSuchWorkload { .. } | Failure::NotListed { .. } => 2,
            Failure::Key(_) => 2,
            Failure::Client(failure) => failure.exit_code(),
            Failure::Lab(failure) => failure.exit_code(),
            // The reader has what it wanted.
            Failure::Answer(failure) if failure.is_reader_gone() => 0,
            Failure::Answer(_) | Failure::Encoding(_) | Failure::Runtime(_) => 1,
            Failure::Random { .. } | Failure::File { .. } | Failure::TimedOut | Failure::Rotation(_) => 1,
        }
    }

    fn hint(&self) -> String {
        match self {
            Failure::WhichOne { .. } => "name the one to move: migrate --force NAME".to_owned(),
            Failure::ForceWithCommand => "migrate --force NAME [--to NODE]".to_owned(),
            Failure::NoSuchWorkload { silent, .. } if !silent.is_empty() => {
                let silent = silent.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
                format!("it may be on a node that does not answer: {silent}")
            }
            Failure::NoSuchWorkload { .. } | Failure::NotListed { .. } => "migrate ps lists what there is".to_owned(),
            Failure::Client(ClientError::Refused(problem)) => problem.hint.clone(),
            Failure::Client(failure) if failure.lost_the_agent() => {
                "is migrate-agent running here? --socket PATH and --node NODE name another; migrate lab up starts a lab"
                    .to_owned()
            }
            Failure::Lab(failure) => failure.hint(),
            Failure::Rotation(failure) => failure.hint(),
            _ => String::new(),
        }
    }

    /// What kind of thing went wrong, for programs.
    fn code(&self) -> Code {
        match self {
            Failure::NoSuchWorkload { .. } => Code::UnknownWorkload,
            Failure::Client(ClientError::Refused(problem)) => problem.code,
            Failure::Client(failure) if failure.lost_the_agent() => Code::PeerDown,
            Failure::TimedOut => Code::TimedOut,
            _ if self.exit_code() == 2 => Code::Usage,
            _ => Code::Internal,
        }
    }

    /// Tells it on stderr; with `--json` the answer is the problem, as the API gives it.
    pub(crate) fn tell(&self, remarks: &Remarks, json: bool) {
        if matches!(self, Failure::Answer(failure) if failure.is_reader_gone()) {
            return;
        }
        remarks.tell_failure(&self.to_string(), None, &self.hint());
        // The rest of the list is an answer already.
        if json && !matches!(self, Failure::NotListed { .. }) {
            // Where stdout cannot take it there is nobody left to tell.
            let _ = answer::json(&ErrorBody { error: Problem::new(self.code(), self.to_string()).hint(self.hint()) });
        }
    }
}
