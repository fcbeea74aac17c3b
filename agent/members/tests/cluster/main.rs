//! A cluster of real machines in virtual time: what they find out, how soon, and what it costs.
//!
//! `cargo test --release -p migrate-members --test cluster -- --nocapture` prints the figures of docs/reliability.md.
#![allow(clippy::unwrap_used)]

mod network;

use std::time::Duration;

use migrate_members::{Health, Out};
use migrate_proto::id::StateMark;
use network::{MS, Network, S, Said, Slow, mark, name};

/// Within this a death is known everywhere where nothing is lost: the period until somebody probes it, that probe, two seconds to
/// contradict, gossip. Of a hundred nodes one has twice as long to contradict.
const DEATH_KNOWN_WITHIN: Duration = Duration::from_secs(7);

/// The same where every fifth datagram is lost.
const DEATH_KNOWN_WITHIN_LOSS: Duration = Duration::from_secs(10);

fn is_trouble(said: &&Said) -> bool {
    matches!(said.what, Out::Trouble(_))
}

fn downs(network: &Network) -> Vec<&Said> {
    network.said.iter().filter(|said| matches!(said.what, Out::Down(_) | Out::Left(_))).collect()
}

/// The middle and the last.
fn spread(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// How long it takes until everybody else knows that one is dead, in so many histories.
fn deaths(size: usize, lost: u32, seeds: u64, within: Duration) -> Vec<Duration> {
    let death = |seed| {
        let mut network = Network::cluster(size, seed);
        network.lost = lost;
        network.run(S(5) + MS(seed * 37 % 500));
        network.kill(size - 1);
        let killed = network.now;
        let known = network.settle(within, |network| network.all_say(&name(size - 1), Health::Down));
        assert!(known, "seed {seed}: not known after {within:?}\n{}", network.picture());
        assert_eq!(downs(&network).len(), size - 1, "seed {seed}: {:?}", downs(&network));
        assert!(!network.said.iter().any(|said| is_trouble(&said)));
        network.now - killed
    };
    (0..seeds).map(death).collect()
}

#[test]
fn every_live_node_is_known_by_all_also_where_much_is_lost() {
    for seed in 0..20 {
        Network::cluster(10, seed);
        let mut network = Network::new(10, seed);
        network.lost = 40;
        (0..10).for_each(|machine| network.start(machine, &name(machine), mark(machine), 1));
        assert!(network.settle(S(60), Network::all_know_all), "seed {seed}\n{}", network.picture());
    }
}

#[test]
fn a_death_is_known_everywhere_in_the_stated_time() {
    for (size, lost, seeds, within) in [
        (2, 0, 50, DEATH_KNOWN_WITHIN),
        (5, 0, 200, DEATH_KNOWN_WITHIN),
        (5, 20, 200, DEATH_KNOWN_WITHIN_LOSS),
        (100, 0, 3, DEATH_KNOWN_WITHIN),
    ] {
        let (middle, last) = spread(deaths(size, lost, seeds, within));
        println!("{size} nodes, {lost} % lost: a death is known everywhere after {middle:?}, at worst {last:?}");
    }
}

#[test]
fn no_live_node_is_taken_for_dead_where_much_is_lost_and_two_are_slow() {
    let mut suspicions = 0;
    for seed in 0..3 {
        let mut network = Network::cluster(5, seed);
        network.said.clear();
        network.lost = 20;
        for slow in [3, 4] {
            network.slow(slow, Slow { still: 800, runs: 200 });
        }
        network.run(S(30 * 60));
        assert!(downs(&network).is_empty(), "seed {seed}: {:?}", downs(&network));
        assert!(!network.said.iter().any(|said| is_trouble(&said)));
        assert!(network.all_know_all(), "{}", network.picture());
        let slowest = |by| {
            let scores = network.said.iter().filter(|said| said.by == by).filter_map(|said| match said.what {
                Out::IAmSlow(score) => Some(score),
                _ => None,
            });
            scores.max().unwrap_or(0)
        };
        let slowest: Vec<u8> = (0..5).map(slowest).collect();
        assert!(slowest[..3].iter().all(|score| *score <= 2), "seed {seed}: {slowest:?}");
        assert!(slowest[3..].iter().all(|score| *score >= 4), "seed {seed}: {slowest:?}");
        suspicions += network.said.iter().filter(|said| matches!(said.what, Out::Suspect(_))).count();
        println!("seed {seed}: the worst score of each node: {slowest:?}");
    }
    assert!(suspicions > 1000, "only {suspicions} suspicions: this shows nothing");
    println!("{suspicions} suspicions were said, and all contradicted");
}

#[test]
fn a_suspicion_and_its_end_are_said() {
    let mut network = Network::cluster(3, 1);
    network.said.clear();
    network.stop(2, S(1) + MS(800));
    network.run(S(10));
    let told = |what: fn(&Out) -> bool| network.said.iter().filter(|said| what(&said.what)).count();
    let first = |what: fn(&Out) -> bool| network.said.iter().find(|said| what(&said.what)).unwrap().at;
    let suspected = first(|what| matches!(what, Out::Suspect(member) if *member.name() == name(2)));
    let refuted = first(|what| matches!(what, Out::Refuted(member) if *member.name() == name(2)));
    assert!(suspected < refuted);
    assert_eq!(told(|what| matches!(what, Out::Suspect(member) if *member.name() != name(2))), 0);
    assert_eq!(told(|what| matches!(what, Out::Down(_))), 0);
    let slow = network.said.iter().find(|said| matches!(said.what, Out::IAmSlow(1..)));
    assert_eq!(slow.map(|said| said.by), Some(2));
    assert_eq!(network.swim(2).slowness(), 0, "answers heal");
}

#[test]
fn a_node_that_stood_still_for_long_comes_back_and_takes_nobody_for_dead() {
    for seed in 0..50 {
        let mut network = Network::cluster(5, seed);
        network.said.clear();
        network.stop(4, S(30));
        network.run(S(30));
        assert!((0..4).all(|by| network.health(by, &name(4)) == Some(Health::Down)), "{}", network.picture());
        assert!(network.settle(S(10), Network::all_know_all), "seed {seed}\n{}", network.picture());
        network.run(S(20));
        assert!(downs(&network).iter().all(|said| said.by != 4), "seed {seed}: {:?}", downs(&network));
        assert_eq!(downs(&network).len(), 4, "{:?}", downs(&network));
        assert_eq!(network.swim(4).me().generation(), 2);
    }
}

#[test]
fn partitions_heal() {
    for seed in 0..50 {
        for halves in [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 2, 3, 4, 5]] {
            let mut network = Network::cluster(5, seed);
            network.run(MS(seed * 10));
            network.part(|machine| halves[machine]);
            network.run(S(30));
            for (by, of) in [(0, 4), (4, 0)] {
                assert_eq!(network.health(by, &name(of)), Some(Health::Down), "{}", network.picture());
            }
            network.part(|_| 0);
            network.lost = 20;
            assert!(network.settle(S(20), Network::all_know_all), "seed {seed}\n{}", network.picture());
        }
    }
}

