//! What every [`Ownership`] must do, whatever is behind it: run against each of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Applied, ClusterPolicy, LoadPolicy, Record, Refusal, Standing as Membership};
use migrate_proto::cluster::{Claim, ClusterId, Ticket, VoterId};
use migrate_proto::id::{Epoch, HandoverId, StateMark};
use migrate_proto::name::NodeName;
use migrate_proto::spec::{WorkloadSpec, default_layer_bytes};
use migrate_proto::version::SPOKEN;
use tokio::time::{Instant, sleep};

use crate::backup::{Backup, REBUILT_EPOCHS};
use crate::ownership::{BadVoter, Joiner, Ownership, ProposeError, Shown};
use crate::types::Place;
use crate::wire::MAX_COMMAND_BYTES;

/// Longer than anything takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somewhere to keep a record, with everybody that keeps it.
#[async_trait]
pub(crate) trait Ground: Send {
    /// All that keep it: one at least.
    fn all(&self) -> Vec<Arc<dyn Ownership>>;

    /// Stops all of them, and starts them again with what they have on disk.
    async fn restart(&mut self);

    /// Whether those that keep it agree among themselves, by votes.
    fn votes(&self) -> bool {
        true
    }
}

/// Everything, each on a ground of its own.
pub(crate) async fn all<G: Ground, F: Future<Output = G>>(make: impl Fn() -> F) {
    of_two_that_compare_the_same_one_wins(&make().await).await;
    a_command_that_comes_again_changes_nothing(&make().await).await;
    a_refused_command_changes_nothing(&make().await).await;
    what_one_was_told_another_confirms(&make().await).await;
    what_was_done_outlasts_a_restart(make().await).await;
    copies_go_forward(&make().await).await;
    somebody_leads_and_votes(&make().await).await;
    senseless_voters_are_refused(&make().await).await;
    a_command_that_is_too_long_is_refused(&make().await).await;
    a_workload_goes_from_node_to_node(&make().await).await;
    a_cluster_is_rebuilt_from_an_export(&make().await).await;
}

