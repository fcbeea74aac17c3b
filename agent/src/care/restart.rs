//! What follows from an end, and from illness: written down first, then done, then said.
//!
//! Everything here takes the workload's turn, looks again, and does nothing where somebody else was quicker.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::care::Chart;
use migrate_proto::care::health::Word;
use migrate_proto::care::restart::{End, Next, Policy, Stage};
use migrate_proto::care::trust::Place;
use migrate_proto::cluster::Claim;
use migrate_proto::error::{Code, Problem};
use tokio::sync::OwnedMutexGuard;

use super::wall_clock;
use crate::checkpoint::restore;
use crate::events::Kind;
use crate::handover::Ground;
use crate::registry::Doing;
use crate::workload::Workload;
use crate::{clock, elsewhere, ledger};

/// How long until the cluster is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

type Turn = OwnedMutexGuard<()>;

/// A workload has ended without anybody's wish: decides what follows. False where somebody else has it at the moment.
pub(super) async fn account(ground: &Ground, workload: &Arc<Workload>, end: &End) -> bool {
    match workload.turn() {
        Ok(turn) => account_with(ground, workload, end, &turn).await,
        Err(_) => false,
    }
}

async fn account_with(ground: &Ground, workload: &Arc<Workload>, end: &End, _turn: &Turn) -> bool {
    let (changing, ended, now) = (workload.clone(), end.clone(), wall_clock());
    let decided = write(move || {
        let mut next = None;
        changing.update(|record| {
            let chart = &mut record.care;
            let is_news = !chart.held && (*chart.past.stage() == Stage::Up || matches!(ended, End::NotStarted(_)));
            if !is_news {
                return;
            }
            let decided = chart.past.ended(now, chart.wish.restart, &ended);
            if let Next::GiveUp(why) = &decided {
                record.doing = Doing::Failed(why.clone());
            }
            next = Some(decided);
        })?;
        Ok(next)
    });
    let say = |kind, message| ground.host.events.record(kind, Some(workload.name()), None, message);
    let decided = decided.await;
    if let Ok(Some(Next::Rest | Next::GiveUp(_))) = &decided {
        tell_record(ground, workload, end).await;
    }
    match decided {
        Ok(Some(Next::Again { after_ms })) => {
            say(Kind::Restarting, format!("it {end}; begins again in {:.0} s", after_ms as f64 / 1000.0));
        }
        Ok(Some(Next::GiveUp(why))) => {
            let start = format!("`migrate start {}` begins it anew", workload.name());
            say(Kind::Failed, format!("is not begun again: {why}; {start}"));
        }
        Ok(Some(Next::Rest) | None) => {}
        Err(problem) => return told(workload, "what follows from its end cannot be written down", &problem),
    }
    true
}

/// Nothing follows from its end: the cluster's record hears of it. While something follows, it goes on saying that it runs, and whose node dies
/// meanwhile is brought back elsewhere.
async fn tell_record(ground: &Ground, workload: &Workload, end: &End) {
    let (host, name, epoch) = (&ground.host, workload.name(), workload.record().epoch);
    if !host.tenure.in_cluster() {
        return;
    }
    match (end, host.tenure.lease_now().claim().cloned()) {
        (End::Exit(exit), _) => ledger::ended(host, name, epoch, Some(*exit)).await,
        (End::Ill(_), _) => ledger::ended(host, name, epoch, None).await,
        (End::NotStarted(why), Some(by)) => ledger::broke(host, name, epoch, by, false, why.clone()).await,
        // What becomes of what went with its node's power is `conduct`'s affair.
        (End::NotStarted(_), None) | (End::Lost(_), _) => {}
    }
}

