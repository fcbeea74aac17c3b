//! How workloads are run, stopped, started and removed on this node.
//!
//! In a cluster the record is asked first: a name is taken there, and what a person wishes stands there before anything is done about it. What has been
//! done is said there afterwards. An agent that dies in between leaves to `conduct` what the record says.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::api::{RunRequest, WorkloadView};
use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::cluster::record::{Life, LoadPolicy, Wanted};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_proto::text::Text;
use migrate_sandbox::layer::Layer;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::{Node, blocking};
use crate::control::Control;
use crate::events::Kind;
use crate::figures::Figures;
use crate::handover::Ground;
use crate::ledger::{self, Declared, Given, seen};
use crate::registry::{Doing, Record};
use crate::workload::Workload;
use crate::{check, clock, elsewhere, preflight, rootfs};

/// Runs a workload here.
pub(super) async fn run(node: &Node, request: RunRequest) -> Result<WorkloadView, Problem> {
    let (ground, me) = (&node.ground, node.me());
    if request.queue || waits_for_room(ground, &request) {
        return enqueue(node, request).await;
    }
    let RunRequest { spec, root, care, replicas, .. } = request;
    let taken = |node: &NodeName| {
        Problem::new(Code::NameTaken, format!("there is a workload {} on {node} already", spec.name))
            .hint("choose another --name, or remove the other one")
    };
    // Nodes that do not answer cannot be asked; of two with one name neither can then move to the other. In a cluster the record knows.
    if let Ok(elsewhere) = node.whereabouts(&spec.name).await {
        return Err(taken(&elsewhere.unwrap_or_else(|| me.clone())));
    }
    let in_cluster = ground.host.tenure.in_cluster();
    if replicas.is_some() && !in_cluster {
        let what = format!("{} was not started: only a cluster's record can keep its number of replicas", spec.name);
        let hint = "`checkpoint_replicas` of the agent holds for all of its workloads";
        return Err(Problem::new(Code::Usage, what).hint(hint));
    }
    let policy = LoadPolicy::of(&care, replicas);
    let record = Record {
        spec: spec.clone(),
        epoch: Epoch::FIRST,
        // In a cluster it is that when the record says so.
        owned: !in_cluster,
        doing: Doing::Starting,
        started: None,
        sandbox: None,
        pid: None,
        care: Chart::new(care),
        ticket: None,
        numbered: 0,
        trust: Trust::default(),
    };
    let workload = Workload::new(ground.registry.place(&spec.name), record);
    if ground.registry.get(&spec.name).is_some_and(|known| !known.is_here()) {
        let message = format!("{} is being moved to {me}, or what is left of a move is being cleared away", spec.name);
        return Err(Problem::new(Code::NameTaken, message)
            .hint("choose another --name, or wait; `migrate events` says how it ends"));
    }
    // Before anybody else sees it.
    let turn = workload.turn()?;
    // What is on disk and not in the registry was left alone because it is damaged.
    if workload.place().record().exists() || !ground.registry.add(workload.clone()) {
        return Err(taken(me));
    }
    let (done, answer) = oneshot::channel();
    let beginning = Beginning { ground: ground.clone(), workload: workload.clone(), policy, root, turn };
    // Who asked may leave before it is done.
    tokio::spawn(
        async move { if in_cluster { beginning.in_cluster(done).await } else { beginning.alone(done).await } },
    );
    answer.await.map_err(Problem::internal)??;
    ground.host.events.record(Kind::Started, Some(workload.name()), None, "started");
    node.view(&workload).await
}

/// Whether this node, which nobody has named, cannot take it, and another one may.
fn waits_for_room(ground: &Ground, request: &RunRequest) -> bool {
    if !ground.host.tenure.in_cluster() || request.on.is_some() || request.root.is_some() {
        return false;
    }
    let record = ground.host.tenure.record_now();
    let known = record.as_ref().is_some_and(|record| record.nodes.contains_key(ground.host.node()));
    let closed = known && record.is_some_and(|record| record.takes(ground.host.node()).is_err());
    let seen = Figures::new().look(&ground.host.config.state);
    let free = seen.memory_total_bytes.saturating_sub(seen.memory_used_bytes);
    closed || request.spec.memory_bytes.is_some_and(|wanted| wanted > free)
}

