//! `migrate lab …`, and the two hidden commands as which the lab's own processes run.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use migrate_proto::name::NodeName;

use super::quantity;

/// A cluster on one machine. Its directory is $MIGRATE_LAB, or /var/tmp/migrate-lab.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Start a lab; its nodes are node1, node2, …
    Up(Up),
    /// End the lab and remove everything it made
    Down,
    /// What the lab consists of
    Status,
    /// Run a command on a node; ends with the command's exit code
    Exec {
        /// Which node
        node: NodeName,
        /// The command
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
    /// Power loss: every process of the node at once
    Kill {
        /// Which node
        node: NodeName,
    },
    /// Boot a node again after `kill`
    Start {
        /// Which node
        node: NodeName,
    },
    /// SIGKILL to the node's agent only; it is started again
    Crash {
        /// Which node
        node: NodeName,
    },
    /// SIGSTOP to everything on the node
    Pause {
        /// Which node
        node: NodeName,
    },
    /// SIGCONT to everything on the node
    Resume {
        /// Which node
        node: NodeName,
    },
    /// Network partition: one node from all others, or two nodes from each other
    Cut {
        /// NODE, or NODE:NODE
        #[arg(value_name = "NODE[:NODE]", value_parser = parse_cut)]
        what: Cut,
    },
    /// End all faults: of the network, and full disks
    Heal,
    /// A narrow link
    Slow {
        /// Which node
        node: NodeName,
        /// How narrow, such as 100mbit
        #[arg(long, value_name = "RATE", value_parser = quantity::bits_per_second)]
        rate: u64,
    },
    /// Packet loss: of all that the node sends
    Drop {
        /// Which node
        node: NodeName,
        /// How many of a hundred packets vanish
        #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(1..=99))]
        percent: u8,
    },
    /// A full disk, on a lab whose nodes have disks of their own (`lab up --disk`)
    Fill {
        /// Which node
        node: NodeName,
    },
}

/// What kind of lab to start.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) nodes: u8,
    /// Memory of each node; without, all that the host has
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub(crate) memory: Option<u64>,
    /// Give each node a disk of this size of its own; without, they share the host's
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub(crate) disk: Option<u64>,
    /// Make the nodes a cluster that looks after its members; without, each has a list of peers
    #[arg(long)]
    pub(crate) cluster: bool,
}

/// What `lab cut` cuts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cut {
    /// One node from all others.
    Node(NodeName),
    /// Two nodes from each other.
    Pair(NodeName, NodeName),
}

fn parse_cut(text: &str) -> Result<Cut, String> {
    let name = |part: &str| part.parse::<NodeName>().map_err(|e| e.to_string());
    match text.split_once(':') {
        None => Ok(Cut::Node(name(text)?)),
        Some((one, other)) if one == other => Err("a node cannot be cut from itself".to_owned()),
        Some((one, other)) => Ok(Cut::Pair(name(one)?, name(other)?)),
    }
}

/// Which lab's switch to be.
#[derive(Debug, Args)]
pub(crate) struct SwitchOptions {
    /// The lab's directory
    #[arg(long)]
    pub(crate) lab: PathBuf,
}

/// Which node to make.
#[derive(Debug, Args)]
pub(crate) struct NodeOptions {
    /// The lab's directory
    #[arg(long)]
    pub(crate) lab: PathBuf,
    /// The node
    #[arg(long)]
    pub(crate) name: NodeName,
    /// Set where this process is already inside the new namespaces
    #[arg(long)]
    pub(crate) inside: bool,
}
