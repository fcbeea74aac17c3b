//! What people see of workloads whose node does not answer: what the record says about them.

use std::collections::BTreeMap;

use migrate_proto::api::{LastCheckpoint, State, WorkloadView};
use migrate_proto::cluster::record::{CheckpointEntry, Life, LoadEntry, Record, Wanted};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};

use crate::checkpoint::prove::Tested;
use crate::events::{Clock, SystemClock, timestamp};
use crate::host::Host;

/// What the nodes said, with what the record knows of all others: every workload once.
///
/// Of several that have one of a name, the one with the highest epoch counts, then the owner.
pub fn complete(answered: Vec<WorkloadView>, record: &Record, here: &NodeName) -> Vec<WorkloadView> {
    let mut views: BTreeMap<WorkloadName, WorkloadView> = BTreeMap::new();
    for view in answered {
        let owner = record.loads.get(&view.name).and_then(|entry| entry.owner.as_ref());
        let rank = |view: &WorkloadView| (view.epoch, owner == Some(&view.node));
        match views.get(&view.name) {
            Some(known) if rank(known) >= rank(&view) => {}
            _ => drop(views.insert(view.name.clone(), view)),
        }
    }
    for (name, entry) in &record.loads {
        // One that is a little ahead of the record is there, too.
        if views.get(name).is_none_or(|view| view.epoch < entry.epoch && entry.owner.as_ref() != Some(&view.node)) {
            views.insert(name.clone(), view(entry, record, here));
        }
    }
    views.into_values().collect()
}

/// A workload as the record has it. Where nobody owns it, it is shown as this node's.
pub fn view(entry: &LoadEntry, record: &Record, here: &NodeName) -> WorkloadView {
    let owner = entry.owner.clone();
    let fenced = owner.as_ref().and_then(|owner| record.nodes.get(owner)).is_some_and(|node| node.fenced);
    let (state, reason) = match (&entry.life, fenced) {
        (Life::Running, true) => (State::Frozen, None),
        (Life::Running, false) => (State::Running, None),
        (Life::Queued, _) => (State::Queued, None),
        (Life::Starting, _) => (State::Starting, None),
        (Life::Recovering { .. }, _) => (State::Restoring, None),
        (Life::Stopped(_), _) => (State::Stopped, None),
        (Life::Failed(why), _) => (State::Failed, Some(why.clone())),
        (Life::Lost(why), _) => (State::Lost, Some(why.clone())),
    };
    let away = match (&owner, fenced) {
        (None, _) => "no node has it: it waits for room".to_owned(),
        (Some(owner), true) => format!("{owner} has no lease any more; the cluster's record says this"),
        (Some(owner), false) => format!("{owner} has not said it: the cluster's record says this"),
    };
    let wished = match entry.wish {
        Wanted::Run => String::new(),
        Wanted::Stop if matches!(entry.life, Life::Stopped(_)) => String::new(),
        Wanted::Stop => "; it is to be stopped".to_owned(),
        Wanted::Remove => "; it is to be removed".to_owned(),
    };
    let exit = match entry.life {
        Life::Stopped(exit) => exit,
        _ => None,
    };
    WorkloadView {
        name: entry.spec.name.clone(),
        state,
        node: owner.unwrap_or_else(|| here.clone()),
        epoch: entry.epoch,
        pid: None,
        started: None,
        restarts: entry.restarts.revived + entry.restarts.recovered,
        cpu_percent: 0.0,
        rss_bytes: 0,
        layer_bytes: 0,
        health: "none".to_owned(),
        group: None,
        ip: None,
        last_checkpoint: entry.newest_sound().map(|newest| last_checkpoint(newest, entry)),
        exit,
        reason: Some(format!("{}{away}{wished}", reason.map_or_else(String::new, |why| format!("{why}; ")))),
    }
}

fn last_checkpoint(newest: &CheckpointEntry, entry: &LoadEntry) -> LastCheckpoint {
    LastCheckpoint {
        id: newest.id,
        at: timestamp::format(newest.taken_ms),
        age_s: SystemClock.now_ms().saturating_sub(newest.taken_ms) / 1000,
        replicas: (newest.holders.len() + newest.depots.len()) as u32,
        tested: Tested::told_by(entry).map(|tested| tested.shown()),
    }
}

