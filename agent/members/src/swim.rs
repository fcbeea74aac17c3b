//! The machine: foca, its timers, and what foca does not say or do by itself.
//!
//! Beyond foca: suspicions and contradictions are told (foca has no notification for them, so what it knows is compared after every
//! call); times are stretched by local health; a node that was taken for dead comes back at a bounded pace; those that seem
//! to be dead are tried again also by a node to which everybody seems to be dead; a goodbye is told from a death, because who leaves
//! says so as a part of its identity.

use std::time::Duration;

use foca::{Foca, NoCustomBroadcast, State};
use migrate_proto::name::NodeName;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use crate::comeback::Comeback;
use crate::hearing::Hearing;
use crate::local_health::LocalHealth;
use crate::member::Member;
use crate::settings::Settings;
use crate::timers::{Timer, Timers, Verdict};
use crate::views::Views;
use crate::words::Words;
use crate::{BadSettings, Out, Trouble, View};

mod effects;

use effects::{Effects, Note};

/// How many of those that seem to be dead are tried at once.
const REACHED_AT_ONCE: usize = 2;

/// How often a suspected member gets its time to contradict again.
const PUT_OFF: u8 = 3;

/// How much the cluster grows or shrinks before the number of times that news is passed on is computed again.
const RESIZED: usize = 2;

/// One node's view of the cluster.
pub struct Swim {
    foca: Foca<Member, Words, StdRng, NoCustomBroadcast>,
    settings: Settings,
    random: StdRng,
    now: Duration,
    timers: Timers,
    health: LocalHealth,
    said_score: u8,
    standing: Standing,
    comeback: Comeback,
    hearing: Hearing,
    seeds: Vec<Member>,
    known: Views,
    /// Foca may know something of a member that was not told yet. To look costs a walk over all of them.
    stale: bool,
    /// The size of the cluster that foca's settings are for.
    sized_for: usize,
}

/// How this node stands to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody else is known to live.
    Alone,
    /// Somebody is.
    Member,
    /// Taken for dead by the others: deaf and silent until it comes back with another generation. Two nodes that take each other
    /// for dead would tell each other so without end.
    Refused,
    /// It has said goodbye. That is final for this machine.
    Left,
}

impl Swim {
    /// This node, alone. `now` is where the caller's clock stands.
    pub fn new(me: Member, settings: Settings, seed: [u8; 32], now: Duration) -> Result<Swim, BadSettings> {
        settings.check()?;
        let mut random = StdRng::from_seed(seed);
        let foca = Foca::new(me, settings.config(1), StdRng::from_rng(&mut random), Words);
        let mut timers = Timers::default();
        timers.push(now, Timer::ReachOut);
        Ok(Swim {
            foca,
            settings,
            random,
            now,
            timers,
            health: LocalHealth::default(),
            said_score: 0,
            standing: Standing::Alone,
            comeback: Comeback::default(),
            hearing: Hearing::default(),
            seeds: Vec::new(),
            known: Views::default(),
            stale: false,
            sized_for: 1,
        })
    }

    /// This node as the others know it.
    pub fn me(&self) -> &Member {
        self.foca.identity()
    }

    /// Everybody else that was ever heard of, by name.
    pub fn members(&self) -> impl Iterator<Item = &View> {
        self.known.all()
    }

    /// What is known of the node of this name.
    pub fn member(&self, name: &NodeName) -> Option<&View> {
        self.known.of(name)
    }

    /// How slow this node is: 0 to 8.
    pub fn slowness(&self) -> u8 {
        self.health.score()
    }

    /// Joins through these, made by [`Member::unheard`]. They are tried now, and again while they are not known as members: so two
    /// clusters that were begun apart become one.
    pub fn announce(&mut self, now: Duration, seeds: Vec<Member>) -> Vec<Out> {
        self.call(now, |swim, outs| {
            let me = swim.me().name().clone();
            swim.seeds = seeds.into_iter().filter(|seed| *seed.name() != me).collect();
            for seed in swim.seeds.clone() {
                swim.drive(outs, |foca, effects| foca.announce(seed, effects));
            }
        })
    }

    /// These are members, as far as the caller knows from elsewhere: from the record, or from before it was started anew. They are taken for
    /// living until they do not answer, and nobody else is told about them.
    pub fn know(&mut self, now: Duration, members: Vec<Member>) -> Vec<Out> {
        self.call(now, |swim, outs| {
            let me = swim.me().name().clone();
            let others = members.into_iter().filter(|member| *member.name() != me).map(foca::Member::alive);
            swim.stale = true;
            swim.drive(outs, |foca, effects| foca.apply_many(others, false, effects));
        })
    }

