//! What becomes of the log, and of those that have missed much of it.

use super::*;
use crate::suite::{confirmed, declare, done};
use crate::wire::SNAPSHOT_PIECE_BYTES;

fn short_logs() -> Timing {
    Timing { snapshot_every: 50, keep: 10, ..Timing::default() }
}

async fn declare_many(cluster: &Cluster, by: usize, from: u64, count: u64) {
    for ticket in from..from + count {
        done(&**cluster.node(by), declare(&format!("load{ticket}"), ticket, 0)).await.unwrap();
    }
}

fn entries_kept(cluster: &Cluster, number: usize) -> u64 {
    let metrics = cluster.node(number).shared.running().unwrap().metrics();
    metrics.last_log_index.unwrap() - metrics.purged.map_or(0, |purged| purged.index)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_stays_short_and_who_has_missed_it_gets_a_snapshot() {
    let mut cluster = Cluster::with(3, 3, short_logs()).await;
    cluster.kill(2).await;
    declare_many(&cluster, 0, 1, 300).await;
    until("the logs are cut", || (0..2).all(|number| entries_kept(&cluster, number) <= 50 + 10 + 5)).await;
    cluster.start(2).await;
    cluster.start(3).await;
    cluster.everybody_is_in().await;
    let all = confirmed(&**cluster.node(0)).await;
    assert_eq!(all.loads.len(), 300);
    until("all have it all", || (0..4).all(|number| cluster.record(number).loads == all.loads)).await;
    cluster.vote([0, 1, 3].into()).await;
    cluster.kill(0).await;
    cluster.kill(1).await;
    cluster.start(0).await;
    assert_eq!(confirmed(&**cluster.node(3)).await.loads, all.loads, "the new voter is a full one");
}

/// A snapshot that does not go into one message.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_record_reaches_a_new_node_in_pieces() {
    let mut cluster = Cluster::with(1, 1, short_logs()).await;
    // Random text, since snapshots are packed.
    let mut chance = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
    let pieces = usize::try_from(SNAPSHOT_PIECE_BYTES).unwrap();
    for ticket in 1..=12_u64 {
        let text: String =
            (0..pieces / 4).map(|_| char::from(rand::RngExt::random_range(&mut chance, b'!'..b'~'))).collect();
        let mut command = declare(&format!("large{ticket}"), ticket, 0);
        if let migrate_proto::cluster::command::Command::Declare { spec, .. } = &mut command {
            spec.argv.push(text.as_str().into());
        }
        done(&**cluster.node(0), command).await.unwrap();
    }
    declare_many(&cluster, 0, 100, 60).await;
    until("the log is cut", || entries_kept(&cluster, 0) <= 65).await;
    cluster.start(1).await;
    cluster.everybody_is_in().await;
    until("it has it all", || cluster.record(1).loads == cluster.record(0).loads).await;
    assert_eq!(cluster.record(1).loads.len(), 72);
}

/// Voters are exchanged one after the other, until none of the first is left.
#[tokio::test(flavor = "multi_thread")]
async fn all_voters_can_be_exchanged() {
    let mut cluster = Cluster::of(5, 3).await;
    for voters in [[1, 2, 3], [2, 3, 4]] {
        cluster.vote(voters.into()).await;
        let ticket = voters[2] as u64;
        done(&**cluster.node(0), declare(&format!("load{ticket}"), ticket, 0)).await.unwrap();
    }
    let leader = cluster.leader().await;
    assert!([2, 3, 4].contains(&leader), "who votes no more leads no more: {leader}");
    cluster.kill(0).await;
    cluster.kill(1).await;
    until_done(|| cluster.node(2).retire(id(0))).await.unwrap();
    until("it is no member", || !cluster.standing(leader).members.contains_key(&id(0))).await;
    assert_eq!(confirmed(&**cluster.node(4)).await.loads.len(), 2);
}

/// The leader died when both the old voters and the new ones had to agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_voters_that_was_left_halfway_is_finished() {
    let mut cluster = Cluster::of(4, 3).await;
    cluster.net.trouble(0, 0, Duration::from_millis(20));
    let leader = cluster.leader().await;
    let raft = cluster.node(leader).shared.running().unwrap().raft.clone();
    let others: Vec<usize> = (0..4).filter(|number| *number != leader).collect();
    let mut without = others.iter().cycle();
    loop {
        // Raft's own call does both steps; given up after the first, it leaves both sets in force. It may have been quicker.
        let out = *without.next().unwrap();
        let next: BTreeSet<u64> = (0..4).filter(|number| *number != out).map(|number| id(number).0).collect();
        let (raft, mut standing) = (raft.clone(), cluster.node(leader).standing());
        let changing = tokio::spawn(async move { raft.change_membership(next, true).await });
        soon(standing.wait_for(|standing| standing.voters.sets.len() == 2)).await.unwrap();
        changing.abort();
        let _ = changing.await;
        let of_record = || cluster.record(leader).cluster.voters.now.clone();
        until("it is agreed", || of_record() == cluster.standing(leader).voters).await;
        if of_record().sets.len() == 2 {
            break;
        }
    }
    drop(raft);
    cluster.kill(leader).await;
    until("one set is left", || cluster.running().all(|(_, node)| node.standing().borrow().voters.sets.len() == 1))
        .await;
    cluster.leader().await;
}
