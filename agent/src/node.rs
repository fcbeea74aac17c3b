//! The node's core: what the API asks for, done with the workloads of this node or handed to the node that has them.
//!
//! [`lives`]: how workloads are run, stopped, started and removed.

mod lives;
pub use lives::first_start;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use migrate_ownership::Backup;
use migrate_proto::api::{
    CheckReport, CheckpointView, DrainReport, Event, ExecLine, ExecRequest, Mode, MoveLine, MoveReport, MoveRequest,
    NodeState, NodeView, RebuildRequest, RebuildView, RestoreRequest, RunRequest, State, WhyView, WorkloadView,
};
use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::channel;
use crate::cluster::{nodes, ways_back};
use crate::control::{
    ByteStream, Control, EventQuery, ForwardedRequest, ForwardedResponse, Health, Lines, LogQuery, Scope,
};
use crate::events::everywhere;
use crate::figures::Figures;
use crate::handover::{Ground, departure, rest};
use crate::keyring::Keyring;
use crate::ledger::{self, seen};
use crate::workload::Workload;
use crate::{check, checkpoint, clock, drain, elsewhere, output, proxy, why};

/// How often a move tells how far it is.
const PROGRESS: Duration = Duration::from_millis(200);
const QUEUE: usize = 16;

/// How long a workload that is this node's is waited for, where it is not here yet, and how often it is looked for.
const JUST_COMING: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who is to answer for a workload.
enum Place {
    Here,
    There(NodeName),
}

/// This node.
pub struct Node {
    ground: Ground,
    figures: Mutex<Figures>,
    keyring: Arc<Keyring>,
}

impl Node {
    /// The core upon this ground.
    pub fn new(ground: Ground, keyring: Arc<Keyring>) -> Node {
        Node { ground, figures: Mutex::new(Figures::new()), keyring }
    }

    fn me(&self) -> &NodeName {
        self.ground.host.node()
    }

    /// A workload that is this node's own.
    fn own(&self, name: &WorkloadName) -> Result<Arc<Workload>, Problem> {
        let known = self.ground.registry.get(name);
        known.filter(|workload| workload.is_here()).ok_or_else(|| {
            let away = seen::away(&self.ground.host, name);
            away.unwrap_or_else(|| unknown(name))
        })
    }

    async fn view(&self, workload: &Arc<Workload>) -> Result<WorkloadView, Problem> {
        let (host, workload) = (self.ground.host.clone(), workload.clone());
        let view = blocking(move || Ok(workload.view(&host, clock::now_ns()))).await?;
        view.ok_or_else(|| Problem::new(Code::UnknownWorkload, "the workload has just left"))
    }

    /// Where the cluster's record has a workload of this name; `None` where it says nothing about it.
    ///
    /// What nobody has, or a node that does not answer, is this node's to speak of: it knows the record.
    async fn recorded(&self, name: &WorkloadName) -> Option<Place> {
        let until = Instant::now() + JUST_COMING;
        loop {
            let entry = self.ground.host.tenure.entry(name)?;
            let here = self.own(name).ok().map(|workload| workload.record().epoch);
            // Also one that this node has, and of which the record here does not say so yet.
            if here.is_some_and(|epoch| epoch >= entry.epoch) {
                return Some(Place::Here);
            }
            match entry.owner {
                Some(owner) if owner == *self.me() => {}
                Some(owner) if self.ground.peers.gone().contains(&owner) => return Some(Place::Here),
                Some(owner) => return Some(Place::There(owner)),
                None => return Some(Place::Here),
            }
            // The record says it first, and then it is done here.
            if Instant::now() > until {
                return Some(Place::Here);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn own_view(&self) -> NodeView {
        let host = &self.ground.host;
        let figures = self.figures.lock().await.look(&host.config.state);
        let count = self.ground.registry.all().iter().filter(|workload| workload.record().owned).count();
        NodeView {
            name: self.me().clone(),
            address: self.ground.peers.own_address().unwrap_or_else(|| host.config.listen.to_string()),
            state: NodeState::Alive,
            leader: false,
            voter: false,
            cpu_percent: Some(figures.cpu_percent),
            memory_used_bytes: Some(figures.memory_used_bytes),
            memory_total_bytes: Some(figures.memory_total_bytes),
            disk_free_bytes: Some(figures.disk_free_bytes),
            workloads: Some(count as u32),
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            criu_version: host.criu_version(),
            keys: self.keyring.fingerprints(),
        }
    }

    async fn begin_move(
        &self,
        workload: Arc<Workload>,
        request: MoveRequest,
        cancel: CancellationToken,
    ) -> Result<Lines<MoveLine>, Problem> {
        if request.mode == Mode::Ahead {
            return Err(
                Problem::new(Code::Usage, "--mode ahead is not there yet; nothing was done").hint("use --mode stream")
            );
        }
        let turn = workload.turn_soon().await?;
        ledger::may_give_away(&self.ground.host, &workload).await?;
        check::standing(&self.ground, &workload, request.to.as_ref())?;
        let to = match request.to {
            Some(to) => to,
            None => check::choose_target(&self.ground).await?,
        };
        self.ground.peers.address(&to)?;
        let meter = Arc::default();
        let departure = departure::Departure::new(self.ground.clone(), workload, to, Arc::clone(&meter))?;
        let (done, report) = oneshot::channel();
        tokio::spawn(async move {
            let report = departure.run(cancel).await;
            drop(turn);
            let _ = done.send(report);
            rest().await;
        });
        Ok(follow_move(meter, report))
    }
}

fn unknown(name: &WorkloadName) -> Problem {
    Problem::new(Code::UnknownWorkload, format!("there is no workload {name}")).hint("`migrate ps` shows what there is")
}

/// Progress several times a second, then the report.
fn follow_move(meter: Arc<crate::handover::Meter>, report: oneshot::Receiver<MoveReport>) -> Lines<MoveLine> {
    let (tell, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let (mut report, mut tick, mut phases) = (report, tokio::time::interval(PROGRESS), meter.phases());
        loop {
            tokio::select! {
                done = &mut report => {
                    if let Ok(done) = done {
                        let _ = tell.send(MoveLine::Report(Box::new(done))).await;
                    }
                    return;
                }
                _ = tick.tick() => {}
                _ = phases.changed() => {}
            }
            // A slow listener misses progress, never the report.
            let _ = tell.try_send(MoveLine::Progress(meter.progress()));
        }
    });
    channel::stream(receiver)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(Code::Internal, error.to_string()))?
}

#[async_trait]
impl Control for Node {
    async fn run(&self, request: RunRequest) -> Result<WorkloadView, Problem> {
        if request.spec.argv.is_empty() {
            return Err(Problem::new(Code::Usage, "there is no command to run"));
        }
        request.care.check()?;
        match &request.on {
            Some(node) if node != self.me() => elsewhere::run(&self.ground.peers, node, &request).await,
            _ => lives::run(self, request).await,
        }
    }

