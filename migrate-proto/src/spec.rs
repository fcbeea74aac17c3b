//! What `migrate run` asked for. It travels with the workload, and a later start uses it again.

use serde::{Deserialize, Serialize};

use crate::name::WorkloadName;
use crate::text::Text;

/// A workload as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Its name.
    pub name: WorkloadName,
    /// Program and arguments; never empty.
    pub argv: Vec<Text>,
    /// Added to a small clean environment (PATH, HOME, LANG, MIGRATE_NAME).
    #[serde(default)]
    pub env: Vec<(Text, Text)>,
    /// Working directory inside the sandbox; `/work` where absent.
    #[serde(default)]
    pub dir: Option<Text>,
    /// Who it runs as; root where absent.
    #[serde(default)]
    pub user: Option<User>,
    /// Shared storage that every node has.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Whether it has a root file system of its own, which is part of its layer; else it sees the node's, read-only.
    #[serde(default)]
    pub own_root: bool,
    /// Memory limit.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// CPU limit, in thousandths of a core.
    #[serde(default)]
    pub cpu_milli: Option<u32>,
    /// How large the layer may become.
    #[serde(default = "default_layer_bytes")]
    pub layer_bytes: u64,
}

/// 8 GiB: the layer's file is sparse, so this costs nothing until it is written.
pub fn default_layer_bytes() -> u64 {
    8 << 30
}

/// Numeric user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A path that every node has; it does not travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// On the node.
    pub source: Text,
    /// In the sandbox.
    pub target: Text,
    /// Whether the workload may only read it.
    pub read_only: bool,
}
