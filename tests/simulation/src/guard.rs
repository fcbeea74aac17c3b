//! The guard of a dump, as `agent/sandbox/src/guard` has it: it outlives the agent, and holds CRIU and the workload until
//! there is a decision.

use migrate_proto::handover::Decision;
use migrate_proto::handover::source::Event;

use crate::bug::Bug;
use crate::node::{Body, Dumping, Guard};
use crate::world::{Happening, Whom, World};

impl World {
    pub(crate) fn start_dump(&mut self, whom: Whom, load: usize) {
        let (node, handover) = (whom.node, whom.handover);
        // What an earlier dump has left goes first.
        self.nodes[node].places[load].decision.remove();
        self.nodes[node].places[load].dump = true;
        self.nodes[node].unclean[load] = false;
        let running = matches!(self.nodes[node].bodies[load], Body::Running { .. });
        if !running || self.disk_is_full(whom) || self.fails(node, handover) {
            return self.tell_departure(node, handover, Event::DumpFailed(self.problem("CRIU did not start")));
        }
        let call = self.unique();
        let dumping = Dumping::PreDump;
        self.nodes[node].guards[load] = Some(Guard { call, handover, dumping, agent: Some(whom.life) });
        if let Some(departure) = self.departure(whom) {
            departure.dump = Some(call);
        }
        self.tell_departure(node, handover, Event::DumpReady);
    }

    pub(crate) fn release_dump(&mut self, node: usize, load: usize, call: Option<u64>) {
        let boot = self.nodes[node].boot;
        if let Some(guard) = &mut self.nodes[node].guards[load]
            && Some(guard.call) == call
            && guard.dumping == Dumping::PreDump
        {
            guard.dumping = Dumping::Working;
            let call = guard.call;
            self.later(1, 60, Happening::Guard { node, load, boot, call });
        }
    }

    /// CRIU has got somewhere, or the guard has noticed that its agent is gone.
    pub(crate) fn guard_goes_on(&mut self, node: usize, load: usize, boot: u64, call: u64) {
        let Some(guard) = self.nodes[node].guards[load].filter(|guard| guard.call == call) else { return };
        if self.nodes[node].boot != boot {
            return;
        }
        match (guard.dumping, self.nodes[node].bodies[load]) {
            // Without an agent nobody takes the images: CRIU fails, and lets its tasks go.
            (Dumping::Working, _) if guard.agent.is_none() => self.guard_ends(node, load),
            (Dumping::Working, _) if self.fails(node, guard.handover) => self.guard_ends(node, load),
            (Dumping::Working, Body::Running { .. }) if self.hangs(node, guard.handover) => {}
            (Dumping::Working, Body::Running { epoch, work }) => {
                self.nodes[node].bodies[load] = Body::Frozen { epoch, work };
                self.later(1, 80, Happening::Guard { node, load, boot, call });
                self.tell_departure(node, guard.handover, Event::Frozen);
            }
            (Dumping::Working, Body::Frozen { .. }) => {
                if let Some(guard) = &mut self.nodes[node].guards[load] {
                    guard.dumping = Dumping::PostDump;
                }
            }
            (Dumping::Working, _) => self.guard_ends(node, load),
            (Dumping::PreDump, _) if guard.agent.is_none() => self.guard_ends(node, load),
            (Dumping::PostDump, _) if guard.agent.is_none() => self.guard_refuses(node, load),
            _ => {}
        }
    }

    /// The guard refuses: for a complete dump, that is to decide.
    pub(crate) fn guard_refuses(&mut self, node: usize, load: usize) {
        self.guard_ends(node, load);
    }

    /// CRIU is gone. A dump that was not committed leaves a workload that runs; one that was leaves none.
    pub(crate) fn guard_ends(&mut self, node: usize, load: usize) {
        let Some(guard) = self.nodes[node].guards[load].take() else { return };
        let decided =
            if self.has(Bug::GuardDoesNotDecide) { Decision::Abort } else { self.decide(node, load, Decision::Abort) };
        self.note(|| format!("node{}: the guard of load {load} ends, {decided:?}", node + 1));
        match (decided, self.nodes[node].bodies[load]) {
            (Decision::Abort, Body::Frozen { epoch, work }) => {
                self.nodes[node].bodies[load] = Body::Running { epoch, work };
            }
            (Decision::Commit, _) => self.nodes[node].bodies[load] = Body::Empty,
            _ => {}
        }
        if guard.agent.is_some() {
            self.tell_departure(node, guard.handover, Event::DumpFailed(self.problem("CRIU has ended")));
        }
    }
}