#[test]
fn clusters_that_were_begun_apart_become_one() {
    let mut network = Network::new(4, 1);
    network.part(|machine| machine as u8 % 2);
    (0..4).for_each(|machine| network.start(machine, &name(machine), mark(machine), 1));
    network.run(S(10));
    assert!(!network.all_know_all());
    network.part(|_| 0);
    assert!(network.settle(S(10), Network::all_know_all), "{}", network.picture());
}

#[test]
fn a_goodbye_is_no_death_and_who_left_can_return() {
    for seed in 0..100 {
        let mut network = Network::cluster(5, seed);
        network.lost = 20;
        network.run(S(3));
        network.said.clear();
        network.leave(4);
        assert!(network.settle(S(8), |network| network.all_say(&name(4), Health::Left)), "{}", network.picture());
        network.run(S(10));
        let told: Vec<&Out> = downs(&network).into_iter().map(|said| &said.what).collect();
        assert!(told.iter().all(|what| matches!(what, Out::Left(_))), "seed {seed}: {told:?}");
        assert_eq!(told.len(), 4);
        network.start(4, &name(4), mark(4), 2);
        assert!(network.settle(S(10), Network::all_know_all), "seed {seed}\n{}", network.picture());
    }
}

#[test]
fn a_node_returns_with_a_higher_generation_before_anybody_missed_it() {
    let mut network = Network::cluster(5, 1);
    network.said.clear();
    network.kill(4);
    network.run(MS(50));
    network.start(4, &name(4), mark(4), 7);
    assert!(network.settle(S(5), Network::all_know_all), "{}", network.picture());
    network.run(S(20));
    assert!(downs(&network).is_empty(), "{:?}", downs(&network));
    let up = network.said.iter().filter(|said| matches!(&said.what, Out::Up(member) if member.generation() == 7));
    assert_eq!(up.count(), 4);
}