    async fn list(&self, scope: Scope) -> Result<Vec<WorkloadView>, Problem> {
        let (host, all) = (self.ground.host.clone(), self.ground.registry.all());
        let mut views = blocking(move || {
            let now = clock::now_ns();
            Ok(all.iter().filter_map(|workload| workload.view(&host, now)).collect::<Vec<_>>())
        })
        .await?;
        if scope == Scope::Cluster {
            let others = self.ground.peers.all();
            let asked = others.iter().map(|peer| elsewhere::workloads(&self.ground.peers, &peer.node));
            views.extend(join_all(asked).await.into_iter().flatten().flatten());
        }
        match self.ground.host.tenure.record_now().filter(|_| scope == Scope::Cluster) {
            Some(record) => views = seen::complete(views, &record, self.me()),
            None => {
                // In doubt a workload is shown on both nodes; what was given away, only until it is seen where it went. In a cluster, so is
                // what is gone with a node: the record will say whose it is.
                let in_cluster = self.ground.host.tenure.in_cluster();
                let seen: Vec<(WorkloadName, Epoch)> =
                    views.iter().map(|view| (view.name.clone(), view.epoch)).collect();
                let went_on =
                    |view: &WorkloadView| seen.iter().any(|(name, epoch)| *name == view.name && *epoch > view.epoch);
                let is_past =
                    |view: &WorkloadView| view.state == State::Migrating || in_cluster && view.state == State::Lost;
                views.retain(|view| !is_past(view) || !went_on(view));
            }
        }
        views.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        Ok(views)
    }

    async fn stop(&self, name: &WorkloadName, timeout: Option<Duration>) -> Result<WorkloadView, Problem> {
        lives::stop(self, name, timeout).await
    }

    async fn start(&self, name: &WorkloadName) -> Result<WorkloadView, Problem> {
        lives::start(self, name).await
    }

    async fn remove(&self, name: &WorkloadName, force: bool) -> Result<(), Problem> {
        lives::remove(self, name, force).await
    }

    async fn logs(&self, name: &WorkloadName, query: LogQuery) -> Result<Lines<ExecLine>, Problem> {
        output::logs(&self.ground.host, self.own(name)?, query).await
    }

    async fn exec(
        &self,
        name: &WorkloadName,
        request: ExecRequest,
        stdin: ByteStream,
    ) -> Result<Lines<ExecLine>, Problem> {
        output::exec(&self.ground.host, &*self.own(name)?, request, stdin)
    }

    async fn migrate(
        &self,
        name: &WorkloadName,
        request: MoveRequest,
        cancel: CancellationToken,
    ) -> Result<Lines<MoveLine>, Problem> {
        self.begin_move(self.own(name)?, request, cancel).await
    }

    async fn checkpoint(&self, name: &WorkloadName) -> Result<CheckpointView, Problem> {
        let workload = self.own(name)?;
        check::settled(&workload)?;
        let taken = checkpoint::take::take(&self.ground, &workload, CheckpointKind::Asked).await?;
        Ok(checkpoint::view(&taken.generation, self.me()))
    }

    async fn checkpoints(&self, workload: Option<WorkloadName>, scope: Scope) -> Result<Vec<CheckpointView>, Problem> {
        checkpoint::all(&self.ground, workload, scope).await
    }

