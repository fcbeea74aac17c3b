//! What goes wrong, and how it strikes.

use std::fmt;

use migrate_proto::handover::{Decision, source, target};
use migrate_proto::phase::Phase;

use crate::bug::Bug;
use crate::node::{Body, Dumping};
use crate::world::{Happening, World};

macro_rules! faults {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])+ $name,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: [Fault; [$(Fault::$name,)+].len()] = [$(Fault::$name,)+];
        }

        impl fmt::Display for Fault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Fault::$name => $word,)+
                })
            }
        }
    };
}

faults! {
    /// A message never arrives, and nobody notices.
    MessageLost = "lost",
    /// A message arrives twice.
    MessageTwice = "twice",
    /// A message is overtaken, or overtakes.
    MessageReordered = "reordered",
    /// A message takes seconds.
    MessageDelayed = "delayed",
    /// A connection ends.
    LinkCut = "cut",
    /// Nodes do not reach each other for a while.
    Partition = "partition",
    /// The agent dies, between any two commands.
    AgentDies = "agent dies",
    /// The agent was started again and has taken up the handover.
    Restart = "restart",
    /// The node loses power: everything but the disk is gone.
    PowerLoss = "power",
    /// A loss of power took something that had not been synced.
    UnsyncedLost = "unsynced",
    /// The node's clock jumps, and changes its speed.
    ClockJumps = "clock",
    /// A command fails.
    CommandFails = "fails",
    /// A command never reports.
    CommandHangs = "hangs",
    /// Nothing can be written to the node's disk for a while.
    DiskFull = "disk full",
    /// CRIU dies.
    CriuDies = "CRIU dies",
    /// Somebody asks for it to stop.
    Cancelled = "cancelled",
    /// The workload ends by itself.
    WorkloadEnds = "ends",
}

impl Fault {
    /// Why the fault cannot hit a side in this phase, where that is so.
    pub fn impossible_in(self, source: bool, phase: Phase) -> Option<&'static str> {
        use Phase::{CleanUp, Commit, Freeze, Negotiate, Preflight, Prepare, Restore, Resume, Transfer, Verify};
        if !source && phase == Negotiate {
            return Some("the target leaves it in the step that enters it");
        }
        if !source && phase == Freeze {
            return Some("the target has no such phase");
        }
        let impossible = match self {
            Fault::Cancelled if !source => "only the source can be asked",
            Fault::Restart if source && !matches!(phase, Prepare | Resume) => "the source's journal has one entry",
            Fault::Restart if !matches!(phase, Prepare | Commit | Resume | CleanUp) => "it has no entry of its own",
            Fault::CriuDies if source && matches!(phase, Negotiate | Preflight) => "there is no CRIU yet",
            Fault::CriuDies if source && phase == CleanUp => "there is no CRIU any more",
            Fault::CriuDies if !source && !matches!(phase, Restore | Commit | Resume) => "it holds nothing",
            Fault::CommandFails | Fault::CommandHangs if source && phase == Preflight => "the source only waits",
            Fault::CommandHangs if source && matches!(phase, Verify | Restore) => "the source only waits",
            Fault::CommandHangs if source && phase == Commit => "a decision that hangs is one that comes late",
            Fault::CommandHangs if !source && phase == Preflight => "a disk that never answers is not simulated",
            Fault::CommandFails if phase == CleanUp => "what cannot be removed is left to the next start",
            Fault::CommandFails if !source && matches!(phase, Transfer | Commit) => "the target only waits",
            Fault::CommandHangs if !source && matches!(phase, Transfer | Commit) => "the target only waits",
            Fault::CommandHangs if matches!(phase, Resume | CleanUp) => "not simulated after the commit",
            Fault::WorkloadEnds if source && matches!(phase, Transfer | Verify | Restore) => "it is frozen",
            Fault::WorkloadEnds if !source && matches!(phase, Verify | Restore) => "it is frozen",
            _ => return None,
        };
        Some(impossible)
    }
}

