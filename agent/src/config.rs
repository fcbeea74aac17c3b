//! The agent's configuration: from a file, the environment and flags; the later wins.
//!
//! [`settings`] is the one table of what can be set: the command line, the documentation (`docs/configuration.md`) and
//! the checks are made from it. [`sources`] reads the three places into words, not looking at what they mean;
//! [`values`] says what a word may be. A mistake is answered with where it is and what would be right, and exit code 2.

pub mod cluster;
pub mod settings;
mod sources;
mod values;

#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use migrate_proto::care::retain::Retention;
use migrate_proto::handover::Budgets;
use migrate_proto::name::NodeName;
use thiserror::Error;
use tracing::Level;

use crate::checkpoint::Keeping;
use crate::drain;
use crate::logging::Format;
use settings::Setting;
use sources::{Given, Origin};
use values::BadValue;

pub use cluster::ClusterConfig;
pub use values::Peer;

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of this node.
    pub node: NodeName,
    /// Where other agents reach this one.
    pub listen: SocketAddr,
    /// The other agents; never this node. Empty in a cluster, which knows its members.
    pub peers: Vec<Peer>,
    /// How this node is one of a cluster; `None` where it is alone or has peers.
    pub cluster: Option<ClusterConfig>,
    /// What survives a restart of the machine.
    pub state: PathBuf,
    /// What need not survive it.
    pub run: PathBuf,
    /// Where `migrate` reaches this agent.
    pub socket: PathBuf,
    /// The cluster key's file.
    pub key: PathBuf,
    /// Below which cgroup workloads live; relative to the hierarchy's root.
    pub cgroup: PathBuf,
    /// Paths that no workload may see.
    pub hide: Vec<PathBuf>,
    /// CRIU's program: a path, or a name to look for in `PATH`.
    pub criu: PathBuf,
    /// How long a workload that is stopped has before it is killed.
    pub stop_timeout: Duration,
    /// How long a lost connection to a peer is tried again before the move is given up.
    pub link_timeout: Duration,
    /// How long requests may go on when the agent ends.
    pub shutdown_timeout: Duration,
    /// How long each phase of a move may take.
    pub budgets: Budgets,
    /// How many checkpoints are kept, and how much they may take.
    pub keeping: Keeping,
    /// How often the newest checkpoint of each workload is restored for a test; never where absent.
    pub prove_every: Option<Duration>,
    /// When this node drains by itself.
    pub drains: drain::Settings,
    /// Where else they are kept.
    pub depots: Vec<migrate_depot::Address>,
    /// The credentials for that; the environment has them where absent.
    pub depot_credentials: Option<PathBuf>,
    /// Where moves look for a FIFO to wait at, in rehearsals.
    pub halts: Option<PathBuf>,
    /// The log's level.
    pub log_level: Level,
    /// The log's form.
    pub log_format: Format,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The command line cannot be understood, or asked for help.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("line {line} of {path}: {message}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The file has a key that the agent does not know.
    #[error("line {line} of {path}: there is no setting '{key}'; there are {}", settings::keys())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What.
        key: String,
    },
    /// The file has a number, a table or something else where text belongs.
    #[error("line {line} of {path}: '{key}' must be {wanted}, not {found}")]
    WrongType {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Which setting.
        key: &'static str,
        /// What belongs there.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A value is not what the setting takes.
    #[error("{origin}: '{key}' {reason}")]
    Value {
        /// Where it was said.
        origin: Origin,
        /// Which setting.
        key: &'static str,
        /// What is wrong with it.
        reason: BadValue,
    },
}

impl ConfigError {
    /// Tells the person and ends the process: with 2, or with 0 where help was asked for.
    pub fn exit(self) -> ! {
        match self {
            ConfigError::Arguments(error) => error.exit(),
            error => {
                eprintln!("error: {error}\nhint: `migrate-agent --help` lists the settings");
                std::process::exit(2)
            }
        }
    }
}

impl Config {
    /// The configuration of this process.
    pub fn load() -> Result<Config, ConfigError> {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Config::from(std::env::args_os(), std::env::vars_os(), host)
    }

    /// The configuration that these arguments (the program's name first), this environment and the file that they
    /// name amount to, on a machine of the name `host`.
    pub fn from(
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        host: OsString,
    ) -> Result<Config, ConfigError> {
        Config::check(&sources::gather(args, environment)?, host)
    }

