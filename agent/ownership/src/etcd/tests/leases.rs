//! Beats: whose lease is kept is not fenced, and what is fenced is over.

use std::time::Duration;

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::LogId;
use migrate_proto::cluster::record::{Applied, Record, Refusal};
use tokio::time::{Instant, sleep};

use super::{LONG, Nodes, PATIENCE, SHORT, finite, stands};
use crate::etcd::{BeatError, Etcd};
use crate::ownership::{Ownership, ProposeError, State};
use crate::suite::{confirmed, done, until_done};

fn fence(lapsed: &Claim) -> Command {
    Command::Fence { lapsed: lapsed.clone(), voters: LogId::default() }
}

async fn beaten(node: &Etcd, claim: &Claim) -> Result<(), BeatError> {
    let begun = Instant::now();
    loop {
        match node.beat(claim).await {
            Err(BeatError::Unanswered(_)) if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(10)).await,
            definite => return definite,
        }
    }
}

async fn lapses(node: &Etcd, claim: &Claim) {
    let begun = Instant::now();
    while node.has_lapsed(claim) != Some(true) {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_over_is_not_fenced() {
    let all = Nodes::with(2, 1, LONG).await;
    let claim = finite(&all.nodes[0], 0).await;
    for _ in 0..3 {
        beaten(&all.nodes[0], &claim).await.unwrap();
        for node in &all.nodes {
            assert_eq!(node.has_lapsed(&claim), Some(false));
            let refused = until_done(|| node.propose(fence(&claim))).await;
            assert_eq!(refused, Err(ProposeError::NotLapsed(claim.clone())));
        }
    }
    let endless = Claim { node: "nobody".parse().unwrap(), session: 1 };
    assert!(matches!(done(&*all.nodes[1], fence(&endless)).await, Err(Refusal::UnknownNode { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_silent_is_fenced_and_never_beats_again() {
    let all = Nodes::of(2, 1).await;
    let (owner, other) = (&all.nodes[0], &all.nodes[1]);
    let claim = finite(owner, 0).await;
    beaten(owner, &claim).await.unwrap();
    let sent = Instant::now();
    lapses(other, &claim).await;
    assert!(sent.elapsed() >= SHORT, "a lease from when it was sent, at least");
    assert_eq!(done(&**other, fence(&claim)).await, Ok(Applied::Changed));
    assert_eq!(done(&**other, fence(&claim)).await, Ok(Applied::AlreadySo));
    assert_eq!(beaten(owner, &claim).await, Err(BeatError::Over(claim.clone())));
    let next = finite(owner, 0).await;
    assert_eq!(next.session, claim.session + 1);
    assert_eq!(beaten(owner, &claim).await, Err(BeatError::Over(claim)), "also not when there is another session");
    beaten(owner, &next).await.unwrap();
}

/// The one who fences has not heard of it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_beat_that_comes_before_the_fence_is_written_wins() {
    let all = Nodes::of(2, 1).await;
    let (owner, other) = (&all.nodes[0], &all.nodes[1]);
    let claim = finite(owner, 0).await;
    lapses(other, &claim).await;
    let (command, shared) = (fence(&claim), &other.shared);
    let before = shared.read(&Record::entries_of(&command), shared.in_time()).await.unwrap();
    let mut after = before.record.clone();
    after.apply(before.number, &command).unwrap();
    let late = shared.transaction(&before, &after, &[&claim]).unwrap();
    // A holder would not believe it any more; but it is written.
    beaten(owner, &claim).await.unwrap();
    assert!(!shared.store.commit(late, shared.in_time()).await.unwrap().succeeded);
    assert!(!confirmed(&**other).await.nodes[&claim.node].fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_whose_answer_was_lost_is_found_again() {
    let all = Nodes::with(1, 1, Duration::from_secs(3)).await;
    let claim = finite(&all.nodes[0], 0).await;
    for _ in 0..3 {
        beaten(&all.nodes[0], &claim).await.unwrap();
        all.servers.stop(0).await;
        let lost = all.nodes[0].beat(&claim).await;
        all.servers.go_on(0);
        assert!(matches!(lost, Err(BeatError::Unanswered(_))), "{lost:?}");
    }
    beaten(&all.nodes[0], &claim).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_started_anew_goes_on_with_its_session() {
    let mut all = Nodes::with(1, 1, LONG).await;
    let claim = finite(&all.nodes[0], 0).await;
    beaten(&all.nodes[0], &claim).await.unwrap();
    all.start(1).await;
    beaten(&all.nodes[0], &claim).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_gone_another_leads() {
    let mut all = Nodes::of(3, 1).await;
    for _ in 0..2 {
        let led = stands(&all.nodes[0], |standing| standing.leader.is_some()).await;
        let at = all.nodes.iter().position(|node| Some(node.shared.me()) == led.leader).unwrap();
        stands(&all.nodes[at], |standing| standing.leads && standing.state == State::Leader).await;
        all.nodes.remove(at);
        let next = stands(&all.nodes[0], |standing| standing.leader.is_some() && standing.leader != led.leader).await;
        assert!(next.term > led.term);
    }
}
