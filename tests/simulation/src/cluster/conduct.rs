//! What every agent does about its workloads: it makes so what the record says, and drops what is another's.

use std::sync::Arc;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{ENDLESS, NEVER};
use migrate_proto::cluster::record::{Life, LoadEntry, Proof, Record, Wanted};
use migrate_proto::cluster::{CheckpointId, Claim};
use migrate_proto::id::{Epoch, HandoverId};
use migrate_proto::name::{NodeName, WorkloadName};

use super::bug::Bug;
use super::genesis::load_name;
use super::log::{self, Answer, Entry};
use super::node::{Body, Job};
use super::world::{Event, World};

/// For what something was proposed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Voice {
    Open { after: u64 },
    Transfer { load: usize, handover: HandoverId },
    Owner,
    Leader,
}

/// What an agent knows when it looks at one workload.
struct Look {
    load: usize,
    name: WorkloadName,
    entry: LoadEntry,
    /// The session that the node holds, if it owns the workload in it.
    session: Option<u64>,
    mine: bool,
    /// The epoch of what is here.
    here: Option<u64>,
}

impl World {
    pub(crate) fn load_named(&self, name: &WorkloadName) -> Option<usize> {
        (0..self.ledger.loads.len()).find(|load| load_name(*load) == name)
    }

    pub(crate) fn claim(&self, node: usize, session: u64) -> Claim {
        Claim { node: self.nodes[node].name.clone(), session }
    }

    /// An agent's regular round.
    pub(crate) fn probe(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        self.at(self.now + self.lease() / 6, Event::Probe { node, life });
        self.lead_on(node);
        self.conduct(node);
        self.care_for_checkpoints(node);
        self.ask_about_images(node);
    }

    /// More of the log has come: all that there was when the leader said so.
    pub(crate) fn learn(&mut self, node: usize, len: usize, sent: u64) {
        let deposed = self.log.leader != Some(node) && self.agent(node).is_some_and(|agent| agent.lead.is_some());
        if deposed && self.stubborn && self.faulty && !self.random.one_in(20) {
            return;
        }
        let (bug, odd) = (self.bug, self.now % 7 == 3);
        let here = &mut self.nodes[node];
        here.learned = here.learned.max(len);
        let Some(agent) = here.agent.as_mut() else { return };
        if bug == Some(Bug::RecordGoesBack) && len < agent.applied {
            agent.record = Arc::clone(&self.log.states[len]);
            agent.applied = len;
        }
        // What was said before this agent was there may be older than what the one before it has done.
        agent.ready |= sent >= agent.started || bug == Some(Bug::ReadyTooEarly);
        if agent.applied >= len {
            return;
        }
        let record = Arc::make_mut(&mut agent.record);
        for index in agent.applied..len {
            match &self.log.entries[index] {
                Entry::Command(command) => drop(log::apply(record, index as u64 + 1, command, bug)),
                Entry::Voters(voters) => drop(record.set_voters(index as u64 + 1, voters.clone())),
            }
        }
        if bug == Some(Bug::ApplyUsesClock) && odd {
            record.cluster.policy.keep = record.cluster.policy.keep.wrapping_add(1);
        }
        agent.applied = len;
        let voters = self.log.voters(len);
        if voters.config > agent.voters.config {
            agent.voters.clone_from(voters);
        }
        self.lead_learns(node);
        self.conduct(node);
    }

    /// Makes so what the record says, as far as this node may.
    pub(crate) fn conduct(&mut self, node: usize) {
        let Some(agent) = self.nodes[node].agent.as_ref().filter(|agent| agent.ready) else { return };
        let record = Arc::clone(&agent.record);
        let session = self.session(node);
        for load in 0..self.ledger.loads.len() {
            let name = load_name(load).clone();
            let Some(entry) = record.loads.get(&name).cloned() else { continue };
            if self.is_departing(node, load, &entry) || self.adopt_image(node, load, &entry, session) {
                continue;
            }
            let mine = entry.owner.as_ref() == Some(&self.nodes[node].name);
            let here = self.nodes[node].bodies[load].as_ref().map(|body| body.epoch);
            let look = Look { load, name, entry, session: session.filter(|_| mine), mine, here };
            self.conduct_one(node, &record, &look);
        }
    }

    fn conduct_one(&mut self, node: usize, record: &Record, look: &Look) {
        let Look { load, entry, session, mine, here, .. } = look;
        let (load, epoch) = (*load, entry.epoch.0);
        match (mine, here) {
            (_, Some(older)) if *older < epoch => self.overtaken(node, load, *older),
            (true, Some(same)) if *same == epoch => {
                let Some(session) = session else { return };
                self.go_on(node, record, look, *session);
            }
            (true, None) => {
                let Some(session) = session else { return };
                self.begin(node, look, *session);
            }
            (false, None) => self.nodes[node].disk.owned[load] = None,
            _ => {}
        }
    }

    /// Another has it: what is here never runs again, and goes when there is time for it.
    fn overtaken(&mut self, node: usize, load: usize, epoch: u64) {
        self.nodes[node].disk.owned[load] = None;
        let armed = self.nodes[node].bodies[load].as_ref().map(|body| body.armed);
        if armed != Some(NEVER) && self.bug != Some(Bug::ThawWithoutSession) {
            self.arm(node, load, NEVER);
        }
        self.start_job(node, load, Job::Drop { epoch });
    }

