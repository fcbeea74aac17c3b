//! The agent from its first to its last breath.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;

use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::target;
use migrate_proto::name::NodeName;
use migrate_proto::phase::Phase;
use migrate_sandbox::control::Status;
use migrate_sandbox::guard::decision;
use migrate_sandbox::{Sandbox, sandbox};
use migrate_transport::datagram::DatagramKeys;
use migrate_transport::session::Acceptor;
use migrate_transport::zmq::ZmqTransport;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api::server::Server;
use crate::care::watchdog::{self, Stamp};
use crate::cluster::calls::{self, Answers};
use crate::cluster::company::{Company, Life};
use crate::config::Config;
use crate::control::Control;
use crate::durable;
use crate::events::{EventLog, Kind, SystemClock};
use crate::handover::{self, Ground, Handovers, arrival, departure};
use crate::host::Host;
use crate::keyring::{self, Keyring};
use crate::node::Node;
use crate::peers::Peers;
use crate::registry::{Doing, Place, Record, Registry};
use crate::talk::{self, Purpose};
use crate::workload::Workload;
use crate::{api, care, check, checkpoint, conduct, drain, proxy};

/// Runs until SIGTERM or SIGINT. Workloads run on.
pub async fn run(config: Config) -> Result<(), Problem> {
    match migrate_sandbox::descriptors::raise() {
        Ok(most) => tracing::info!(most, "descriptors that this agent may have"),
        Err(error) => tracing::warn!(%error, "the limit on descriptors could not be raised"),
    }
    let internal = |error: String| Problem::new(Code::Internal, error);
    for dir in [&config.state, &config.run] {
        make_private(dir).map_err(|error| internal(format!("cannot use {}: {error}", dir.display())))?;
    }
    let events =
        EventLog::open(&config.state, config.node.clone(), SystemClock).map_err(|error| internal(error.to_string()))?;
    let host = Arc::new(Host::new(config, events)?);
    // The socket comes first: an agent that is there already keeps this one out before it touches anything.
    let server = Server::bind(&host.config.socket, &host.config.cgroup).map_err(|error| internal(error.to_string()))?;
    let (transport, datagrams) = start_transport(&host).await?;
    let registry = Arc::new(Registry::open(&host.config.state).map_err(|error| internal(error.to_string()))?);
    let keyring = Keyring::new(host.clone(), transport.clone(), datagrams);
    let following = tokio::spawn(keyring.clone().follow());
    let closing = CancellationToken::new();
    let company = Company::find(&host, &transport, &registry, &keyring)?;
    let membership = company.membership(&host);
    let peers = Arc::new(Peers::new(host.clone(), transport.clone(), membership));
    let ground = Ground {
        host: host.clone(),
        peers: peers.clone(),
        registry: registry.clone(),
        handovers: Arc::new(Handovers::default()),
        drains: Arc::default(),
    };
    // The lease that the agent before this one has left is kept first: workloads that run on must not stand still for a restart.
    let life = Life { ground: ground.clone(), transport: transport.clone() };
    let living = company.live(life, closing.clone());
    host.set_criu(find_criu(&host.config).await);
    tokio::task::block_in_place(|| take_over(&ground))?;
    host.tenure.note_taken_over();
    watchdog::start();
    tokio::spawn(care::attend(ground.clone()));
    tokio::spawn(conduct::run(ground.clone()));
    tokio::spawn(conduct::kept::run(ground.clone()));
    drain::begin(&ground);
    tokio::spawn(checkpoint::every::run(ground.clone()));
    tokio::spawn(checkpoint::scrub::run(ground.clone()));
    tokio::spawn(checkpoint::prove::rota::run(ground.clone(), closing.clone()));
    tokio::spawn(checkpoint::ship::run(ground.clone()));
    tokio::spawn(checkpoint::depots::run(ground.clone()));

    let node: Arc<dyn Control> = Arc::new(Node::new(ground.clone(), keyring));
    let router = api::router(node, host.node().clone(), closing.clone());
    let acceptor = Acceptor::start(transport, peers.timing(Purpose::Handover));
    let ending = ground.clone();
    let receiving = tokio::spawn(receive(acceptor, ground, router.clone(), living.answers()));
    host.events.record(Kind::AgentStarted, None, None, started(&host));
    tokio::spawn(close_on_signal(ending, closing.clone()));
    server.serve(router, closing, host.config.shutdown_timeout).await;
    let _no_more_tests = host.checkpoints().proving.end().await;
    let must_not_go_on = living.end().await;
    host.events.record(Kind::AgentStopped, None, None, "workloads run on");
    receiving.abort();
    following.abort();
    must_not_go_on.map_or(Ok(()), Err)
}

fn started(host: &Host) -> String {
    match host.criu() {
        Ok(criu) => format!("agent {} with CRIU {} on {}", env!("CARGO_PKG_VERSION"), criu.version, host.kernel),
        Err(problem) => format!("agent {} cannot move anything: {problem}", env!("CARGO_PKG_VERSION")),
    }
}

