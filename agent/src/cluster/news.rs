//! What the keeper says becomes events, so that a person sees who came, who is suspected and who is gone; and this node ends where
//! it must not be in the cluster.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_members::Out;
use migrate_proto::cluster::lease::Terms;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use migrate_transport::datagram::Foreign;
use migrate_transport::link::{PeerAddress, Transport, TransportError};
use tokio::sync::mpsc;

use super::Cluster;
use super::generation::Generations;
use super::keeper::News;
use crate::events::Kind;
use crate::host::Host;

/// Being taken for dead so often in such a time is no accident.
const OFTEN: (usize, Duration) = (3, Duration::from_secs(60));

/// A node's name that no certificate has: whoever answers under another is of the cluster all the same.
const NOBODY: &str = "0";

/// Follows the news until there is one that ends this node's part in the cluster; that is the answer. None where the node has left.
pub async fn follow(
    mut news: mpsc::UnboundedReceiver<News>,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    transport: Arc<dyn Transport>,
) -> Option<Problem> {
    let mut comebacks = VecDeque::new();
    let say = |kind, what: String| host.events.record(kind, None, None, what);
    while let Some(news) = news.recv().await {
        match news {
            News::Lapsed(over) => cluster.note_lapse(over),
            News::OtherTerms { node, theirs, ours } => say(Kind::Warning, other_terms(&node, theirs, ours)),
            News::Joined => say(Kind::NodeJoined, "this node has joined its cluster".to_owned()),
            News::Member(out) => {
                let met = match &out {
                    Out::SameName { name, .. } => name == host.node(),
                    // Who has to come back again and again is pushed out by another of its name, and may never hear it.
                    Out::CameBack(_) => came_back(&mut comebacks, Instant::now()),
                    _ => false,
                };
                if met {
                    cluster.note_namesake();
                }
                member(&host, out).await;
            }
            News::Foreign(foreign) => say(Kind::Warning, strangers(&foreign)),
            News::Stranger(problem) => say(Kind::Warning, in_full(&problem)),
            News::Nobody(addresses) => {
                let (host, transport) = (host.clone(), transport.clone());
                tokio::spawn(async move {
                    for address in addresses {
                        let what = why_silent(&*transport, &address).await;
                        host.events.record(Kind::Warning, None, None, what);
                    }
                });
            }
            News::GiveUp(problem) => {
                say(Kind::Warning, in_full(&problem));
                return Some(problem);
            }
            News::Broken(error) => {
                let problem = Problem::new(Code::Internal, format!("this node hears the others no more: {error}"));
                say(Kind::Warning, problem.message.clone());
                return Some(problem);
            }
        }
    }
    let ended = || Problem::new(Code::Internal, "this node hears the others no more: its keeper has ended");
    (!cluster.has_left()).then(ended)
}

/// Whether it is once too often.
fn came_back(comebacks: &mut VecDeque<Instant>, now: Instant) -> bool {
    comebacks.push_back(now);
    while comebacks.front().is_some_and(|first| now.duration_since(*first) > OFTEN.1) {
        comebacks.pop_front();
    }
    comebacks.len() >= OFTEN.0
}

fn in_full(problem: &Problem) -> String {
    if problem.hint.is_empty() { problem.message.clone() } else { format!("{}: {}", problem.message, problem.hint) }
}

