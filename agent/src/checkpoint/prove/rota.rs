//! Tests by the clock, where `prove_every` is set: of each workload the newest sound checkpoint that is here, when it is this node's turn.
//!
//! Whose turn it is, `migrate_proto::care::prove` says. Also where nothing is set it is heard what the record tells of others' tests.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use migrate_image::vault::Generation;
use migrate_proto::care::prove::{Sight, due, rank};
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use tokio_util::sync::CancellationToken;

use super::{is_verified, prove};
use crate::checkpoint::{holding, register, replicas};
use crate::events::{Clock, Kind, SystemClock};
use crate::handover::Ground;

/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(1);

/// What this agent remembers of a workload whose checkpoints are here.
struct Seen {
    known_ms: u64,
    /// When it was last tried in vain, without a verdict.
    tried_ms: Option<u64>,
    /// Why, as it was last told.
    told: Option<Code>,
}

/// Tests for as long as the agent lives.
pub async fn run(ground: Ground, closing: CancellationToken) {
    let mut seen: HashMap<WorkloadName, Seen> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = closing.cancelled() => return,
        }
        hear(&ground);
        let Some(every) = ground.host.config.prove_every else { continue };
        let Some(generation) = next(&ground, &mut seen, every) else { continue };
        let name = generation.about.spec.name.clone();
        let untested = prove(&ground, &generation).await.err();
        let Some(seen) = seen.get_mut(&name) else { continue };
        seen.tried_ms = untested.is_some().then(|| SystemClock.now_ms());
        let why = untested.as_ref().map(|problem| problem.code);
        // That it gives way, or waits for another, is as it should be; the rest is told once.
        let is_news = |problem: &Problem| !matches!(problem.code, Code::Cancelled | Code::Busy) && seen.told != why;
        if let Some(problem) = untested.filter(is_news) {
            ground.host.events.record(Kind::Warning, Some(&name), None, problem.message);
        }
        seen.told = why;
    }
}

/// Others' tests; and which workloads are no more.
fn hear(ground: &Ground) {
    let checkpoints = ground.host.checkpoints();
    let (tests, record) = (&checkpoints.tests, ground.host.tenure.record_now());
    for (name, entry) in record.iter().flat_map(|record| &record.loads) {
        tests.hear(name, entry);
    }
    let Ok(vault) = checkpoints.vault() else { return };
    let kept = vault.workloads();
    let is_recorded = |name: &WorkloadName| record.as_ref().is_some_and(|record| record.loads.contains_key(name));
    tests.retain(|name| kept.contains(name) || is_recorded(name));
}

/// What this node is to test now, if anything.
fn next(ground: &Ground, seen: &mut HashMap<WorkloadName, Seen>, every: Duration) -> Option<Generation> {
    let (host, now_ms) = (&ground.host, SystemClock.now_ms());
    let workloads = host.checkpoints().vault().ok()?.workloads();
    seen.retain(|name, _| workloads.contains(name));
    let (mut sights, mut generations) = (Vec::new(), Vec::new());
    for name in &workloads {
        let entry = host.tenure.entry(name);
        let Some(generation) = newest(ground, name, entry.as_ref()) else { continue };
        let seen = seen.entry(name.clone()).or_insert(Seen { known_ms: now_ms, tried_ms: None, told: None });
        let tested_ms = host.checkpoints().tests.last(name).map(|tested| tested.at_ms);
        let Some(rank) = turn(ground, name, entry.as_ref(), &generation) else { continue };
        sights.push(Sight { rank, tested_ms: tested_ms.max(seen.tried_ms), known_ms: seen.known_ms });
        generations.push(generation);
    }
    due(&sights, every.as_millis() as u64, now_ms).map(|index| generations.swap_remove(index))
}

/// The newest that is sound here. What the record lists comes first: the rest may be on its way out, or into the list.
fn newest(ground: &Ground, name: &WorkloadName, entry: Option<&LoadEntry>) -> Option<Generation> {
    let mut sound = ground.host.checkpoints().of(name);
    sound.retain(is_verified);
    let listed = sound.iter().rposition(|generation| register::is_listed(entry, generation.id));
    match listed {
        Some(index) => Some(sound.swap_remove(index)),
        None => sound.pop(),
    }
}

/// How many nodes come before this one; `None` where others do it in any case.
fn turn(ground: &Ground, name: &WorkloadName, entry: Option<&LoadEntry>, generation: &Generation) -> Option<u32> {
    let (me, checkpoints) = (ground.host.node(), ground.host.checkpoints());
    let Some(entry) = entry else {
        // Nobody hears of the others' tests: each holder tests what it has, and the owner what nobody else has.
        let owned = ground.registry.get(name).is_some_and(|workload| holding::is_owner(&workload));
        return (!owned || checkpoints.replicas.holders(name, generation.id).is_empty()).then_some(0);
    };
    match entry.checkpoint(generation.id) {
        Some(listed) => {
            let nodes: BTreeSet<NodeName> = listed.holders.iter().chain([me]).cloned().collect();
            Some(rank(&replicas::chosen(name, nodes, usize::MAX), entry.owner.as_ref(), me))
        }
        // Others are about to have it, if there are any.
        None if entry.owner.as_ref() == Some(me) => Some(checkpoints.copies.min(ground.peers.all().len()) as u32),
        None => None,
    }
}
