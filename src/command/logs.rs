//! logs: what a workload wrote, as it is. Where it is followed that goes on over moves and over agents' deaths, from the byte at
//! which the stream broke: output lies in files that travel with the workload.

use migrate_proto::api::{ExecLine, NodeState, NodeView, State, WorkloadView};
use migrate_proto::error::Code;
use migrate_proto::name::WorkloadName;

use super::{Session, streams};
use crate::client::follow::Following;
use crate::client::{Client, ClientError};
use crate::failure::Failure;

/// How far a reader of both streams is.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    out: Option<u64>,
    err: Option<u64>,
}

/// A workload's stdout and stderr.
pub(crate) async fn logs(
    session: &Session,
    name: &WorkloadName,
    follow: bool,
    tail: Option<u64>,
) -> Result<u8, Failure> {
    let mut following = Following::new(session);
    let mut places = Places::default();
    session
        .in_time(async {
            loop {
                let agent = following.agent().await?;
                let begin = places.argument().or(tail.map(|lines| format!("&tail={lines}"))).unwrap_or_default();
                let path = format!("/v1/workloads/{name}/logs?follow={follow}{begin}");
                let ended = match copy_out(session, name, &agent, &path, &mut places).await {
                    Ok(()) if !follow => return Ok(0),
                    Err(failure) if !follow => return Err(failure),
                    Ok(()) => has_ended(&agent, name).await,
                    Err(Failure::Client(failure)) => Err(failure),
                    Err(failure) => return Err(failure),
                };
                match ended {
                    Ok(true) => return Ok(0),
                    // It has moved, or begins again, or its node is being waited for.
                    Ok(false) => following.pause().await,
                    Err(failure) if places.is_there() && may_pass(&agent, &failure).await => {
                        if has_ended(&agent, name).await.unwrap_or(false) {
                            return Ok(0);
                        }
                        following.pause().await;
                    }
                    Err(failure) => following.broke(failure).await?,
                }
            }
        })
        .await
}

/// Copies to stdout and stderr until the stream ends, and notes how far that is.
async fn copy_out(
    session: &Session,
    name: &WorkloadName,
    agent: &Client,
    path: &str,
    places: &mut Places,
) -> Result<(), Failure> {
    let mut lines = agent.get_lines::<ExecLine>(path).await?;
    let note = |line: &ExecLine| match line {
        ExecLine::Stdout(text) => places.out = places.out.map(|at| at + bytes_in(text)),
        ExecLine::Stderr(text) => places.err = places.err.map(|at| at + bytes_in(text)),
        ExecLine::StdoutFrom(at) => go_on(session, name, "stdout", &mut places.out, *at),
        ExecLine::StderrFrom(at) => go_on(session, name, "stderr", &mut places.err, *at),
        ExecLine::Exit(_) | ExecLine::Error(_) => {}
    };
    streams::copy_out(session, &mut lines, note).await.map(drop)
}

/// How many bytes stand in base64.
fn bytes_in(text: &str) -> u64 {
    (text.trim_end_matches('=').len() * 3 / 4) as u64
}

/// The stream goes on at a byte; at an earlier one where the workload was brought back from a checkpoint.
fn go_on(session: &Session, name: &WorkloadName, stream: &str, place: &mut Option<u64>, at: u64) {
    if let Some(less) = place.and_then(|had| had.checked_sub(at)).filter(|less| *less > 0) {
        session
            .remarks
            .say(format_args!("{name} was set back: the last {less} bytes of its {stream} are to be forgotten"));
    }
    *place = Some(at);
}

/// Whether nothing more will come of it.
async fn has_ended(agent: &Client, name: &WorkloadName) -> Result<bool, ClientError> {
    let views: Vec<WorkloadView> = agent.get("/v1/workloads").await?;
    let Some(view) = views.iter().find(|view| view.name == *name) else {
        // It may be on a node that does not answer just now.
        return all_answer(agent).await;
    };
    Ok(matches!(view.state, State::Stopped | State::Failed | State::Lost))
}

async fn all_answer(agent: &Client) -> Result<bool, ClientError> {
    let nodes: Vec<NodeView> = agent.get("/v1/nodes").await?;
    Ok(nodes.iter().all(|node| !matches!(node.state, NodeState::Suspect | NodeState::Dead)))
}

/// Whether a refusal is only that the workload's node, or the way to it, is away.
async fn may_pass(agent: &Client, failure: &ClientError) -> bool {
    match failure {
        ClientError::Refused(problem) => match problem.code {
            Code::PeerDown | Code::Busy | Code::WrongState => true,
            Code::UnknownWorkload => !all_answer(agent).await.unwrap_or(false),
            _ => false,
        },
        _ => false,
    }
}

impl Places {
    fn is_there(&self) -> bool {
        self.out.is_some() || self.err.is_some()
    }

    fn argument(&self) -> Option<String> {
        Some(format!("&from={},{}", self.out?, self.err.unwrap_or(0)))
    }
}