fn make_private(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A node without CRIU still runs workloads; it says why it cannot move them.
async fn find_criu(config: &Config) -> Result<migrate_criu::probe::Capabilities, Problem> {
    tracing::info!("largest pipe: {:?}", migrate_criu::probe::raise_pipe_max_size());
    let missing = |error: migrate_criu::probe::ProbeError| {
        Problem::new(Code::CriuMissing, error.to_string()).hint("`scripts/setup` installs a CRIU that works")
    };
    // The bare name means: look in all the usual places.
    let named = (config.criu != std::path::Path::new("criu")).then_some(config.criu.as_path());
    let path = migrate_criu::probe::find(named).map_err(missing)?;
    migrate_criu::probe::probe(&path).await.map_err(missing)
}

async fn start_transport(host: &Arc<Host>) -> Result<(Arc<ZmqTransport>, DatagramKeys), Problem> {
    let (identity, datagrams) = keyring::issue(host)?;
    let config = migrate_transport::zmq::Config { identity, run: host.config.run.clone(), listen: host.config.listen };
    let transport = ZmqTransport::start(config).await.map_err(|error| error.problem())?;
    Ok((transport, datagrams))
}

/// Everything that ran before this agent did, and every handover that was under way. Blocks.
fn take_over(ground: &Ground) -> Result<(), Problem> {
    if let Err(problem) = checkpoint::prove::clear(&ground.host) {
        let what = format!("what a recovery test had made could not be removed: {problem}");
        ground.host.events.record(Kind::Warning, None, None, what);
    }
    let (mut wanted, mut all_known) = (Vec::new(), true);
    for (place, found) in ground.registry.on_disk().map_err(Problem::internal)? {
        match found {
            Ok(record) => {
                wanted.extend(record.sandbox.clone());
                take_over_one(ground, place, record);
            }
            Err(error) => {
                all_known = false;
                ground.handovers.keep_silent();
                ground.host.events.record(Kind::Warning, None, None, format!("a workload was left alone: {error}"));
            }
        }
    }
    sweep_sandboxes(ground, &wanted);
    // What is damaged may need one.
    if all_known {
        sweep_images(ground);
    }
    Ok(())
}

fn take_over_one(ground: &Ground, place: Place, record: Record) {
    let host = &ground.host;
    let workload = Workload::new(place.clone(), record.clone());
    if !ground.registry.add(workload.clone()) {
        return;
    }
    let status = workload.adopt(host);
    let entries = durable::read(&place.departure())
        .and_then(|departure| Ok((departure, durable::read::<target::Entry>(&place.arrival())?)));
    match entries {
        Ok((Some(entry), _)) => {
            // It was on its way on: what was left of its arrival is over.
            ground.registry.keep_received(&place);
            // Nobody may change it before the handover is settled.
            workload.set_moving(true);
            let turn = workload.turn().ok();
            if let Some(recovery) = departure::Departure::recover(ground.clone(), workload, entry) {
                tokio::spawn(recovery.run(turn));
            }
        }
        Ok((None, Some(entry))) => {
            let turn = workload.turn().ok();
            if entry.phase == Phase::CleanUp {
                // It is this node's, and runs, or has ended: only the source has not heard of it.
                go_on(ground, &workload, &record, status);
            }
            tokio::spawn(arrival::recover(ground.clone(), workload, turn, entry));
        }
        Ok((None, None)) if record.owned => {
            // The agent died between removing a departure's entry and its decision.
            if let Err(error) = decision::clear(&place.dump()) {
                tracing::warn!(%error, "what an earlier move left could not be removed");
            }
            let turn = workload.turn().ok();
            if place.restoring().exists() {
                if let Some(going) = checkpoint::interrupted::recover(ground, &workload) {
                    tokio::spawn(going.run(ground.clone(), workload, turn));
                }
                return;
            }
            go_on(ground, &workload, &record, status);
            if place.checkpoint().exists() {
                tokio::spawn(checkpoint::take::recover(ground.clone(), workload, turn));
            }
        }
        // It was being received, and nothing was promised yet.
        Ok((None, None)) => {
            let dropped = workload.drop_sandbox(host).and_then(|()| {
                ground.registry.remove(workload.name()).map_err(|error| Problem::new(Code::Internal, error.to_string()))
            });
            if let Err(problem) = dropped {
                let what = format!("what had arrived could not be removed: {problem}");
                host.events.record(Kind::Warning, Some(workload.name()), None, what);
            }
        }
        Err(error) => {
            ground.handovers.keep_silent();
            workload.set_frozen(Some(error.to_string()));
            host.events.record(Kind::Warning, Some(workload.name()), None, format!("it stays as it is: {error}"));
        }
    }
}

/// What an adopted workload is doing now, against what its record says.
fn go_on(ground: &Ground, workload: &Arc<Workload>, record: &Record, status: Option<Status>) {
    let host = &ground.host;
    match (&record.doing, status) {
        (Doing::Running, Some(Status::Running { .. } | Status::Ended(_))) => {
            workload.watch(host);
            host.events.record(Kind::Adopted, Some(workload.name()), None, "ran on without its agent");
        }
        // The agent died between its start and writing that down.
        (Doing::Starting, Some(Status::Running { .. })) => {
            let running = workload.update(|record| record.doing = Doing::Running);
            tracing::info!(workload = %workload.name(), ok = running.is_ok(), "it was started by an agent that is gone");
            workload.watch(host);
        }
        // It lives and does not answer at the moment.
        (Doing::Running, None) if workload.sandbox().is_some() => workload.watch(host),
        _ => workload.note_if_lost(host),
    }
}

/// Sandboxes that no record names: an agent died while it made or removed them. One in which something runs is not that: its
/// record is damaged, or the state directory is not the one it was. It is left alone.
fn sweep_sandboxes(ground: &Ground, wanted: &[String]) {
    let host = &ground.host;
    for entry in std::fs::read_dir(host.sandboxes()).into_iter().flatten().flatten() {
        if wanted.iter().any(|name| entry.file_name() == name.as_str()) {
            continue;
        }
        let dir = entry.path();
        let swept = match Sandbox::adopt(&host.init_program, &dir) {
            Ok(Some(sandbox)) if !matches!(sandbox.status(), Ok(Status::Empty | Status::Ended(_))) => {
                ground.handovers.keep_silent();
                let what = format!(
                    "something runs in the sandbox {} that no record in {} names; it was left alone. Is that the right state directory?",
                    dir.display(),
                    host.config.state.display()
                );
                host.events.record(Kind::Warning, None, None, what);
                continue;
            }
            Ok(Some(sandbox)) => sandbox.destroy(),
            Ok(None) => sandbox::remove_dir(&dir),
            Err(error) => Err(error),
        };
        tracing::info!(dir = %dir.display(), ok = swept.is_ok(), "a forgotten sandbox was removed");
    }
}

/// Images that no arrival waits for.
fn sweep_images(ground: &Ground) {
    let all = ground.registry.all();
    let entries = all.iter().map(|workload| durable::read::<target::Entry>(&workload.place().arrival()));
    // One that cannot be read may be about any of them.
    let Ok(entries) = entries.collect::<Result<Vec<_>, _>>() else { return };
    let awaited: HashSet<OsString> =
        entries.into_iter().flatten().map(|entry| entry.offer.handover.to_string().into()).collect();
    for image in std::fs::read_dir(ground.host.images()).into_iter().flatten().flatten() {
        if !awaited.contains(&image.file_name()) {
            let _ = std::fs::remove_dir_all(image.path());
        }
    }
}

/// Conversations that peers begin.
async fn receive(mut acceptor: Acceptor, ground: Ground, router: axum::Router, answers: Option<Arc<dyn Answers>>) {
    let stamp = Stamp::of("peers");
    loop {
        let session = tokio::select! {
            session = acceptor.next() => session,
            () = stamp.beat() => continue,
        };
        let Some(session) = session else { return };
        let (ground, router, answers) = (ground.clone(), router.clone(), answers.clone());
        tokio::spawn(async move {
            let (purpose, peer): (_, NodeName) = (Purpose::of(session.purpose()), session.peer());
            match talk::welcome(session, ground.host.facts()).await {
                Ok(talk) => match purpose {
                    Some(Purpose::Request) => proxy::serve(router, talk).await,
                    Some(Purpose::Handover) => handover::receive(ground, talk).await,
                    Some(Purpose::Preflight) => check::answer(ground, talk).await,
                    Some(Purpose::Checkpoint) => checkpoint::holding::answer(ground, talk).await,
                    Some(Purpose::Cluster) => match answers {
                        Some(answers) => calls::serve(answers, talk).await,
                        None => tracing::info!(%peer, "a member calls, and this node is none"),
                    },
                    None => tracing::info!(%peer, "a conversation without a purpose that is known here"),
                },
                Err(problem) => tracing::info!(%peer, %problem, "a conversation did not begin"),
            }
        });
    }
}

/// With `on_terminate = "drain"` the first SIGTERM has the node give its workloads away first; the second one ends the agent at once.
async fn close_on_signal(ground: Ground, closing: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return tracing::error!("signals cannot be waited for: only SIGKILL ends this agent");
    };
    let terminated = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => false,
    };
    if let (true, Some(deadline)) = (terminated, ground.host.config.drains.on_terminate) {
        tokio::select! {
            drained = drain::drain(&ground, Some(deadline)) => {
                if let Err(problem) = drained {
                    ground.host.events.record(Kind::Warning, None, None, problem.message);
                }
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    closing.cancel();
}
