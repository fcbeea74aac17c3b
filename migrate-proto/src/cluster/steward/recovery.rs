//! What becomes of workloads whose owner cannot have them any more: it is fenced, or has said that it could not run them.

use std::collections::BTreeSet;

use super::queue::by_urgency;
use super::seats::Origin;
use super::{Act, Health, Note, Round, Steward, Subject};
use crate::cluster::Claim;
use crate::cluster::command::{Begin, Command, Reassignment};
use crate::cluster::record::{CheckpointEntry, Life, LoadEntry, Standing, Wanted};
use crate::handover::Millis;
use crate::name::{NodeName, WorkloadName};

/// What there is to begin from.
enum Source<'a> {
    Checkpoint(Best<'a>),
    /// The newest one is on nodes that may answer in a moment.
    Later(Vec<String>),
    /// There are some, where nobody answers.
    Away(Vec<String>),
    Nothing,
}

/// The checkpoint to begin from.
struct Best<'a> {
    entry: &'a CheckpointEntry,
    /// Where newer ones are, which nobody can get.
    newer: Vec<String>,
    /// A newer one was tried in vain.
    instead: bool,
    /// It is in a depot that has stayed away for long, and there is nothing else.
    late: bool,
}

impl Best<'_> {
    /// Whether another one was tried so far: who has tried that has not tried this one.
    fn is_new_to(&self, load: &LoadEntry) -> bool {
        self.instead && load.from != Some(self.entry.id)
    }
}

/// A step, and the words for it.
type Step = (Command, Option<Note>);

impl Steward {
    pub(super) fn recovery(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        let bereft = record.loads.iter().filter(|(_, load)| {
            let fenced = load.owner.as_ref().and_then(|owner| record.nodes.get(owner)).is_some_and(|node| node.fenced);
            load.owner.is_some() && (fenced || matches!(load.life, Life::Failed(_)))
        });
        // Each alone: what is refused of one must not hold up the others.
        let commands = self.steps(round, by_urgency(bereft), None);
        round.acts.extend(commands.into_iter().map(Act::Propose));
        self.prepare(round);
    }

    /// What is proposed together with the fence of their owner.
    pub(super) fn bring_back_all_of(&mut self, round: &mut Round<'_>, owner: &NodeName) -> Vec<Command> {
        let record = round.record;
        let owned = record.loads.iter().filter(|(_, load)| load.owner.as_ref() == Some(owner));
        let mut owned = by_urgency(owned);
        owned.truncate(self.limits.at_once);
        self.steps(round, owned, Some(owner))
    }

    /// The next step of each, where there is one and nothing was proposed about it a moment ago.
    fn steps(
        &mut self,
        round: &mut Round<'_>,
        loads: Vec<(&WorkloadName, &LoadEntry)>,
        fenced: Option<&NodeName>,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        for (name, load) in loads {
            let Some(owner) = &load.owner else { continue };
            let subject = Subject::Load(name.clone(), load.epoch);
            if !self.is_due(round.now, &subject) {
                continue;
            }
            let over = fenced == Some(owner) || round.record.nodes.get(owner).is_some_and(|node| node.fenced);
            let Some((command, note)) = self.next(round, name, load, owner, over) else { continue };
            if self.may_propose(round.now, subject.clone()).is_some() {
                commands.push(command);
                if let Some(note) = note {
                    self.say(round, subject, note);
                }
            }
        }
        commands
    }

    /// Whether nothing about this was proposed a moment ago.
    pub(super) fn is_due(&mut self, now: Millis, subject: &Subject) -> bool {
        let Some(at) = self.proposed.get(subject).map(|proposed| proposed.at.plus(self.limits.again)) else {
            return true;
        };
        if now < at {
            self.look_at(at);
        }
        now >= at
    }

    /// The next step for a workload whose owner is fenced, or will be by the time this is carried out, or has failed with it.
    fn next(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
        fenced: bool,
    ) -> Option<Step> {
        let standing = round.record.nodes.get(owner).map(|node| node.standing);
        let never_returns = matches!(standing, Some(Standing::Left | Standing::Forgotten));
        match (load.wish, &load.life) {
            (Wanted::Remove, _) => fenced.then(|| {
                let (load, epoch, owner) = (name.clone(), load.epoch, owner.clone());
                (Command::Gone { load, epoch, owner, session: None }, None)
            }),
            // Its files are there, and it has nothing to do: who comes back finds it.
            (Wanted::Stop, _) | (_, Life::Stopped(_)) => {
                (fenced && never_returns).then(|| (reassign(name, load, owner, None, Begin::Afresh, None), None))
            }
            (Wanted::Run, Life::Failed(_)) => self.try_elsewhere(round, name, load, owner),
            (Wanted::Run, _) if fenced => self.bring_back(round, name, load, owner, never_returns),
            (Wanted::Run, _) => None,
        }
    }

