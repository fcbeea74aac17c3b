//! `--force` and `move`. Whatever happens on the way (^C, a lost agent, a time limit), the command ends by saying where the
//! workload is.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use migrate_proto::api::{MoveLine, MoveReport, MoveRequest, NodeState, NodeView, Outcome, State, WorkloadView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};

use super::{Session, workloads};
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::show::moving::{Progress, summary, timeline};
use crate::show::{answer, table};

/// How long to wait for a move to settle whose connection is gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// How long a workload may stand still before that counts as where the move has ended: an agent that has just come back asks
/// others first, and then most often knows.
const STANDING_STILL: Duration = Duration::from_secs(5);

/// How often to look meanwhile.
const SETTLE_LOOK: Duration = Duration::from_millis(200);

/// Moves a workload; without a name the only one of the asked agent's node.
pub(crate) async fn migrate(
    session: &Session,
    name: Option<WorkloadName>,
    request: MoveRequest,
) -> Result<u8, Failure> {
    let agent = session.agent().await?;
    let before = find(&agent, name).await?;
    let begun = Instant::now();
    match follow(session, &agent, &before, &request).await? {
        Followed::Reported(report) => conclude(session, &report),
        Followed::Abandoned(why) => {
            let after = settle(session, &before).await;
            conclude(session, &reconstruct(&before, &request, why, after, begun.elapsed()))
        }
        Followed::NotBegun(why) => {
            let unchanged = Some(before.clone());
            conclude(session, &reconstruct(&before, &request, why, unchanged, begun.elapsed()))
        }
    }
}

/// How watching a move ended.
enum Followed {
    /// The agent said how the move ended.
    Reported(Box<MoveReport>),
    /// Nobody said; this is why.
    Abandoned(Problem),
    /// It was refused before anything was done; this is why.
    NotBegun(Problem),
}

/// The workload as it is before the move.
async fn find(agent: &Client, name: Option<WorkloadName>) -> Result<WorkloadView, Failure> {
    if let Some(name) = name {
        let found = workloads::all(agent).await?.into_iter().find(|view| view.name == name);
        return match found {
            Some(view) => Ok(view),
            None => Err(Failure::NoSuchWorkload { names: vec![name], silent: silent_nodes(agent).await }),
        };
    }
    let mut here: Vec<WorkloadView> = agent.get("/v1/workloads?scope=node").await?;
    // What has ended cannot be meant.
    if here.len() > 1 {
        here.retain(|view| !matches!(view.state, State::Stopped | State::Failed | State::Lost));
    }
    match here.len() {
        1 => Ok(here.remove(0)),
        0 => Err(Failure::NothingToMove { node: asked_node(agent).await }),
        _ => Err(Failure::WhichOne {
            node: asked_node(agent).await,
            names: here.into_iter().map(|view| view.name).collect(),
        }),
    }
}

/// Nodes that were not heard: a workload may be there.
async fn silent_nodes(agent: &Client) -> Vec<NodeName> {
    let nodes: Vec<NodeView> = agent.get("/v1/nodes").await.unwrap_or_default();
    nodes.into_iter().filter(|node| node.state == NodeState::Suspect).map(|node| node.name).collect()
}

async fn asked_node(agent: &Client) -> String {
    match &agent.forward_to {
        Some(node) => node.to_string(),
        None => agent.health().await.map_or_else(|_| "the asked node".to_owned(), |health| health.node.to_string()),
    }
}

/// Orders the move and watches it. Returning drops the connection, which cancels a move that has not committed.
async fn follow(
    session: &Session,
    agent: &Client,
    before: &WorkloadView,
    request: &MoveRequest,
) -> Result<Followed, Failure> {
    let progress = Progress::begin(before.name.as_str(), !session.remarks.quiet);
    let watch = async {
        let path = format!("/v1/workloads/{}/move", before.name);
        let mut lines = agent.post_lines::<MoveLine>(&path, request).await?;
        loop {
            match lines.next().await? {
                Some(MoveLine::Progress(step)) => progress.show(&step),
                Some(MoveLine::Report(report)) => return Ok(report),
                None => return Err(lines.incomplete()),
            }
        }
    };
    let ended = tokio::select! {
        ended = watch => ended.map(Followed::Reported),
        _ = tokio::signal::ctrl_c() => Ok(Followed::Abandoned(Problem::new(Code::Cancelled, "cancelled by ^C"))),
        () = limit(session.everywhere.timeout) => {
            Ok(Followed::Abandoned(Problem::new(Code::TimedOut, "cancelled: it took longer than --timeout allows")))
        }
    };
    progress.end();
    match ended {
        // It may have begun: only where the workload is says how it ended.
        Err(failure) if !matches!(failure, ClientError::Refused(_) | ClientError::Unreachable { .. }) => {
            Ok(Followed::Abandoned(Problem::new(Code::LinkLost, failure.to_string())))
        }
        // Not where somebody else is moving it, or it has just left: then it may be elsewhere by now.
        Err(ClientError::Refused(problem)) if !matches!(problem.code, Code::Busy | Code::UnknownWorkload) => {
            Ok(Followed::NotBegun(problem))
        }
        other => Ok(other?),
    }
}