    /// Says goodbye. After this the machine does nothing any more.
    pub fn leave(&mut self, now: Duration) -> Vec<Out> {
        let outs = self.call(now, |swim, outs| {
            let goodbye = swim.me().goodbye();
            swim.standing = Standing::Left;
            swim.stale = true;
            // Each of these tells some random members; one that hears it is enough.
            swim.drive(outs, |foca, effects| foca.change_identity(goodbye, effects));
            swim.drive(outs, |foca, effects| foca.gossip(effects));
            swim.drive(outs, |foca, effects| foca.leave_cluster(effects));
        });
        self.timers.clear();
        outs
    }

    /// A datagram has come.
    pub fn datagram(&mut self, now: Duration, bytes: &[u8]) -> Vec<Out> {
        self.call(now, |swim, outs| {
            let (header, said) = match Words::datagram(bytes) {
                Ok(read) => read,
                Err(err) => return outs.push(Out::Trouble(err.into())),
            };
            let (from, me) = (header.src, swim.me().clone());
            if let Some(marks) = swim.hearing.heard(swim.now, &me, &from, swim.settings.period) {
                outs.push(Out::SameName { name: from.name().clone(), marks });
            }
            if from.name() != me.name() && swim.standing != Standing::Refused {
                let from = foca::Member::new(from, header.src_incarnation, State::Alive);
                // Of this node itself too: what foca makes of that is not foreseen here.
                swim.stale |= std::iter::once(&from).chain(&said).any(|said| swim.known.would_change(said));
                swim.drive(outs, |foca, effects| foca.handle_data(bytes, effects));
            }
        })
    }

    /// When [`Swim::due`] has something to do. Nothing only after [`Swim::leave`].
    pub fn deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Does what is due. Every datagram that has come must have been handed in before.
    pub fn due(&mut self, now: Duration) -> Vec<Out> {
        self.call(now, |swim, outs| {
            if let Some(at) = swim.timers.next() {
                swim.health.late(swim.now.saturating_sub(at), &swim.settings);
            }
            while let Some((at, timer)) = swim.timers.pop(swim.now) {
                swim.serve(outs, at, timer);
            }
        })
    }

    /// What every call has in common: time goes forward only, and whatever has changed is told.
    fn call(&mut self, now: Duration, what: impl FnOnce(&mut Swim, &mut Vec<Out>)) -> Vec<Out> {
        let mut outs = Vec::new();
        self.now = self.now.max(now);
        if self.standing == Standing::Left {
            return outs;
        }
        what(self, &mut outs);
        if std::mem::take(&mut self.stale) {
            self.compare(&mut outs);
        }
        debug_assert!(self.nothing_is_untold());
        self.resize(&mut outs);
        if self.said_score != self.health.score() {
            self.said_score = self.health.score();
            outs.push(Out::IAmSlow(self.said_score));
        }
        outs
    }

    fn serve(&mut self, outs: &mut Vec<Out>, at: Duration, timer: Timer) {
        match timer {
            Timer::Foca(timer) => self.drive(outs, |foca, effects| foca.handle_timer(timer, effects)),
            Timer::Verdict(verdict) => self.judge(outs, at, verdict),
            Timer::ReachOut => self.reach_out(outs),
            Timer::ComeBack { step } => self.come_back(outs, step),
        }
    }

    /// The time to contradict is over. The member gets it once more, a few times, if it was heard meanwhile (it lives, and does not know
    /// yet that it is suspected), or if this node itself stood still. Where it has contradicted, foca must not be asked: it would
    /// spare the member, and tell it all the same that it is taken for dead.
    fn judge(&mut self, outs: &mut Vec<Out>, at: Duration, verdict: Verdict) {
        let Verdict { of, incarnation, timer, since, put_off } = verdict;
        let still = foca::Member::new(of.clone(), incarnation, State::Suspect);
        if !self.foca.iter_members().any(|member| *member == still) {
            return;
        }
        let heard = self.hearing.last(of.name()).is_some_and(|last| last > since);
        let stood_still = self.now > at + self.settings.period;
        if put_off < PUT_OFF && (heard || (stood_still && put_off == 0)) {
            let at = self.now + self.health.stretch(self.settings.suspicion_among(self.sized_for));
            self.timers
                .push(at, Timer::Verdict(Verdict { of, incarnation, timer, since: self.now, put_off: put_off + 1 }));
        } else {
            self.stale = true;
            self.drive(outs, |foca, effects| foca.handle_timer(timer, effects));
        }
    }