    /// It is here, in this epoch: its init is armed, and the record hears how it is.
    fn go_on(&mut self, node: usize, record: &Record, look: &Look, session: u64) {
        let Look { load, entry, .. } = look;
        let load = *load;
        let finite = record.nodes.get(&self.nodes[node].name).is_none_or(|entry| entry.finite);
        let wanted = if finite { session } else { ENDLESS };
        let Some(body) = self.nodes[node].bodies[load].as_ref() else { return };
        let (armed, guarded, ended) = (body.armed, body.guarded, body.ended);
        self.nodes[node].disk.owned[load] = Some((entry.epoch.0, session));
        if matches!(entry.life, Life::Stopped(_) | Life::Failed(_)) {
            if self.bug != Some(Bug::EndedRunAgain) {
                self.nodes[node].bodies[load] = None;
            }
            return;
        }
        if armed != wanted && !(armed == ENDLESS && self.bug == Some(Bug::RecoverWithoutArm)) {
            self.arm(node, load, wanted);
        }
        if guarded {
            self.release(node, load);
        }
        let by = self.claim(node, session);
        if ended {
            let ended = Command::Ended { load: look.name.clone(), epoch: entry.epoch, by, exit: None };
            self.say(node, look, "ended", ended);
        } else if entry.life != Life::Running {
            let began = Command::Began { load: look.name.clone(), epoch: entry.epoch, by };
            self.say(node, look, "began", began);
        }
    }

    /// It should be here, and is not.
    fn begin(&mut self, node: usize, look: &Look, session: u64) {
        let Look { load, name, entry, .. } = look;
        if entry.wish != Wanted::Run {
            return;
        }
        let (epoch, by) = (entry.epoch, self.claim(node, session));
        let over = matches!(entry.life, Life::Stopped(_) | Life::Failed(_));
        if self.nodes[node].disk.broke[*load] == Some(epoch.0) && !over {
            return self.break_off(node, *load, entry, session, "it was so before");
        }
        match &entry.life {
            Life::Starting => self.start_job(node, *load, Job::Start { epoch: epoch.0 }),
            Life::Recovering { from } => {
                self.start_job(node, *load, Job::Restore { epoch: epoch.0, from: *from, failed: 0 });
            }
            // The power was gone.
            Life::Running | Life::Lost(_) => {
                let from = entry.newest_sound().map(|checkpoint| checkpoint.id);
                if from.is_some() || entry.policy.afresh {
                    let revive = Command::Revive { load: name.clone(), epoch, by, from, lost_ms: None };
                    self.say(node, look, "anew", revive);
                } else {
                    self.break_off(node, *load, entry, session, "the power was gone");
                }
            }
            Life::Stopped(_) if self.bug == Some(Bug::EndedRunAgain) => {
                self.start_job(node, *load, Job::Start { epoch: epoch.0 });
            }
            _ => {}
        }
    }

    /// Says that it cannot run this here. That is on its disk first: once the record knows it, another node may begin it at once.
    fn break_off(&mut self, node: usize, load: usize, entry: &LoadEntry, session: u64, why: &str) {
        let began = !matches!(entry.life, Life::Starting | Life::Recovering { .. });
        let (name, epoch, by) = (load_name(load).clone(), entry.epoch, self.claim(node, session));
        (self.nodes[node].disk.owned[load], self.nodes[node].disk.broke[load]) = (None, Some(epoch.0));
        let broke = Command::Broke { load: name, epoch, by, began, reason: why.to_owned() };
        self.say_about(node, load, epoch, "broke", broke);
    }

    /// Proposes as the owner, unless that was done a moment ago.
    fn say(&mut self, node: usize, look: &Look, what: &'static str, command: Command) {
        self.say_about(node, look.load, look.entry.epoch, what, command);
    }

    pub(crate) fn say_about(&mut self, node: usize, load: usize, epoch: Epoch, what: &'static str, command: Command) {
        let (now, again) = (self.now, self.lease() / 3);
        let Some(agent) = self.agent(node) else { return };
        let last = agent.proposed.insert((load, epoch.0, what), now);
        if let Some(last) = last.filter(|last| now - last < again) {
            agent.proposed.insert((load, epoch.0, what), last);
            return;
        }
        let voice = Voice::Owner;
        self.propose(node, voice, command);
    }

    // ---- jobs ----------------------------------------------------------------------------------------------------

    /// Begins to do something about a workload that takes its time, unless it is being done.
    pub(crate) fn start_job(&mut self, node: usize, load: usize, job: Job) {
        let most = match job {
            Job::Start { .. } => self.lease() / 5,
            Job::Restore { .. } => self.lease() / 2,
            Job::Drop { .. } => 2 * self.lease(),
        };
        let turn = self.unique();
        let Some(agent) = self.agent(node) else { return };
        let same = |(_, doing): &(u64, Job)| std::mem::discriminant(doing) == std::mem::discriminant(&job);
        if agent.jobs[load].as_ref().is_some_and(same) {
            return;
        }
        agent.jobs[load] = Some((turn, job.clone()));
        let life = self.nodes[node].life;
        let soon = self.random.below(most);
        self.at(self.now + soon, Event::Done { node, life, load, turn, job });
    }

