//! What raft's own figures say about how this node stands.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_proto::cluster::lease::Voters;
use migrate_proto::cluster::{ClusterId, VoterId};
use openraft::{RaftMetrics, ServerState};
use tokio::time::Instant;

use crate::ownership::{Standing, State};
use crate::types::{Place, config_id};

/// How many entries a member may lack and still count as having the record.
const A_LITTLE: u64 = 200;

/// Raft's figures for everybody else. `said` is when raft said it: what it says about time counts from then.
pub(crate) fn standing(
    metrics: &RaftMetrics<u64, Place>,
    cluster: ClusterId,
    said: Instant,
    fresh: Duration,
) -> (Standing, Option<Instant>) {
    let stored = &metrics.membership_config;
    let members = stored.membership();
    let sets: Vec<BTreeSet<VoterId>> =
        members.get_joint_config().iter().map(|set| set.iter().copied().map(VoterId).collect()).collect();
    let me = VoterId(metrics.id);
    let alone = !sets.is_empty() && sets.iter().all(|set| *set == [me].into());
    let leader = metrics.state == ServerState::Leader;
    // What was agreed before this node led is in its record when the first entry of its own term is.
    let current = metrics.last_applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term);
    let acked = metrics.millis_since_quorum_ack.and_then(|ago| said.checked_sub(Duration::from_millis(ago)));
    let until = acked.map(|acked| acked + fresh).filter(|_| leader && !alone);
    let heard = alone || until.is_some_and(|until| Instant::now() < until);
    let standing = Standing {
        me,
        cluster: Some(cluster),
        state: state(metrics.state),
        leader: metrics.current_leader.map(VoterId),
        term: metrics.current_term,
        leads: leader && current && heard && sets.iter().any(|set| set.contains(&me)),
        voters: Voters { config: stored.log_id().as_ref().map(config_id).unwrap_or_default(), sets },
        members: members.nodes().map(|(id, place)| (VoterId(*id), place.clone())).collect(),
        caught_up: caught_up(metrics),
        trouble: None,
    };
    (standing, until)
}

fn state(state: ServerState) -> State {
    match state {
        ServerState::Learner => State::Learner,
        ServerState::Follower => State::Follower,
        ServerState::Candidate => State::Candidate,
        ServerState::Leader => State::Leader,
        ServerState::Shutdown => State::Stopped,
    }
}

/// The members that lack no more than a little, as far as the leader knows; nobody on other nodes.
pub(crate) fn caught_up(metrics: &RaftMetrics<u64, Place>) -> BTreeSet<VoterId> {
    let last = metrics.last_log_index.unwrap_or(0);
    let close = |index: u64| last.saturating_sub(index) <= A_LITTLE;
    let progress = metrics.replication.iter().flatten();
    progress.filter(|(_, upto)| upto.is_some_and(|upto| close(upto.index))).map(|(id, _)| VoterId(*id)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use openraft::{CommittedLeaderId, Membership, StoredMembership};

    use super::*;

    const CLUSTER: ClusterId = ClusterId([1; 16]);
    const FRESH: Duration = Duration::from_millis(400);

    fn id(term: u64, node: u64, index: u64) -> openraft::LogId<u64> {
        openraft::LogId::new(CommittedLeaderId::new(term, node), index)
    }

    fn leader_of(voters: &[u64]) -> RaftMetrics<u64, Place> {
        let mut metrics = RaftMetrics::new_initial(1);
        let nodes: std::collections::BTreeMap<u64, Place> = voters.iter().map(|id| (*id, Place::default())).collect();
        let membership = Membership::new(vec![voters.iter().copied().collect()], nodes);
        metrics.membership_config = Arc::new(StoredMembership::new(Some(id(3, 1, 9)), membership));
        metrics.state = ServerState::Leader;
        metrics.current_leader = Some(1);
        metrics.current_term = 4;
        metrics.last_applied = Some(id(4, 1, 500));
        metrics.last_log_index = Some(500);
        metrics.millis_since_quorum_ack = Some(100);
        metrics.replication =
            Some([(1, Some(id(4, 1, 500))), (2, Some(id(4, 1, 300))), (3, Some(id(4, 1, 299)))].into());
        metrics
    }

    fn leads(metrics: &RaftMetrics<u64, Place>) -> bool {
        standing(metrics, CLUSTER, Instant::now(), FRESH).0.leads
    }

    #[tokio::test]
    async fn only_a_leader_that_was_just_heard_leads() {
        let metrics = leader_of(&[1, 2, 3]);
        assert!(leads(&metrics));
        assert!(!leads(&RaftMetrics { millis_since_quorum_ack: Some(400), ..metrics.clone() }), "that was long ago");
        assert!(!leads(&RaftMetrics { millis_since_quorum_ack: None, ..metrics.clone() }), "never");
        let stale = Instant::now() - Duration::from_millis(301);
        assert!(!standing(&metrics, CLUSTER, stale, FRESH).0.leads, "raft said so a while ago");
        assert!(!leads(&RaftMetrics { state: ServerState::Follower, ..metrics.clone() }));
        let behind = RaftMetrics { last_applied: Some(id(3, 2, 499)), ..metrics };
        assert!(!leads(&behind), "its record lacks what was agreed before");
        assert!(leads(&RaftMetrics { millis_since_quorum_ack: None, ..leader_of(&[1]) }), "a sole voter asks nobody");
    }

    #[tokio::test]
    async fn who_lacks_much_has_not_caught_up() {
        let (standing, _) = standing(&leader_of(&[1, 2, 3]), CLUSTER, Instant::now(), FRESH);
        assert_eq!(standing.caught_up, [VoterId(1), VoterId(2)].into());
        assert!(standing.votes());
        assert_eq!(standing.voters.sets, [[1, 2, 3].map(VoterId).into()]);
    }

    #[test]
    fn entries_of_two_leaders_of_one_term_are_told_apart_in_order() {
        let (low, high) = (0x11 << 56, 0x22 << 56);
        let places = [id(1, high, 70), id(2, low, 5), id(2, low, 9), id(2, high, 5), id(3, low, 1)];
        assert!(places.windows(2).all(|pair| pair[0] < pair[1] && config_id(&pair[0]) < config_id(&pair[1])));
    }
}
