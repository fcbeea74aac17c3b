//! The source's executor, as `agent/src/handover/departure.rs` has it.
//!
//! | what | how durably |
//! |---|---|
//! | the entry of `prepare` | synced; no other phase is written |
//! | the decision | synced content, linked, name synced |
//! | that the source is no owner any more | synced, before its copy is removed |
//! | that the place is removed | the record synced, the rest some time |
//! | that the journal goes after an abort | the entry synced, the decision some time |

use migrate_proto::api::Outcome;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::source::{Command, Event, Source};
use migrate_proto::handover::{Decision, Terms};
use migrate_proto::id::{Digest, Epoch, HandoverId};
use migrate_proto::manifest::{Manifest, Stream, StreamName};
use migrate_proto::message::Message;
use migrate_proto::phase::Phase;

use crate::bug::Bug;
use crate::disk::Doing;
use crate::faults::Fault;
use crate::ledger::Handover;
use crate::node::{Body, Departure, Dumping, Side};
use crate::sides::Flow;
use crate::world::{Happening, Job, Whom, World};

impl World {
    /// Somebody wants the workload on another node. Whoever owns it begins, if nothing speaks against it.
    pub(crate) fn ask_for_a_move(&mut self, load: usize, to: usize) {
        let from = self.ledger.fates[load].holder;
        let Some(agent) = &self.nodes[from].agent else { return };
        let free = agent.known[load] && !agent.is_busy(load) && !agent.doubted[load];
        let place = &self.nodes[from].places[load];
        let record = place.record.whole().copied();
        let Some(record) = record.filter(|record| record.owned && record.doing == Doing::Running) else { return };
        if from == to || !free || place.departure.exists() {
            return;
        }
        let handover = self.ledger.handovers.len();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(handover as u64 + 1).to_be_bytes());
        let terms = Terms {
            handover: HandoverId(id),
            workload: self.offers[load].spec.name.clone(),
            from: node_name(from),
            to: node_name(to),
            epoch: Epoch(record.epoch),
        };
        self.ledger.handovers.push(Handover::new(load, from, to, terms.clone()));
        self.note(|| format!("handover {handover}: load {load} is to move from node{} to node{}", from + 1, to + 1));
        let Some(session) = self.dial(from, to, handover) else { return };
        let Some(whom) = self.whom(from, handover) else { return };
        let mut side = Side::new(handover, Source::new(terms, self.budgets.clone()), Some(session));
        side.inbox.push_back(crate::node::Input::Event(Event::Begin));
        self.begin_departure(whom, Departure { side, load, dump: None, settling: false, deciding: 0 });
        // Perhaps it is wanted back at once.
        if self.random.one_in(2) {
            let to = if self.random.one_in(2) { from } else { self.random.index(self.nodes.len()) };
            self.later(500, 6_000, Happening::Ask { load, to });
        }
    }

    pub(crate) fn begin_departure(&mut self, whom: Whom, departure: Departure) {
        if let Some(agent) = &mut self.nodes[whom.node].agent {
            agent.departures.push(departure);
            self.rouse(whom, 2);
        }
    }

    /// The machine's commands, as a wrong wrapper may change them.
    pub(crate) fn take_up_departure(&mut self, whom: Whom, mut commands: Vec<Command>) {
        let asked = |wish| move |command: &Command| *command == Command::Decide(wish);
        if self.has(Bug::SourceResumesUndecided) && commands.iter().any(asked(Decision::Commit)) {
            commands.push(Command::ResumeSource);
        }
        if self.has(Bug::SourceEndsUndecided) && commands.iter().any(asked(Decision::Commit)) {
            commands.insert(0, Command::EndSource);
        }
        if self.has(Bug::SourceForgetsAtCommit) && commands.contains(&Command::EndSource) {
            commands.push(Command::Finish(Outcome::Moved, None));
        }
        if let Some(departure) = self.departure(whom) {
            departure.side.todo.extend(commands);
        }
    }

    pub(crate) fn obey_departure(&mut self, whom: Whom, command: Command) -> Flow {
        let Some(departure) = self.departure(whom) else { return Flow::Next };
        let (load, line, dump) = (departure.load, departure.side.line, departure.dump);
        match command {
            Command::Journal(Phase::Prepare) => {
                if self.disk_is_full(whom) || self.fails(whom.node, whom.handover) {
                    return Flow::Broken;
                }
                if let Some(departure) = self.departure(whom) {
                    let entry = departure.side.machine.entry(Phase::Prepare);
                    self.nodes[whom.node].places[load].departure.write(entry);
                }
            }
            Command::Journal(_) | Command::SayWaiting(_) => {}
            Command::Send(message) => self.say_on_line(whom, message),
            Command::InspectWorkload => self.do_soon(whom, Job::Inspect),
            Command::CopyLayer if line.is_none() => return Flow::Broken,
            Command::CopyLayer => self.do_soon(whom, Job::CopyLayer),
            Command::StartDump if line.is_some() => self.start_dump(whom, load),
            Command::StartDump => {}
            Command::ReleaseDump => self.release_dump(whom.node, load, dump),
            Command::StreamChanges => {
                if let Some(call) = dump.filter(|_| line.is_some()) {
                    self.do_soon(whom, Job::StreamChanges { session: line, call });
                }
            }
            Command::Decide(wish) => {
                departure.deciding += 1;
                self.do_soon(whom, Job::Decide(wish));
            }
            Command::EndSource => self.settle(whom, Job::DisownSource),
            Command::ResumeSource => self.settle(whom, Job::ResumeSource),
            Command::DropCopy => {
                self.nodes[whom.node].drop_sandbox(load);
                self.remove_place(whom.node, load);
            }
            Command::Finish(outcome, problem) => {
                departure.side.todo.clear();
                departure.side.end = Some(outcome);
                self.ledger.handovers[whom.handover].said_to_run = outcome == Outcome::Moved && problem.is_none();
            }
        }
        Flow::Next
    }

    /// Ends or resumes beside the loop. A repeated command joins the one that is under way.
    fn settle(&mut self, whom: Whom, job: Job) {
        if let Some(departure) = self.departure(whom)
            && !std::mem::replace(&mut departure.settling, true)
        {
            self.do_soon(whom, job);
        }
    }

    /// Nothing of what is under way beside the loop may come after the journal has gone.
    pub(crate) fn conclude_departure(&mut self, whom: Whom, outcome: Outcome) {
        let Some(departure) = self.departure(whom) else { return };
        if departure.deciding > 0 && !self.has(Bug::LateDecision) {
            return self.rouse(whom, 20);
        }
        let Some(departure) = self.departure(whom) else { return };
        let (load, line, recovered) = (departure.load, departure.side.line, departure.side.recovered);
        if let Some(line) = line {
            self.close_after_words(line);
        }
        if outcome == Outcome::Stayed {
            self.note_own_end(whom.node, load);
            let place = &mut self.nodes[whom.node].places[load];
            place.departure.remove();
            place.decision.remove_soon();
            place.dump = false;
        }
        let silent_about_all = self.has(Bug::SilentAboutAll);
        if let Some(agent) = &mut self.nodes[whom.node].agent {
            agent.departures.retain(|departure| departure.side.handover != whom.handover);
            if outcome == Outcome::Unknown {
                agent.doubted[load] = true;
                agent.silent |= silent_about_all;
                agent.withheld.push(whom.handover);
            }
        }
        self.record_end(whom, outcome);
        self.note(|| format!("node{} source {}: over, {outcome:?}", whom.node + 1, whom.handover));
        if recovered && outcome == Outcome::Stayed {
            let to = self.ledger.handovers[whom.handover].to;
            if let Some(session) = self.dial(whom.node, to, whom.handover) {
                let (handover, problem) =
                    (self.ledger.handovers[whom.handover].terms.handover, self.problem("restarted"));
                self.say(whom.node, session, Message::Abort { handover, problem });
                self.close_after_words(session);
            }
        }
    }

    /// Who parts waits until what was said has arrived, but not for ever.
    pub(crate) fn close_after_words(&mut self, session: u32) {
        let (ends, handover) = self.network.ends(session);
        for node in ends {
            self.later(100, 200, Happening::Silence { node, handover, session });
        }
    }

    // ---- beside the loop -----------------------------------------------------------------------------------------

    pub(crate) fn do_departure(&mut self, whom: Whom, job: Job) {
        if !self.lives(whom) {
            return;
        }
        let Whom { node, handover, .. } = whom;
        let load = self.ledger.handovers[handover].load;
        let may_hang = !matches!(job, Job::Decide(_) | Job::DisownSource | Job::DropSource | Job::ResumeSource);
        if may_hang && self.hangs(node, handover) {
            return;
        }
        let problem = self.problem("it failed");
        let event = match job {
            Job::Inspect if self.fails(node, handover) => Event::InspectFailed(problem),
            Job::Inspect => match self.nodes[node].bodies[load] {
                Body::Running { .. } => Event::Inspected(self.make_offer(handover)),
                _ => Event::InspectFailed(problem),
            },
            Job::CopyLayer if self.fails(node, handover) => Event::DumpFailed(problem),
            Job::CopyLayer => Event::LayerCopied { blocks: 1 },
            Job::StreamChanges { session, call } => match self.stream_changes(whom, load, session, call) {
                Some(event) => event,
                None => return,
            },
            Job::Decide(wish) => {
                let decided = self.decide_for_agent(whom, load, wish);
                if let Some(departure) = self.departure(whom) {
                    departure.deciding -= 1;
                }
                match decided {
                    Some(decision) => Event::Decided(decision),
                    None => return,
                }
            }
            Job::DisownSource => {
                if self.disk_is_full(whom) || self.fails(node, handover) {
                    return self.settled(whom);
                }
                self.nodes[node].places[load].update(|record| record.owned = false);
                return self.later(0, 30, Happening::Do(whom, Job::DropSource));
            }
            Job::DropSource => {
                self.nodes[node].drop_sandbox(load);
                self.settled(whom);
                Event::SourceEnded
            }
            Job::ResumeSource => {
                let event = self.set_going(node, load);
                self.settled(whom);
                event
            }
            _ => return,
        };
        self.tell_departure(node, handover, event);
    }

    fn settled(&mut self, whom: Whom) {
        if let Some(departure) = self.departure(whom) {
            departure.settling = false;
        }
    }

    fn make_offer(&self, handover: usize) -> Box<migrate_proto::message::Offer> {
        let known = &self.ledger.handovers[handover];
        let mut offer = Box::new(self.offers[known.load].clone());
        offer.handover = known.terms.handover;
        offer.epoch = known.terms.epoch;
        offer.from = known.terms.from.clone();
        offer.to = known.terms.to.clone();
        offer
    }

    /// Waits until CRIU is held with every image written, then says what all of it is.
    fn stream_changes(&mut self, whom: Whom, load: usize, session: Option<u32>, call: u64) -> Option<Event> {
        let departure = self.departure(whom)?;
        if departure.side.line != session {
            return Some(Event::DumpFailed(Problem::new(Code::LinkLost, "the connection was lost")));
        }
        match self.nodes[whom.node].guards[load] {
            Some(guard) if guard.call == call && guard.dumping == Dumping::PostDump => {
                if self.fails(whom.node, whom.handover) {
                    return Some(Event::DumpFailed(self.problem("the link broke")));
                }
                if let Body::Frozen { work, .. } = self.nodes[whom.node].bodies[load] {
                    self.ledger.handovers[whom.handover].captured = Some(work);
                }
                Some(Event::ImageComplete(self.manifest(whom.handover)))
            }
            Some(guard) if guard.call == call => {
                self.later(10, 40, Happening::Do(whom, Job::StreamChanges { session, call }));
                Some(Event::Progress)
            }
            _ => Some(Event::DumpFailed(self.problem("CRIU is gone"))),
        }
    }

    fn manifest(&self, handover: usize) -> Manifest {
        let terms = &self.ledger.handovers[handover].terms;
        let streams = vec![Stream { name: StreamName::layer(), length: 1, digest: Digest([0; 32]) }];
        Manifest::new(String::new(), terms.from.clone(), terms.epoch, streams)
    }

    /// `None` where nothing could be written down; it may be there all the same, unsynced.
    fn decide_for_agent(&mut self, whom: Whom, load: usize, wish: Decision) -> Option<Decision> {
        let place = &self.nodes[whom.node].places[load];
        if wish == Decision::Abort && !place.dump && !place.decision.exists() {
            // No guard was ever started, so nobody else decides.
            return Some(wish);
        }
        if self.fails(whom.node, whom.handover) {
            let decision = &mut self.nodes[whom.node].places[load].decision;
            if !decision.exists() && self.random.one_in(2) {
                decision.link_soon(wish);
                if self.random.one_in(2) {
                    // Between the name and its sync.
                    self.kill_agent(whom.node, Fault::AgentDies);
                }
            }
            return None;
        }
        Some(self.decide(whom.node, load, wish))
    }

    /// The decision file: whoever comes first has decided.
    pub(crate) fn decide(&mut self, node: usize, load: usize, wish: Decision) -> Decision {
        let unsynced = self.has(Bug::DecisionNotSynced);
        let place = &mut self.nodes[node].places[load];
        if !place.decision.exists() {
            place.decision.link_soon(wish);
        }
        if !unsynced {
            place.decision.sync();
        }
        let decided = place.decision.whole().copied().unwrap_or(wish);
        let current = place.departure.whole().map(|entry| entry.terms.handover);
        if decided == Decision::Commit
            && let Some(handover) = self.ledger.handovers.iter().position(|known| Some(known.terms.handover) == current)
        {
            self.ledger.commit(handover);
        }
        decided
    }

    /// The workload goes on here, after CRIU has let go of it.
    fn set_going(&mut self, node: usize, load: usize) -> Event {
        let died = std::mem::take(&mut self.nodes[node].unclean[load]);
        if self.nodes[node].guards[load].is_some() && !self.has(Bug::SourceResumesUndecided) {
            self.guard_refuses(node, load);
        }
        if let Body::Frozen { epoch, work } = self.nodes[node].bodies[load] {
            self.nodes[node].bodies[load] = Body::Running { epoch, work };
        }
        match self.nodes[node].bodies[load] {
            Body::Running { .. } if died => Event::SourceResumeFailed(Problem::new(Code::Unknown, "CRIU was killed")),
            Body::Running { .. } => Event::SourceResumed,
            _ => Event::WorkloadEnded,
        }
    }
}

#[allow(clippy::expect_used)]
pub(crate) fn node_name(node: usize) -> migrate_proto::name::NodeName {
    format!("node{}", node + 1).parse().expect("a name")
}
