//! The node's core: what the API asks for, done with the workloads of this node or handed to the node that has them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use migrate_proto::api::{
    CheckReport, CheckpointView, Event, ExecLine, ExecRequest, Mode, MoveLine, MoveReport, MoveRequest, NodeState,
    NodeView, RestoreRequest, RunRequest, State, WhyView, WorkloadView,
};
use migrate_proto::care::Chart;
use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_sandbox::layer::Layer;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::channel;
use crate::cluster::nodes;
use crate::control::{
    ByteStream, Control, EventQuery, ForwardedRequest, ForwardedResponse, Health, Lines, LogQuery, Scope,
};
use crate::events::{Kind, everywhere};
use crate::figures::Figures;
use crate::handover::{Ground, departure, rest};
use crate::keyring::Keyring;
use crate::registry::{Doing, Record};
use crate::workload::Workload;
use crate::{check, checkpoint, clock, elsewhere, output, preflight, proxy, rootfs, why};

/// How often a move tells how far it is.
const PROGRESS: Duration = Duration::from_millis(200);
const QUEUE: usize = 16;

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
        known.filter(|workload| workload.is_here()).ok_or_else(|| unknown(name))
    }

    async fn view(&self, workload: &Arc<Workload>) -> Result<WorkloadView, Problem> {
        let (host, workload) = (self.ground.host.clone(), workload.clone());
        let view = blocking(move || Ok(workload.view(&host, clock::now_ns()))).await?;
        view.ok_or_else(|| Problem::new(Code::UnknownWorkload, "the workload has just left"))
    }

    async fn create(&self, request: RunRequest) -> Result<WorkloadView, Problem> {
        let spec = request.spec;
        let taken = |node: &NodeName| {
            Problem::new(Code::NameTaken, format!("there is a workload {} on {node} already", spec.name))
                .hint("choose another --name, or remove the other one")
        };
        // Nodes that do not answer cannot be asked; of two with one name neither can then move to the other.
        if let Ok(elsewhere) = self.whereabouts(&spec.name).await {
            return Err(taken(&elsewhere.unwrap_or_else(|| self.me().clone())));
        }
        let place = self.ground.registry.place(&spec.name);
        let record = Record {
            spec: spec.clone(),
            epoch: Epoch::FIRST,
            owned: true,
            doing: Doing::Starting,
            started: None,
            sandbox: None,
            pid: None,
            care: Chart::new(request.care),
            ticket: None,
        };
        let workload = Workload::new(place, record);
        if self.ground.registry.get(&spec.name).is_some_and(|known| !known.is_here()) {
            let message = format!(
                "{} is being moved to {}, or what is left of a move is being cleared away",
                spec.name,
                self.me()
            );
            return Err(Problem::new(Code::NameTaken, message)
                .hint("choose another --name, or wait; `migrate events` says how it ends"));
        }
        // What is on disk and not in the registry was left alone because it is damaged.
        if workload.place().record().exists() || !self.ground.registry.add(workload.clone()) {
            return Err(taken(self.me()));
        }
        let turn = workload.turn()?;
        let (ground, starting, root) = (self.ground.clone(), workload.clone(), request.root);
        // The turn goes along: who asked may leave before it is done.
        let started = blocking(move || {
            let _turn = turn;
            let made = first_start(&ground, &starting, root);
            if made.is_err() {
                let _ = ground.registry.remove(starting.name());
            }
            made
        });
        started.await?;
        self.ground.host.events.record(Kind::Started, Some(workload.name()), None, "started");
        self.view(&workload).await
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

/// Makes the layer and starts the workload for the first time. Blocks.
fn first_start(
    ground: &Ground,
    workload: &Arc<Workload>,
    root: Option<migrate_proto::text::Text>,
) -> Result<(), Problem> {
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
    if let Some(root) = root {
        let mounted = place.dir().join("filling");
        std::fs::create_dir_all(&mounted).map_err(|error| internal(error.to_string()))?;
        let filled = layer
            .fill(&mounted, |at| rootfs::fill(root.as_os_str().as_ref(), &at.join(migrate_sandbox::plan::OWN_ROOT)));
        filled.map_err(|error| internal(error.to_string()))??;
        let _ = std::fs::remove_dir(&mounted);
        workload.update(|record| record.spec.own_root = true)?;
    }
    workload.start(&ground.host, clock::time_of_day())
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
            _ => self.create(request).await,
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
        // In doubt a workload is shown on both nodes; what was given away, only until it is seen where it went.
        let seen: Vec<(WorkloadName, Epoch)> = views.iter().map(|view| (view.name.clone(), view.epoch)).collect();
        let went_on = |view: &WorkloadView| seen.iter().any(|(name, epoch)| *name == view.name && *epoch > view.epoch);
        views.retain(|view| view.state != State::Migrating || !went_on(view));
        views.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        Ok(views)
    }

    async fn stop(&self, name: &WorkloadName, timeout: Option<Duration>) -> Result<WorkloadView, Problem> {
        let workload = self.own(name)?;
        let turn = workload.turn_soon().await?;
        let (host, stopping) = (self.ground.host.clone(), workload.clone());
        let timeout = timeout.unwrap_or(host.config.stop_timeout);
        blocking(move || {
            let _turn = turn;
            // Before its end, which would be news otherwise.
            stopping.hold()?;
            let exit = match stopping.doubt() {
                None => stopping.end(&host, timeout)?,
                // It may run elsewhere: not one more instruction here.
                Some(_) => stopping.drop_sandbox(&host).map(|()| None)?,
            };
            stopping.set_frozen(None);
            stopping.note_stop(&host, exit)
        })
        .await?;
        self.view(&workload).await
    }

    async fn start(&self, name: &WorkloadName) -> Result<WorkloadView, Problem> {
        let workload = self.own(name)?;
        check::settled(&workload)?;
        let turn = workload.turn_soon().await?;
        check::settled(&workload)?;
        if matches!(workload.record().doing, Doing::Running | Doing::Starting) {
            return Err(Problem::new(Code::WrongState, format!("{name} runs already on {}", self.me())));
        }
        // A node that comes back with an old state may have what has long been elsewhere.
        if let Some(other) = elsewhere::namesakes(&self.ground.peers, name, &[self.me()]).await.first() {
            let (epoch, node) = (workload.record().epoch, &other.node);
            let message =
                format!("{name} is on {node} in epoch {}; what {} has is of epoch {epoch}", other.epoch, self.me());
            let hint = format!("remove the old one: `migrate --node {} rm {name}`", self.me());
            return Err(Problem::new(Code::NameTaken, message).hint(hint));
        }
        let (host, starting) = (self.ground.host.clone(), workload.clone());
        blocking(move || {
            let _turn = turn;
            starting.release()?;
            starting.start(&host, clock::time_of_day())
        })
        .await?;
        self.ground.host.events.record(Kind::Started, Some(name), None, "started");
        self.view(&workload).await
    }

    async fn remove(&self, name: &WorkloadName, force: bool) -> Result<(), Problem> {
        let workload = self.own(name)?;
        // A person may know that nobody will ever answer.
        let given_up = force && workload.doubt().is_some() && self.ground.handovers.give_up(name);
        let turn = if given_up { workload.turn_after_handover().await? } else { workload.turn_soon().await? };
        if given_up && self.ground.registry.get(name).is_none_or(|known| !Arc::ptr_eq(&known, &workload)) {
            // The handover has taken it along.
            self.ground.host.events.record(
                Kind::Removed,
                Some(name),
                None,
                "removed, though its other node had not answered",
            );
            return Ok(());
        }
        if workload.pid().is_some() && !force {
            let hint = format!("`migrate stop {name}` first, or `migrate rm -f {name}`");
            return Err(Problem::new(Code::WrongState, format!("{name} runs on {}", self.me())).hint(hint));
        }
        let (ground, removing) = (self.ground.clone(), workload.clone());
        blocking(move || {
            let _turn = turn;
            removing.drop_sandbox(&ground.host)?;
            ground.host.checkpoints().forget(removing.name())?;
            ground.registry.remove(removing.name()).map_err(|error| Problem::new(Code::Internal, error.to_string()))
        })
        .await?;
        self.ground.host.events.record(Kind::Removed, Some(name), None, "removed");
        Ok(())
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
        why::why(&self.ground, &self.own(name)?, scope).await
    }

    async fn whereabouts(&self, name: &WorkloadName) -> Result<Option<NodeName>, Problem> {
        if self.own(name).is_ok() {
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
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
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
