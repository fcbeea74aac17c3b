#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::version::Versions;

const GIB: f64 = (1_u64 << 30) as f64;
const SHORT: Trouble = Trouble::Short { of: Resource::Memory, clear_below: 0.85 };

fn rules() -> ChoiceRules {
    let place = PlaceRules { speaks: 1, spare_memory: 0, spare_disk: 0, recover_at_once: 4 };
    ChoiceRules { place, much: Amounts { cores: 0.9, memory: 0.85, disk: 0.9 } }
}

/// So much of 10 GiB in use.
fn room(memory: f64) -> Room {
    let has = Amounts { cores: 8.0, memory: 10.0 * GIB, disk: 100.0 * GIB };
    Room { has, used: Amounts { cores: 1.0, memory: memory * has.memory, disk: 10.0 * GIB } }
}

fn peer(name: &str, memory: f64) -> Peer {
    let room = room(memory);
    let candidate = Candidate {
        node: name.parse().unwrap(),
        alive: true,
        takes: true,
        versions: Versions { min: 1, max: 1 },
        arch: "x86_64".to_owned(),
        cpu_flags: BTreeSet::new(),
        memory_total: room.has.memory as u64,
        memory_free: (room.has.memory - room.used.memory) as u64,
        memory_promised: 0,
        disk_free: u64::MAX,
        volumes: None,
        holds: BTreeSet::new(),
        workloads: 0,
        recovering: 0,
    };
    Peer { candidate, room, age_ms: 500, in_trouble: false, failures: 0 }
}

/// A workload that uses so much of 10 GiB, and stands still for so long.
fn mover(name: &str, memory: f64, pause_ms: f64) -> Mover {
    let bytes = memory * 10.0 * GIB;
    Mover {
        name: name.parse().unwrap(),
        uses: Amounts { cores: 0.1, memory: bytes, disk: 0.0 },
        needs: Needs { memory_bytes: bytes as u64, ..Needs::default() },
        pause_ms,
        total_ms: 10.0 * pause_ms,
        came_from: None,
        stays: None,
    }
}

fn chosen(trouble: Trouble, here: f64, movers: &[Mover], peers: &[Peer]) -> Result<(String, String), String> {
    let choice = choose(trouble, &room(here), movers, peers, &rules());
    choice.map(|choice| (choice.name.to_string(), choice.to.to_string())).map_err(|nobody| nobody.to_string())
}

fn goes(who: &str, to: &str) -> Result<(String, String), String> {
    Ok((who.to_owned(), to.to_owned()))
}

#[test]
fn of_those_who_are_enough_the_one_that_is_moved_most_easily_goes() {
    let movers = [mover("big", 0.4, 900.0), mover("middle", 0.2, 300.0), mover("small", 0.02, 20.0)];
    assert_eq!(chosen(SHORT, 0.95, &movers, &[peer("b", 0.1)]), goes("middle", "b"));
    let stays = Mover { stays: Some(Stays::CoolsDown), ..movers[1].clone() };
    assert_eq!(chosen(SHORT, 0.95, &[movers[0].clone(), stays], &[peer("b", 0.1)]), goes("big", "b"));
    // Where none is enough, the one that helps most.
    let movers = [mover("little", 0.1, 10.0), mover("more", 0.12, 500.0)];
    assert_eq!(chosen(SHORT, 0.99, &movers, &[peer("b", 0.1)]), goes("more", "b"));
}

#[test]
fn it_goes_only_where_the_worse_one_of_the_two_is_better_off() {
    let movers = [mover("web", 0.3, 100.0)];
    assert_eq!(chosen(SHORT, 0.95, &movers, &[peer("b", 0.1)]), goes("web", "b"));
    let refused = chosen(SHORT, 0.95, &movers, &[peer("b", 0.58)]).unwrap_err();
    assert_eq!(
        refused,
        "web has nowhere to go: b would have 88 % of its memory in use, and 85 % is much and would be hardly better off: 88 % of its memory in use, and 95 % here now"
    );
    // A node that ends asks for less.
    let movers = [mover("web", 0.5, 100.0)];
    assert!(chosen(SHORT, 0.6, &movers, &[peer("b", 0.3)]).is_err());
    assert_eq!(chosen(Trouble::Ends, 0.6, &movers, &[peer("b", 0.3)]), goes("web", "b"));
}