impl World {
    /// Perhaps something goes wrong now. Says whether it did.
    pub(crate) fn strike(&mut self) -> bool {
        if !self.faulty || !self.random.one_in(10 * self.calm) {
            return false;
        }
        let node = self.a_node();
        match self.random.below(24) {
            0..=5 => self.kill_agent(node, Fault::AgentDies),
            6..=7 => self.lose_power(node),
            8..=9 => self.part(node),
            10..=13 => self.cut_somewhere(),
            14 => self.jump_clock(node),
            15..=17 => self.kill_criu(node),
            18..=19 => self.cancel(node),
            20 => self.end_a_workload(),
            _ => self.fill_disk(node),
        }
        true
    }

    /// Mostly one on which something is under way.
    fn a_node(&mut self) -> usize {
        let count = self.nodes.len();
        let first = self.random.index(count);
        let busy = |node: &usize| {
            let agent = self.nodes[*node].agent.as_ref();
            agent.is_some_and(|agent| !agent.departures.is_empty() || !agent.arrivals.is_empty())
        };
        (0..count).map(|step| (first + step) % count).find(busy).unwrap_or(first)
    }

    /// Counts a fault for every handover on a node.
    fn mark(&mut self, node: usize, fault: Fault) {
        let Some(agent) = &self.nodes[node].agent else { return };
        for (source, phase) in agent.phases() {
            self.coverage.hit(source, phase, fault);
        }
    }

