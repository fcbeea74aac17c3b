//! What goes wrong in a cluster, and for how long.

use std::collections::BTreeSet;

use migrate_proto::cluster::VoterId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{LoadPolicy, Standing};
use migrate_proto::cluster::{Claim, Ticket};

use super::bug::Bug;
use super::conduct::Voice;
use super::genesis::{load_name, spec};
use super::world::{Event, World};
use crate::random::Random;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An agent dies, and another one starts.
    AgentDies,
    /// An agent stands still for a while.
    AgentStops,
    /// A node loses power: everything but its disk is gone.
    PowerLoss,
    /// Nobody reaches a node, or it reaches nobody, or both.
    NodeAlone,
    /// The same of the node that leads.
    LeaderAlone,
    /// The nodes fall into two parts.
    Halves,
    /// Two nodes do not hear of each other, or one of the other.
    LinkCut,
    /// Somebody else leads.
    LeaderChanges,
    /// Others vote.
    VotersChange,
    /// A checkpoint on a disk is not what it was.
    FileDamaged,
    /// All checkpoints on a disk are gone.
    FilesLost,
    /// Somebody wants a workload to move.
    Move,
    /// Somebody wants a node to drain, or not any more.
    Drain,
}

use Fault::{
    AgentDies, AgentStops, Drain, FileDamaged, FilesLost, Halves, LeaderAlone, LeaderChanges, LinkCut, Move, NodeAlone,
    PowerLoss, VotersChange,
};

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 13] = [
        AgentDies,
        AgentStops,
        PowerLoss,
        NodeAlone,
        LeaderAlone,
        Halves,
        LinkCut,
        LeaderChanges,
        VotersChange,
        FileDamaged,
        FilesLost,
        Move,
        Drain,
    ];
}

/// What goes wrong in one world: some of everything, or what one part of the rules is about.
pub(crate) fn any_menu(random: &mut Random, bug: Option<Bug>) -> Vec<Fault> {
    const EVERYTHING: &[Fault] = &[
        AgentDies,
        AgentDies,
        AgentStops,
        AgentStops,
        PowerLoss,
        PowerLoss,
        NodeAlone,
        NodeAlone,
        LeaderAlone,
        Halves,
        LinkCut,
        LeaderChanges,
        LeaderChanges,
        VotersChange,
        FileDamaged,
        FilesLost,
        Move,
        Move,
        Move,
        Drain,
    ];
    const LEASES: &[Fault] = &[AgentStops, AgentDies, NodeAlone, LinkCut, LinkCut, VotersChange];
    const VOTERS: &[Fault] = &[VotersChange, VotersChange, AgentDies, NodeAlone, LeaderChanges, LinkCut];
    const MOVES: &[Fault] = &[Move, Move, Move, AgentDies, NodeAlone, PowerLoss, AgentStops, LeaderChanges];
    const POWER: &[Fault] = &[PowerLoss, PowerLoss, LeaderChanges, NodeAlone, FileDamaged, Move];
    match bug {
        Some(Bug::FenceIgnoresVoters | Bug::OldVotersNotAsked) => VOTERS.to_vec(),
        Some(Bug::RestartedVoterAnswers) => LEASES.to_vec(),
        _ => match random.below(6) {
            0 => LEASES.to_vec(),
            1 => VOTERS.to_vec(),
            2 => MOVES.to_vec(),
            3 => POWER.to_vec(),
            _ => EVERYTHING.to_vec(),
        },
    }
}

/// What an entry of the log may excuse: see `NothingLost`.
pub(crate) struct Excuse {
    /// The workload's epoch begins anew, somewhere else or from an older state.
    pub(crate) anew: BTreeSet<usize>,
}

impl World {
    /// Something goes wrong.
    pub(crate) fn strike(&mut self) {
        if !self.faulty {
            return;
        }
        let soon = self.lease() / 20 + self.random.below(self.lease() * self.calm);
        self.at(self.now + soon, Event::Strike);
        let (node, load) = (self.random.index(self.nodes.len()), self.random.index(self.ledger.loads.len()));
        let fault = self.menu[self.random.index(self.menu.len())];
        let long = self.random.below(4 * self.lease());
        self.tally.faults[fault as usize] += 1;
        match fault {
            AgentDies => self.end_agent(node),
            AgentStops => self.stop(node, long),
            PowerLoss => self.power_loss(node),
            NodeAlone => self.cut_off(node, long),
            LeaderAlone => {
                let leader = self.log.leader.unwrap_or(node);
                self.cut_off(leader, long);
            }
            Halves => self.halve(long),
            LinkCut => {
                let other = self.random.index(self.nodes.len());
                let cuts = [vec![(node, other), (other, node)], vec![(node, other)]];
                let cuts = cuts[self.random.index(2)].clone();
                self.cut(cuts, long);
            }
            LeaderChanges => self.another_leader(),
            VotersChange => self.any_voters(),
            FileDamaged => self.damage_a_file(node),
            FilesLost => self.lose_files(node),
            Move => {
                let owner = self.log.record().loads.get(load_name(load)).and_then(|entry| entry.owner.clone());
                if let Some(owner) = owner.and_then(|owner| self.named(&owner)) {
                    self.begin_a_move(owner, load, node);
                }
            }
            Drain => self.drain_or_not(node),
        }
    }