/// Has the cluster find a node for it, now or later.
async fn enqueue(node: &Node, request: RunRequest) -> Result<WorkloadView, Problem> {
    let RunRequest { spec, on, root, care, priority, replicas, .. } = request;
    let (host, name) = (&node.ground.host, spec.name.clone());
    let usage = |what: &str| Err(Problem::new(Code::Usage, format!("{name} was not queued: {what}")));
    match (host.tenure.in_cluster(), on.is_some(), root.is_some()) {
        (false, _, _) => return usage("this node is in no cluster, whose leader could find a node for it"),
        (_, true, _) => return usage("a node was named with --on, and one that waits goes where there is room"),
        (_, _, true) => return usage("--root names files of one node, and it may go to any"),
        (true, false, false) => {}
    }
    ledger::enqueue(host, &spec, &LoadPolicy::of(&care, replicas), priority).await?;
    let record = host.tenure.confirmed().await;
    let entry = record.loads.get(&name).ok_or_else(|| Problem::internal(format!("{name} was removed at once")))?;
    host.events.record(Kind::Waits, Some(&name), None, "queued: it goes where there is room");
    Ok(seen::view(entry, &record, node.me()))
}

/// A workload that is in the registry, and is to be started for the first time.
struct Beginning {
    ground: Ground,
    workload: Arc<Workload>,
    policy: LoadPolicy,
    root: Option<Text>,
    turn: OwnedMutexGuard<()>,
}

type Done = oneshot::Sender<Result<(), Problem>>;

impl Beginning {
    async fn alone(self, done: Done) {
        let started = self.start(Given { epoch: Epoch::FIRST, ticket: None }).await;
        if started.is_err() {
            self.forget();
        }
        drop(self.turn);
        let _ = done.send(started);
    }

    async fn in_cluster(self, done: Done) {
        let (host, name) = (&self.ground.host, self.workload.name().clone());
        let mut spec = self.workload.record().spec;
        spec.own_root |= self.root.is_some();
        let answer = match ledger::declare(host, &spec, &self.policy).await {
            Declared::Mine(given, claim) => match self.start(given).await {
                Ok(()) => {
                    ledger::began(host, &name, given.epoch, claim).await;
                    Ok(())
                }
                Err(problem) => {
                    // The name stays taken here until it is free there: nobody is to begin it again.
                    ledger::withdraw(host, name, given.epoch, &claim).await;
                    self.forget();
                    Err(problem)
                }
            },
            Declared::Refused(problem) => {
                self.forget();
                Err(problem)
            }
            Declared::Open(problem, open) => {
                let _ = done.send(Err(problem));
                open.withdraw().await;
                return self.forget();
            }
        };
        drop(self.turn);
        let _ = done.send(answer);
    }

    async fn start(&self, given: Given) -> Result<(), Problem> {
        let (ground, workload, root) = (self.ground.clone(), self.workload.clone(), self.root.clone());
        blocking(move || first_start(&ground, &workload, root, given)).await
    }

    fn forget(&self) {
        let _ = self.ground.registry.remove(self.workload.name());
    }
}

/// Makes the layer and starts the workload for the first time, as this node's. Blocks.
pub fn first_start(ground: &Ground, workload: &Arc<Workload>, root: Option<Text>, given: Given) -> Result<(), Problem> {
    let internal = |error: String| Problem::new(Code::Internal, error);
    let (place, spec) = (workload.place(), workload.record().spec);
    if let Some(missing) = preflight::missing_volume(&spec.volumes, ground.host.node().as_str()) {
        let message = format!("{} was not started: {missing}", spec.name);
        return Err(Problem::new(Code::Usage, message).hint("a volume is a path that every node has already"));
    }
    let _ = std::fs::remove_dir_all(place.dir());
    std::fs::create_dir_all(place.dir())
        .map_err(|error| internal(format!("cannot make room for {}: {error}", spec.name)))?;
    let layer = Layer::create(place.layer(), spec.layer_bytes).map_err(|error| internal(error.to_string()))?;
    if let Some(root) = &root {
        let mounted = place.dir().join("filling");
        std::fs::create_dir_all(&mounted).map_err(|error| internal(error.to_string()))?;
        let filled = layer
            .fill(&mounted, |at| rootfs::fill(root.as_os_str().as_ref(), &at.join(migrate_sandbox::plan::OWN_ROOT)));
        filled.map_err(|error| internal(error.to_string()))??;
        let _ = std::fs::remove_dir(&mounted);
    }
    workload.update(|record| {
        record.spec.own_root |= root.is_some();
        (record.owned, record.epoch, record.ticket) = (true, given.epoch, given.ticket);
    })?;
    workload.start(&ground.host, clock::time_of_day())
}

