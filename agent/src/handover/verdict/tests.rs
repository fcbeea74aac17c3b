#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use migrate_ownership::{Joiner, Local, Ownership, Place};
use migrate_proto::cluster::record::{LoadPolicy, Record};
use migrate_proto::cluster::{Claim, ClusterId, Ticket};
use migrate_proto::id::{Epoch, HandoverId, StateMark};
use migrate_proto::name::WorkloadName;
use migrate_proto::version::SPOKEN;

use super::*;
use crate::tenure::Lease;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn load() -> WorkloadName {
    "web".parse().unwrap()
}

fn claim(name: &str) -> Claim {
    Claim { node: node(name), session: 1 }
}

fn terms() -> Terms {
    Terms { handover: HandoverId([7; 16]), workload: load(), from: node("node1"), to: node("node2"), epoch: Epoch(1) }
}

/// node1 owns `web`, node2 is there. The lease is node1's.
struct Stage {
    tenure: Arc<Tenure>,
    kept: Arc<Local>,
    _state: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Stage {
        let state = tempfile::tempdir().unwrap();
        let joiner = |number: u8, name: &str| Joiner {
            mark: StateMark([number; 8]),
            place: Place { name: node(name), address: format!("{name}:1") },
            versions: SPOKEN,
        };
        let file = state.path().join("record.json");
        let kept = Arc::new(Local::open(file, joiner(1, "node1"), ClusterId([1; 16])).await.unwrap());
        let admit = Command::Admit {
            node: node("node2"),
            mark: StateMark([2; 8]),
            address: "node2:1".into(),
            versions: SPOKEN,
            since: 0,
        };
        kept.propose(admit).await.unwrap();
        for (number, name) in [(1, "node1"), (2, "node2")] {
            let session = kept.confirm().await.unwrap().nodes[&node(name)].session;
            if session == 0 {
                let (node, mark) = (node(name), StateMark([number; 8]));
                kept.propose(Command::OpenSession { node, mark, after: 0, finite: true }).await.unwrap();
            }
        }
        let spec = serde_json::from_value(serde_json::json!({ "name": "web", "argv": ["sleep"] })).unwrap();
        let (ticket, policy, owner) = (Ticket(1), LoadPolicy::default(), Some(claim("node1")));
        kept.propose(Command::Declare { ticket, since: 0, spec, policy, owner, priority: 0 }).await.unwrap();
        kept.propose(Command::Began { load: load(), epoch: Epoch(1), by: claim("node1") }).await.unwrap();
        let tenure = Arc::new(Tenure::of_member(Duration::ZERO));
        tenure.set_lease(Lease::Held { claim: claim("node1"), finite: true });
        let (keeping, keeper): (_, Arc<dyn Ownership>) = (tenure.clone(), kept.clone());
        tokio::spawn(async move { keeping.keep(keeper).await });
        Stage { tenure, kept, _state: state }
    }

    async fn drain(&self, draining: bool) {
        let since = self.record().await.nodes[&node("node2")].since;
        self.kept.propose(Command::Drain { node: node("node2"), since, draining }).await.unwrap();
    }

    async fn record(&self) -> Arc<Record> {
        self.kept.confirm().await.unwrap()
    }

    async fn ask(&self, wish: Decision, is_here: bool) -> Verdict {
        ask(&self.tenure, &terms(), wish, is_here).await
    }
}

#[tokio::test]
async fn the_first_of_transfer_and_refusal_is_the_verdict() {
    let stage = Stage::new().await;
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Given);
    assert_eq!(stage.record().await.loads[&load()].owner, Some(node("node2")));
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Given, "asked again");
    assert_eq!(stage.ask(Decision::Abort, true).await, Verdict::Given, "too late");

    let stage = Stage::new().await;
    assert_eq!(stage.ask(Decision::Abort, true).await, Verdict::Kept);
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Kept, "too late");
    assert_eq!(stage.record().await.loads[&load()].owner, Some(node("node1")));
}

#[tokio::test]
async fn what_the_target_may_not_have_is_refused_before_it_goes_on() {
    let stage = Stage::new().await;
    stage.drain(true).await;
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Kept);
    // A proposal that was under way all the time comes too late.
    stage.drain(false).await;
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Kept);
    assert_eq!(stage.record().await.loads[&load()].refused, [terms().handover]);
}

#[tokio::test]
async fn without_a_lease_nothing_is_given_away() {
    let stage = Stage::new().await;
    stage.tenure.set_lease(Lease::Over);
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Kept);
}

#[tokio::test]
async fn what_is_not_here_any_more_can_only_go_on_there() {
    let stage = Stage::new().await;
    stage.drain(true).await;
    let asking = stage.ask(Decision::Commit, false);
    tokio::pin!(asking);
    let early = tokio::time::timeout(2 * AGAIN, &mut asking).await;
    assert!(early.is_err(), "{early:?}: the image is all there is");
    assert!(stage.record().await.loads[&load()].refused.is_empty());
    stage.drain(false).await;
    assert_eq!(asking.await, Verdict::Given);
}

#[tokio::test]
async fn what_was_taken_away_or_removed_meanwhile_is_neithers_by_this_move() {
    let stage = Stage::new().await;
    let by = claim("node1");
    stage.kept.propose(Command::Revive { load: load(), epoch: Epoch(1), by, from: None, lost_ms: None }).await.unwrap();
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Overtaken);
    assert_eq!(stage.ask(Decision::Abort, true).await, Verdict::Overtaken);

    let stage = Stage::new().await;
    let since = stage.record().await.loads[&load()].wished;
    let wish =
        Command::Wish { load: load(), epoch: Epoch(1), since, wish: migrate_proto::cluster::record::Wanted::Remove };
    let gone = Command::Gone { load: load(), epoch: Epoch(1), owner: node("node1"), session: Some(1) };
    stage.kept.propose(Command::Many(vec![wish, gone])).await.unwrap();
    assert_eq!(stage.ask(Decision::Commit, true).await, Verdict::Overtaken);
}

#[tokio::test]
async fn a_target_in_doubt_reads_the_verdict_in_the_record() {
    let offer: Offer = serde_json::from_value(serde_json::json!({
        "handover": terms().handover,
        "spec": { "name": "web", "argv": ["sleep"] },
        "epoch": 1, "from": "node1", "to": "node2",
        "memory_bytes": 1, "layer_bytes": 1, "layer_used_bytes": 1, "layer_block_bytes": 65536,
        "needs": { "criu_version": "", "kernel": "", "arch": "", "cpu_flags": [], "mapped_files": [] },
        "last_pid": 1, "started": null
    }))
    .unwrap();
    let said = |record: &Record| says(&record.loads[&load()], &offer, &node("node2"));

    let stage = Stage::new().await;
    assert_eq!(said(&*stage.record().await), None, "not decided yet");
    stage.ask(Decision::Commit, true).await;
    assert_eq!(said(&*stage.record().await), Some(Event::Committed(Epoch(2))));
    let other = Offer { handover: HandoverId([8; 16]), ..offer.clone() };
    let record = stage.record().await;
    let elsewhere = says(&record.loads[&load()], &other, &node("node2"));
    assert!(matches!(elsewhere, Some(Event::Aborted(_))), "that was another move: {elsewhere:?}");

    let stage = Stage::new().await;
    stage.ask(Decision::Abort, true).await;
    assert!(matches!(said(&*stage.record().await), Some(Event::Aborted(_))));
}
