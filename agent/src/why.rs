//! Why a workload is where it is: what its node knows about it, what the event logs of all nodes remember, and what the journals of
//! all nodes that have something of it say.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use migrate_proto::api::{Event, Unsettled, WhyView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::{Decision, source, target};
use migrate_proto::phase::Phase;
use migrate_sandbox::guard::decision;
use migrate_transport::link::PeerAddress;

use crate::control::{EventQuery, Scope};
use crate::events::{Kind, everywhere};
use crate::handover::Ground;
use crate::workload::Workload;
use crate::{clock, durable, elsewhere};

/// Events that are shown.
const SHOWN: usize = 20;

/// How the message of [`Kind::Arrived`] begins; the source's name follows.
pub const CAME_FROM: &str = "came from ";

/// Why it is where it is: as this node knows, or as all do.
pub async fn why(ground: &Ground, workload: &Arc<Workload>, scope: Scope) -> Result<WhyView, Problem> {
    let (host, looking) = (ground.host.clone(), workload.clone());
    let view = tokio::task::spawn_blocking(move || looking.view(&host, clock::now_ns())).await;
    let gone = || Problem::new(Code::UnknownWorkload, "the workload has just left");
    let view = view.map_err(Problem::internal)?.ok_or_else(gone)?;
    let name = workload.name();

    let query = EventQuery { workload: Some(name.clone()), scope: Scope::Node, ..EventQuery::default() };
    let mut history: Vec<Event> = everywhere::here(&ground.host.events, ground.host.node(), &query).collect().await;
    let came = history
        .iter()
        .rev()
        .find(|event| [Kind::Arrived, Kind::Started].iter().any(|kind| event.kind == kind.as_str()));
    let since = came.map(|event| event.at.clone());
    let came_from = came.and_then(|event| event.message.strip_prefix(CAME_FROM)?.parse().ok());

    let others = if scope == Scope::Cluster { ground.peers.all() } else { Vec::new() };
    let query = &query;
    let asked = others.iter().map(|PeerAddress { node, .. }| async move {
        let events = elsewhere::events(&ground.peers, node, query).await?;
        Ok::<_, Problem>((events, elsewhere::unsettled(&ground.peers, node, name).await?))
    });
    let (mut unsettled, mut silent) = (unsettled(ground, workload), Vec::new());
    for (peer, answer) in others.iter().zip(join_all(asked).await) {
        match answer {
            Ok((events, theirs)) => {
                history.extend(events);
                unsettled.extend(theirs);
            }
            Err(_) => silent.push(peer.node.clone()),
        }
    }
    // All of one form, so the words sort as the times do.
    history.sort_by(|a, b| a.at.cmp(&b.at));
    history.drain(..history.len().saturating_sub(SHOWN));

    Ok(WhyView {
        workload: name.clone(),
        node: ground.host.node().clone(),
        state: view.state,
        epoch: view.epoch,
        since,
        came_from,
        held: workload.doubt().or_else(|| workload.hold_by_lease()),
        unsettled,
        history,
        silent,
        prediction: ground.host.forecasts.error(),
    })
}

/// What the journals say. One that cannot be read is told by [`Workload::doubt`].
fn unsettled(ground: &Ground, workload: &Workload) -> Vec<Unsettled> {
    let (place, on) = (workload.place(), ground.host.node());
    let leaving = durable::read::<source::Entry>(&place.departure()).ok().flatten().map(|entry| {
        let to = entry.terms.to.clone();
        // From the decision on the journal is not written: the decision file says it.
        let given = matches!(decision::read(&place.dump()), Ok(Some(Decision::Commit)));
        let waits_for = match workload.doubt() {
            _ if given => format!("{to}, whose it is now, to say that it runs there: bring that node back"),
            Some(_) => format!("a person: {to} may have it too; bring that node back, or remove one of the copies"),
            None if workload.is_moving() => format!("nothing but time: the move to {to} is under way"),
            None => format!("an answer of {to}: bring that node back"),
        };
        let phase = if given { Phase::Resume } else { entry.phase };
        Unsettled { on: on.clone(), peer: to, leaves: true, phase, waits_for }
    });
    let coming = durable::read::<target::Entry>(&place.arrival()).ok().flatten().map(|entry| {
        let from = entry.offer.from.clone();
        // The record says it first.
        let phase = if workload.record().owned { entry.phase.max(Phase::Resume) } else { entry.phase };
        let waits_for = match phase {
            Phase::Commit => format!("{from} to say whether it has given the workload away: bring that node back"),
            Phase::Resume | Phase::CleanUp => {
                format!("{from} to say that it has forgotten its copy; the workload is not touched")
            }
            _ => format!("nothing but time: the move from {from} is under way"),
        };
        Unsettled { on: on.clone(), peer: from, leaves: false, phase, waits_for }
    });
    leaving.into_iter().chain(coming).collect()
}
