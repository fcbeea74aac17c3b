//! How a cluster begins: everybody is a member in a session, some vote, and some workloads are asked for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::OnceLock;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Holder, Nanos, Page};
use migrate_proto::cluster::record::{ClusterPolicy, Record};
use migrate_proto::cluster::{Claim, ClusterId, VoterId};
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_proto::spec::WorkloadSpec;
use migrate_proto::version::Versions;

use super::bug::Bug;
use super::clock::Clock;
use super::faults;
use super::invariants::Load;
use super::keeper::terms;
use super::log::Log;
use super::node::Node;
use super::world::{Event, MS, World};
use crate::random::Random;

pub(crate) const GIB: u64 = 1 << 30;

const NODES: [&str; 5] = ["node1", "node2", "node3", "node4", "node5"];
const LOADS: [&str; 4] = ["load1", "load2", "load3", "load4"];

/// A node's name.
pub(crate) fn node_name(node: usize) -> NodeName {
    match NODES[node].parse() {
        Ok(name) => name,
        Err(_) => unreachable!("a name of a node"),
    }
}

/// A workload's name.
pub(crate) fn load_name(load: usize) -> &'static WorkloadName {
    static NAMES: OnceLock<Vec<WorkloadName>> = OnceLock::new();
    let names = || LOADS.iter().map(|name| name.parse()).collect::<Result<_, _>>();
    &NAMES.get_or_init(|| names().unwrap_or_else(|_| unreachable!("names of workloads")))[load]
}

/// What is asked for.
pub(crate) fn spec(load: usize) -> WorkloadSpec {
    WorkloadSpec {
        name: load_name(load).clone(),
        argv: vec!["work".into()],
        env: Vec::new(),
        dir: None,
        user: None,
        volumes: Vec::new(),
        own_root: false,
        memory_bytes: Some(GIB),
        cpu_milli: None,
        layer_bytes: GIB,
    }
}

/// The world of a seed.
pub(super) fn world(seed: u64, bug: Option<Bug>, trace: Option<VecDeque<String>>) -> World {
    let mut random = Random::new(seed);
    let lease = [600 * MS, 1_500 * MS][random.index(2)];
    let (nodes, loads) = (random.between(3, 6) as usize, random.between(1, 5) as usize);
    let terms = terms(lease);
    let record = Record::new(ClusterId([7; 16]), ClusterPolicy { keep: 2, ..ClusterPolicy::default() });
    let mut world = World::empty(random, terms, Log::new(record), bug, trace);
    world.loss = [0, 0, 5, 20][world.random.index(4)];
    world.slow = [lease / 20, lease / 5, lease, 2 * lease][world.random.index(4)];
    world.stubborn = world.random.one_in(4) || bug == Some(Bug::FenceIgnoresVoters);
    world.calm = 1 + world.random.below(4);
    world.menu = faults::any_menu(&mut world.random, bug);
    for _ in 0..loads {
        let first = world.random.index(nodes);
        let length = if world.random.one_in(3) { world.random.between(2, 12) * lease } else { u64::MAX };
        let (first, afresh) = (Some(first).filter(|_| !world.random.one_in(3)), world.random.one_in(3));
        world.ledger.loads.push(Load::new(length, first, afresh));
    }
    for node in 0..nodes {
        let (clock, room) = (Clock::new(&mut world.random), world.random.between(1, 4));
        let here = Node::new(node, loads, clock, room);
        world.nodes.push(here);
    }
    // There is room for all, whoever may be gone.
    (world.nodes[0].room, world.nodes[1].room) = (loads as u64, loads as u64);
    begin(&mut world);
    world
}

fn begin(world: &mut World) {
    let many = [1, 3, 3, world.nodes.len()][world.random.index(4)];
    let voters: BTreeSet<VoterId> = world.nodes.iter().take(many | 1).map(|node| node.voter).collect();
    world.log.append_voters(vec![voters]);
    for node in 0..world.nodes.len() {
        let (name, mark) = (world.nodes[node].name.clone(), world.nodes[node].mark);
        let (address, versions) = (format!("{name}:7000"), Versions { min: 1, max: 1 });
        let admit = Command::Admit { node: name.clone(), mark, address, versions, since: 0 };
        let open = Command::OpenSession { node: name, mark, after: 0, finite: true };
        for command in [admit, open] {
            let (_, answer) = world.log.append(command, None);
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    let len = world.log.len();
    for node in 0..world.nodes.len() {
        world.nodes[node].learned = len;
        // As if its session had been opened just now, by the agent that is there.
        let claim = Claim { node: world.nodes[node].name.clone(), session: 1 };
        world.nodes[node].page = Some(Page { session: 1, until: Nanos(0) });
        world.start_agent(node, 0);
        let (now, terms) = (world.local(node), world.terms);
        if let Some(agent) = world.agent(node) {
            agent.holder = Some(Holder::open(claim, now, terms));
            agent.opened = len as u64;
        }
    }
    world.another_leader();
    world.elect();
    for load in 0..world.ledger.loads.len() {
        let soon = if world.random.one_in(2) { 0 } else { world.random.below(6 * world.lease()) };
        world.at(soon, Event::Declare { load });
    }
    let first = world.lease() + world.random.below(2 * world.lease());
    world.at(first, Event::Strike);
}