/// Ends a workload; it stays known.
pub(super) async fn stop(node: &Node, name: &WorkloadName, timeout: Option<Duration>) -> Result<WorkloadView, Problem> {
    let host = &node.ground.host;
    let what = format!("{name} was not stopped");
    let workload = match node.own(name) {
        Ok(workload) => workload,
        Err(problem) => return wish_from_afar(node, name, Wanted::Stop, &what, problem).await,
    };
    let turn = workload.turn_soon().await?;
    let recorded = ledger::is_mine(host, name, &what).await?;
    if recorded {
        ledger::wish(host, name, Wanted::Stop, &what).await?;
    }
    let (ending, stopping) = (host.clone(), workload.clone());
    let timeout = timeout.unwrap_or(host.config.stop_timeout);
    let turn = blocking(move || {
        // Before its end, which would be news otherwise.
        stopping.hold()?;
        let exit = match stopping.doubt() {
            None => stopping.end(&ending, timeout)?,
            // It may run elsewhere: not one more instruction here.
            Some(_) => stopping.drop_sandbox(&ending).map(|()| None)?,
        };
        stopping.set_frozen(None);
        stopping.note_stop(&ending, exit)?;
        Ok(turn)
    })
    .await?;
    if let (true, Doing::Stopped(exit)) = (recorded, workload.record().doing) {
        ledger::ended(host, name, workload.record().epoch, exit).await;
    }
    drop(turn);
    node.view(&workload).await
}

/// Starts a workload again that has ended.
pub(super) async fn start(node: &Node, name: &WorkloadName) -> Result<WorkloadView, Problem> {
    let (ground, host) = (&node.ground, &node.ground.host);
    let workload = node.own(name)?;
    check::settled(&workload)?;
    let turn = workload.turn_soon().await?;
    check::settled(&workload)?;
    if matches!(workload.record().doing, Doing::Running | Doing::Starting) {
        return Err(Problem::new(Code::WrongState, format!("{name} runs already on {}", node.me())));
    }
    let revived = match host.tenure.in_cluster() {
        true => Some(ledger::revive(host, name, workload.record().epoch, &format!("{name} was not started")).await?),
        false => {
            has_not_moved_on(node, &workload).await?;
            None
        }
    };
    let (starter, starting, epoch) = (host.clone(), workload.clone(), revived.as_ref().map(|(epoch, _)| *epoch));
    let started = blocking(move || {
        if let Some(epoch) = epoch {
            starting.update(|record| record.epoch = epoch)?;
        }
        starting.release()?;
        starting.start(&starter, clock::time_of_day())
    })
    .await;
    match (revived, &started) {
        (Some((epoch, by)), Ok(())) => ledger::began(host, name, epoch, by).await,
        (Some((epoch, by)), Err(problem)) => {
            ledger::broke(host, name, epoch, by, false, problem.message.clone()).await;
        }
        (None, _) => {}
    }
    drop(turn);
    started?;
    ground.host.events.record(Kind::Started, Some(name), None, "started");
    node.view(&workload).await
}

/// A node that comes back with an old state may have what has long been elsewhere.
async fn has_not_moved_on(node: &Node, workload: &Workload) -> Result<(), Problem> {
    let (me, name) = (node.me(), workload.name());
    let namesakes = elsewhere::namesakes(&node.ground.peers, name, &[me]).await;
    let Some(other) = namesakes.first() else { return Ok(()) };
    let epoch = workload.record().epoch;
    let message = format!("{name} is on {} in epoch {}; what {me} has is of epoch {epoch}", other.node, other.epoch);
    let hint = format!("remove the old one: `migrate --node {me} rm {name}`");
    Err(Problem::new(Code::NameTaken, message).hint(hint))
}