/// Why something cannot be done with a workload that is not here.
pub fn away(host: &Host, name: &WorkloadName) -> Option<Problem> {
    let record = host.tenure.record_now()?;
    let entry = record.loads.get(name)?;
    let (life, wish) = (&entry.life, entry.wish);
    let (code, message) = match &entry.owner {
        None => (Code::WrongState, format!("{name} is {life}: no node has it yet")),
        Some(owner) if owner == host.node() => (Code::Busy, format!("{name} is {life}: {owner} is just about it")),
        Some(owner) => (Code::PeerDown, format!("{name} is {life} on {owner}, which does not answer")),
    };
    let hint = match wish {
        Wanted::Run => "`migrate ps` shows what becomes of it; `migrate stop` and `migrate rm` are remembered",
        Wanted::Stop => "it is to be stopped; `migrate ps` shows what becomes of it",
        Wanted::Remove => "it is to be removed; `migrate ps` shows what becomes of it",
    };
    Some(Problem::new(code, message).hint(hint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use migrate_proto::cluster::command::Command;
    use migrate_proto::cluster::record::{ClusterPolicy, LoadPolicy};
    use migrate_proto::cluster::{Claim, ClusterId, Ticket};
    use migrate_proto::id::{Epoch, StateMark};
    use migrate_proto::version::Versions;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Two nodes; `web` is node2's in epoch 1 and runs.
    fn record() -> Record {
        let mut record = Record::new(ClusterId([1; 16]), ClusterPolicy::default());
        let mut commands = Vec::new();
        for (number, name) in [(1, "node1"), (2, "node2")] {
            let (node, mark) = (node(name), StateMark([number; 8]));
            let (address, versions) = (format!("{name}:1"), Versions { min: 1, max: 1 });
            commands.push(Command::Admit { node: node.clone(), mark, address, versions, since: 0 });
            commands.push(Command::OpenSession { node, mark, after: 0, finite: true });
        }
        let by = Claim { node: node("node2"), session: 1 };
        let spec = serde_json::from_value(serde_json::json!({ "name": "web", "argv": ["sleep"] })).unwrap();
        let (ticket, policy) = (Ticket(1), LoadPolicy::default());
        let owner = Some(by.clone());
        commands.push(Command::Declare { ticket, since: 0, spec, policy, owner, priority: 0 });
        commands.push(Command::Began { load: "web".parse().unwrap(), epoch: Epoch(1), by });
        for (index, command) in commands.iter().enumerate() {
            record.apply(index as u64 + 1, command).unwrap();
        }
        record
    }

    fn said(by: &str, epoch: u64) -> WorkloadView {
        let record = record();
        let entry = &record.loads[&"web".parse::<WorkloadName>().unwrap()];
        WorkloadView { node: node(by), epoch: Epoch(epoch), reason: None, ..view(entry, &record, &node("node1")) }
    }

    #[test]
    fn what_nobody_answers_for_is_shown_as_the_record_has_it() {
        let shown = complete(Vec::new(), &record(), &node("node1"));
        let [web] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!((web.node.as_str(), web.state, web.epoch), ("node2", State::Running, Epoch(1)));
        assert!(web.reason.as_ref().unwrap().contains("node2"), "{web:?}");
    }

    #[test]
    fn every_workload_is_shown_once() {
        let of = |views: Vec<WorkloadView>| {
            let shown = complete(views, &record(), &node("node1"));
            let [web] = &shown[..] else { panic!("{shown:?}") };
            (web.node.to_string(), web.epoch.0, web.reason.is_none())
        };
        assert_eq!(of(vec![said("node2", 1)]), ("node2".into(), 1, true));
        assert_eq!(of(vec![said("node1", 1), said("node2", 1)]), ("node2".into(), 1, true), "the owner");
        assert_eq!(of(vec![said("node1", 2), said("node2", 1)]), ("node1".into(), 2, true), "ahead of the record");
        assert_eq!(of(vec![said("node1", 0)]), ("node2".into(), 1, false), "an old copy is not what there is");
    }
}