    fn bring_back(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
        never_returns: bool,
    ) -> Option<Step> {
        if let Some(step) = self.out_of_an_image(round, name, load, owner) {
            return step;
        }
        match self.source(round.now, name, load) {
            Source::Checkpoint(from) => self.out_of_a_checkpoint(round, name, load, owner, &from, never_returns),
            Source::Later(places) => self.wait_for(round, name, load, places),
            // What has never said that it runs has done nothing that could be missed.
            _ if load.policy.afresh || !load.ran => self.afresh(round, name, load, owner, false),
            Source::Away(places) => {
                lose(round, name, load, owner, format!("its checkpoints are on {}", places.join(", ")))
            }
            Source::Nothing => lose(round, name, load, owner, "there is no checkpoint of it".to_owned()),
        }
    }

    /// From the image of a move, if somebody has one that no checkpoint is newer than. The outer `None`: nobody has.
    fn out_of_an_image(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
    ) -> Option<Option<Step>> {
        let held = self.held.get(name).filter(|held| held.epoch == load.epoch)?.clone();
        let overtaken = load.newest_sound().is_some_and(|checkpoint| checkpoint.number > held.numbered);
        let refused = load.refused.contains(&held.handover);
        if overtaken || refused || held.node == *owner || !round.takes(&held.node) {
            return None;
        }
        match self.health(&held.node) {
            Some(Health::Alive) => {
                let (from, to) = (owner.clone(), held.node.clone());
                let note = Note::TakenOver { load: name.clone(), from, to };
                let begin = Begin::Image(held.handover);
                Some(Some((reassign(name, load, owner, Some(held.node), begin, None), Some(note))))
            }
            Some(Health::Suspect) => Some(self.wait_for(round, name, load, vec![held.node.to_string()])),
            _ => None,
        }
    }

    fn out_of_a_checkpoint(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
        from: &Best<'_>,
        never_returns: bool,
    ) -> Option<Step> {
        let is_new = from.is_new_to(load);
        let Best { entry: from, newer, .. } = from;
        let mut needs = self.needs(load, Origin::Checkpoint(from));
        if is_new {
            needs.tried.clear();
        }
        let prefer = self.prepared.get(name).filter(|(epoch, _)| *epoch == load.epoch).map(|(_, node)| node.clone());
        let lost_ms = self.ago(round.now, from.taken_ms);
        let begin = Begin::Checkpoint(from.id);
        match round.seats.take(&needs, prefer.as_ref()) {
            Ok(to) => {
                let (load_name, from_node, checkpoint) = (name.clone(), owner.clone(), Some(from.id));
                let newer = newer.clone();
                let note =
                    Note::Recovered { load: load_name, from: from_node, to: to.clone(), checkpoint, lost_ms, newer };
                Some((reassign(name, load, owner, Some(to), begin, lost_ms), Some(note)))
            }
            Err(why) => {
                // Who may come back keeps it until there is room: then it has lost nothing.
                let subject = Subject::Load(name.clone(), load.epoch);
                self.wait(round, subject, Note::NoRoom { load: name.clone(), why });
                never_returns.then(|| (reassign(name, load, owner, None, begin, lost_ms), None))
            }
        }
    }

    fn afresh(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
        again: bool,
    ) -> Option<Step> {
        let mut needs = self.needs(load, Origin::Afresh);
        if again {
            needs.tried.clear();
        }
        match round.seats.take(&needs, None) {
            Ok(to) => {
                let (load_name, from) = (name.clone(), owner.clone());
                let (to_node, newer) = (to.clone(), Vec::new());
                let note =
                    Note::Recovered { load: load_name, from, to: to_node, checkpoint: None, lost_ms: None, newer };
                Some((reassign(name, load, owner, Some(to), Begin::Afresh, None), Some(note)))
            }
            Err(why) => {
                let subject = Subject::Load(name.clone(), load.epoch);
                self.wait(round, subject, Note::NoRoom { load: name.clone(), why });
                None
            }
        }
    }

    /// It could not be begun where it was: another node, and at last from nothing where that is allowed.
    fn try_elsewhere(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        owner: &NodeName,
    ) -> Option<Step> {
        if let Some(step) = self.out_of_an_image(round, name, load, owner) {
            return step;
        }
        let may_begin_afresh = load.policy.afresh || !load.ran;
        let source = self.source(round.now, name, load);
        let gives_up = load.tried.len() >= self.limits.attempts;
        match source {
            Source::Checkpoint(from) if from.is_new_to(load) || !gives_up => {
                return self.out_of_a_checkpoint(round, name, load, owner, &from, false);
            }
            // A depot may be back in a moment.
            Source::Checkpoint(Best { entry, late: false, .. }) if self.is_out_of_reach(name, load, entry) => {
                return self.wait_for(round, name, load, entry.depots.iter().cloned().collect());
            }
            _ if gives_up => {}
            _ if may_begin_afresh => return self.afresh(round, name, load, owner, false),
            Source::Later(places) | Source::Away(places) => return self.wait_for(round, name, load, places),
            Source::Checkpoint(_) | Source::Nothing => {}
        }
        if gives_up && may_begin_afresh && load.from.is_some() {
            return self.afresh(round, name, load, owner, true);
        }
        let subject = Subject::Load(name.clone(), load.epoch);
        self.say(round, subject, Note::GivenUp { load: name.clone(), tried: load.tried.len() });
        None
    }

