//! What can be typed. The contract is that nothing typed is ever silently ignored: what is parsed here and not done yet is
//! refused by [`not_there_yet`].

pub(crate) mod care;
pub(crate) mod cluster;
pub(crate) mod key;
pub(crate) mod lab;
pub(crate) mod not_there_yet;
pub(crate) mod quantity;
pub(crate) mod run;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use migrate_proto::api::Mode;
use migrate_proto::name::{NodeName, WorkloadName};

use not_there_yet::NotThereYet;

/// Moves running processes between Linux machines.
///
/// Exit codes: 0 done; 1 failed, the workload runs where it was; 2 usage or configuration; 3 needs a person; 4 no agent answers.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) everywhere: Everywhere,
    #[command(flatten)]
    pub(crate) forced: ForcedMove,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Everywhere {
    /// The agent's socket [default: $MIGRATE_SOCKET, or /run/migrate/agent.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Ask the agent of this node: of a running lab, or of the cluster
    #[arg(long, global = true, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    /// Answer in JSON; what `lab exec` runs answers as it does
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but answers and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Give up after this long, such as 10s
    #[arg(long, global = true, value_name = "DUR", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// `migrate --force NAME`: a flag of the command itself, because it is what the command is for.
#[derive(Debug, Args)]
pub(crate) struct ForcedMove {
    /// Move NAME now, whatever policy thinks; on a node with one workload NAME may be left out
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    pub(crate) force: Option<Option<WorkloadName>>,
    /// Where to [default: the healthiest peer]
    #[arg(long, value_name = "NODE", requires = "force")]
    pub(crate) to: Option<NodeName>,
    /// How memory is carried
    #[arg(long, value_name = "MODE", requires = "force")]
    pub(crate) mode: Option<ModeName>,
}

/// [`Mode`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeName {
    /// Whatever is best
    Auto,
    /// All memory during the freeze
    Stream,
    /// Most memory before the freeze
    Ahead,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Mode {
        match name {
            ModeName::Auto => Mode::Auto,
            ModeName::Stream => Mode::Stream,
            ModeName::Ahead => Mode::Ahead,
        }
    }
}

/// Everything but `--force`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a workload; prints its name
    Run(Box<run::RunOptions>),
    /// What runs where
    Ps {
        /// Only these
        names: Vec<WorkloadName>,
    },
    /// The stdout and stderr of a workload, which travel with it
    Logs {
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// Only the last N lines
        #[arg(long, value_name = "N")]
        tail: Option<u64>,
        /// Which workload
        name: WorkloadName,
    },
    /// Run a command beside a workload, in its sandbox; ends with the command's exit code
    Exec {
        /// Do not read stdin
        #[arg(short = 'n', long)]
        no_stdin: bool,
        /// Which workload
        name: WorkloadName,
        /// The command
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
    /// End a workload; it stays in the list
    Stop {
        /// How long it may take to end by itself before it is killed, such as 10s
        #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
        grace: Option<Duration>,
        /// Which workload
        name: WorkloadName,
    },
    /// Start a stopped workload again
    Start {
        /// Which workload
        name: WorkloadName,
    },
    /// Remove a stopped workload and its files
    Rm {
        /// Also when it runs
        #[arg(short, long)]
        force: bool,
        /// Which workload
        name: WorkloadName,
    },
    /// Move a workload, if policy allows
    Move {
        /// Which workload
        name: WorkloadName,
        /// Where to [default: the healthiest peer]
        #[arg(long, value_name = "NODE")]
        to: Option<NodeName>,
        /// How memory is carried
        #[arg(long, value_name = "MODE", default_value = "auto")]
        mode: ModeName,
    },
    /// Would it move? Changes nothing
    ///
    /// Exit codes: 0 yes; 1 no, or unlikely: then only the attempt can tell, and it fails without harm; 2 there is no such workload
    /// or node; 4 no agent answers.
    Check {
        /// Which workload
        name: WorkloadName,
        /// Where to [default: the healthiest peer]
        #[arg(long, value_name = "NODE")]
        to: Option<NodeName>,
    },
    /// Why a workload is where it is
    Why {
        /// Which workload
        name: WorkloadName,
    },
    /// The nodes of the cluster
    Nodes {
        /// Something else than to list them
        #[command(subcommand)]
        command: Option<cluster::NodesCommand>,
    },
    /// The cluster's record: a backup, and the way back when a majority of those who vote is lost for good
    #[command(subcommand, arg_required_else_help = true)]
    Cluster(cluster::ClusterCommand),
    /// What happened, one line each
    Events {
        /// Go on with what happens from now on
        #[arg(short, long)]
        follow: bool,
        /// Only what is younger than this, such as 5m
        #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
        since: Option<Duration>,
    },
    /// Cluster keys
    #[command(subcommand, arg_required_else_help = true)]
    Key(key::KeyCommand),
    /// A cluster on one machine
    #[command(subcommand, arg_required_else_help = true)]
    Lab(lab::LabCommand),
    /// Keep a checkpoint of a workload, which runs on
    Checkpoint {
        /// Which workload
        name: WorkloadName,
    },
    /// The checkpoints that are kept
    Checkpoints {
        /// Restore the newest one for a test first: up to its first instruction, in a sandbox that is alone, and thrown away
        #[arg(long, requires = "name")]
        prove: bool,
        /// Of which workload [default: of all]
        name: Option<WorkloadName>,
    },
    /// Bring a workload back from a checkpoint: what it did since then is lost
    Restore {
        /// Which checkpoint, or how its identity begins [default: the newest that can be used]
        #[arg(long, value_name = "ID")]
        checkpoint: Option<String>,
        /// Make a second workload of it, under this name
        #[arg(long = "as", value_name = "NEW")]
        as_new: Option<WorkloadName>,
        /// Where: a node that has the checkpoint, or can fetch it [default: where the workload is]
        #[arg(long, value_name = "NODE")]
        on: Option<NodeName>,
        /// Although a node does not answer that may have the workload: it must not run there any more
        #[arg(long)]
        force: bool,
        /// Which workload
        name: WorkloadName,
    },
    /// Move everything away from a node, which takes nothing new
    Drain {
        /// How long that may take, such as 30s: what cannot be moved by then is checkpointed to another node
        #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
        deadline: Option<Duration>,
        // Not `node`: that is the option of all commands.
        /// Which node
        #[arg(value_name = "NODE")]
        drained: NodeName,
    },
    /// Let a node take workloads again
    Undrain {
        /// Which node
        #[arg(value_name = "NODE")]
        drained: NodeName,
    },
    /// Live view (not there yet)
    Top(NotThereYet),
    /// Faults on purpose (not there yet)
    Simulate(NotThereYet),
    /// The process that holds the lab's bridge
    #[command(hide = true)]
    LabSwitch(lab::SwitchOptions),
    /// The process that is a lab node's PID 1
    #[command(hide = true)]
    LabNode(lab::NodeOptions),
}
