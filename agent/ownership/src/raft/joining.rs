//! Into the record, and among those that get it.

use std::time::Duration;

use migrate_proto::cluster::record::Standing as Membership;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::running::Running;
use crate::carrier::Whom;
use crate::ownership::ProposeError;
use crate::wire::{Answer, Ask, Failure};

const AGAIN: Duration = Duration::from_millis(300);
/// How long a leader may take to be heard by a node that was started, before it asks.
const SILENCE: Duration = Duration::from_secs(3);
/// After the record has said no, which only a person can change.
const LATER: Duration = Duration::from_secs(5);

impl Shared {
    /// Asks to be admitted until the record says that this node is a member, at this address and with these versions. Then it is for
    /// others to change that: who leaves is not brought back by this. Never ends.
    ///
    /// A node that was away is told by nobody that it was forgotten meanwhile, and its own copy does not say so. So where no leader is heard it
    /// asks, too.
    pub(super) async fn settle_in(&self, running: &Running) {
        let begun = Instant::now();
        loop {
            if self.is_in(running) {
                if running.leads() || running.candidacy.heard_since(begun) {
                    break;
                }
                if begun.elapsed() < SILENCE {
                    sleep(AGAIN).await;
                    continue;
                }
            }
            let pause = match self.ask_to_be_admitted(running).await {
                Err(ProposeError::Refused(refusal)) => {
                    self.say(Some(format!("this node is not admitted: {refusal}")));
                    LATER
                }
                Ok(()) | Err(_) => AGAIN,
            };
            sleep(pause).await;
        }
        self.say(None);
        std::future::pending().await
    }

    fn is_in(&self, running: &Running) -> bool {
        let joiner = &self.setup.joiner;
        let record = running.record.borrow();
        let member = record.nodes.get(&joiner.place.name).is_some_and(|node| {
            let stands = matches!(node.standing, Membership::Member | Membership::Draining);
            stands
                && node.mark == joiner.mark
                && node.address == joiner.place.address
                && node.versions == joiner.versions
        });
        drop(record);
        member && running.metrics().membership_config.membership().get_node(&running.me.0).is_some()
    }

    async fn ask_to_be_admitted(&self, running: &Running) -> Result<(), ProposeError> {
        let ask = Ask::Admit(self.setup.joiner.clone());
        if running.metrics().current_leader.is_some() {
            match running.through_leader(ask.clone()).await {
                // It led once.
                Err(ProposeError::NoQuorum | ProposeError::NotReady) => {}
                answered => return answered.map(|_| ()),
            }
        }
        // Nobody sends it anything yet, or any more: those that it was told of know who leads.
        let leader = self.who().await.into_iter().filter(|who| who.cluster == Some(running.cluster));
        let Some((leader, place)) = leader.filter_map(|who| who.leader).next() else {
            return Err(ProposeError::NoQuorum);
        };
        let whom = Whom { name: Some(place.name), address: place.address };
        match running.asker.ask(Some(leader), whom, ask, self.setup.timing.answer).await {
            Ok(Answer::Failed(Failure::Propose(error))) => Err(error),
            Ok(Answer::Done) => Ok(()),
            Ok(_) => Err(ProposeError::NoQuorum),
            Err(_) => Err(ProposeError::Unknown),
        }
    }
}