    fn check(given: &Given, host: OsString) -> Result<Config, ConfigError> {
        let run = given.one(&settings::RUN, values::path)?;
        let node = match given.said(&settings::NODE) {
            true => given.one(&settings::NODE, values::name)?,
            false => values::host_name(host).map_err(|reason| given.wrong(&settings::NODE, reason))?,
        };
        let socket = match given.said(&settings::SOCKET) {
            true => given.one(&settings::SOCKET, values::socket)?,
            false => values::socket(run.join("agent.sock").into_os_string())
                .map_err(|reason| given.wrong(&settings::RUN, reason))?,
        };
        let mut peers = given.all(&settings::PEERS, values::peer)?;
        if let Some(twice) = values::first_repeated(peers.iter().map(|peer| &peer.node)) {
            return Err(given.wrong(&settings::PEERS, BadValue::Twice(twice.to_string())));
        }
        // So that all nodes of a cluster can be given the same list.
        peers.retain(|peer| peer.node != node);
        Ok(Config {
            cluster: ClusterConfig::check(given, &node)?,
            listen: given.one(&settings::LISTEN, values::listen)?,
            state: given.one(&settings::STATE, values::path)?,
            key: given.one(&settings::KEY, values::path)?,
            cgroup: given.one(&settings::CGROUP, values::cgroup)?,
            hide: given.all(&settings::HIDE, values::path)?,
            criu: given.one(&settings::CRIU, values::program)?,
            stop_timeout: given.one(&settings::STOP_TIMEOUT, values::duration)?,
            link_timeout: given.one(&settings::LINK_TIMEOUT, values::duration)?,
            shutdown_timeout: given.one(&settings::SHUTDOWN_TIMEOUT, values::duration)?,
            budgets: Config::budgets(given)?,
            keeping: Config::keeping(given)?,
            prove_every: Config::optional(given, &settings::PROVE_EVERY, values::prove_every)?,
            drains: Config::drains(given)?,
            depots: given.all(&settings::CHECKPOINT_STORE, values::depot)?,
            depot_credentials: Config::optional(given, &settings::CHECKPOINT_CREDENTIALS, values::path)?,
            halts: Config::optional(given, &settings::HALTS, values::path)?,
            log_level: given.one(&settings::LOG_LEVEL, values::level)?,
            log_format: given.one(&settings::LOG_FORMAT, values::format)?,
            node,
            peers,
            run,
            socket,
        })
    }

    /// The value of a setting that need not have one.
    fn optional<T>(
        given: &Given,
        setting: &Setting,
        parse: fn(OsString) -> Result<T, BadValue>,
    ) -> Result<Option<T>, ConfigError> {
        given.said(setting).then(|| given.one(setting, parse)).transpose()
    }

    fn keeping(given: &Given) -> Result<Keeping, ConfigError> {
        let count = given.one(&settings::CHECKPOINT_KEEP, values::count)?;
        let age = given.one(&settings::CHECKPOINT_AGE, values::duration)?;
        let retention = Retention { count, age_ms: age.as_millis() as u64 };
        Ok(Keeping {
            retention,
            bytes: given.one(&settings::CHECKPOINT_MAX_BYTES, values::size)?,
            copies: given.one(&settings::CHECKPOINT_REPLICAS, values::copies)?,
        })
    }

    fn drains(given: &Given) -> Result<drain::Settings, ConfigError> {
        let deadline = given.one(&settings::DRAIN_DEADLINE, values::duration)?;
        let drains = given.one(&settings::ON_TERMINATE, values::on_terminate)?;
        let notices = given.all(&settings::DRAIN_NOTICE, values::notice)?;
        Ok(drain::Settings { on_terminate: drains.then_some(deadline), notices, deadline })
    }

    fn budgets(given: &Given) -> Result<Budgets, ConfigError> {
        let limit = |setting| given.one(setting, values::budget);
        Ok(Budgets {
            talk: limit(&settings::TALK_LIMIT)?,
            prepare: limit(&settings::PREPARE_LIMIT)?,
            freeze: limit(&settings::FREEZE_LIMIT)?,
            transfer: limit(&settings::TRANSFER_LIMIT)?,
            verify: limit(&settings::VERIFY_LIMIT)?,
            restore: limit(&settings::RESTORE_LIMIT)?,
            decision: limit(&settings::COMMIT_REPEAT)?,
            again: limit(&settings::RESUME_REPEAT)?,
        })
    }
}

impl Given {
    /// The value of a setting that has one.
    fn one<T>(&self, setting: &Setting, parse: fn(OsString) -> Result<T, BadValue>) -> Result<T, ConfigError> {
        let word = self.words(setting).pop().unwrap_or_default();
        parse(word).map_err(|reason| self.wrong(setting, reason))
    }

    /// The values of a setting that is a list.
    fn all<T>(&self, setting: &Setting, parse: fn(OsString) -> Result<T, BadValue>) -> Result<Vec<T>, ConfigError> {
        let values: Result<_, BadValue> = self.words(setting).into_iter().map(parse).collect();
        values.map_err(|reason| self.wrong(setting, reason))
    }

    fn wrong(&self, setting: &Setting, reason: BadValue) -> ConfigError {
        ConfigError::Value { origin: self.origin(setting), key: setting.key, reason }
    }
}