/// Begins a workload again whose time it is.
///
/// This is the one place where it comes back: what hung, was ill or was lost with its node from its last checkpoint that was healthy, where there is
/// one; everything else from nothing, with its files. What ended by itself would do so again.
pub(super) async fn bring_back(ground: &Ground, workload: &Arc<Workload>) {
    let Ok(turn) = workload.turn() else { return };
    let record = workload.record();
    let Stage::Waiting { after, .. } = record.care.past.stage().clone() else { return };
    let goes = matches!(record.doing, Doing::Stopped(_) | Doing::Failed(_) | Doing::Lost(_));
    let free = record.owned && !workload.is_moving() && workload.doubt().is_none() && !record.care.held;
    if !goes || !free || record.care.past.waits_ms(wall_clock()) != Some(0) {
        return;
    }
    if record.care.health.is_ill() && doubt(ground, workload).await.is_err() {
        return tokio::time::sleep(ASK_AGAIN).await;
    }
    let in_cluster = ground.host.tenure.in_cluster();
    if !in_cluster && matches!(record.doing, Doing::Lost(_)) && is_elsewhere(ground, workload).await {
        return;
    }
    let by = match begin_epoch(ground, workload).await {
        Ok(by) => by,
        Err(problem) => {
            told(workload, "the cluster does not let it begin again yet", &problem);
            return tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let from_checkpoint = record.care.health.is_ill() || matches!(record.doing, Doing::Lost(_));
    if from_checkpoint && restore::instead_of_afresh(ground, workload).await {
        return say_began(ground, workload, by).await;
    }
    let (host, starting) = (ground.host.clone(), workload.clone());
    let started = write(move || {
        starting.update(|record| record.care.begin())?;
        starting.start(&host, clock::time_of_day())?;
        starting.update(|record| {
            record.care.past.runs();
        })?;
        Ok(starting.chart().past.restarts)
    });
    match started.await {
        Ok(count) => {
            let message = format!("started again (restart {count}): it {after}");
            ground.host.events.record(Kind::Started, Some(workload.name()), None, message);
            say_began(ground, workload, by).await;
        }
        Err(problem) => drop(account_with(ground, workload, &End::NotStarted(problem.message), &turn).await),
    }
}

/// In a cluster it begins again in an epoch of its own, which only the owner can begin, and only with a lease. Says as who.
async fn begin_epoch(ground: &Ground, workload: &Arc<Workload>) -> Result<Option<Claim>, Problem> {
    let (host, name) = (&ground.host, workload.name());
    if !host.tenure.in_cluster() {
        return Ok(None);
    }
    let what = format!("{name} does not begin again yet");
    if host.tenure.lease_now().claim().is_none() {
        return Err(Problem::new(Code::Busy, format!("{what}: {} has no lease", host.node())));
    }
    let (epoch, by) = ledger::revive(host, name, workload.record().epoch, &what).await?;
    let changing = workload.clone();
    write(move || changing.update(|record| record.epoch = epoch)).await?;
    Ok(Some(by))
}

async fn say_began(ground: &Ground, workload: &Workload, by: Option<Claim>) {
    if let Some(by) = by {
        ledger::began(&ground.host, workload.name(), workload.record().epoch, by).await;
    }
}

/// A node that was without power may have what has long been elsewhere. Then it stays as it is, and a person is told.
async fn is_elsewhere(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let (me, name) = (ground.host.node(), workload.name());
    let others = elsewhere::namesakes(&ground.peers, name, &[me]).await;
    let Some(other) = others.first() else { return false };
    let why = format!("it is on {} in epoch {}: what {me} has is old", other.node, other.epoch);
    let (resting, reason) = (workload.clone(), why.clone());
    let rests = write(move || {
        resting.update(|record| {
            record.care.past.stop();
            record.doing = Doing::Lost(reason);
        })
    });
    match rests.await {
        Ok(()) => ground.host.events.record(Kind::Warning, Some(name), None, format!("is not begun again: {why}")),
        Err(problem) => drop(told(workload, "that it is elsewhere cannot be written down", &problem)),
    }
    true
}

/// What a person stopped begins again with the agent, where that is its policy.
pub(super) async fn wake(workload: &Arc<Workload>) {
    let Ok(_turn) = workload.turn() else { return };
    let (waking, now) = (workload.clone(), wall_clock());
    let woken = write(move || {
        waking.update(|record| {
            let chart = &mut record.care;
            if chart.held && chart.wish.restart == Policy::Always {
                chart.held = false;
                chart.past.wake(now);
            }
        })
    });
    if let Err(problem) = woken.await {
        told(workload, "that it begins again cannot be written down", &problem);
    }
}

/// It runs, and is like this. False where somebody else has it at the moment.
pub(super) async fn note(
    ground: &Ground,
    workload: &Arc<Workload>,
    word: Word,
    ill: Option<String>,
    well: bool,
) -> bool {
    let now = wall_clock();
    let noted = move |chart: &mut Chart| {
        chart.past.runs();
        if well {
            chart.past.is_well(now);
        } else {
            chart.past.is_unwell();
        }
        (chart.health, chart.ill) = (word, ill.clone());
    };
    let before = workload.chart();
    let mut after = before.clone();
    noted(&mut after);
    if after == before {
        return true;
    }
    let Ok(_turn) = workload.turn() else { return false };
    let changing = workload.clone();
    // An end may have been quicker: then this is no news any more.
    let written = write(move || {
        changing.update(|record| {
            if record.doing == Doing::Running {
                noted(&mut record.care);
            }
        })
    });
    if let Err(problem) = written.await {
        return told(workload, "how it is cannot be written down", &problem);
    }
    let say = |kind, message| ground.host.events.record(kind, Some(workload.name()), None, message);
    match (before.health == word, &after.ill) {
        (true, _) => {}
        (false, None) if word == Word::Healthy => say(Kind::Healthy, "healthy".to_owned()),
        (false, None) => {}
        (false, Some(why)) => {
            say(Kind::Unhealthy, format!("{}: {why}; its restart policy is no, so it goes on", word.as_str()));
        }
    }
    true
}

/// There was a sign of life after all checkpoints up to here had been taken: of one that was well they are.
pub(super) async fn vouch(ground: &Ground, workload: &Arc<Workload>, up_to: Place) {
    if up_to.1 == 0 || !workload.record().trust.vouch(up_to) {
        return;
    }
    // Who has it at the moment is waited for until the next look.
    let Ok(_turn) = workload.turn() else { return };
    let changing = workload.clone();
    let written = write(move || {
        changing.update(|record| {
            if record.doing == Doing::Running {
                record.trust.vouch(up_to);
            }
        })
    });
    match written.await {
        Ok(()) => ground.host.checkpoints().trusts(workload.name(), workload.record().trust),
        Err(problem) => drop(told(workload, "that it is well cannot be written down", &problem)),
    }
}

/// It is ill: nobody knows since when, so the checkpoints without a sign of life after them do not count. How many these are. The caller has its
/// turn.
async fn doubt(ground: &Ground, workload: &Arc<Workload>) -> Result<usize, Problem> {
    let (host, changing) = (ground.host.clone(), workload.clone());
    let doubted = write(move || {
        let all = host.checkpoints().places(changing.name());
        let record = changing.record();
        let (before, mut trust) = (record.trust.clone(), record.trust);
        trust.doubt(record.epoch, all);
        // It is asked again for as long as the cluster does not let it begin.
        if trust != before {
            changing.update(|record| record.trust = trust.clone())?;
        }
        let count = trust.distrusted.len();
        host.checkpoints().trusts(changing.name(), trust);
        Ok(count)
    });
    let doubted = doubted.await;
    if let Err(problem) = &doubted {
        told(workload, "which checkpoints do not count cannot be written down", problem);
    }
    doubted
}

/// Whether it is not its own fault that it does nothing: it is frozen, by its lease or for a checkpoint, or somebody else has it at the
/// moment.
pub(super) async fn stands_still(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let Ok(_turn) = workload.turn() else { return true };
    let (host, name) = (ground.host.clone(), workload.name().clone());
    let looked = write(move || {
        let freezer = host.cgroup(name.as_str())?.freezer();
        let events = freezer.and_then(|freezer| std::fs::read_to_string(freezer.with_file_name("cgroup.events")).ok());
        Ok(events.is_some_and(|events| events.lines().any(|line| line == "frozen 1")))
    });
    looked.await.unwrap_or(false)
}

/// It is ill, and its policy is that this is the end of it. False where somebody else has it at the moment.
pub(super) async fn end_ill(ground: &Ground, workload: &Arc<Workload>, word: Word, why: &str) -> bool {
    let Ok(_turn) = workload.turn() else { return false };
    if workload.record().doing != Doing::Running || workload.is_moving() {
        return false;
    }
    let (changing, reason) = (workload.clone(), why.to_owned());
    let written = write(move || {
        changing.update(|record| {
            record.care.past.is_unwell();
            (record.care.health, record.care.ill) = (word, Some(reason));
        })
    });
    if let Err(problem) = written.await {
        told(workload, "that it is ill cannot be written down", &problem);
    }
    let since = match doubt(ground, workload).await.unwrap_or_default() {
        0 => String::new(),
        count => format!("; checkpoints without a sign of life after them do not count: {count}"),
    };
    let message = format!("{}: {why}; it is ended{since}", word.as_str());
    ground.host.events.record(Kind::Unhealthy, Some(workload.name()), None, message);
    kill(ground, workload).await;
    true
}

/// Ends everything of the workload at once; its PID 1 sees that and says so.
pub(super) async fn kill(ground: &Ground, workload: &Arc<Workload>) {
    let (host, name) = (ground.host.clone(), workload.name().clone());
    let killed = write(move || host.cgroup(name.as_str()).map(|cgroup| cgroup.kill()));
    if let Err(problem) = killed.await {
        told(workload, "it cannot be ended", &problem);
    }
}

/// It is tried again.
fn told(workload: &Workload, what: &str, problem: &Problem) -> bool {
    tracing::error!(workload = %workload.name(), %problem, "{what}");
    false
}

async fn write<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}