async fn of_two_that_compare_the_same_one_wins(ground: &impl Ground) {
    let all = ground.all();
    let mut since = 0;
    for round in 0..10 {
        let rivals = (0..4_u16).map(|rival| {
            let by = Arc::clone(&all[usize::from(rival) % all.len()]);
            // None of them is what a cluster begins with: to ask for that is to ask for nothing.
            let command = policy(since, 100 + round * 4 + rival);
            tokio::spawn(async move { done(&*by, command).await })
        });
        let mut won = 0;
        for rival in rivals.collect::<Vec<_>>() {
            match rival.await.unwrap() {
                // Already so: its first answer was lost.
                Ok(_) => won += 1,
                Err(Refusal::Changed { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
        since = confirmed(&*all[0]).await.cluster.policy_since;
    }
}

async fn a_command_that_comes_again_changes_nothing(ground: &impl Ground) {
    for (number, by) in ground.all().iter().enumerate() {
        let name = format!("again-{number}");
        let command = declare(&name, 7, confirmed(&**by).await.cluster.removed);
        carried_out(&**by, command.clone()).await;
        let before = confirmed(&**by).await;
        assert_eq!(done(&**by, command).await, Ok(Applied::AlreadySo));
        assert_eq!(confirmed(&**by).await, before);
    }
}

async fn a_refused_command_changes_nothing(ground: &impl Ground) {
    for by in ground.all() {
        let before = confirmed(&*by).await;
        let nobody = Command::Leave(Claim { node: node("nobody"), session: 1 });
        assert_eq!(done(&*by, nobody.clone()).await, Err(Refusal::UnknownNode { node: node("nobody") }));
        let both = Command::Many(vec![declare("both", 1, before.cluster.removed), nobody]);
        assert!(matches!(done(&*by, both).await, Err(Refusal::OneOfMany { at: 1, .. })));
        assert_eq!(confirmed(&*by).await, before, "all or none");
    }
}

async fn what_one_was_told_another_confirms(ground: &impl Ground) {
    let all = ground.all();
    let mut since = 0;
    for round in 0..20_usize {
        let (by, elsewhere) = (&all[round % all.len()], &all[(round + 1) % all.len()]);
        let value = u16::try_from(100 + round).unwrap();
        carried_out(&**by, policy(since, value)).await;
        let seen = confirmed(&**elsewhere).await;
        assert_eq!(seen.cluster.policy.recover_at_once, value);
        since = seen.cluster.policy_since;
    }
}

async fn what_was_done_outlasts_a_restart(mut ground: impl Ground) {
    let by = Arc::clone(&ground.all()[0]);
    let cluster = confirmed(&*by).await.cluster.id;
    carried_out(&*by, declare("kept", 1, 0)).await;
    drop(by);
    for _ in 0..2 {
        ground.restart().await;
        for by in ground.all() {
            let record = confirmed(&*by).await;
            assert!(record.loads.contains_key(&"kept".parse().unwrap()));
            assert_eq!(record.cluster.id, cluster);
        }
    }
}

async fn copies_go_forward(ground: &impl Ground) {
    let all = ground.all();
    let watchers: Vec<_> = all
        .iter()
        .map(|by| {
            let mut seen = by.record();
            tokio::spawn(async move {
                let mut last = 0;
                loop {
                    let record = seen.borrow_and_update().clone();
                    assert!(record.revision >= last, "{} after {last}", record.revision);
                    last = record.revision;
                    if record.cluster.policy.recover_at_once == 999 {
                        return record;
                    }
                    seen.changed().await.unwrap();
                }
            })
        })
        .collect();
    let mut since = 0;
    for value in (1..30).chain([999]) {
        carried_out(&*all[0], policy(since, value)).await;
        since = confirmed(&*all[0]).await.cluster.policy_since;
    }
    let last = confirmed(&*all[0]).await;
    for watcher in watchers {
        let seen = tokio::time::timeout(PATIENCE, watcher).await.expect("it arrives everywhere").unwrap();
        assert_eq!(seen, last, "and is the same everywhere");
    }
}

async fn somebody_leads_and_votes(ground: &impl Ground) {
    let all = ground.all();
    let cluster = confirmed(&*all[0]).await.cluster.id;
    for by in &all {
        let mut standing = by.standing();
        let settled =
            standing.wait_for(|standing| standing.leader_place().is_some() && standing.votes() == ground.votes());
        let standing = tokio::time::timeout(PATIENCE, settled).await.unwrap().unwrap().clone();
        assert_eq!(standing.cluster, Some(cluster));
        assert_eq!(standing.members.len(), all.len());
        assert_eq!(standing.voters.is_empty(), !ground.votes());
    }
    let leading = async {
        while all.iter().filter(|by| by.standing().borrow().leads).count() != 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leading).await.unwrap();
}

async fn senseless_voters_are_refused(ground: &impl Ground) {
    let by = &ground.all()[0];
    confirmed(&**by).await;
    let stranger = VoterId(0xbad);
    let set = |voters: &[VoterId]| {
        let voters: BTreeSet<VoterId> = voters.iter().copied().collect();
        until_done(move || by.set_voters(voters.clone()))
    };
    let voter = by.standing().borrow().me;
    let retire = |id| until_done(move || by.retire(id));
    assert_eq!(set(&[]).await, Err(BadVoter::Nobody.into()));
    if ground.votes() {
        assert_eq!(set(&[stranger]).await, Err(BadVoter::NoMember(Shown(stranger)).into()));
        assert_eq!(retire(voter).await, Err(BadVoter::Votes(Shown(voter)).into()));
    } else {
        assert_eq!(set(&[voter]).await, Err(BadVoter::Elsewhere.into()));
    }
    assert_eq!(retire(stranger).await, Ok(()), "who is not there is gone");
}

async fn a_command_that_is_too_long_is_refused(ground: &impl Ground) {
    let by = &ground.all()[0];
    let mut command = declare("long", 1, 0);
    if let Command::Declare { spec, .. } = &mut command {
        spec.argv.push("x".repeat(MAX_COMMAND_BYTES).as_str().into());
    }
    assert!(matches!(by.propose(command).await, Err(ProposeError::TooLarge { .. })));
    assert!(confirmed(&**by).await.loads.is_empty());
}

/// Queued, given to a node, moved; and the move that was refused stays so.
async fn a_workload_goes_from_node_to_node(ground: &impl Ground) {
    let by = &ground.all()[0];
    let owner = by.standing().borrow().leader_place().map(|place| place.name.clone());
    let here = owner.unwrap_or_else(|| confirmed_name(&by.record().borrow()));
    let session = session_of(&**by, &here).await;
    let load = "moved".parse().unwrap();
    carried_out(&**by, declare("moved", 1, 0)).await;
    let first = confirmed(&**by).await.load(&load).unwrap().epoch;
    let assign = Command::Assign { load: load.clone(), epoch: first, to: here.clone() };
    carried_out(&**by, assign).await;
    let epoch = first.next();
    let from = Claim { node: here.clone(), session };
    let peer = Joiner {
        mark: mark(0xee),
        place: Place { name: node("peer"), address: "peer:1".to_owned() },
        versions: SPOKEN,
    };
    until_done(|| by.admit(peer.clone())).await.unwrap();
    let to = peer.place.name;
    session_of(&**by, &to).await;
    let transfer = |number| Command::Transfer {
        load: load.clone(),
        epoch,
        from: from.clone(),
        to: to.clone(),
        handover: HandoverId([number; 16]),
    };
    let refuse = Command::Refuse { load: load.clone(), epoch, handover: HandoverId([1; 16]) };
    carried_out(&**by, refuse).await;
    assert!(matches!(done(&**by, transfer(1)).await, Err(Refusal::HandoverRefused { .. })));
    carried_out(&**by, transfer(2)).await;
    assert_eq!(done(&**by, transfer(2)).await, Ok(Applied::AlreadySo));
    assert!(matches!(done(&**by, transfer(3)).await, Err(Refusal::OtherEpoch { .. })));
    let entry = confirmed(&**by).await.load(&load).unwrap().clone();
    assert_eq!((entry.epoch, entry.owner), (epoch.next(), Some(to)));
}

async fn a_cluster_is_rebuilt_from_an_export(ground: &impl Ground) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.json");
    let by = &ground.all()[0];
    carried_out(&**by, declare("saved", 1, 0)).await;
    let record = confirmed(&**by).await;
    let exported = until_done(|| by.export()).await.unwrap();
    exported.write(&file).unwrap();
    let backup = Backup::read(&file).unwrap();
    assert_eq!((backup.record(), backup.cluster()), (&*record, record.cluster.id));

    let rebuilt = backup.rebuilt(ClusterId([9; 16]));
    assert_eq!(rebuilt.cluster.id, ClusterId([9; 16]));
    assert!(rebuilt.cluster.voters.is_empty());
    assert!(rebuilt.nodes.values().all(|node| node.fenced));
    assert!(rebuilt.nodes.values().any(|node| node.standing == Membership::Member));
    assert_eq!(rebuilt.revision, record.revision, "numbers go on");
    for (name, load) in &rebuilt.loads {
        assert_eq!(load.epoch, Epoch(record.loads[name].epoch.0 + REBUILT_EPOCHS));
    }
}

/// Proposes until the answer is definite.
pub(crate) async fn done(by: &dyn Ownership, command: Command) -> Result<Applied, Refusal> {
    match until_done(|| by.propose(command.clone())).await {
        Ok(applied) => Ok(applied),
        Err(ProposeError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other}"),
    }
}

/// Proposes what is not refused. Whose first answer was lost is told that it is so already.
async fn carried_out(by: &dyn Ownership, command: Command) {
    assert_eq!(done(by, command).await.err(), None);
}

/// Does it again while it may be of use.
pub(crate) async fn until_done<T, F: Future<Output = Result<T, ProposeError>>>(
    again: impl Fn() -> F,
) -> Result<T, ProposeError> {
    let begun = Instant::now();
    loop {
        match again().await {
            Err(
                error @ (ProposeError::Unknown
                | ProposeError::NoQuorum
                | ProposeError::NotReady
                | ProposeError::Changing
                | ProposeError::Voter(BadVoter::Behind(_))),
            ) => {
                assert!(begun.elapsed() < PATIENCE, "{error}");
                sleep(Duration::from_millis(20)).await;
            }
            definite => return definite,
        }
    }
}

pub(crate) async fn confirmed(by: &dyn Ownership) -> Arc<Record> {
    until_done(|| by.confirm()).await.unwrap()
}

/// The session of a node; opened if it has none.
pub(crate) async fn session_of(by: &dyn Ownership, name: &NodeName) -> u64 {
    let entry = confirmed(by).await.nodes[name].clone();
    if entry.session == 0 {
        let open = Command::OpenSession { node: name.clone(), mark: entry.mark, after: 0, finite: false };
        done(by, open).await.unwrap();
        return 1;
    }
    entry.session
}

fn confirmed_name(record: &Record) -> NodeName {
    record.nodes.keys().next().unwrap().clone()
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn mark(number: u8) -> StateMark {
    StateMark([number; 8])
}

fn policy(since: u64, value: u16) -> Command {
    Command::SetPolicy { since, policy: ClusterPolicy { recover_at_once: value, ..ClusterPolicy::default() } }
}

pub(crate) fn declare(name: &str, ticket: u64, since: u64) -> Command {
    let spec = Box::new(WorkloadSpec {
        name: name.parse().unwrap(),
        argv: vec!["serve".into()],
        env: Vec::new(),
        dir: None,
        user: None,
        volumes: Vec::new(),
        own_root: false,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: default_layer_bytes(),
    });
    Command::Declare { ticket: Ticket(ticket), since, spec, policy: LoadPolicy::default(), owner: None, priority: 0 }
}
