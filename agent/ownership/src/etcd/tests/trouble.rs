//! Servers that are slow, stopped, killed, deposed, or not the right ones.

use std::sync::Arc;

use migrate_proto::cluster::ClusterId;
use migrate_proto::cluster::command::{Command, EntryKey};

use super::servers::Servers;
use super::{Nodes, joiner, setup, stands};
use crate::etcd::kv::Transaction;
use crate::etcd::{Etcd, EtcdSetup};
use crate::ownership::{Ownership, ProposeError, State};
use crate::suite::{confirmed, declare, done, mark, until_done};

async fn declared(by: &Etcd, name: &str) {
    let removed = confirmed(by).await.cluster.removed;
    // Whose first answer was lost is told that it is so already.
    done(by, declare(name, 1, removed)).await.unwrap();
}

async fn is_there(by: &Etcd, name: &str) -> bool {
    confirmed(by).await.loads.contains_key(&name.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_only_server_is_silent_nothing_is_said_to_be_done() {
    let all = Nodes::of(1, 1).await;
    let node = &all.nodes[0];
    declared(node, "before").await;
    all.servers.stop(0).await;
    let answer = node.propose(declare("meanwhile", 1, 0)).await;
    let confirmed = node.confirm().await;
    all.servers.go_on(0);
    assert!(matches!(answer, Err(ProposeError::NoQuorum | ProposeError::Unknown)), "{answer:?}");
    assert_eq!(confirmed.map(|_| ()), Err(ProposeError::NoQuorum));
    declared(node, "after").await;
    assert!(is_there(node, "before").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_may_be_silent_or_dead_whichever() {
    let mut all = Nodes::of(1, 3).await;
    for server in 0..3 {
        let (stopped, killed) = (format!("stopped{server}"), format!("killed{server}"));
        all.servers.stop(server).await;
        declared(&all.nodes[0], &stopped).await;
        all.servers.go_on(server);
        all.servers.kill(server);
        declared(&all.nodes[0], &killed).await;
        all.servers.run(server);
        all.servers.answer().await;
        assert!(is_there(&all.nodes[0], &stopped).await && is_there(&all.nodes[0], &killed).await);
    }
}

/// Each in turn, so the one that leads the others is among them: it is deposed while it stands still, and does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_deposed_says_nothing_old() {
    let all = Nodes::of(1, 3).await;
    for server in 0..3 {
        let address = all.servers.address_of(server, "/test/cluster").parse().unwrap();
        let there = Arc::new(Etcd::start(EtcdSetup { address, ..setup(&all.servers, 1) }));
        stands(&there, |standing| standing.members.contains_key(&standing.me)).await;
        let name = format!("deposed{server}");
        assert!(!is_there(&there, &name).await);
        all.servers.stop(server).await;
        declared(&all.nodes[0], &name).await;
        all.servers.go_on(server);
        assert!(is_there(&there, &name).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_done_and_with_one_it_goes_on() {
    let mut all = Nodes::of(1, 3).await;
    declared(&all.nodes[0], "before").await;
    all.servers.kill(0);
    all.servers.kill(2);
    let answer = all.nodes[0].propose(declare("meanwhile", 1, 0)).await;
    assert!(matches!(answer, Err(ProposeError::NoQuorum | ProposeError::Unknown)), "{answer:?}");
    assert!(matches!(all.nodes[0].confirm().await, Err(ProposeError::NoQuorum)));
    all.servers.run(0);
    declared(&all.nodes[0], "after").await;
    assert!(is_there(&all.nodes[0], "before").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_emptied_is_not_believed() {
    let mut all = Nodes::of(1, 1).await;
    let node = Arc::clone(&all.nodes[0]);
    declared(&node, "kept").await;
    let name = "kept".parse().unwrap();
    node.record().wait_for(|record| record.loads.contains_key(&name)).await.unwrap();
    all.servers.wipe(0);
    all.servers.run(0);
    let stands = stands(&node, |standing| standing.state == State::Stopped).await;
    assert!(stands.trouble.as_ref().is_some_and(|why| why.contains("deleted")), "{stands:?}");
    assert!(!stands.leads);
    assert!(matches!(node.propose(declare("other", 1, 0)).await, Err(ProposeError::Stopped(_))));
    assert!(node.record().borrow().loads.contains_key(&name), "what it knew it still knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_belongs_to_another_cluster_keeps_away() {
    let all = Nodes::of(1, 1).await;
    let known = Some(ClusterId([0x77; 16]));
    let stranger = Etcd::start(EtcdSetup { known, ..setup(&all.servers, 1) });
    let stopped = stands(&stranger, |standing| standing.state == State::Stopped).await;
    assert!(stopped.trouble.is_some_and(|why| why.contains(&ClusterId([0x77; 16]).to_string())));
    let address = all.servers.address("/test/nothing").parse().unwrap();
    let alone = Etcd::start(EtcdSetup { known, address, ..setup(&all.servers, 0) });
    stands(&alone, |standing| standing.state == State::Stopped).await;
    assert_eq!(confirmed(&*all.nodes[0]).await.nodes.len(), 1);
    let there = all.servers.store().all("/test/nothing/", alone.shared.in_time()).await.unwrap();
    assert!(there.kvs.is_empty(), "and begins none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_somebody_has_deleted_or_spoilt_stops_everybody() {
    let all = Nodes::of(2, 1).await;
    let (address, store) = (&all.nodes[0].shared.setup.address, all.servers.store());
    let foreign = Transaction::default().put(&address.entry(&EntryKey::Node("x".parse().unwrap())), b"{}");
    store.commit(foreign, all.nodes[0].shared.in_time()).await.unwrap();
    for node in &all.nodes {
        let stands = stands(node, |standing| standing.state == State::Stopped).await;
        assert!(stands.trouble.is_some_and(|why| why.contains("/test/cluster/record/node/x")));
    }
    let mended = Transaction::default().delete(&address.entry(&EntryKey::Node("x".parse().unwrap())));
    store.commit(mended, all.nodes[0].shared.in_time()).await.unwrap();
    for node in &all.nodes {
        stands(node, |standing| standing.state != State::Stopped).await;
    }
    let deleted = Transaction::default().delete(&address.entry(&EntryKey::Cluster));
    store.commit(deleted, all.nodes[0].shared.in_time()).await.unwrap();
    for node in &all.nodes {
        stands(node, |standing| standing.state == State::Stopped).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_another_etcd_is_not_taken_for_this_one() {
    let all = Nodes::of(1, 1).await;
    let (address, store) = (&all.nodes[0].shared.setup.address, all.servers.store());
    // As it would be in one that was brought back from a snapshot: the keys are the same, the etcd is another.
    let other = Transaction::default().put(&address.etcd(), b"12345");
    store.commit(other, all.nodes[0].shared.in_time()).await.unwrap();
    let node = Etcd::start(setup(&all.servers, 0));
    let stopped = stands(&node, |standing| standing.state == State::Stopped).await;
    assert!(stopped.trouble.is_some_and(|why| why.contains("founded in the etcd 12345")));
    let allowed = Transaction::default().delete(&address.etcd());
    store.commit(allowed, all.nodes[0].shared.in_time()).await.unwrap();
    stands(&node, |standing| standing.state != State::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_to_join_founds_nothing() {
    let servers = Servers::start(1).await;
    let waits = Etcd::start(setup(&servers, 1));
    assert!(waits.shared.round().await.is_err());
    assert!(servers.store().all("/test/", waits.shared.in_time()).await.unwrap().kvs.is_empty());
    assert_eq!(waits.propose(declare("early", 1, 0)).await, Err(ProposeError::NotReady));
    let founds = Etcd::start(setup(&servers, 0));
    let stands = stands(&waits, |standing| standing.members.len() == 2).await;
    assert_eq!(stands.cluster, Some(founds.shared.setup.fresh));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_of_one_name_are_told_apart() {
    let all = Nodes::of(1, 1).await;
    let mut namesake = setup(&all.servers, 0);
    namesake.joiner.mark = mark(0x99);
    let namesake = Etcd::start(namesake);
    let stands = stands(&namesake, |standing| standing.trouble.is_some()).await;
    assert!(stands.trouble.is_some_and(|why| why.contains("not admitted")));
    assert_eq!(confirmed(&*all.nodes[0]).await.nodes[&joiner(0).place.name].mark, mark(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_etcd_does_at_once_is_refused() {
    let all = Nodes::of(1, 1).await;
    let node = &all.nodes[0];
    let many = |count: usize| Command::Many((0..count).map(|load| declare(&format!("load{load}"), 1, 0)).collect());
    assert_eq!(node.propose(many(127)).await, Err(ProposeError::TooMany { entries: 128, limit: 127 }));
    until_done(|| node.propose(many(126))).await.unwrap();
    assert_eq!(confirmed(&**node).await.loads.len(), 126);
}
