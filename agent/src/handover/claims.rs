//! What peers claim about handovers, and what is made of claims that cannot be true.
//!
//! Every node has the cluster key, so whoever speaks is a node; that does not make it right. A handover has two sides, and only
//! they may speak about it; a workload has one owner, and only it may offer it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrate_proto::api::{State, WorkloadView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::HandoverId;
use migrate_proto::message::{Message, Offer};
use migrate_proto::name::NodeName;

use super::Ground;
use super::verdict;
use crate::elsewhere;
use crate::events::Kind;
use crate::talk::Talk;

/// How long a refusal may take to arrive.
const ANSWER: Duration = Duration::from_secs(5);
/// How often events tell of one peer's false claims: an endless liar must not push everything else out.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Of how many peers it is remembered that they were told of.
const MOST_TOLD: usize = 256;

/// Of whom events have told lately.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<NodeName, Instant>>);

impl Told {
    /// Whether it is time to tell of `peer` again.
    fn is_due(&self, peer: &NodeName, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, when| now.saturating_duration_since(*when) < TELL_AGAIN);
        let due = !told.contains_key(peer) && told.len() < MOST_TOLD;
        if due {
            told.insert(peer.clone(), now);
        }
        due
    }
}

/// A peer said what is not its to say. People hear of it in the events, now and then, and in the log each time.
pub(super) fn denounce(ground: &Ground, peer: &NodeName, what: &str) {
    tracing::warn!(%peer, what, "a claim that cannot be was ignored");
    warn(ground, peer, || format!("{peer} {what}; that was ignored. See whether its agent is the one you installed"));
}

/// A peer asks what was decided in a state that this node does not have any more.
pub(super) fn forgotten(ground: &Ground, peer: &NodeName, handover: HandoverId) {
    tracing::warn!(%peer, %handover, "a question about what this node has forgotten");
    let here = ground.host.node();
    warn(ground, peer, || {
        format!(
            "{peer} asks what {here} decided about a move ({handover}); {here} has another state directory than then, and does not answer. \
             What {peer} holds stays frozen: bring the old directory back, or `migrate --node {peer} rm -f` it"
        )
    });
}

fn warn(ground: &Ground, peer: &NodeName, message: impl FnOnce() -> String) {
    if ground.handovers.told.is_due(peer, Instant::now()) {
        ground.host.events.record(Kind::Warning, None, None, message());
    }
}

/// Says no to an offer of which nothing has been touched.
pub(super) async fn refuse(talk: Talk, problem: Problem) {
    // One that gives no credit for an answer does not get one.
    let _ = tokio::time::timeout(ANSWER, talk.speaker.say_last(&Message::Refused(problem))).await;
}

/// Why the workload is not the offering node's to give: another node that answers has it. What is only held there, because it is
/// not settled, is no claim.
pub async fn owned_elsewhere(ground: &Ground, offer: &Offer) -> Option<Problem> {
    if ground.host.tenure.in_cluster() {
        return verdict::objection(&ground.host, offer).await;
    }
    let views = elsewhere::namesakes(&ground.peers, &offer.spec.name, &[&offer.from, &offer.to]).await;
    let other = views.into_iter().find(|view| contradicts(view, offer))?;
    let message = format!(
        "{} offers {} in epoch {}, and {} has it in epoch {}; nothing was moved",
        offer.from, offer.spec.name, offer.epoch, other.node, other.epoch
    );
    let hint = format!("`migrate ps` shows both; remove the wrong one: `migrate --node NODE rm {}`", offer.spec.name);
    Some(Problem::new(Code::NameTaken, message).hint(hint))
}

fn contradicts(view: &WorkloadView, offer: &Offer) -> bool {
    match view.state {
        State::Frozen => view.epoch > offer.epoch,
        // Also what it has given away, and has not heard back about.
        State::Migrating => view.epoch >= offer.epoch,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_liar_is_told_of_now_and_then_and_many_do_not_fill_the_memory() {
        let (told, now) = (Told::default(), Instant::now());
        let node = |name: String| -> NodeName { name.parse().unwrap() };
        assert!(told.is_due(&node("m".into()), now));
        assert!(!told.is_due(&node("m".into()), now + TELL_AGAIN / 2));
        assert!(told.is_due(&node("n".into()), now), "another peer is told of by itself");
        assert!(told.is_due(&node("m".into()), now + TELL_AGAIN));
        let many = (0..10_000).filter(|number| told.is_due(&node(format!("m{number}")), now + TELL_AGAIN));
        assert_eq!(many.count(), MOST_TOLD - 1);
    }
}
