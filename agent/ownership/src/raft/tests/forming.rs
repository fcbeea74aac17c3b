//! How clusters begin, and how nodes find them, also after a loss.

use super::*;
use crate::backup::REBUILT_EPOCHS;
use crate::carrier::Whom;
use crate::ownership::State;
use crate::raft::ask::Asker;
use crate::raft::{from_here, rebuild};
use crate::suite::{confirmed, declare, done};
use crate::wire::{Answer, Ask, Failure};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begins_when_a_majority_is_there() {
    let mut cluster = Cluster::new(3, Timing::default());
    cluster.start(0).await;
    let mut standing = cluster.node(0).standing();
    // It asks again and again; that it never begins alone is what the rules say, and their own tests.
    assert_eq!(standing.borrow_and_update().state, State::Forming);
    cluster.start(2).await;
    soon(standing.wait_for(|standing| standing.leads)).await.unwrap();
    until("both are in", || cluster.record(2).nodes.len() == 2).await;
    cluster.start(1).await;
    cluster.everybody_is_in().await;
    let founded = cluster.setup(0).fresh;
    assert!((0..3).all(|number| cluster.standing(number).cluster == Some(founded)));
    assert_eq!(confirmed(&**cluster.node(1)).await.cluster.id, founded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_through_any_member() {
    let mut cluster = Cluster::of(2, 2).await;
    cluster.start(2).await;
    cluster.everybody_is_in().await;
    until("it has the record", || cluster.record(2).nodes.len() == 3).await;
    assert_eq!(cluster.standing(2).state, State::Learner);
    cluster.vote([0, 1, 2].into()).await;
}

/// The first of the members, which would found a cluster, has lost its disk.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_lost_its_disk_finds_its_cluster_but_not_its_place() {
    let mut cluster = Cluster::of(3, 3).await;
    done(&**cluster.node(1), declare("web", 1, 0)).await.unwrap();
    let before = confirmed(&**cluster.node(1)).await.cluster.id;
    cluster.kill(0).await;
    std::fs::remove_file(cluster.store(0)).unwrap();
    let mut setup = cluster.setup(0);
    setup.joiner.mark = mark(0x77);
    cluster.start_with(0, setup).await;
    // Its name belongs to the machine with the old disk until that is fenced: a person reads why.
    let mut standing = cluster.node(0).standing();
    let told = soon(standing.wait_for(|standing| standing.trouble.is_some())).await.unwrap().clone();
    assert_eq!(told.cluster, Some(before));
    assert!(told.trouble.unwrap().contains("belongs to the machine"));
    assert!(!confirmed(&**cluster.node(1)).await.nodes.values().any(|node| node.mark == mark(0x77)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_moved_is_found_at_its_new_address() {
    let mut cluster = Cluster::of(3, 3).await;
    let leader = cluster.leader().await;
    let moved = (leader + 1) % 3;
    cluster.kill(moved).await;
    let mut setup = cluster.setup(moved);
    setup.joiner.place.address = "elsewhere:7000".to_owned();
    cluster.start_with(moved, setup).await;
    until("the record knows", || cluster.record(leader).nodes[&name(moved)].address == "elsewhere:7000").await;
    done(&**cluster.node(leader), declare("web", 1, 0)).await.unwrap();
    let web = "web".parse().unwrap();
    until("it gets the record there", || cluster.record(moved).loads.contains_key(&web)).await;
}

/// A node of another cluster, and one that takes this address for somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_said() {
    let cluster = Cluster::of(1, 1).await;
    let (ours, theirs) = (cluster.setup(0).fresh, ClusterId([0x44; 16]));
    let ask = async |of: Option<ClusterId>, to: VoterId| {
        let asker = Asker { carrier: cluster.net.port("stranger:7000"), me: id(9), cluster: of };
        asker.ask(Some(to), Whom { name: None, address: address(0) }, Ask::Confirm, PATIENCE).await.unwrap()
    };
    let refused = |answer: Answer, with: Failure| match answer {
        Answer::Failed(failure) => assert_eq!(failure, with),
        other => panic!("{other:?}"),
    };
    assert!(matches!(ask(Some(ours), id(0)).await, Answer::Confirmed(_)));
    refused(ask(Some(ours), id(7)).await, Failure::NotMe(id(0)));
    refused(ask(None, id(0)).await, Failure::OtherCluster(ours));
    refused(ask(Some(theirs), id(0)).await, Failure::OtherCluster(ours));
    let mut standing = cluster.node(0).standing();
    let told = soon(standing.wait_for(|standing| standing.trouble.is_some())).await.unwrap().trouble.clone();
    assert!(told.unwrap().contains(&theirs.to_string()));
}

/// Two of three voters are lost for good: the third begins a new cluster with what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_rebuilt_from_what_one_node_has() {
    let mut cluster = Cluster::of(3, 3).await;
    done(&**cluster.node(0), declare("web", 1, 0)).await.unwrap();
    let web = "web".parse().unwrap();
    until("it is everywhere", || (0..3).all(|number| cluster.record(number).loads.contains_key(&web))).await;
    let old = confirmed(&**cluster.node(2)).await;
    for number in 0..3 {
        cluster.kill(number).await;
    }
    let backup = from_here(&cluster.store(2), joiner(2).mark).await.unwrap();
    assert!(backup.record().loads.contains_key(&web));
    let fresh = ClusterId([0x55; 16]);
    let taken = rebuild(&cluster.store(2), joiner(2).mark, place(2), backup.clone(), fresh).await;
    assert!(taken.is_err(), "never over a store that is in use");
    std::fs::rename(cluster.store(2), cluster.store(2).with_extension("old")).unwrap();
    assert_eq!(rebuild(&cluster.store(2), joiner(2).mark, place(2), backup, fresh).await.unwrap(), fresh);

    cluster.start(2).await;
    let record = confirmed(&**cluster.node(2)).await;
    assert_eq!(record.cluster.id, fresh);
    assert_eq!(record.loads[&web].epoch.0, old.loads[&web].epoch.0 + REBUILT_EPOCHS);
    assert!(record.revision > old.revision, "numbers go on");
    // The others have to come with empty stores; with their old ones they are strangers.
    cluster.start(1).await;
    soon(cluster.node(2).standing().wait_for(|standing| standing.leads)).await.unwrap();
    assert_eq!(cluster.standing(2).voters.sets, [[id(2)].into()]);
    until("it says that a stranger is there, or hears none", || cluster.standing(1).cluster == Some(old.cluster.id))
        .await;
    cluster.kill(1).await;
    std::fs::remove_file(cluster.store(1)).unwrap();
    let mut setup = cluster.setup(1);
    setup.roots = Roots { members: Vec::new(), join: vec![address(2)] };
    cluster.start_with(1, setup).await;
    until("it is a member again", || cluster.standing(1).cluster == Some(fresh)).await;
    until("it has the record", || cluster.record(1).loads.contains_key(&web)).await;
}
