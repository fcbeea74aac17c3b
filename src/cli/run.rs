//! `migrate run`: from its options to the request that an agent understands. Arguments, variables and paths stay bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use migrate_proto::api::RunRequest;
use migrate_proto::name::{InvalidName, NodeName, WorkloadName};
use migrate_proto::spec::{User, Volume, WorkloadSpec, default_layer_bytes};
use migrate_proto::text::Text;
use thiserror::Error;

use super::care::{CareError, CareOptions};
use super::quantity;

/// Options of `migrate run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Its name [default: made from CMD]
    #[arg(long)]
    name: Option<WorkloadName>,
    /// Where [default: the node of the agent that is asked]
    #[arg(long, value_name = "NODE")]
    on: Option<NodeName>,
    /// Let the cluster choose the node; it waits until one has room
    #[arg(long, conflicts_with_all = ["on", "root"])]
    queue: bool,
    /// Of those that wait the one with the highest goes first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i16>,
    /// How many other nodes keep each of its checkpoints, in a cluster [default: what the agents are told]
    #[arg(long, value_name = "K")]
    replicas: Option<u8>,
    /// Who it runs as, numeric; GID is UID where left out [default: 0:0]
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<User>,
    /// Add to its environment
    #[arg(long, value_name = "K=V")]
    env: Vec<OsString>,
    /// Its working directory [default: /work]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// A path that every node has (shared storage); it does not travel
    #[arg(long, value_name = "SRC:DST[:ro]")]
    volume: Vec<OsString>,
    /// A root file system of its own [default: the node's, read-only]
    #[arg(long, value_name = "PATH|TAR")]
    root: Option<PathBuf>,
    /// Memory limit
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    memory: Option<u64>,
    /// CPU limit
    #[arg(long, value_name = "N", value_parser = quantity::cpu_milli)]
    cpus: Option<u32>,
    /// Network: only `host` for now
    #[arg(long, value_name = "host|own")]
    net: Option<String>,
    #[command(flatten)]
    care: CareOptions,
    #[command(flatten)]
    later: Later,
    /// What to run
    #[arg(last = true, required = true, value_name = "CMD")]
    argv: Vec<OsString>,
}

/// Options of the contract that come later: parsed so that they can be refused by name.
#[derive(Debug, Args)]
struct Later {
    #[arg(long, hide = true)]
    ip: Option<OsString>,
    #[arg(long, hide = true)]
    group: Option<OsString>,
}

