//! What the agent is told about its cluster, and whether it makes sense together.

use std::time::Duration;

use migrate_members::BadSettings;
use migrate_ownership::EtcdAddress;
use migrate_proto::cluster::lease::{BadTerms, Terms};
use migrate_proto::name::NodeName;

use super::settings::{self, Setting};
use super::sources::Given;
use super::values::{self, BadValue, Peer};
use super::{Config, ConfigError};

/// How long a lease is that is kept in etcd, where nobody says it: each renewal is written by a majority of etcd's servers.
const LEASE_IN_ETCD: Duration = Duration::from_secs(5);

/// How this node finds its cluster, and at which pace the cluster lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Those that begin the cluster, this node among them. The first one begins it.
    pub members: Vec<Peer>,
    /// Where a member may be found; whoever joins begins nothing.
    pub join: Vec<String>,
    /// Where the others reach this node, where that was said.
    pub advertise: Option<String>,
    /// The etcd that keeps the record, where the nodes do not.
    pub etcd: Option<EtcdAddress>,
    /// The pace of looking after each other.
    pub swim: migrate_members::Settings,
    /// The length of leases, and how wrong clocks may go.
    pub terms: Terms,
    /// The pace of agreeing.
    pub raft: RaftPace,
}

/// The pace of agreeing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftPace {
    /// How often the leader is heard.
    pub heartbeat: Duration,
    /// How long a leader may be silent, at least and at most.
    pub election: (Duration, Duration),
}

/// How long before the end of a lease workloads are frozen: many times what their inits were ever seen to be late.
const FREEZE_MARGIN: Duration = Duration::from_millis(150);

impl ClusterConfig {
    /// How long before the end of a lease workloads are frozen; of a short lease not more than a sixth.
    pub fn freeze_margin(&self) -> Duration {
        FREEZE_MARGIN.min(Duration::from_nanos(self.terms.lease()) / 6)
    }

    /// What was said, if it is that this node is one of a cluster.
    pub(super) fn check(given: &Given, node: &NodeName) -> Result<Option<ClusterConfig>, ConfigError> {
        let members = given.all(&settings::MEMBERS, values::peer)?;
        let join = given.all(&settings::JOIN, values::address)?;
        let etcd = given.one(&settings::OWNERSHIP, values::ownership)?;
        let cluster = ClusterConfig {
            advertise: Config::optional(given, &settings::ADVERTISE, values::address)?,
            swim: swim(given)?,
            terms: terms(given, etcd.is_some())?,
            etcd,
            raft: raft(given)?,
            members,
            join,
        };
        fits(given, &settings::LEASE, cluster.terms.lease() >= 2 * cluster.swim.period.as_nanos() as u64, || {
            "it must be at least twice 'swim_period'".to_owned()
        })?;
        if cluster.members.is_empty() && cluster.join.is_empty() {
            return match cluster.etcd {
                Some(_) => Err(given.wrong(&settings::OWNERSHIP, BadValue::WithoutCluster)),
                None => Ok(None),
            };
        }
        if !cluster.members.is_empty() && !cluster.join.is_empty() {
            return Err(given.wrong(&settings::JOIN, BadValue::WithMembers));
        }
        if let Some(twice) = values::first_repeated(cluster.members.iter().map(|member| &member.node)) {
            return Err(given.wrong(&settings::MEMBERS, BadValue::Twice(twice.to_string())));
        }
        if !cluster.members.is_empty() && !cluster.members.iter().any(|member| member.node == *node) {
            return Err(given.wrong(&settings::MEMBERS, BadValue::WithoutMe(node.clone())));
        }
        if given.said(&settings::PEERS) {
            return Err(given.wrong(&settings::PEERS, BadValue::WithCluster));
        }
        Ok(Some(cluster))
    }

    /// Where the list of members says that this node is.
    pub fn listed(&self, node: &NodeName) -> Option<&str> {
        self.members.iter().find(|member| member.node == *node).map(|member| member.address.as_str())
    }
}

fn swim(given: &Given) -> Result<migrate_members::Settings, ConfigError> {
    let swim = migrate_members::Settings {
        period: given.one(&settings::SWIM_PERIOD, values::duration)?,
        rtt: given.one(&settings::SWIM_RTT, values::duration)?,
        suspicion: given.one(&settings::SWIM_SUSPICION, values::duration)?,
        ..migrate_members::Settings::default()
    };
    swim.check().map_err(|bad| {
        let setting = match bad {
            BadSettings::Suspicion { .. } => &settings::SWIM_SUSPICION,
            BadSettings::Period { .. } | BadSettings::Zero(_) => &settings::SWIM_PERIOD,
        };
        given.wrong(setting, BadValue::Unfit(bad.to_string()))
    })?;
    // A pace that is not the usual one is passed on at that pace.
    let gossip_every = (swim.period * 3 / 10).max(Duration::from_millis(1));
    Ok(migrate_members::Settings { gossip_every, ..swim })
}

fn terms(given: &Given, etcd: bool) -> Result<Terms, ConfigError> {
    let lease = given.one(&settings::LEASE, values::duration)?;
    let lease = if etcd && !given.said(&settings::LEASE) { LEASE_IN_ETCD } else { lease };
    let rho = given.one(&settings::CLOCK_BOUND, values::parts_per_million)?;
    let nanos = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
    Terms::new(nanos, rho).map_err(|bad| {
        let setting = match bad {
            BadTerms::Lease { .. } => &settings::LEASE,
            BadTerms::Rates { .. } => &settings::CLOCK_BOUND,
        };
        given.wrong(setting, BadValue::Unfit(bad.to_string()))
    })
}

fn raft(given: &Given) -> Result<RaftPace, ConfigError> {
    let heartbeat = given.one(&settings::RAFT_HEARTBEAT, values::duration)?;
    let election = given.one(&settings::RAFT_ELECTION, values::span)?;
    fits(given, &settings::RAFT_ELECTION, election.0 > 2 * heartbeat, || {
        "its first half must be more than twice 'raft_heartbeat'".to_owned()
    })?;
    Ok(RaftPace { heartbeat, election })
}

fn fits(given: &Given, setting: &Setting, does: bool, else_why: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if does { Ok(()) } else { Err(given.wrong(setting, BadValue::Unfit(else_why()))) }
}

#[cfg(test)]
mod tests;