    async fn prove(&self, workload: &WorkloadName, scope: Scope) -> Result<CheckpointView, Problem> {
        checkpoint::prove::newest(&self.ground, workload, scope).await
    }

    async fn restore(&self, name: &WorkloadName, request: RestoreRequest) -> Result<WorkloadView, Problem> {
        if let Some(new) = &request.r#as {
            // Nodes that do not answer cannot be asked; of two with one name neither can then move to the other.
            if let Ok(elsewhere) = self.whereabouts(new).await {
                let node = elsewhere.unwrap_or_else(|| self.me().clone());
                let message = format!("there is a workload {new} on {node} already");
                return Err(Problem::new(Code::NameTaken, message).hint("choose another name, or remove the other one"));
            }
        }
        let restored = checkpoint::restore::restore(&self.ground, name, request).await?;
        self.view(&restored).await
    }

    async fn check(&self, name: &WorkloadName, to: Option<NodeName>) -> Result<CheckReport, Problem> {
        check::check(&self.ground, &self.own(name)?, to).await
    }

    async fn why(&self, name: &WorkloadName, scope: Scope) -> Result<WhyView, Problem> {
        // Of a node that is asked about itself it is an answer that it has nothing of it.
        let own = self.own(name).map_err(|problem| if scope == Scope::Node { unknown(name) } else { problem });
        why::why(&self.ground, &own?, scope).await
    }

    async fn whereabouts(&self, name: &WorkloadName) -> Result<Option<NodeName>, Problem> {
        match self.recorded(name).await {
            Some(Place::Here) => return Ok(None),
            Some(Place::There(node)) => return Ok(Some(node)),
            None => {}
        }
        let own = self.own(name).ok();
        // An agent that has just started does not know yet whether what it had was given to another node meanwhile.
        let tenure = &self.ground.host.tenure;
        let is_sure = !tenure.in_cluster() || tenure.record_now().is_some();
        // What was given away, and is only being cleared away here, is its next node's to speak of.
        if is_sure && own.as_ref().is_some_and(|workload| workload.record().owned || !workload.is_moving()) {
            return Ok(None);
        }
        let others = self.ground.peers.all();
        let asked = others.iter().map(|peer| elsewhere::workloads(&self.ground.peers, &peer.node));
        let mut silent = Vec::new();
        for (peer, answer) in others.iter().zip(join_all(asked).await) {
            match answer {
                Ok(views) if views.iter().any(|view| view.name == *name) => return Ok(Some(peer.node.clone())),
                Ok(_) => {}
                Err(_) => silent.push(peer.node.as_str()),
            }
        }
        if own.is_some() {
            return Ok(None);
        }
        let gone = self.ground.peers.gone();
        silent.extend(gone.iter().map(NodeName::as_str));
        if silent.is_empty() {
            return Err(unknown(name));
        }
        Err(unknown(name).hint(format!("it may be on a node that does not answer: {}", silent.join(", "))))
    }

    async fn nodes(&self, scope: Scope) -> Result<Vec<NodeView>, Problem> {
        let mut views = vec![self.own_view().await];
        if scope == Scope::Cluster {
            views.extend(nodes::others(&self.ground.peers).await);
        }
        nodes::mark_offices(&mut views, &self.ground.peers.offices());
        if let Some(record) = self.ground.host.tenure.record_now() {
            nodes::mark_draining(&mut views, &record);
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    async fn forget(&self, node: &NodeName) -> Result<(), Problem> {
        ways_back::forget(&self.ground, node).await
    }

    async fn backup(&self) -> Result<Backup, Problem> {
        ways_back::backup(&self.ground).await
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<RebuildView, Problem> {
        ways_back::rebuild_here(&self.ground, request).await
    }

    async fn events(&self, query: EventQuery) -> Result<Lines<Event>, Problem> {
        let (log, me) = (&self.ground.host.events, self.me());
        Ok(match query.scope {
            Scope::Node => everywhere::here(log, me, &query),
            Scope::Cluster => everywhere::everywhere(log.clone(), me.clone(), self.ground.peers.clone(), query).await,
        })
    }

    async fn reload_keys(&self) -> Result<NodeView, Problem> {
        let keyring = self.keyring.clone();
        blocking(move || keyring.reload()).await?;
        Ok(self.own_view().await)
    }

    async fn drain(&self, node: Option<NodeName>, deadline: Option<Duration>) -> Result<DrainReport, Problem> {
        match node {
            Some(node) if node != *self.me() => drain::of_another(&self.ground, &node, deadline).await,
            _ => drain::drain(&self.ground, deadline).await,
        }
    }

    async fn undrain(&self, node: Option<NodeName>) -> Result<(), Problem> {
        drain::set(&self.ground, node.as_ref().unwrap_or(self.me()), false).await
    }

    async fn health(&self) -> Result<Health, Problem> {
        Ok(Health {
            node: self.me().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            criu_version: self.ground.host.criu_version(),
            ready: true,
        })
    }

    async fn forward(&self, node: &NodeName, request: ForwardedRequest) -> Result<ForwardedResponse, Problem> {
        proxy::ask(&self.ground.peers, node, request).await
    }
}