    pub(crate) fn is_current(&self, node: usize, life: u64, load: usize, turn: u64) -> bool {
        let agent = self.nodes[node].agent.as_ref().filter(|_| self.nodes[node].life == life);
        agent.is_some_and(|agent| agent.jobs[load].as_ref().is_some_and(|(current, _)| *current == turn))
    }

    /// What takes its time is done; what the record says by now counts.
    pub(crate) fn done(&mut self, node: usize, load: usize, job: Job) {
        let session = self.session(node);
        let Some(agent) = self.agent(node) else { return };
        agent.jobs[load] = None;
        let Some(entry) = agent.record.loads.get(load_name(load)).cloned() else { return };
        let mine = entry.owner.as_ref() == Some(&self.nodes[node].name);
        let here = self.nodes[node].bodies[load].as_ref().map(|body| body.epoch);
        let broke = self.nodes[node].disk.broke[load] == Some(entry.epoch.0);
        let free = mine && here.is_none() && !broke;
        match job {
            Job::Drop { epoch } if here == Some(epoch) && entry.epoch.0 > epoch => {
                self.note(|| format!("node{} drops its copy of {} of epoch {epoch}", node + 1, load_name(load)));
                self.nodes[node].bodies[load] = None;
                self.conduct(node);
            }
            Job::Start { epoch } if free && entry.epoch.0 == epoch => {
                let again = self.bug == Some(Bug::EndedRunAgain) && matches!(entry.life, Life::Stopped(_));
                if let Some(session) = session.filter(|_| entry.life == Life::Starting || again) {
                    self.run(node, load, Body::new(epoch, 0), session);
                }
            }
            Job::Restore { epoch, from, failed } if free && entry.life == (Life::Recovering { from }) => {
                let Some(session) = session.filter(|_| entry.epoch.0 == epoch) else { return };
                match self.fetch(node, &entry, from) {
                    Some(work) => self.run(node, load, Body::new(epoch, work), session),
                    None if failed < 6 => {
                        self.start_job(node, load, Job::Restore { epoch, from, failed: failed + 1 });
                    }
                    None => self.cannot_restore(node, load, &entry, from, session),
                }
            }
            _ => {}
        }
    }

    /// Armed first, then set going.
    fn run(&mut self, node: usize, load: usize, body: Body, session: u64) {
        let (epoch, restored) = (body.epoch, body.work > 0);
        self.note(|| format!("node{} begins {} in epoch {epoch}, from {}", node + 1, load_name(load), body.work));
        let later = self.bug == Some(Bug::ArmAfterStart) || restored && self.bug == Some(Bug::RecoverWithoutArm);
        self.nodes[node].disk.owned[load] = Some((epoch, session));
        let known = self.nodes[node].agent.as_ref().and_then(|agent| agent.record.loads.get(load_name(load)));
        let numbered = known.map_or(0, |entry| entry.numbered).max(self.nodes[node].disk.numbered[load]);
        self.nodes[node].disk.numbered[load] = numbered;
        self.nodes[node].bodies[load] = Some(body);
        self.arm(node, load, if later { ENDLESS } else { session });
        if !later {
            self.conduct(node);
        }
    }

    /// What a checkpoint holds, if a holder that answers has it whole.
    fn fetch(&self, node: usize, entry: &LoadEntry, id: CheckpointId) -> Option<u64> {
        let whole = |holder: &NodeName| {
            let holder = self.named(holder)?;
            let file = self.nodes[holder].disk.files.get(&id)?;
            (file.whole && self.reach(node, holder)).then_some(())
        };
        entry.checkpoint(id)?.holders.iter().find_map(whole)?;
        self.ledger.checkpoints.get(&id).copied()
    }

    /// Nobody who answers has it: if everybody has answered it is damaged, and somebody else may try another one.
    fn cannot_restore(&mut self, node: usize, load: usize, entry: &LoadEntry, from: CheckpointId, session: u64) {
        let Some(checkpoint) = entry.checkpoint(from) else { return };
        let asked =
            checkpoint.holders.iter().all(|holder| self.named(holder).is_some_and(|holder| self.reach(node, holder)));
        if asked && !checkpoint.damaged {
            let since = checkpoint.since;
            let (load, proof) = (load_name(load).clone(), Proof::Damaged);
            self.propose(node, Voice::Owner, Command::Proved { load, checkpoint: from, since, proof });
        }
        self.break_off(node, load, entry, session, "nobody has its checkpoint");
    }

    /// The record has answered this agent.
    pub(crate) fn answered(&mut self, node: usize, voice: Voice, index: u64, answer: &Answer) {
        match voice {
            Voice::Open { after } => self.opened(node, after, index, answer),
            Voice::Transfer { load, handover } => self.transferred(node, load, handover, answer),
            Voice::Owner | Voice::Leader => {}
        }
    }
}
