//! What the leader does: drives the pure [`Steward`] while this node leads, and carries out what it says.
//!
//! So far that is who votes. Leases are observed only, so nothing is fenced or brought back yet: such proposals are left.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use migrate_ownership::Ownership;
use migrate_proto::api::NodeState;
use migrate_proto::cluster::steward::{Act, Event, Health, Limits, Steward};
use migrate_proto::name::NodeName;

use super::membership::Membership;
use crate::clock;
use crate::events::Kind;
use crate::host::Host;

/// Goes on for as long as the agent runs.
pub async fn lead(record: &dyn Ownership, members: &dyn Membership, host: &Host) {
    let mut standing = record.standing();
    while standing.wait_for(|standing| standing.leads).await.is_ok() {
        tracing::info!("this node leads");
        Leader { record, members, host, steward: Steward::new(Limits::default()), known: BTreeMap::new() }.act().await;
        tracing::info!("this node leads no more");
    }
}

/// One time of leading. It keeps nothing that the next leader would miss.
struct Leader<'a> {
    record: &'a dyn Ownership,
    members: &'a dyn Membership,
    host: &'a Host,
    steward: Steward,
    /// How members were when the steward was told last.
    known: BTreeMap<NodeName, Health>,
}

impl Leader<'_> {
    async fn act(mut self) {
        let (mut standing, mut records, mut changes) =
            (self.record.standing(), self.record.record(), self.members.changes());
        loop {
            if !standing.borrow_and_update().leads {
                return;
            }
            let record = records.borrow_and_update().clone();
            changes.borrow_and_update();
            let mut events = self.members();
            events.push(Event::Record(record));
            events.push(Event::Tick { wall_ms: wall_ms() });
            for event in events {
                for act in self.steward.step(clock::now(), event) {
                    self.carry_out(act).await;
                }
            }
            let wake = self.steward.deadline().map(clock::instant);
            let wake = wake.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(60));
            let changed = tokio::select! {
                changed = standing.changed() => changed,
                changed = records.changed() => changed,
                changed = changes.changed() => changed,
                () = tokio::time::sleep_until(wake) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Who has changed since the steward was told.
    fn members(&mut self) -> Vec<Event> {
        let mut now = BTreeMap::from([(self.host.node().clone(), Health::Alive)]);
        let views = self.members.views().into_iter();
        now.extend(views.filter_map(|view| Some((view.peer.node, health(view.state?)))));
        let new = now.iter().filter(|(node, health)| self.known.get(*node) != Some(*health));
        let events = new.map(|(node, health)| Event::Member { node: node.clone(), health: *health }).collect();
        self.known = now;
        events
    }

    async fn carry_out(&self, act: Act) {
        match act {
            Act::Voters(voters) => {
                if let Err(error) = self.record.set_voters(voters).await {
                    tracing::info!(%error, "the voters were not changed; that is tried again");
                }
            }
            Act::Say(note) => self.host.events.record(Kind::Leader, None, None, note.to_string()),
            other => tracing::debug!(?other, "what a leader does not do yet"),
        }
    }
}

fn health(state: NodeState) -> Health {
    match state {
        NodeState::Alive | NodeState::Draining => Health::Alive,
        NodeState::Suspect => Health::Suspect,
        NodeState::Dead => Health::Down,
        NodeState::Left => Health::Left,
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
