//! What people are shown of a workload.

use migrate_proto::api::{Exit, State, WorkloadView};
use migrate_proto::care::Chart;
use migrate_proto::care::health::Word;
use migrate_proto::care::restart::Stage;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::layer::Layer;
use migrate_sandbox::process;

use super::Workload;
use crate::host::Host;
use crate::registry::{Doing, Record};

impl Workload {
    /// What `ps` shows; `None` while it is not this node's.
    pub fn view(&self, host: &Host, now_ns: u64) -> Option<WorkloadView> {
        let record = self.record();
        if !self.is_answered_for(&record) {
            return None;
        }
        let pid = self.pid();
        let usage = pid
            .and_then(|_| host.cgroup(self.name.as_str()).ok())
            .map(|cgroup: Cgroup| cgroup.usage())
            .unwrap_or_default();
        let (moving, frozen, cpu_percent) = {
            let mut live = self.live();
            let frozen = live.frozen.clone().or_else(|| live.held.clone());
            (live.moving, frozen, live.share.percent(usage.cpu_ns, now_ns))
        };
        let (state, exit, reason) = state_of(&record.doing, moving, frozen);
        let reason = match (state, reason) {
            (State::Lost, Some(why)) => Some(format!("{why}; {}", self.afresh())),
            (_, reason) => reason,
        };
        let waits = (!moving).then(|| waiting(&record.care)).flatten();
        let health = if pid.is_some() { record.care.health } else { Word::None };
        let lost = || recovered(host, &record).filter(|_| state == State::Running);
        let reason = waits.or(reason).or(record.care.ill.clone().filter(|_| health.is_ill())).or_else(lost);
        let rss = pid.map(|pid| process::tree(pid).into_iter().map(process::resident).sum());
        Some(WorkloadView {
            name: self.name.clone(),
            state,
            node: host.node().clone(),
            epoch: record.epoch,
            pid,
            started: record.started,
            restarts: record.care.past.restarts,
            cpu_percent,
            rss_bytes: rss.unwrap_or(0),
            layer_bytes: Layer::at(self.place.layer()).used().unwrap_or(0),
            health: health.as_str().to_owned(),
            group: None,
            ip: None,
            last_checkpoint: host.checkpoints().last(&self.name),
            exit,
            reason,
        })
    }
}

/// What `ps` says of one that was brought back for this epoch, as long as that lasts.
fn recovered(host: &Host, record: &Record) -> Option<String> {
    let entry = host.tenure.entry(&record.spec.name).filter(|entry| entry.epoch == record.epoch)?;
    let lost = entry.lost_ms? as f64 / 1000.0;
    Some(format!("recovered from a checkpoint: {lost:.1} s of work lost"))
}

/// What `ps` says of one that has ended and begins again.
fn waiting(chart: &Chart) -> Option<String> {
    let Stage::Waiting { after, .. } = chart.past.stage() else { return None };
    (!chart.held).then(|| format!("begins again soon: it {after}"))
}

fn state_of(doing: &Doing, moving: bool, frozen: Option<String>) -> (State, Option<Exit>, Option<String>) {
    match doing {
        Doing::Starting => (State::Starting, None, None),
        Doing::Arriving if frozen.is_some() => (State::Frozen, None, frozen),
        Doing::Arriving => (State::Restoring, None, None),
        Doing::Running if frozen.is_some() => (State::Frozen, None, frozen),
        Doing::Running if moving => (State::Migrating, None, None),
        Doing::Running => (State::Running, None, None),
        Doing::Stopped(exit) => (State::Stopped, *exit, None),
        Doing::Failed(why) => (State::Failed, None, Some(why.clone())),
        Doing::Lost(why) => (State::Lost, None, Some(why.clone())),
    }
}
