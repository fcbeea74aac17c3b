//! `migrate key …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use migrate_proto::key::Fingerprint;

/// Where an agent looks for its key unless told otherwise.
const DEFAULT_FILE: &str = "/etc/migrate/cluster.key";

/// Cluster keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a new cluster key; never overwrites
    New {
        /// Where to
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Replace the key of a running cluster, step by step; without a step: where that stands
    ///
    /// First `--add` on one node, and copy the file to all others; then `--promote KEY` on each node; then `--retire KEY` on each.
    /// Each step changes this machine's file and no other; agents read it by themselves. No connection is lost.
    Rotate(RotateOptions),
}

/// What was typed after `key rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateOptions {
    /// Put a new key into the file; it is trusted from then on
    #[arg(long, group = "step")]
    add: bool,
    /// Prove this node with this key, which all nodes trust already
    #[arg(long, value_name = "KEY", group = "step")]
    promote: Option<Fingerprint>,
    /// Trust this key no longer, which no node proves itself with any more
    #[arg(long, value_name = "KEY", group = "step")]
    retire: Option<Fingerprint>,
    /// Ask no agent whether all nodes are ready for it
    #[arg(long, requires = "step")]
    pub(crate) unchecked: bool,
    /// The key file of this machine
    #[arg(default_value = DEFAULT_FILE)]
    pub(crate) file: PathBuf,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Look,
    Add,
    Promote(Fingerprint),
    Retire(Fingerprint),
}

impl RotateOptions {
    pub(crate) fn step(&self) -> Step {
        match (self.add, &self.promote, &self.retire) {
            (true, ..) => Step::Add,
            (_, Some(key), _) => Step::Promote(key.clone()),
            (.., Some(key)) => Step::Retire(key.clone()),
            _ => Step::Look,
        }
    }
}