    // ---- agents and power ----------------------------------------------------------------------------------------

    pub(crate) fn end_agent(&mut self, node: usize) {
        if self.nodes[node].agent.is_none() {
            return;
        }
        self.note(|| format!("node{}'s agent dies", node + 1));
        self.nodes[node].stopped = None;
        self.nodes[node].agent = None;
        self.nodes[node].life += 1;
        self.guards_end(node);
        let life = self.nodes[node].life;
        let most = if self.random.one_in(2) { self.lease() / 3 } else { 2 * self.lease() };
        let soon = self.random.below(most);
        self.at(self.now + soon, Event::StartAgent { node, life });
    }

    /// The next agent, unless it has died again meanwhile.
    pub(crate) fn start_agent(&mut self, node: usize, life: u64) {
        let here = &self.nodes[node];
        if !here.powered || here.agent.is_some() || here.life != life {
            return;
        }
        let seasoned = self.now == 0;
        let agent = self.make_agent(node, seasoned);
        self.nodes[node].agent = Some(agent);
        self.nodes[node].well_since = self.now;
        self.note(|| format!("node{}'s agent starts", node + 1));
        self.at(self.now, Event::Renewal { node, life });
        let soon = self.random.below(self.lease() / 6);
        self.at(self.now + soon, Event::Probe { node, life });
        // Who has led goes on with it at once, also if somebody else does by now.
        let leads = self.log.leader == Some(node) || self.nodes[node].led && self.random.one_in(2);
        if !seasoned && leads {
            self.begin_to_lead(node);
        }
    }

    /// The agent does nothing for this long; what comes meanwhile waits.
    pub(crate) fn stop(&mut self, node: usize, long: u64) {
        if self.nodes[node].agent.is_none() || self.nodes[node].stopped.is_some() {
            return;
        }
        self.note(|| format!("node{}'s agent stands still", node + 1));
        self.nodes[node].stopped = Some(Vec::new());
        self.at(self.now + long, Event::Wake { node });
    }

    /// It goes on; what waited comes now.
    pub(crate) fn wake(&mut self, node: usize, forgotten: bool) {
        let Some(waiting) = self.nodes[node].stopped.take() else { return };
        self.nodes[node].well_since = self.now;
        for event in waiting.into_iter().filter(|_| !forgotten) {
            self.happen(event);
        }
    }

    fn power_loss(&mut self, node: usize) {
        if !self.nodes[node].powered {
            return;
        }
        self.note(|| format!("node{} loses power", node + 1));
        self.ledger.excuse_all();
        let here = &mut self.nodes[node];
        here.powered = false;
        here.life += 1;
        (here.agent, here.stopped, here.page) = (None, None, None);
        here.bodies.fill(None);
        let lost = here.images.iter_mut().filter_map(Option::take).map(|image| image.handover);
        self.ledger.images_lost.extend(lost);
        let soon = self.lease() / 4 + self.random.below(6 * self.lease());
        self.at(self.now + soon, Event::PowerOn { node });
    }

    pub(crate) fn power_on(&mut self, node: usize) {
        if self.ledger.dead != Some(node) && !std::mem::replace(&mut self.nodes[node].powered, true) {
            let life = self.nodes[node].life;
            self.start_agent(node, life);
        }
    }

    // ---- ways ----------------------------------------------------------------------------------------------------

    fn cut_off(&mut self, node: usize, long: u64) {
        let (out, back) = [(true, true), (true, true), (true, false), (false, true)][self.random.index(4)];
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let cuts = others.flat_map(|other| {
            [(node, other)].into_iter().filter(move |_| out).chain([(other, node)].into_iter().filter(move |_| back))
        });
        self.cut(cuts.collect(), long);
    }

    fn halve(&mut self, long: u64) {
        let sides: Vec<bool> = (0..self.nodes.len()).map(|_| self.random.one_in(2)).collect();
        let all = (0..sides.len()).flat_map(|one| (0..sides.len()).map(move |other| (one, other)));
        let cuts = all.filter(|(one, other)| sides[*one] != sides[*other]).collect();
        self.cut(cuts, long);
    }

    fn cut(&mut self, cuts: Vec<(usize, usize)>, long: u64) {
        self.note(|| format!("nothing gets from one to the other: {cuts:?}"));
        self.cuts.extend(cuts.iter().filter(|(one, other)| one != other));
        self.at(self.now + long, Event::Mend { cuts });
    }

