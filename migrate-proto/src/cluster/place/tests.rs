//! Placement: each filter alone, each score alone, and what holds for all.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;
const RULES: PlaceRules = PlaceRules { speaks: 1, spare_memory: GIB, spare_disk: GIB, recover_at_once: 4 };
const KEPT: CheckpointId = CheckpointId([1; 32]);

fn candidate(name: &str) -> Candidate {
    Candidate {
        node: name.parse().unwrap(),
        alive: true,
        takes: true,
        versions: Versions { min: 1, max: 1 },
        arch: "x86_64".to_owned(),
        cpu_flags: ["sse2", "avx2"].map(str::to_owned).into(),
        memory_total: 16 * GIB,
        memory_free: 8 * GIB,
        memory_promised: 0,
        disk_free: 100 * GIB,
        volumes: Some([Text::from("/srv/data")].into()),
        holds: [].into(),
        workloads: 0,
        recovering: 0,
    }
}

fn needs() -> Needs {
    Needs {
        arch: Some("x86_64".to_owned()),
        cpu_flags: ["sse2".to_owned()].into(),
        memory_bytes: 2 * GIB,
        disk_bytes: 10 * GIB,
        volumes: [Text::from("/srv/data")].into(),
        checkpoint: Some(KEPT),
        tried: [].into(),
    }
}

fn with(name: &str, change: impl FnOnce(&mut Candidate)) -> Candidate {
    let mut node = candidate(name);
    change(&mut node);
    node
}

fn placed(nodes: &[Candidate]) -> String {
    place(&needs(), nodes, &RULES).unwrap().to_string()
}

#[test]
fn every_filter_rejects_for_its_reason() {
    let table: Vec<(Candidate, &str)> = vec![
        (with("n", |n| n.alive = false), "n does not answer"),
        (with("n", |n| n.takes = false), "n takes no workloads"),
        (with("n", |n| n.versions = Versions { min: 2, max: 3 }), "n speaks 2 to 3, not 1"),
        (with("n", |n| n.arch = "aarch64".to_owned()), "n is aarch64, not x86_64"),
        (with("n", |n| n.cpu_flags.clear()), "n its CPU lacks sse2"),
        (with("n", |n| n.memory_free = 3 * GIB - 1), "n has 2147483647 bytes of memory for it, 2147483648 are needed"),
        (with("n", |n| n.memory_promised = 8 * GIB), "n has 0 bytes of memory for it, 2147483648 are needed"),
        (with("n", |n| n.disk_free = 0), "n has 0 bytes of disk for it, 10737418240 are needed"),
        (with("n", |n| n.volumes = Some([].into())), "n lacks the volume /srv/data"),
        (with("n", |n| n.recovering = 4), "n is recovering 4 workloads already"),
    ];
    for (node, reason) in table {
        assert_eq!(place(&needs(), &[node], &RULES).unwrap_err().to_string(), reason);
    }
    let tried = Needs { tried: ["n".parse().unwrap()].into(), ..needs() };
    assert_eq!(place(&tried, &[candidate("n")], &RULES).unwrap_err().to_string(), "n was tried already");
}

#[test]
fn what_just_fits_is_taken() {
    let node = with("n", |n| (n.memory_free, n.disk_free, n.recovering) = (3 * GIB, 11 * GIB, 3));
    assert_eq!(placed(&[node]), "n");
    assert_eq!(placed(&[with("n", |n| n.volumes = None)]), "n", "it was not asked");
    let queued = Needs { checkpoint: None, ..needs() };
    assert!(place(&queued, &[with("n", |n| n.recovering = 9)], &RULES).is_ok(), "not a recovery");
}

#[test]
fn every_reason_of_every_node_is_said() {
    let nodes = [with("b", |n| n.takes = false), with("a", |n| (n.alive, n.disk_free) = (false, 0))];
    let NoRoom { rejected } = place(&needs(), &nodes, &RULES).unwrap_err();
    assert_eq!(rejected[0].reasons, [Unfit::Silent, Unfit::Disk { has: 0, wanted: 10 * GIB }]);
    let said = NoRoom { rejected }.to_string();
    assert_eq!(said, "a does not answer and has 0 bytes of disk for it, 10737418240 are needed; b takes no workloads");
    assert_eq!(place(&needs(), &[], &RULES).unwrap_err().to_string(), "there is no node");
}

#[test]
fn the_scores_come_in_their_order() {
    let holder = with("d", |n| (n.holds, n.memory_free, n.workloads) = ([KEPT].into(), 4 * GIB, 9));
    let roomy = with("c", |n| (n.memory_free, n.workloads) = (12 * GIB, 9));
    let idle = with("b", |n| n.workloads = 0);
    let (first, second) = (with("a", |n| n.workloads = 1), with("e", |n| n.workloads = 1));
    let mut nodes = vec![second, first, idle, roomy, holder];
    for expected in ["d", "c", "b", "a", "e"] {
        assert_eq!(placed(&nodes), expected);
        nodes.pop();
        if expected == "a" {
            nodes = vec![with("e", |n| n.workloads = 1)];
        }
    }
}

#[test]
fn room_is_a_share_and_not_a_size() {
    let large = with("a", |n| (n.memory_total, n.memory_free) = (64 * GIB, 16 * GIB));
    assert_eq!(placed(&[large, candidate("b")]), "b", "6 of 16 GiB stay free, not 14 of 64");
}

proptest! {
    #[test]
    fn the_order_of_the_nodes_does_not_matter_and_who_is_taken_fits(
        nodes in prop::collection::vec((any::<bool>(), 0_u64..16, 0_u64..4, 0_u32..3, any::<bool>()), 1..8),
        turn in 0_usize..8,
    ) {
        let mut nodes: Vec<Candidate> = nodes
            .into_iter()
            .enumerate()
            .map(|(number, (alive, free, promised, workloads, holds))| {
                with(&format!("n{number}"), |n| {
                    (n.alive, n.workloads) = (alive, workloads);
                    (n.memory_free, n.memory_promised) = (free * GIB, promised * GIB);
                    n.holds = holds.then_some(KEPT).into_iter().collect();
                })
            })
            .collect();
        let ranking = rank(&needs(), &nodes, &RULES);
        prop_assert_eq!(ranking.fit.len() + ranking.rejected.len(), nodes.len());
        for name in &ranking.fit {
            let node = nodes.iter().find(|n| n.node == *name).unwrap();
            prop_assert!(node.alive && node.memory_free >= node.memory_promised + 3 * GIB);
        }
        let turn = turn % nodes.len();
        nodes.rotate_left(turn);
        prop_assert_eq!(rank(&needs(), &nodes, &RULES), ranking);
    }
}