#[test]
fn who_is_silent_in_trouble_or_full_gets_nothing() {
    let movers = [mover("web", 0.2, 100.0)];
    let peers = [
        Peer { age_ms: 4000, ..peer("a", 0.1) },
        Peer { in_trouble: true, ..peer("b", 0.1) },
        peer("c", 0.8),
        Peer { candidate: Candidate { alive: false, ..peer("d", 0.1).candidate }, ..peer("d", 0.1) },
    ];
    assert_eq!(
        chosen(SHORT, 0.95, &movers, &peers).unwrap_err(),
        "web has nowhere to go: a has not said for 4 s how full it is, b is in trouble itself, c would have 100 % of its memory in use, and 85 % is \
         much and would be hardly better off: 100 % of its memory in use, and 95 % here now, d does not answer"
    );
    let back = Mover { came_from: Some("b".parse().unwrap()), ..movers[0].clone() };
    assert_eq!(
        chosen(SHORT, 0.95, &[back], &[peer("b", 0.1)]).unwrap_err(),
        "web has nowhere to go: b is where it came from not long ago"
    );
    let stays = Mover { stays: Some(Stays::Pinned), ..movers[0].clone() };
    assert_eq!(chosen(SHORT, 0.95, &[stays], &peers).unwrap_err(), "web is to stay where it is");
    assert_eq!(chosen(SHORT, 0.95, &[], &peers).unwrap_err(), "there is no workload that could leave");
    assert_eq!(chosen(SHORT, 0.95, &movers, &[]).unwrap_err(), "for web there is no other node");
}

#[test]
fn the_roomiest_gets_it_unless_it_has_failed_of_late() {
    let movers = [mover("web", 0.2, 100.0)];
    assert_eq!(chosen(SHORT, 0.95, &movers, &[peer("b", 0.4), peer("c", 0.1)]), goes("web", "c"));
    let failed = Peer { failures: 2, ..peer("c", 0.1) };
    assert_eq!(chosen(SHORT, 0.95, &movers, &[peer("b", 0.4), failed]), goes("web", "b"));
}

#[test]
fn many_who_leave_at_once_do_not_all_go_to_the_same_one() {
    let peers: Vec<Peer> = (0..10).map(|at| peer(&format!("n{at}"), 0.1 + 0.005 * f64::from(at))).collect();
    let mut given: BTreeMap<String, u32> = BTreeMap::new();
    for at in 0..100 {
        let (_, to) = chosen(SHORT, 0.95, &[mover(&format!("w{at}"), 0.2, 100.0)], &peers).unwrap();
        *given.entry(to).or_default() += 1;
    }
    assert_eq!(given.len(), 10, "{given:?}");
    assert!(given.values().all(|count| *count <= 25), "{given:?}");
}

/// Under a load that stands still no move is ever followed by one that undoes it, and no node becomes worse than the worst.
#[test]
fn a_cluster_settles() {
    let mut random = 7_u64;
    let mut chance = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 11) as f64 / (1_u64 << 53) as f64
    };
    for _ in 0..50 {
        // Where each workload is, and how large it is.
        let mut loads: Vec<(usize, f64)> =
            (0..100).map(|_| ((chance() * 20.0) as usize, 0.02 + 0.25 * chance())).collect();
        let share = |loads: &[(usize, f64)], node: usize| {
            loads.iter().filter(|(at, _)| *at == node).map(|(_, size)| size).sum::<f64>()
        };
        let worst = |loads: &[(usize, f64)]| (0..20).map(|node| share(loads, node)).fold(0.0, f64::max);
        let mut moves = 0;
        loop {
            let before = worst(&loads);
            let moved = (0..20).filter(|node| share(&loads, *node) > 0.92).find_map(|node| {
                let movers: Vec<Mover> = (0..loads.len())
                    .filter(|load| loads[*load].0 == node)
                    .map(|load| mover(&format!("w{load}"), loads[load].1, 100.0))
                    .collect();
                let peers: Vec<Peer> = (0..20)
                    .filter(|other| *other != node)
                    .map(|other| peer(&format!("n{other}"), share(&loads, other)))
                    .collect();
                choose(SHORT, &room(share(&loads, node)), &movers, &peers, &rules()).ok()
            });
            let Some(Choice { name, to, .. }) = moved else { break };
            let load: usize = name.as_str()[1..].parse().unwrap();
            loads[load].0 = to.as_str()[1..].parse().unwrap();
            moves += 1;
            assert!(worst(&loads) <= before);
            assert!(moves <= loads.len(), "it does not settle");
        }
    }
}