    pub(crate) fn mend(&mut self, cuts: &[(usize, usize)]) {
        for (one, other) in cuts {
            self.cuts.remove(&(*one, *other));
            (self.nodes[*one].well_since, self.nodes[*other].well_since) = (self.now, self.now);
        }
    }

    // ---- the rest ------------------------------------------------------------------------------------------------

    fn any_voters(&mut self) {
        let many = [1, 3, 3, 3, 5][self.random.index(5)];
        let mut all: Vec<VoterId> = self.nodes.iter().map(|node| node.voter).collect();
        let mut any = BTreeSet::new();
        while any.len() < many && !all.is_empty() {
            any.insert(all.swap_remove(self.random.index(all.len())));
        }
        if let Some(leader) = self.log.leader {
            self.change_voters(leader, any);
        }
    }

    fn damage_a_file(&mut self, node: usize) {
        let files = self.nodes[node].disk.files.len();
        let which = self.random.index(files.max(1));
        if let Some((id, file)) = self.nodes[node].disk.files.iter_mut().nth(which) {
            file.whole = false;
            self.ledger.damaged.insert((node, *id));
            self.ledger.excuse_all();
        }
    }

    fn lose_files(&mut self, node: usize) {
        let files = std::mem::take(&mut self.nodes[node].disk.files);
        self.ledger.damaged.extend(files.into_keys().map(|id| (node, id)));
        self.ledger.excuse_all();
    }

    fn drain_or_not(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        let Some(entry) = self.log.record().nodes.get(&name) else { return };
        let (since, draining) = (entry.since, entry.standing != Standing::Draining);
        self.propose(node, Voice::Owner, Command::Drain { node: name, since, draining });
    }

    /// Somebody asks for a workload, again and again until it is there.
    pub(crate) fn declare(&mut self, load: usize) {
        let record = self.log.record();
        if record.loads.contains_key(load_name(load)) {
            return;
        }
        let here = &self.ledger.loads[load];
        let owner = here.first.and_then(|first| {
            let node = self.nodes[first].name.clone();
            let session = record.nodes.get(&node)?.session;
            let claim = Claim { node, session };
            record.takes(&claim.node).is_ok().then_some(claim)
        });
        let (since, ticket) = (record.cluster.removed, Ticket(load as u64 + 1));
        let policy = LoadPolicy { afresh: here.afresh, ..LoadPolicy::default() };
        let (spec, priority) = (Box::new(spec(load)), (load % 3) as i16);
        let by = self.log.leader.unwrap_or(0);
        self.propose(by, Voice::Owner, Command::Declare { ticket, since, spec, policy, owner, priority });
        self.at(self.now + self.lease(), Event::Declare { load });
    }

    /// The faults end: whatever is down comes up, nobody drains.
    pub(crate) fn heal(&mut self) {
        self.faulty = false;
        self.loss = 0;
        self.note(|| "the faults end".to_owned());
        self.cuts.clear();
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.well_since = now);
        self.bury();
        for node in (0..self.nodes.len()).filter(|node| self.ledger.dead != Some(*node)).collect::<Vec<_>>() {
            self.power_on(node);
            let life = self.nodes[node].life;
            self.start_agent(node, life);
            self.wake(node, false);
        }
        self.undrain();
    }

    /// Perhaps one node never comes back, if the others are a majority without it.
    fn bury(&mut self) {
        let node = self.random.index(self.nodes.len());
        let voters = self.log.voters(self.log.len());
        let enough = voters.agree(|voter| self.node_of(voter).is_some_and(|other| other != node));
        if enough && self.random.one_in(3) {
            self.power_loss(node);
            self.ledger.dead = Some(node);
        }
    }

    /// Until the record says so.
    pub(crate) fn undrain(&mut self) {
        let drains = |node: &usize| {
            let entry = self.log.record().nodes.get(&self.nodes[*node].name);
            entry.is_some_and(|entry| entry.standing == Standing::Draining)
        };
        for node in (0..self.nodes.len()).filter(drains).collect::<Vec<_>>() {
            self.drain_or_not(node);
        }
        if !self.faulty {
            self.at(self.now + 2 * self.lease(), Event::Undrain);
        }
    }

    /// What a command that is about to take effect excuses.
    pub(crate) fn faults_of(&self, command: &Command) -> Excuse {
        fn parts(command: &Command) -> Vec<&Command> {
            match command {
                Command::Many(commands) => commands.iter().flat_map(parts).collect(),
                command => vec![command],
            }
        }
        let begins_anew = |command: &&Command| match command {
            Command::Reassign(_) | Command::Revive { .. } | Command::Broke { .. } | Command::Refuse { .. } => true,
            Command::Transfer { handover, .. } => self.ledger.images_lost.contains(handover),
            _ => false,
        };
        let anew = parts(command).into_iter().filter(begins_anew).filter_map(|command| command.load());
        Excuse { anew: anew.filter_map(|load| self.load_named(load)).collect() }
    }
}
