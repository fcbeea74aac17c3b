//! Into the record: every node that can write it asks for itself.

use std::time::Duration;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Refusal, Standing as Membership};
use tokio::time::sleep;

use super::Shared;
use crate::ownership::{Joiner, ProposeError};

const AGAIN: Duration = Duration::from_millis(300);
/// After the record has said no, which only a person can change.
const LATER: Duration = Duration::from_secs(5);

impl Shared {
    /// Until the record says that this node is a member, at this address and with these versions. Then it is for others to change
    /// that: who leaves is not brought back by this.
    pub(super) async fn settle_in(&self) {
        let mut moved = self.moved.subscribe();
        while !self.is_in() {
            if self.made().is_err() {
                if moved.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let pause = match self.admit(&self.setup.joiner).await {
                Err(ProposeError::Refused(refusal)) => {
                    let why = format!("this node is not admitted: {refusal}");
                    self.note(|known| known.unwelcome = Some(why));
                    LATER
                }
                Ok(()) | Err(_) => AGAIN,
            };
            sleep(pause).await;
        }
        self.note(|known| known.unwelcome = None);
    }

    fn is_in(&self) -> bool {
        let joiner = &self.setup.joiner;
        let record = self.record.borrow();
        record.nodes.get(&joiner.place.name).is_some_and(|node| {
            let stands = matches!(node.standing, Membership::Member | Membership::Draining);
            stands
                && node.mark == joiner.mark
                && node.address == joiner.place.address
                && node.versions == joiner.versions
        })
    }

    pub(super) async fn admit(&self, joiner: &Joiner) -> Result<(), ProposeError> {
        let since = self.record.borrow().nodes.get(&joiner.place.name).map_or(0, |node| node.since);
        let Joiner { mark, place, versions } = joiner.clone();
        let admit =
            |since| Command::Admit { node: place.name.clone(), mark, address: place.address.clone(), versions, since };
        match self.change(&admit(since)).await {
            // This node's copy was a little behind.
            Err(ProposeError::Refused(Refusal::Changed { since, .. })) => self.change(&admit(since)).await.map(|_| ()),
            answered => answered.map(|_| ()),
        }
    }
}