#[test]
fn a_node_whose_generation_was_set_far_back_catches_up() {
    let mut network = Network::new(5, 1);
    (0..4).for_each(|machine| network.start(machine, &name(machine), mark(machine), 1));
    network.start(4, &name(4), mark(4), 1_000_000);
    assert!(network.settle(S(30), Network::all_know_all));
    network.kill(4);
    network.run(S(20));
    network.start(4, &name(4), mark(4), 5);
    assert!(network.settle(S(120), Network::all_know_all), "{}", network.picture());
    assert!(network.swim(4).me().generation() > 1_000_000);
}

#[test]
fn two_of_one_name_are_noticed_by_all_and_cause_no_storm() {
    for seed in 0..20 {
        let mut network = Network::cluster(5, seed);
        let quiet = network.sent_a_second(S(10));
        network.said.clear();
        // The last machine's node gets the name of the one before, with another state.
        network.kill(4);
        network.start(4, &name(3), 99, 2);
        let loud = network.sent_a_second(S(120));
        let marks =
            |marks: &[StateMark; 2]| marks.contains(&StateMark([mark(3); 8])) && marks.contains(&StateMark([99; 8]));
        for by in 0..5 {
            let noticed = network.said.iter().any(|said| {
                said.by == by && matches!(&said.what, Out::SameName { name: n, marks: m } if *n == name(3) && marks(m))
            });
            assert!(noticed, "seed {seed}: not by machine {by}\n{}", network.picture());
        }
        assert!(loud < 10.0 * quiet, "seed {seed}: {loud} datagrams a second instead of {quiet}");
        for of in 0..3 {
            assert!((0..3).all(|by| by == of || network.health(by, &name(of)) == Some(Health::Alive)));
        }
    }
}

#[test]
fn a_node_that_lost_its_state_is_no_namesake() {
    let mut network = Network::cluster(5, 1);
    network.kill(4);
    network.run(MS(700));
    network.start(4, &name(4), 99, 2);
    assert!(network.settle(S(10), Network::all_know_all), "{}", network.picture());
    network.run(S(30));
    assert!(!network.said.iter().any(|said| matches!(said.what, Out::SameName { .. })));
}

#[test]
fn what_a_node_sends_does_not_depend_on_how_many_there_are() {
    for lost in [0, 20] {
        let sent = [10, 30, 100].map(|size| {
            let mut network = Network::cluster(size, 1);
            network.lost = lost;
            network.run(S(20));
            let sent = network.sent_a_second(S(30));
            assert_eq!(downs(&network).len(), 0, "{size} nodes, {lost} % lost: {:?}", downs(&network));
            println!("{size} nodes, {lost} % lost: {sent:.1} datagrams a node and second");
            sent
        });
        // Where much is lost there is always news, and gossip has a pace: three datagrams each 150 ms.
        let bound = if lost == 0 { 1.1 * sent[0] } else { 35.0 };
        assert!(sent.iter().all(|sent| *sent < bound), "{lost} % lost: {sent:?}");
    }
}

#[test]
fn rubbish_is_refused_and_changes_nothing() {
    let mut network = Network::cluster(3, 1);
    let before = network.picture();
    for length in 0..200 {
        let rubbish: Vec<u8> = (0..length).map(|n| (n * 31 + length) as u8).collect();
        network.hand_in(0, &rubbish);
    }
    let refused = network.said.iter().filter(is_trouble).count();
    assert_eq!((refused, network.picture()), (200, before));
}

/// Datagrams are authenticated before they come here, so what damaged ones make a node believe is not judged: only that it goes on.
#[test]
fn damaged_datagrams_break_nothing() {
    for seed in 0..10 {
        let mut network = Network::cluster(5, seed);
        network.damaged = 30;
        network.run(S(60));
        assert!(network.said.iter().any(|said| is_trouble(&said)), "seed {seed}: nothing was damaged");
        network.damaged = 0;
        assert!(network.sent_a_second(S(10)) > 1.0, "seed {seed}\n{}", network.picture());
    }
}
