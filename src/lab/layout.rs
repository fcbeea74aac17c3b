//! What a lab consists of: `lab.json` in its directory. Written before anything else is made, so that whatever exists can
//! be found and removed again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use migrate_proto::name::NodeName;
use serde::{Deserialize, Serialize};

use super::LabError;

/// Where agents listen inside their network namespace.
const AGENT_PORT: u16 = 7700;

/// The directory of the lab: $MIGRATE_LAB, or a fixed one.
pub(crate) fn lab_directory() -> PathBuf {
    std::env::var_os("MIGRATE_LAB").filter(|path| !path.is_empty()).map_or("/var/tmp/migrate-lab".into(), PathBuf::from)
}

/// A lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    /// Tells this lab's control groups from others'.
    pub(crate) id: String,
    /// The agent's program.
    pub(crate) agent: PathBuf,
    /// The nodes, in order.
    pub(crate) nodes: Vec<LabNode>,
    /// The size of each node's own disk, where it has one.
    #[serde(default)]
    pub(crate) disk: Option<u64>,
    /// The memory of each node, where it is limited.
    #[serde(default)]
    pub(crate) memory: Option<u64>,
    /// Whether its nodes are a cluster that finds its members; else each has a list of peers.
    #[serde(default)]
    pub(crate) cluster: bool,
    /// Faults that are in force.
    #[serde(default)]
    pub(crate) faults: Faults,
}

/// A node of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabNode {
    /// `node1`, …
    pub(crate) name: NodeName,
    /// Its address on the lab's network.
    pub(crate) address: Ipv4Addr,
}

/// Faults; they outlive a node's reboot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Faults {
    /// Cut from all others.
    pub(crate) cut_off: BTreeSet<NodeName>,
    /// Cut from each other; the smaller name first.
    pub(crate) cut_pairs: BTreeSet<(NodeName, NodeName)>,
    /// Narrow links, in bits a second.
    pub(crate) slow: BTreeMap<NodeName, u64>,
    /// How many of a hundred packets that a node sends vanish.
    #[serde(default)]
    pub(crate) drop: BTreeMap<NodeName, u8>,
    /// Full disks.
    #[serde(default)]
    pub(crate) filled: BTreeSet<NodeName>,
}

impl LabNode {
    /// `10.77.0.1:7700`.
    pub(crate) fn listen(&self) -> String {
        format!("{}:{AGENT_PORT}", self.address)
    }
}

impl Layout {
    /// A lab of `nodes` nodes.
    pub(crate) fn new(id: String, agent: PathBuf, nodes: u8) -> Result<Layout, LabError> {
        let node = |number| {
            let name = format!("node{number}").parse().map_err(LabError::Name)?;
            Ok(LabNode { name, address: Ipv4Addr::new(10, 77, 0, number) })
        };
        Ok(Layout {
            id,
            agent,
            nodes: (1..=nodes).map(node).collect::<Result<_, LabError>>()?,
            disk: None,
            memory: None,
            cluster: false,
            faults: Faults::default(),
        })
    }

    /// The lab in `directory`.
    pub(crate) fn load(directory: &Path) -> Result<Layout, LabError> {
        let path = file(directory);
        let text = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LabError::NoLab { directory: directory.to_owned() },
            _ => LabError::File { doing: "read", path: path.clone(), source },
        })?;
        serde_json::from_slice(&text).map_err(|source| LabError::Layout { path, source })
    }

    /// Replaces `lab.json`, whole.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), LabError> {
        let (path, new) = (file(directory), directory.join("lab.json.new"));
        let text = serde_json::to_vec_pretty(self).map_err(|source| LabError::Layout { path: path.clone(), source })?;
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).map_err(|source| LabError::File {
            doing: "write",
            path,
            source,
        })
    }

    /// The node of that name.
    pub(crate) fn node(&self, name: &NodeName) -> Result<&LabNode, LabError> {
        self.nodes.iter().find(|node| node.name == *name).ok_or_else(|| LabError::UnknownNode {
            name: name.clone(),
            known: self.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// The control group below which a node's workloads are.
    pub(crate) fn cgroup(&self, node: &NodeName) -> String {
        format!("{}/{node}", self.cgroup_of_all())
    }

    /// The control group of the whole lab.
    pub(crate) fn cgroup_of_all(&self) -> String {
        format!("migrate-lab-{}", self.id)
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("lab.json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_layout_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Layout::load(directory.path()), Err(LabError::NoLab { .. })));
        let mut layout = Layout::new("1f".into(), "/agent".into(), 2).unwrap();
        let pair = ("node1".parse().unwrap(), "node2".parse().unwrap());
        layout.faults.cut_pairs.insert(pair.clone());
        layout.save(directory.path()).unwrap();
        let read = Layout::load(directory.path()).unwrap();
        assert!(read.faults.cut_pairs.contains(&pair));
        assert_eq!(read.nodes[1].listen(), "10.77.0.2:7700");
        assert_eq!(read.cgroup(&read.nodes[0].name), "migrate-lab-1f/node1");
        assert!(matches!(read.node(&"node3".parse().unwrap()), Err(LabError::UnknownNode { .. })));
    }
}