/// Forgets a workload and its files.
pub(super) async fn remove(node: &Node, name: &WorkloadName, force: bool) -> Result<(), Problem> {
    let (ground, host) = (&node.ground, &node.ground.host);
    let what = format!("{name} was not removed");
    let workload = match node.own(name) {
        Ok(workload) => workload,
        Err(problem) => {
            runs_elsewhere(node, name).filter(|_| !force).map_or(Ok(()), Err)?;
            return wish_from_afar(node, name, Wanted::Remove, &what, problem).await.map(drop);
        }
    };
    // A person may know that nobody will ever answer.
    let given_up = force && workload.doubt().is_some() && ground.handovers.give_up(name);
    let turn = if given_up { workload.turn_after_handover().await? } else { workload.turn_soon().await? };
    if given_up && ground.registry.get(name).is_none_or(|known| !Arc::ptr_eq(&known, &workload)) {
        // The handover has taken it along.
        let message = "removed, though its other node had not answered";
        host.events.record(Kind::Removed, Some(name), None, message);
        return Ok(());
    }
    if workload.pid().is_some() && !force {
        let hint = format!("`migrate stop {name}` first, or `migrate rm -f {name}`");
        return Err(Problem::new(Code::WrongState, format!("{name} runs on {}", node.me())).hint(hint));
    }
    let recorded = ledger::is_mine(host, name, &what).await?;
    if recorded {
        ledger::wish(host, name, Wanted::Remove, &what).await?;
    }
    let (removing, epoch, clearing) = (workload.clone(), workload.record().epoch, ground.clone());
    let turn = blocking(move || {
        removing.drop_sandbox(&clearing.host)?;
        clearing.host.checkpoints().removed(removing.name(), removing.record().epoch)?;
        clearing.registry.remove(removing.name()).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        Ok(turn)
    })
    .await?;
    if recorded {
        ledger::is_gone(host, name, epoch).await;
    }
    drop(turn);
    host.events.record(Kind::Removed, Some(name), None, "removed");
    Ok(())
}

/// The problem that a workload is not to be removed without force, as far as the record knows.
fn runs_elsewhere(node: &Node, name: &WorkloadName) -> Option<Problem> {
    let entry = node.ground.host.tenure.entry(name)?;
    let goes = matches!(entry.life, Life::Starting | Life::Running | Life::Recovering { .. });
    let owner = entry.owner.filter(|_| goes)?;
    let message = format!("{name} is {} on {owner}, according to the cluster's record", entry.life);
    Some(Problem::new(Code::WrongState, message).hint(format!("`migrate rm -f {name}` removes it all the same")))
}

/// What is wanted of a workload whose node does not answer, or that has none, is remembered: it is carried out by its node when that is back.
async fn wish_from_afar(
    node: &Node,
    name: &WorkloadName,
    wanted: Wanted,
    what: &str,
    problem: Problem,
) -> Result<WorkloadView, Problem> {
    let host = &node.ground.host;
    if host.tenure.entry(name).is_none() {
        return Err(problem);
    }
    let before = ledger::wish(host, name, wanted, what).await?;
    let record = host.tenure.confirmed().await;
    let (kind, message) = match (&before.owner, wanted) {
        (None, Wanted::Remove) => (Kind::Removed, "removed".to_owned()),
        (None, _) => (Kind::Stopped, "stopped".to_owned()),
        (Some(owner), Wanted::Remove) => {
            let message =
                format!("is to be removed; a copy that {owner} brings back stays frozen there, and is removed by");
            (Kind::Warning, format!("{message} `migrate --node {owner} rm -f {name}`"))
        }
        (Some(owner), _) => (Kind::Warning, format!("is to {wanted}, which {owner} does as soon as it is back")),
    };
    host.events.record(kind, Some(name), None, message);
    let entry = record.loads.get(name).unwrap_or(&before);
    Ok(seen::view(entry, &record, node.me()))
}