    /// Tries some of those that seem to be dead or were never reached. Foca would do it only while somebody seems to live.
    fn reach_out(&mut self, outs: &mut Vec<Out>) {
        let alone = self.standing == Standing::Alone;
        let pace = if alone { self.settings.period } else { self.settings.reach_out };
        self.timers.push(self.now + pace, Timer::ReachOut);
        if self.standing == Standing::Refused {
            return;
        }
        let me = self.me().clone();
        let dead = self.foca.iter_membership_state().filter(|member| member.state() == State::Down);
        // What has this node's name is tried as well: so two of one name hear each other.
        let myself = |id: &Member| id.name() == me.name() && id.mark() == me.mark();
        let dead = dead.map(|member| member.id()).filter(|id| !id.is_leaving() && !myself(id));
        let seeds = self.seeds.iter().filter(|seed| alone || self.known.of(seed.name()).is_none());
        let candidates = dead.chain(seeds).chain(self.hearing.namesake()).cloned();
        let chosen: Vec<Member> = candidates.sample(&mut self.random, REACHED_AT_ONCE);
        for member in chosen {
            self.drive(outs, |foca, effects| foca.announce(member, effects));
        }
    }

    fn come_back(&mut self, outs: &mut Vec<Out>, step: u64) {
        let Some(member) = self.me().come_back(step) else {
            return outs.push(Out::Trouble(Trouble::NoGeneration));
        };
        outs.push(Out::CameBack(member.generation()));
        self.standing = Standing::Alone;
        self.stale = true;
        self.drive(outs, |foca, effects| foca.change_identity(member, effects));
        // Foca has forgotten that it knows others, and looks only when it is told something.
        self.drive(outs, |foca, effects| foca.apply_many(std::iter::empty(), true, effects));
    }

    /// Lets foca do something, and does what it asks for.
    fn drive(
        &mut self,
        outs: &mut Vec<Out>,
        what: impl FnOnce(&mut Foca<Member, Words, StdRng, NoCustomBroadcast>, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut effects = Effects::default();
        let result = what(&mut self.foca, &mut effects);
        // By the health of before: what belongs to one probe must be stretched alike.
        for (timer, after) in effects.timers {
            let stretched = self.now + self.health.stretch(after);
            match timer {
                foca::Timer::ChangeSuspectToDown { ref member_id, incarnation, .. } => {
                    let of = member_id.clone();
                    let verdict = Verdict { of, incarnation, timer, since: self.now, put_off: 0 };
                    self.timers.push(stretched, Timer::Verdict(verdict));
                }
                foca::Timer::ProbeRandomMember(_) | foca::Timer::SendIndirectProbe { .. } => {
                    self.timers.push(stretched, Timer::Foca(timer));
                }
                _ => self.timers.push(self.now + after, Timer::Foca(timer)),
            }
        }
        effects.notes.into_iter().for_each(|note| self.note(note));
        outs.extend(effects.sends.into_iter().map(|(to, bytes)| Out::Send { to, bytes }));
        if let Err(err) = result {
            outs.push(Out::Trouble(Trouble::Protocol(err)));
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Heard => self.health.heard(),
            Note::Probing => self.health.probing(),
            Note::Answered => self.health.answered(),
            Note::ProbeFailed(target) => {
                self.stale = true;
                self.health.probe_failed(&target);
            }
            Note::Active => self.standing = Standing::Member,
            Note::Idle => self.standing = Standing::Alone,
            Note::Defunct if matches!(self.standing, Standing::Refused | Standing::Left) => {}
            Note::Defunct => {
                self.standing = Standing::Refused;
                let attempt = self.comeback.refused(self.now);
                self.timers.push(attempt.at, Timer::ComeBack { step: attempt.step });
            }
        }
    }

    /// Tells what has changed. Foca tells of lives and deaths, not of suspicions.
    fn compare(&mut self, outs: &mut Vec<Out>) {
        let me = self.foca.identity().name();
        for member in self.foca.iter_membership_state().filter(|member| member.id().name() != me) {
            self.known.update(self.now, member, outs);
        }
    }

    /// Whether whatever has changed was noticed without looking: only for assertions.
    fn nothing_is_untold(&self) -> bool {
        let me = self.foca.identity().name();
        self.foca.iter_membership_state().all(|member| member.id().name() == me || !self.known.would_change(member))
    }

    fn resize(&mut self, outs: &mut Vec<Out>) {
        let nodes = self.foca.num_members() + 1;
        if nodes.abs_diff(self.sized_for) > RESIZED {
            self.sized_for = nodes;
            if let Err(err) = self.foca.set_config(self.settings.config(nodes)) {
                outs.push(Out::Trouble(Trouble::Protocol(err)));
            }
        }
    }
}
