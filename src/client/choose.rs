//! Which agent to ask: the one that was named, else the local one, else one of a running lab. One that does not answer is
//! passed over where others of its cluster are known, and that is said.

use std::path::{Path, PathBuf};
use std::time::Duration;

use migrate_proto::name::NodeName;
use serde::Deserialize;

use super::{Client, ClientError};
use crate::lab::layout::{Layout, lab_directory};
use crate::show::remark::Remarks;

/// Where an agent listens unless told otherwise.
const LOCAL_SOCKET: &str = "/run/migrate/agent.sock";

/// How long an agent may take to say that it is there, while others could be asked.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What was said about whom to ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// `--socket`.
    pub(crate) socket: Option<PathBuf>,
    /// `MIGRATE_SOCKET`.
    pub(crate) socket_of_environment: Option<PathBuf>,
    /// `--node`.
    pub(crate) node: Option<NodeName>,
    /// `--timeout`.
    pub(crate) limit: Option<Duration>,
}

/// The answer to `GET /v1/health`.
#[derive(Debug, Deserialize)]
pub(crate) struct Health {
    /// The agent's node.
    pub(crate) node: NodeName,
}

impl Asked {
    /// The agents to try, best first. Never empty.
    fn candidates(&self, lab: &[(NodeName, PathBuf)]) -> Vec<Client> {
        let client = |socket: &Path, forward_to: Option<&NodeName>| Client {
            socket: socket.to_owned(),
            forward_to: forward_to.cloned(),
            limit: self.limit,
        };
        let with_the_rest_of_the_lab = |first: Client| {
            let rest: Vec<_> = lab
                .iter()
                .filter(|(_, socket)| *socket != first.socket)
                .map(|(_, socket)| client(socket, None))
                .collect();
            [vec![first], rest].concat()
        };
        if let Some(socket) = &self.socket {
            return self.named_socket(client(socket, self.node.as_ref()), lab, with_the_rest_of_the_lab);
        }
        if let Some(node) = &self.node
            && let Some((_, socket)) = lab.iter().find(|(name, _)| name == node)
        {
            return with_the_rest_of_the_lab(client(socket, None));
        }
        if let Some(socket) = &self.socket_of_environment {
            return self.named_socket(client(socket, self.node.as_ref()), lab, with_the_rest_of_the_lab);
        }
        let local = Path::new(LOCAL_SOCKET);
        match &self.node {
            Some(node) => vec![client(local, Some(node))],
            // Without a local agent a running lab is what is meant.
            None if !local.exists() && !lab.is_empty() => lab.iter().map(|(_, socket)| client(socket, None)).collect(),
            None => with_the_rest_of_the_lab(client(local, None)),
        }
    }

    /// A socket that was named has others beside it only where it is a lab's: elsewhere they would be another cluster.
    fn named_socket(
        &self,
        named: Client,
        lab: &[(NodeName, PathBuf)],
        with_the_rest_of_the_lab: impl Fn(Client) -> Vec<Client>,
    ) -> Vec<Client> {
        let is_of_the_lab = lab.iter().any(|(_, socket)| *socket == named.socket);
        if is_of_the_lab { with_the_rest_of_the_lab(named) } else { vec![named] }
    }

    /// The first agent that answers.
    pub(crate) async fn choose(&self, remarks: &Remarks) -> Result<Client, ClientError> {
        let mut first_failure = None;
        for candidate in self.candidates(&lab_sockets()) {
            match candidate.health().await {
                Ok(health) => {
                    if let Some(failure) = &first_failure {
                        remarks.say(format_args!("{failure}; asking {} instead", health.node));
                    }
                    return Ok(candidate);
                }
                Err(failure) if failure.lost_the_agent() => first_failure = first_failure.or(Some(failure)),
                Err(failure) => return Err(failure),
            }
        }
        Err(first_failure.unwrap_or_else(|| ClientError::Incomplete { socket: LOCAL_SOCKET.into() }))
    }
}

impl Client {
    /// Asks the agent itself whether it is there; never forwarded.
    pub(crate) async fn health(&self) -> Result<Health, ClientError> {
        let limit = self.limit.map_or(PROBE_LIMIT, |limit| limit.min(PROBE_LIMIT));
        Client { forward_to: None, limit: Some(limit), ..self.clone() }.get("/v1/health").await
    }
}

/// The sockets of the running lab; none where there is no lab or it is not ours to see.
fn lab_sockets() -> Vec<(NodeName, PathBuf)> {
    let directory = lab_directory();
    let Ok(layout) = Layout::load(&directory) else { return Vec::new() };
    layout.nodes.iter().map(|node| (node.name.clone(), directory.join(node.name.as_str()).join("agent.sock"))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lab() -> Vec<(NodeName, PathBuf)> {
        ["node1", "node2"].map(|n| (n.parse().unwrap(), format!("/lab/{n}/agent.sock").into())).to_vec()
    }

    fn sockets(asked: &Asked) -> Vec<(String, Option<String>)> {
        let seen = asked.candidates(&lab());
        seen.iter().map(|c| (c.socket.display().to_string(), c.forward_to.as_ref().map(|n| n.to_string()))).collect()
    }

    #[test]
    fn a_lab_node_is_asked_first_and_then_its_peers() {
        let asked = Asked { node: Some("node2".parse().unwrap()), ..Asked::default() };
        assert_eq!(sockets(&asked), [("/lab/node2/agent.sock".into(), None), ("/lab/node1/agent.sock".into(), None)]);
    }

    #[test]
    fn a_named_socket_outside_the_lab_never_becomes_another_cluster() {
        let asked = Asked { socket: Some("/elsewhere.sock".into()), ..Asked::default() };
        assert_eq!(sockets(&asked), [("/elsewhere.sock".into(), None)]);
    }

    #[test]
    fn the_command_line_beats_the_environment() {
        let asked = Asked {
            socket_of_environment: Some("/environment.sock".into()),
            node: Some("node1".parse().unwrap()),
            ..Asked::default()
        };
        assert_eq!(sockets(&asked)[0], ("/lab/node1/agent.sock".into(), None));
        let asked = Asked { socket: Some("/line.sock".into()), ..asked };
        assert_eq!(sockets(&asked), [("/line.sock".into(), Some("node1".into()))]);
    }

    #[test]
    fn a_node_outside_the_lab_is_reached_through_the_agent_that_is_asked() {
        let asked = Asked {
            socket_of_environment: Some("/environment.sock".into()),
            node: Some("far".parse().unwrap()),
            ..Asked::default()
        };
        assert_eq!(sockets(&asked), [("/environment.sock".into(), Some("far".into()))]);
    }
}
