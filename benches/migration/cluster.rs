//! A lab whose nodes are a cluster, for the figures about nodes that die and links that fail.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use migrate_proto::api::{CheckpointView, Event, NodeState, NodeView, WorkloadView};

use crate::beacon::Beacon;
use crate::lab::{Lab, Node};
use crate::observer::wait;
use crate::tell;

/// The pace for those who need it: what is asked of the network and the machines is in docs/operations.md.
pub(crate) const FAST: [(&str, &str); 6] = [
    ("MIGRATE_LEASE", "600ms"),
    ("MIGRATE_SWIM_PERIOD", "200ms"),
    ("MIGRATE_SWIM_RTT", "60ms"),
    ("MIGRATE_SWIM_SUSPICION", "800ms"),
    ("MIGRATE_RAFT_HEARTBEAT", "60ms"),
    ("MIGRATE_RAFT_ELECTION", "160ms/260ms"),
];

/// A cluster in a lab, and where its nodes share files.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    shared: PathBuf,
}

impl Cluster {
    /// Starts one, with these settings for its agents.
    pub(crate) fn up(place: &Path, programs: &Path, nodes: u8, settings: &[(&str, &str)]) -> Result<Cluster> {
        let shared = place.join("shared");
        std::fs::create_dir_all(&shared)?;
        let lab = Lab::cluster(place, programs, nodes, settings)?;
        let cluster = Cluster { lab, shared };
        cluster.wait_for_all()?;
        Ok(cluster)
    }

    pub(crate) fn down(self) -> Result<()> {
        self.lab.down()?;
        Ok(std::fs::remove_dir_all(&self.shared)?)
    }

    /// A workload that shines, on this node, with these options of `run`.
    pub(crate) fn beacon(&self, name: &str, on: &str, mib: usize, options: &[&str]) -> Result<Beacon> {
        let file = self.shared.join(name);
        let volume = format!("{}:/shared", self.shared.display());
        let options = [&["--on", on][..], &["--volume", &volume], options].concat();
        self.lab.run_specimen(name, &options, &["beacon", &format!("/shared/{name}"), "--mib", &mib.to_string()])?;
        let beacon = Beacon::in_file(file);
        beacon.shines()?;
        Ok(beacon)
    }

    /// Takes a checkpoint, and waits until two other nodes have it.
    pub(crate) fn checkpoint(&self, name: &str) -> Result<CheckpointView> {
        let taken: CheckpointView = serde_json::from_str(&self.lab.migrate(["--json", "checkpoint", name])?)?;
        let enough = self.nodes()?.len().min(3);
        wait(|| {
            let all: Vec<CheckpointView> = serde_json::from_str(&self.lab.migrate(["--json", "checkpoints", name])?)?;
            let kept = all.iter().any(|view| view.id == taken.id && view.nodes.len() >= enough);
            let last = self.workload(name)?.last_checkpoint;
            Ok((kept && last.is_some_and(|last| last.replicas as usize >= enough)).then_some(()))
        })
        .context("a checkpoint did not get to other nodes")?;
        Ok(taken)
    }

    /// The directory that all nodes see, as workloads get it as a volume.
    pub(crate) fn shared(&self) -> &Path {
        &self.shared
    }

    /// A workload as somebody has it.
    pub(crate) fn workload(&self, name: &str) -> Result<WorkloadView> {
        let views: Vec<WorkloadView> = serde_json::from_str(&self.lab.migrate(["--json", "ps"])?)?;
        views.into_iter().find(|view| view.name.as_str() == name).with_context(|| format!("{name} is nowhere"))
    }

    /// The nodes as somebody sees them.
    pub(crate) fn nodes(&self) -> Result<Vec<NodeView>> {
        Ok(serde_json::from_str(&self.lab.migrate(["--json", "nodes"])?)?)
    }

    /// The nodes as this node sees them.
    pub(crate) fn nodes_by(&self, node: &str) -> Result<Vec<NodeView>> {
        Ok(serde_json::from_str(&self.lab.migrate(["--json", "--node", node, "nodes"])?)?)
    }

    /// Waits until every node takes every other for alive, knows who leads, and that three vote: until then the first one alone does.
    pub(crate) fn wait_for_all(&self) -> Result<()> {
        let all = self.lab.nodes()?;
        wait(|| {
            let well = |view: &NodeView| view.state == NodeState::Alive;
            let fits = |node: &Node| -> Result<bool> {
                let views = self.nodes_by(&node.name)?;
                let voters = views.iter().filter(|view| view.voter).count();
                let is_led = voters >= 3 && views.iter().any(|view| view.leader);
                Ok(views.len() == all.len() && views.iter().all(well) && is_led)
            };
            for node in &all {
                // One that has just been started may not answer yet.
                if !fits(node).unwrap_or(false) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .context("the cluster is not whole")
    }

    /// Who leads, as somebody knows it.
    pub(crate) fn leader(&self) -> Result<String> {
        wait(|| Ok(self.nodes()?.into_iter().find(|view| view.leader).map(|view| view.name.to_string())))
    }

    /// What has happened, on all nodes.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        let lines = self.lab.migrate(["--json", "events"])?;
        lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

/// Does it so many times, and says how far it is.
pub(crate) fn repeat(what: &str, runs: usize, mut once: impl FnMut(usize) -> Result<()>) -> Result<()> {
    (0..runs).try_for_each(|run| {
        tell(format_args!("{what}, {} of {runs}", run + 1));
        once(run).with_context(|| format!("{what}, run {}", run + 1))
    })
}
