//! The ways back: a node that is lost for good, and a majority of those who vote.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use migrate_proto::name::NodeName;

/// `migrate nodes …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// Wait no more for a node that is lost for good: its machine may never come back with its old state
    ///
    /// The node must not answer, and its lease must have ended: then what it owned is brought back elsewhere, and it votes no more. Nothing is risked. Where
    /// the machine lives after all, its state directory has to be emptied before it may join again.
    Forget {
        // Not `node`: that is the option of all commands.
        /// Which node
        #[arg(value_name = "NODE")]
        lost: NodeName,
    },
}

/// `migrate cluster …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Write the cluster's record to a file: who is a member, what should run, who owns it
    Backup {
        /// Where to; it is replaced
        file: PathBuf,
    },
    /// Begin a new cluster with this node, when a majority of those who vote is lost for good
    ///
    /// What was decided after the backup, or never reached this node, is lost. TWO COPIES of a workload run if any other node of the old cluster runs on: each must be off, or
    /// its state directory emptied, before this is said. The other nodes join the new cluster with an empty state directory.
    Rebuild(RebuildOptions),
}

/// Options of `migrate cluster rebuild`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true)))]
pub(crate) struct RebuildOptions {
    /// From this backup
    #[arg(long, value_name = "FILE", group = "source")]
    pub(crate) from: Option<PathBuf>,
    /// From what this node knows itself
    #[arg(long, group = "source")]
    pub(crate) from_here: bool,
    /// Every other node is off, or wiped; without this it is only said what would happen
    #[arg(long)]
    pub(crate) i_am_sure: bool,
}