    fn wait_for(
        &mut self,
        round: &mut Round<'_>,
        name: &WorkloadName,
        load: &LoadEntry,
        places: Vec<String>,
    ) -> Option<Step> {
        self.wait(round, Subject::Load(name.clone(), load.epoch), Note::Waits { load: name.clone(), places });
        None
    }

    /// The newest checkpoint that somebody can give, unless a newer one may turn up in a moment: nodes that have it are only suspected, or it was
    /// tried for less than [`Limits::depot_patience`](super::Limits) to have it from a depot.
    fn source<'a>(&mut self, now: Millis, name: &WorkloadName, load: &'a LoadEntry) -> Source<'a> {
        let (mut newer, mut instead, mut late) = (BTreeSet::new(), false, None);
        for entry in load.checkpoints.iter().rev().filter(|checkpoint| !checkpoint.damaged) {
            let health: Vec<_> = self.holders(name, entry).map(|holder| self.health(holder)).collect();
            let in_depot = !entry.depots.is_empty();
            if health.contains(&Some(Health::Alive)) || in_depot && !self.stays_out_of_reach(now, name, load, entry) {
                return Source::Checkpoint(Best { entry, newer: newer.into_iter().collect(), instead, late: false });
            }
            let places: Vec<String> = self.holders(name, entry).map(ToString::to_string).collect();
            if health.contains(&Some(Health::Suspect)) {
                return Source::Later(places);
            }
            if in_depot {
                instead = true;
                late.get_or_insert(entry);
            }
            newer.extend(places.into_iter().chain(entry.depots.iter().cloned()));
        }
        // Whoever has not tried it may find the depot there.
        if let Some(entry) = late {
            return Source::Checkpoint(Best { entry, newer: Vec::new(), instead: false, late: true });
        }
        if newer.is_empty() { Source::Nothing } else { Source::Away(newer.into_iter().collect()) }
    }

    /// Whether only depots have it, and who should have brought the workload back from it could not.
    fn is_out_of_reach(&self, name: &WorkloadName, load: &LoadEntry, checkpoint: &CheckpointEntry) -> bool {
        let failed = match (load.from.and_then(|from| load.checkpoint(from)), &load.life) {
            (Some(from), Life::Failed(_)) => checkpoint.number >= from.number,
            // It was passed over before.
            (Some(from), _) => checkpoint.number > from.number,
            (None, _) => false,
        };
        failed && !load.tried.is_empty() && !self.holders(name, checkpoint).any(|holder| self.is_alive(holder))
    }

    /// Whether that has been so for long enough.
    fn stays_out_of_reach(
        &mut self,
        now: Millis,
        name: &WorkloadName,
        load: &LoadEntry,
        checkpoint: &CheckpointEntry,
    ) -> bool {
        let which = (name.clone(), checkpoint.id);
        if !self.is_out_of_reach(name, load, checkpoint) {
            self.out_of_reach.remove(&which);
            return false;
        }
        let over = self.out_of_reach.entry(which).or_insert(now).plus(self.limits.depot_patience);
        if now < over {
            self.look_at(over);
        }
        now >= over
    }

    /// Where the owner is only suspected, everything is made ready where it would go.
    fn prepare(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        let suspected = record.loads.iter().filter(|(_, load)| {
            let runs = matches!(load.life, Life::Running | Life::Recovering { .. }) && load.wish == Wanted::Run;
            runs && load.owner.as_ref().is_some_and(|owner| self.health(owner) == Some(Health::Suspect))
        });
        for (name, load) in by_urgency(suspected) {
            if self.prepared.get(name).is_some_and(|(epoch, _)| *epoch == load.epoch) {
                continue;
            }
            let Source::Checkpoint(Best { entry: from, .. }) = self.source(round.now, name, load) else { continue };
            if let Ok(node) = round.seats.take(&self.needs(load, Origin::Checkpoint(from)), None) {
                self.prepared.insert(name.clone(), (load.epoch, node.clone()));
                round.acts.push(Act::Prepare { load: name.clone(), node, from: from.id });
            }
        }
    }
}

fn lose(round: &Round<'_>, name: &WorkloadName, load: &LoadEntry, owner: &NodeName, why: String) -> Option<Step> {
    if matches!(load.life, Life::Lost(_)) {
        return None;
    }
    let session = round.record.nodes.get(owner)?.session;
    let note = Note::Lost { load: name.clone(), owner: owner.clone(), why: why.clone() };
    let owner = Claim { node: owner.clone(), session };
    Some((Command::Lose { load: name.clone(), epoch: load.epoch, owner, reason: why }, Some(note)))
}

fn reassign(
    name: &WorkloadName,
    load: &LoadEntry,
    owner: &NodeName,
    to: Option<NodeName>,
    begin: Begin,
    lost_ms: Option<u64>,
) -> Command {
    let (load, epoch, numbered, owner) = (name.clone(), load.epoch, load.numbered, owner.clone());
    Command::Reassign(Reassignment { load, epoch, owner, to, begin, numbered, lost_ms })
}