async fn limit(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits until the move has ended one way or the other; the workload as it is then, as far as anybody can tell.
async fn settle(session: &Session, before: &WorkloadView) -> Option<WorkloadView> {
    session.remarks.say(format_args!("waiting for the move of {} to settle (^C: do not wait)", before.name));
    let look = async {
        let mut frozen_since = None;
        loop {
            if let Ok(agent) = session.agent().await
                && let Ok(views) = workloads::all(&agent).await
                && let Some(view) = settled(views, &before.name)
            {
                let since = *frozen_since.get_or_insert_with(Instant::now);
                if view.state != State::Frozen || since.elapsed() >= STANDING_STILL {
                    return view;
                }
            } else {
                frozen_since = None;
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    };
    tokio::select! {
        view = tokio::time::timeout(SETTLE_LIMIT, look) => view.ok(),
        _ = tokio::signal::ctrl_c() => None,
    }
}

/// The newest entry of that name, unless the move is still going on.
fn settled(views: Vec<WorkloadView>, name: &WorkloadName) -> Option<WorkloadView> {
    let newest = views.into_iter().filter(|view| view.name == *name).max_by_key(|view| view.epoch)?;
    let is_moving = matches!(newest.state, State::Migrating | State::Restoring | State::Starting);
    (!is_moving).then_some(newest)
}

/// The report of a move that nobody reported. The epoch rises with every change of owner, so it tells whether it moved.
fn reconstruct(
    before: &WorkloadView,
    request: &MoveRequest,
    why: Problem,
    after: Option<WorkloadView>,
    elapsed: Duration,
) -> MoveReport {
    let outcome = match &after {
        Some(view) if view.state == State::Frozen => Outcome::Unknown,
        Some(view) if view.epoch > before.epoch => Outcome::Moved,
        Some(_) => Outcome::Stayed,
        None => Outcome::Unknown,
    };
    let lost = after.as_ref().filter(|view| view.state == State::Lost && before.state != State::Lost).map(loss);
    let (to, error) = match (outcome, &after) {
        (Outcome::Moved, Some(view)) => (Some(view.node.clone()), lost),
        (Outcome::Stayed, _) if lost.is_some() => (request.to.clone(), lost),
        (Outcome::Unknown, _) => {
            let hint = format!("migrate ps {} says where it is; migrate events what happened", before.name);
            (request.to.clone(), Some(Problem::new(Code::Unknown, why.message).hint(hint)))
        }
        _ => (request.to.clone(), Some(why)),
    };
    MoveReport {
        workload: before.name.clone(),
        from: before.node.clone(),
        to,
        outcome,
        mode: request.mode,
        downtime_ms: None,
        total_ms: elapsed.as_secs_f64() * 1e3,
        rounds: 0,
        bytes_memory: 0,
        bytes_files: 0,
        bytes_sent: 0,
        epoch: after.map_or(before.epoch, |view| view.epoch),
        phases: Vec::new(),
        error,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    }
}

/// The problem that it went with a node's power while it was being moved.
fn loss(view: &WorkloadView) -> Problem {
    let what = format!("{} was lost on {} while it was being moved", view.name, view.node);
    Problem::new(Code::Lost, what).hint(view.reason.clone().unwrap_or_default())
}

/// Shows how it ended; the exit code.
fn conclude(session: &Session, report: &MoveReport) -> Result<u8, Failure> {
    if session.everywhere.json {
        answer::json_document(report)?;
    }
    if report.outcome == Outcome::Moved && report.error.is_none() {
        if !session.everywhere.json {
            answer::line(&summary(report))?;
        }
        let is_watched = std::io::stdout().is_terminal() && !session.remarks.quiet;
        if !session.everywhere.json && !report.phases.is_empty() && (session.remarks.verbose || is_watched) {
            answer::line(&timeline(report))?;
        }
        return Ok(0);
    }
    let reason = report.error.as_ref();
    let what = reason.map_or_else(|| table::word(&report.outcome), |problem| problem.message.clone());
    let now = format!("{} (epoch {})", summary(report), report.epoch);
    session.remarks.tell_failure(&what, Some(&now), reason.map_or("", |problem| &problem.hint));
    Ok(exit_code(report))
}

fn exit_code(report: &MoveReport) -> u8 {
    match (report.outcome, &report.error) {
        (Outcome::Moved, None) => 0,
        (Outcome::Moved, Some(_)) | (Outcome::Unknown, _) => 3,
        (Outcome::Stayed, error) => error.as_ref().map_or(1, |problem| problem.code.exit_code()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use migrate_proto::id::Epoch;

    use super::*;

    fn view(node: &str, epoch: u64, state: &str) -> WorkloadView {
        serde_json::from_value(serde_json::json!({
            "name": "web", "state": state, "node": node, "epoch": epoch, "pid": null, "started": null, "restarts": 0,
            "cpu_percent": 0.0, "rss_bytes": 0, "layer_bytes": 0, "health": "none", "group": null, "ip": null,
            "last_checkpoint": null,
        }))
        .unwrap()
    }

    fn report_after(after: Option<WorkloadView>) -> MoveReport {
        let why = Problem::new(Code::Cancelled, "cancelled");
        let request = MoveRequest { to: Some("node2".parse().unwrap()), ..MoveRequest::default() };
        reconstruct(&view("node1", 3, "running"), &request, why, after, Duration::from_secs(1))
    }

    #[test]
    fn the_epoch_tells_whether_a_move_that_nobody_reported_took_place() {
        let moved = report_after(Some(view("node2", 4, "running")));
        assert_eq!((moved.outcome, moved.epoch, exit_code(&moved)), (Outcome::Moved, Epoch(4), 0));
        let stayed = report_after(Some(view("node1", 3, "running")));
        assert_eq!((stayed.outcome, exit_code(&stayed)), (Outcome::Stayed, 1));
    }

    #[test]
    fn doubt_needs_a_person() {
        for after in [None, Some(view("node1", 3, "frozen")), Some(view("node2", 4, "frozen"))] {
            let report = report_after(after);
            assert_eq!((report.outcome, exit_code(&report)), (Outcome::Unknown, 3));
            assert!(!report.error.unwrap().hint.is_empty());
        }
    }

    #[test]
    fn what_was_lost_on_the_way_is_not_said_to_run() {
        for (node, epoch, outcome) in [("node2", 4, Outcome::Moved), ("node1", 3, Outcome::Stayed)] {
            let lost = WorkloadView { reason: Some("its node lost its power".into()), ..view(node, epoch, "lost") };
            let report = report_after(settled(vec![lost], &"web".parse().unwrap()));
            assert_eq!((report.outcome, exit_code(&report)), (outcome, 3));
            let error = report.error.unwrap();
            assert_eq!((error.code, &*error.hint), (Code::Lost, "its node lost its power"));
            assert!(error.message.contains(&format!("lost on {node}")), "{error}");
        }
    }

    #[test]
    fn nothing_is_settled_while_a_copy_is_under_way() {
        let name = "web".parse().unwrap();
        assert_eq!(settled(vec![view("node1", 3, "migrating")], &name), None);
        assert_eq!(settled(vec![view("node1", 3, "frozen"), view("node2", 4, "restoring")], &name), None);
        let newest = settled(vec![view("node1", 3, "frozen"), view("node2", 4, "running")], &name).unwrap();
        assert_eq!(newest.node.as_str(), "node2");
    }

    #[test]
    fn a_stay_for_a_wrong_question_is_a_usage_error() {
        let mut report = report_after(Some(view("node1", 3, "running")));
        report.error = Some(Problem::new(Code::UnknownNode, "no node9"));
        assert_eq!(exit_code(&report), 2);
    }
}