    /// Counts a fault for one handover on a node.
    pub(crate) fn mark_one(&mut self, node: usize, handover: usize, fault: Fault) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let departure = agent.departures.iter().find(|departure| departure.side.handover == handover);
        let arrival = agent.arrivals.iter().find(|arrival| arrival.side.handover == handover);
        if let Some(phase) = departure.and_then(|departure| departure.side.machine.timeline().phase()) {
            self.coverage.hit(true, phase, fault);
        }
        if let Some(phase) = arrival.and_then(|arrival| arrival.side.machine.timeline().phase()) {
            self.coverage.hit(false, phase, fault);
        }
    }

    pub(crate) fn kill_agent(&mut self, node: usize, fault: Fault) {
        if self.nodes[node].agent.is_none() {
            return;
        }
        self.mark(node, fault);
        self.note(|| format!("node{} {fault}", node + 1));
        self.close_sessions_of(node);
        self.nodes[node].agent = None;
        let boot = self.nodes[node].boot;
        // How a CRIU ended is known to the agent that had a line to its guard.
        self.nodes[node].unclean.fill(false);
        for load in 0..self.nodes[node].guards.len() {
            if let Some(guard) = &mut self.nodes[node].guards[load] {
                guard.agent = None;
                let call = guard.call;
                // While CRIU works, it finds its pipes broken when it wants to use them.
                // On a busy machine the next agent may be there before the guard has noticed.
                if guard.dumping != Dumping::Working {
                    self.later(1, 200, Happening::Guard { node, load, boot, call });
                }
            }
        }
        let patience = if self.random.one_in(3) { 20_000 } else { 300 };
        self.later(1, patience, Happening::StartAgent { node, boot });
    }

    /// Everything volatile is gone, and of the disk what was not synced, perhaps.
    fn lose_power(&mut self, node: usize) {
        self.mark(node, Fault::PowerLoss);
        let mut lost = false;
        for place in &mut self.nodes[node].places {
            lost |= place.power_loss(&mut self.random);
        }
        if lost {
            self.mark(node, Fault::UnsyncedLost);
        }
        self.close_sessions_of(node);
        self.note(|| format!("node{} loses power, unsynced lost: {lost}", node + 1));
        let here = &mut self.nodes[node];
        for image in here.images.iter().filter(|image| image.complete) {
            self.ledger.handovers[image.handover].image_lost = true;
        }
        here.agent = None;
        here.boot += 1;
        here.images.clear();
        for load in 0..here.bodies.len() {
            here.drop_sandbox(load);
        }
        // A decision whose name was not synced and that survived is one now.
        let settled: Vec<usize> = (0..self.ledger.handovers.len())
            .filter(|handover| {
                let known = &self.ledger.handovers[*handover];
                let place = &self.nodes[node].places[known.load];
                let current = place.departure.whole().is_some_and(|entry| entry.terms.handover == known.terms.handover);
                known.from == node && current && place.decision.whole() == Some(&Decision::Commit)
            })
            .collect();
        settled.into_iter().for_each(|handover| self.ledger.commit(handover));
        for fate in &mut self.ledger.fates {
            fate.lost |= fate.holder == node && !fate.ended;
        }
        let boot = self.nodes[node].boot;
        self.later(50, 10_000, Happening::StartAgent { node, boot });
    }

    fn part(&mut self, node: usize) {
        let other = self.random.index(self.nodes.len());
        if other == node {
            return;
        }
        self.mark(node, Fault::Partition);
        self.mark(other, Fault::Partition);
        self.note(|| format!("node{} and node{} do not reach each other", node + 1, other + 1));
        self.network.part(node, other);
        self.later(10, 8_000, Happening::Mend { one: node, other });
    }

    fn cut_somewhere(&mut self) {
        if let Some(session) = self.network.some_open(&mut self.random) {
            let (ends, handover) = self.network.ends(session);
            ends.into_iter().for_each(|node| self.mark_one(node, handover, Fault::LinkCut));
            self.close_session(session);
        }
    }

    fn jump_clock(&mut self, node: usize) {
        self.mark(node, Fault::ClockJumps);
        let now = self.now;
        self.note(|| format!("node{}'s clock jumps", node + 1));
        self.nodes[node].clock.jump(now, &mut self.random);
        for whom in self.sides_on(node) {
            self.forget_tick(whom);
            self.rouse(whom, 0);
        }
    }

    fn kill_criu(&mut self, node: usize) {
        let load = self.random.index(self.nodes[node].bodies.len());
        if let Some(guard) = self.nodes[node].guards[load] {
            self.mark_one(node, guard.handover, Fault::CriuDies);
            self.note(|| format!("node{}: the CRIU that dumps dies", node + 1));
            self.nodes[node].unclean[load] = guard.dumping != Dumping::PreDump;
            self.guard_ends(node, load);
        } else if let Body::Held { .. } = self.nodes[node].bodies[load] {
            self.note(|| format!("node{}: the CRIU that holds dies", node + 1));
            self.nodes[node].bodies[load] = Body::Empty;
            let arrivals = self.nodes[node].agent.as_ref().map_or(&[][..], |agent| &agent.arrivals);
            let handover = arrivals.iter().find(|arrival| arrival.load == load).map(|arrival| arrival.side.handover);
            if let Some(handover) = handover {
                self.mark_one(node, handover, Fault::CriuDies);
                let failed = target::Event::RestoreFailed(self.problem("CRIU died"));
                self.tell_arrival(node, handover, failed);
            }
        }
    }

    fn cancel(&mut self, node: usize) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let live = agent.departures.iter().find(|departure| !departure.side.recovered);
        let Some(handover) = live.map(|departure| departure.side.handover) else { return };
        self.mark_one(node, handover, Fault::Cancelled);
        self.tell_departure(node, handover, source::Event::Cancelled);
    }

    fn end_a_workload(&mut self) {
        let load = self.random.index(self.ledger.fates.len());
        let holder = self.ledger.fates[load].holder;
        if !matches!(self.nodes[holder].bodies[load], Body::Running { .. }) {
            return;
        }
        for node in 0..self.nodes.len() {
            let handovers = self.handovers_of(node, load);
            handovers.into_iter().for_each(|handover| self.mark_one(node, handover, Fault::WorkloadEnds));
        }
        self.note(|| format!("the workload {load} ends by itself on node{}", holder + 1));
        self.nodes[holder].bodies[load] = Body::Ended;
        self.ledger.fates[load].ended = true;
        self.notice_end(holder, load);
    }

    fn fill_disk(&mut self, node: usize) {
        self.mark(node, Fault::DiskFull);
        self.note(|| format!("node{}'s disk is full", node + 1));
        self.nodes[node].disk_full = true;
        self.later(10, 3_000, Happening::DiskFree { node });
    }

    /// Whether a command fails now.
    pub(crate) fn fails(&mut self, node: usize, handover: usize) -> bool {
        let fails = self.faulty && self.random.one_in(8 * self.calm);
        if fails {
            self.mark_one(node, handover, Fault::CommandFails);
        }
        fails
    }

    /// Whether a command never reports.
    pub(crate) fn hangs(&mut self, node: usize, handover: usize) -> bool {
        let hangs = self.faulty && self.random.one_in(24 * self.calm);
        if hangs {
            self.mark_one(node, handover, Fault::CommandHangs);
        }
        hangs
    }

    /// Whether this is done wrongly on purpose.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}