/// Why a `run` was refused before anybody was asked.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error("run {option} is not there yet")]
    NotThereYet { option: &'static str },
    #[error("'{given}' is no value of {option}: use {allowed}")]
    BadChoice { option: &'static str, given: String, allowed: &'static str },
    #[error("--env '{given}' is not of the form K=V")]
    BadVariable { given: Text },
    #[error("--volume '{given}' is not of the form SRC:DST or SRC:DST:ro with absolute paths")]
    BadVolume { given: Text },
    #[error("--dir '{given}' is not an absolute path")]
    BadDirectory { given: Text },
    #[error("the current directory, from which --root is meant, cannot be read: {0}")]
    NoCurrentDirectory(std::io::Error),
    #[error("a NUL byte in an argument")]
    Nul,
    #[error("the program's name is empty")]
    NoProgram,
    #[error(transparent)]
    Care(#[from] CareError),
    #[error("no name could be made from the command: {0}")]
    NoName(#[from] InvalidName),
}

fn parse_user(text: &str) -> Result<User, &'static str> {
    const EXPECTED: &str = "a numeric UID or UID:GID is expected";
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |part: &str| part.parse().ok().filter(|id| *id != u32::MAX).ok_or(EXPECTED);
    Ok(User { uid: number(uid)?, gid: number(gid)? })
}

fn text(bytes: impl Into<Vec<u8>>) -> Result<Text, RunError> {
    Text::new(bytes).ok_or(RunError::Nul)
}

impl RunOptions {
    /// Whether the name is ours to choose.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.name.is_none()
    }

    /// The request. `asked_node` is the node that `--node` named; `suffix` makes a chosen name unlikely to be taken.
    pub(crate) fn request(&self, asked_node: Option<&NodeName>, suffix: &str) -> Result<RunRequest, RunError> {
        self.refuse_what_comes_later()?;
        let program = self.argv.first().filter(|program| !program.is_empty()).ok_or(RunError::NoProgram)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_from(program, suffix)?,
        };
        let spec = WorkloadSpec {
            name,
            argv: self.argv.iter().map(|arg| text(arg.as_bytes())).collect::<Result<_, _>>()?,
            env: self.env.iter().map(|given| variable(given)).collect::<Result<_, _>>()?,
            dir: self.dir.as_deref().map(directory).transpose()?,
            user: self.user,
            volumes: self.volume.iter().map(|given| volume(given)).collect::<Result<_, _>>()?,
            own_root: false,
            memory_bytes: self.memory,
            cpu_milli: self.cpus,
            layer_bytes: default_layer_bytes(),
        };
        let on = self.on.as_ref().or(asked_node).filter(|_| !self.queue).cloned();
        let root = self.root.as_deref().map(absolute).transpose()?;
        let (queue, priority) = (self.queue, self.priority.unwrap_or(0));
        Ok(RunRequest { spec, on, root, care: self.care.wish()?, queue, priority, replicas: self.replicas })
    }

    fn refuse_what_comes_later(&self) -> Result<(), RunError> {
        refuse_choice("--net", self.net.as_deref(), "host", |given| given == "own")?;
        let given = [("--ip", self.later.ip.is_some()), ("--group", self.later.group.is_some())];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(RunError::NotThereYet { option }),
            None => Ok(()),
        }
    }
}

/// Of an option with several choices only one is there yet.
fn refuse_choice(
    option: &'static str,
    given: Option<&str>,
    there: &'static str,
    comes_later: impl Fn(&str) -> bool,
) -> Result<(), RunError> {
    match given {
        Some(given) if comes_later(given) => Err(RunError::NotThereYet { option }),
        Some(given) if given != there => {
            Err(RunError::BadChoice { option, given: given.escape_debug().to_string(), allowed: there })
        }
        _ => Ok(()),
    }
}

/// A name from the program's: `/usr/bin/Python3.11` with suffix `1f` becomes `python3-11-1f`.
fn name_from(program: &OsStr, suffix: &str) -> Result<WorkloadName, InvalidName> {
    let base = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let plain: String =
        base.chars().map(|c| c.to_ascii_lowercase()).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let stem = plain.trim_matches('-');
    let stem = if stem.is_empty() { "workload" } else { stem };
    format!("{}-{suffix}", &stem[..stem.len().min(40)]).parse()
}

fn variable(given: &OsStr) -> Result<(Text, Text), RunError> {
    let bytes = given.as_bytes();
    match bytes.iter().position(|b| *b == b'=') {
        Some(at) if at > 0 => Ok((text(&bytes[..at])?, text(&bytes[at + 1..])?)),
        _ => Err(RunError::BadVariable { given: text(bytes)? }),
    }
}

fn volume(given: &OsStr) -> Result<Volume, RunError> {
    let parts: Vec<&[u8]> = given.as_bytes().split(|b| *b == b':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] => (source, target, false),
        [source, target, b"ro"] => (source, target, true),
        _ => return Err(RunError::BadVolume { given: text(given.as_bytes())? }),
    };
    if !source.starts_with(b"/") || !target.starts_with(b"/") {
        return Err(RunError::BadVolume { given: text(given.as_bytes())? });
    }
    Ok(Volume { source: text(source)?, target: text(target)?, read_only })
}

fn directory(given: &Path) -> Result<Text, RunError> {
    let given_text = text(given.as_os_str().as_bytes())?;
    if given.is_absolute() { Ok(given_text) } else { Err(RunError::BadDirectory { given: given_text }) }
}

fn absolute(given: &Path) -> Result<Text, RunError> {
    let path = std::path::absolute(given).map_err(RunError::NoCurrentDirectory)?;
    text(path.into_os_string().into_vec())
}
