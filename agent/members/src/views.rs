//! What was told about the members, so that only changes are told.

use std::collections::BTreeMap;
use std::time::Duration;

use foca::State;
use migrate_proto::name::NodeName;

use crate::member::Member;
use crate::{Health, Out, View};

/// By name.
#[derive(Debug, Default)]
pub(crate) struct Views(BTreeMap<NodeName, View>);

impl Views {
    pub(crate) fn all(&self) -> impl Iterator<Item = &View> {
        self.0.values()
    }

    pub(crate) fn of(&self, name: &NodeName) -> Option<&View> {
        self.0.get(name)
    }

    /// Whether it would be news if foca took this over.
    pub(crate) fn would_change(&self, said: &foca::Member<Member>) -> bool {
        self.of(said.id().name()).is_none_or(|view| view.health != health(said) || view.member != *said.id())
    }

    /// Foca says this of a member now.
    pub(crate) fn update(&mut self, now: Duration, said: &foca::Member<Member>, outs: &mut Vec<Out>) {
        let (member, health) = (said.id(), health(said));
        let before = self.0.get_mut(member.name());
        let same_life = before.as_ref().is_some_and(|view| view.member == *member);
        match before {
            Some(view) if same_life && view.health == health => {}
            Some(view) => {
                tell(member, health, same_life.then_some(view.health), outs);
                *view = View { member: member.clone(), health, since: now };
            }
            None => {
                tell(member, health, None, outs);
                self.0.insert(member.name().clone(), View { member: member.clone(), health, since: now });
            }
        }
    }
}

fn health(said: &foca::Member<Member>) -> Health {
    match said.state() {
        _ if said.id().is_leaving() => Health::Left,
        State::Alive => Health::Alive,
        State::Suspect => Health::Suspect,
        State::Down => Health::Down,
    }
}

/// `before`: how this same life of the member was.
fn tell(member: &Member, health: Health, before: Option<Health>, outs: &mut Vec<Out>) {
    let member = member.clone();
    match (before, health) {
        (Some(Health::Suspect), Health::Alive) => outs.push(Out::Refuted(member)),
        (_, Health::Alive) => outs.push(Out::Up(member)),
        (Some(_), Health::Suspect) => outs.push(Out::Suspect(member)),
        (None, Health::Suspect) => outs.extend([Out::Up(member.clone()), Out::Suspect(member)]),
        (_, Health::Down) => outs.push(Out::Down(member)),
        (_, Health::Left) => outs.push(Out::Left(member)),
    }
}