async fn member(host: &Host, out: Out) {
    let (kind, what) = match out {
        Out::Up(member) => {
            let (name, address, generation) = (member.name(), member.address(), member.generation());
            (Kind::NodeJoined, format!("{name} is there, at {address}, in its generation {generation}"))
        }
        Out::Suspect(member) => (Kind::NodeSuspect, format!("{} does not answer", member.name())),
        Out::Refuted(member) => (Kind::NodeBack, format!("{} answers again", member.name())),
        Out::Down(member) => {
            (Kind::NodeDead, format!("{} is taken for dead: it was suspected and did not contradict", member.name()))
        }
        Out::Left(member) => (Kind::NodeLeft, format!("{} has left", member.name())),
        Out::SameName { name, marks } => (
            Kind::Warning,
            format!(
                "two nodes are named {name}, and both are alive ({} and {}): stop one, and give it another name",
                shown(marks[0]),
                shown(marks[1])
            ),
        ),
        Out::CameBack(generation) => {
            let generations = Generations::of(&host.config.state);
            let kept = tokio::task::spawn_blocking(move || generations.keep(generation)).await;
            if !matches!(kept, Ok(Ok(()))) {
                tracing::warn!(generation, "this node's generation could not be kept");
            }
            (Kind::Warning, "the others took this node for dead; it has come back".to_owned())
        }
        Out::IAmSlow(slowness) => return tracing::info!(slowness, "how slow this node is, of 8"),
        Out::Send { .. } | Out::Trouble(_) => return,
    };
    host.events.record(kind, None, None, what);
}

fn other_terms(node: &NodeName, theirs: Terms, ours: Terms) -> String {
    let said = |terms: Terms| {
        format!(
            "{:?} with clocks up to {} parts in a million off",
            Duration::from_nanos(terms.lease()),
            terms.rates_ppm()
        )
    };
    format!(
        "leases on {node} last {}, here {}: neither node counts for the other, and workloads there may stay frozen; give all nodes \
         the same `lease`, in the configuration or as MIGRATE_LEASE, and start their agents again",
        said(theirs),
        said(ours)
    )
}

fn shown(mark: StateMark) -> String {
    mark.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whose datagrams were dropped, most first.
fn strangers(foreign: &Foreign) -> String {
    const SHOWN: usize = 8;
    let mut most: Vec<(&IpAddr, &u64)> = foreign.addresses.iter().collect::<BTreeMap<_, _>>().into_iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rest: u64 = foreign.elsewhere + most.iter().skip(SHOWN).map(|(_, count)| **count).sum::<u64>();
    let mut shown: Vec<String> =
        most.iter().take(SHOWN).map(|(address, count)| format!("{address} ({count})")).collect();
    if rest > 0 {
        shown.push(format!("elsewhere ({rest})"));
    }
    format!("datagrams under another cluster's key came from {}: they were not heard", shown.join(", "))
}

/// Why nobody answers there: asked in the other way in which agents talk, which says more.
async fn why_silent(transport: &dyn Transport, address: &str) -> String {
    let trying = "; this node goes on trying";
    let Ok(node) = NOBODY.parse() else { return format!("{address} does not answer{trying}") };
    match transport.connect(&PeerAddress { node, address: address.to_owned() }).await.err() {
        Some(TransportError::Untrusted { reason, .. }) => {
            format!("what answers at {address} is not of this cluster: {reason}{trying}")
        }
        Some(TransportError::WrongNode { .. }) | None => {
            format!("{address} is of this cluster and does not answer datagrams: do they get through, by UDP?{trying}")
        }
        Some(_) => format!("nobody answers at {address}{trying}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_comes_back_now_and_then_is_not_pushed_out() {
        let (mut comebacks, begun) = (VecDeque::new(), Instant::now());
        let mut at = |seconds| came_back(&mut comebacks, begun + Duration::from_secs(seconds));
        assert!(!at(0) && !at(50) && !at(100));
        assert!(at(105));
    }

    #[test]
    fn those_who_come_most_are_named_first_and_few_of_them() {
        let addresses = (1..=10u8).map(|last| ([10, 0, 0, last].into(), last.into())).collect();
        let foreign = Foreign { addresses, elsewhere: 5 };
        let said = strangers(&foreign);
        assert!(said.contains("from 10.0.0.10 (10), 10.0.0.9 (9)") && said.contains("elsewhere (8)"), "{said}");
        let one = Foreign { addresses: [([10, 0, 0, 7].into(), 1)].into(), elsewhere: 0 };
        assert_eq!(
            strangers(&one),
            "datagrams under another cluster's key came from 10.0.0.7 (1): they were not heard"
        );
    }
}
