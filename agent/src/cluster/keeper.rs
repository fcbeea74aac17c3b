//! The keeper: a thread of its own that nothing else of the agent can hold up. It hears and sends datagrams: looks after the other
//! members ([`migrate_members`]), brings this node into its cluster ([`Joining`]), and passes on how full it is.
//!
//! It writes no file and waits for nobody. What it knows stands in the [`Roster`] and on the `Board`; what others should know or do
//! comes out as [`News`].

mod addresses;
mod ends;
mod leases;

pub use self::ends::{Ends, Lapsed, News, Order, Setup};
pub use self::leases::Bench;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migrate_members::{Member, Out, Swim};
use migrate_proto::cluster::lease::Ask;
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::codec::datagram::{self, DatagramError};
use migrate_proto::datagram::{self as words, Datagram, Figures, Here, Who};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use migrate_proto::version::SPOKEN;
use migrate_transport::datagram::{Foreign, Incoming, SealedSocket, SocketError};

use self::addresses::Addresses;
use self::leases::Leases;
use super::join::{Joining, Step};
use super::roster::Roster;
use crate::care::watchdog::Stamp;
use crate::clock;

/// How many datagrams are heard before a timer at most.
const HEARD_AT_ONCE: usize = 4096;
/// To how many members this node says how full it is, each time.
const TOLD_AT_ONCE: usize = 32;
/// How often strangers are reported at most, and looked for while there are none.
const REPORT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
/// After so long without a word from any other voter this node counts as cut off; never less than two periods.
const CUT_OFF: Duration = Duration::from_secs(1);
/// A keeper that is silent for so long ends the agent: nothing else can keep the lease.
const SILENCE: Duration = Duration::from_secs(2);
/// How often a goodbye is said: each may be lost.
const GOODBYES: usize = 3;

/// The keeper's loop and what it has.
pub struct Keeper {
    socket: SealedSocket,
    swim: Swim,
    pace: migrate_members::Settings,
    seed: [u8; 32],
    /// Until this node has joined.
    joining: Option<Joining>,
    seeds: Vec<Member>,
    cluster: Option<ClusterId>,
    addresses: Addresses,
    figures: Option<Figures>,
    /// Whom to tell next how full this node is.
    told: usize,
    report_at: Duration,
    /// The other voters, and when one of them was heard last.
    voters: BTreeSet<NodeName>,
    voter_heard: Duration,
    cut_off_after: Duration,
    leases: Leases,
    ends: Ends,
}

impl Keeper {
    /// A keeper that speaks through this socket.
    pub fn new(socket: SealedSocket, setup: Setup, ends: Ends) -> Result<Keeper, Problem> {
        let cut_off_after = CUT_OFF.max(2 * setup.swim.period);
        let leases = Leases::new(VoterId::from(setup.me.mark()), setup.terms, setup.page);
        let swim = Swim::new(setup.me, setup.swim.clone(), setup.seed, clock::boottime()).map_err(Problem::internal)?;
        Ok(Keeper {
            socket,
            swim,
            pace: setup.swim,
            seed: setup.seed,
            joining: Some(setup.joining),
            seeds: setup.seeds,
            cluster: setup.cluster,
            addresses: Addresses::default(),
            figures: None,
            told: 0,
            report_at: clock::boottime(),
            voters: BTreeSet::new(),
            voter_heard: clock::boottime(),
            cut_off_after,
            leases,
            ends,
        })
    }

    /// Goes on until it is told to leave, or nobody is there to tell it.
    pub async fn run(mut self) {
        if let Err(error) = self.keep().await {
            let _ = self.ends.news.send(News::Broken(error));
        }
    }

    async fn keep(&mut self) -> Result<(), SocketError> {
        let stamp = Stamp::impatient("keeper", SILENCE);
        loop {
            let due = self.deadline().saturating_sub(clock::boottime());
            tokio::select! {
                biased;
                incoming = self.socket.recv() => self.hear(&incoming?),
                order = self.ends.orders.recv() => match order {
                    Some(Order::Leave(done)) => {
                        self.leave();
                        let _ = done.send(());
                        return Ok(());
                    }
                    Some(order) => self.obey(order),
                    None => return Ok(()),
                },
                resolved = self.addresses.resolved() => self.addresses.note(resolved),
                () = tokio::time::sleep(due) => {}
                () = stamp.beat() => {}
            }
            if self.deadline() <= clock::boottime() {
                // Everything that has come is heard first: it may be the answer that a timer waits for in vain.
                for incoming in self.socket.waiting(HEARD_AT_ONCE)? {
                    self.hear(&incoming);
                }
                self.due();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Figures(figures) => self.tell(*figures),
            Order::Cluster(cluster) => self.cluster = Some(cluster),
            Order::Voters(voters) => self.look_for(voters),
            Order::Bench(bench) => self.leases.sit(bench),
            Order::Open { claim, proposed } => self.leases.open(claim, proposed),
            Order::Resume(page) => self.leases.resume(self.swim.me().name().clone(), page),
            Order::Ask(voters, asks) => self.ask(&voters, &asks),
            Order::Quiet(claims, answer) => {
                // Who does not lead any more does not wait for it.
                let _ = answer.send(self.leases.quiet(claims));
            }
            Order::Foresee(page, done) => {
                self.leases.foresee(page);
                let _ = done.send(());
            }
            Order::Beats(beats) => self.leases.beat_into(beats),
            Order::Beaten(renew) => self.leases.beaten(&renew),
            Order::Leave(_) => {}
        }
    }

    /// Asks voters for the leader that this node is. Its own vote crosses no network.
    fn ask(&mut self, voters: &BTreeSet<VoterId>, asks: &[Ask]) {
        let (others, own) = self.leases.others(voters);
        for ask in asks {
            others.iter().for_each(|to| self.send(to, &Datagram::Ask(ask.clone())));
            if own && let Some(lapse) = self.leases.asked(ask) {
                let _ = self.ends.lapses.send(lapse);
            }
        }
    }

    fn deadline(&self) -> Duration {
        let swim = self.swim.deadline().filter(|_| self.joining.is_none());
        let joining = self.joining.as_ref().map(Joining::deadline);
        let silence = self.hears_voters().then(|| self.silent_at()).flatten();
        [swim, joining, silence, self.leases.deadline()].into_iter().flatten().fold(self.report_at, Duration::min)
    }

    fn due(&mut self) {
        let now = clock::boottime();
        match self.leases.due() {
            Ok(renewals) => renewals.into_iter().for_each(|(to, renew)| self.send(&to, &Datagram::Renew(renew))),
            Err(over) => self.say(News::Lapsed(over)),
        }
        match &mut self.joining {
            Some(joining) if joining.deadline() <= now => {
                let steps = joining.due(now);
                steps.into_iter().for_each(|step| self.carry_out(step));
            }
            Some(_) => {}
            None => {
                let outs = self.swim.due(now);
                self.act(outs);
            }
        }
        self.judge_silence(now);
        if self.report_at <= now {
            let foreign = self.socket.take_foreign();
            let came = foreign != Foreign::default();
            self.report_at = now + if came { REPORT } else { LOOK };
            if came {
                self.say(News::Foreign(foreign));
            }
        }
    }

    /// These vote; whoever is one more counts as heard for now.
    fn look_for(&mut self, mut voters: BTreeSet<NodeName>) {
        voters.remove(self.swim.me().name());
        if voters != self.voters {
            self.voters = voters;
            self.voter_heard = clock::boottime();
            self.judge_silence(self.voter_heard);
        }
    }

    /// When this node will count as cut off; never, where nobody else votes.
    fn silent_at(&self) -> Option<Duration> {
        (!self.voters.is_empty()).then(|| self.voter_heard + self.cut_off_after)
    }

    fn hears_voters(&self) -> bool {
        *self.ends.hears_voters.borrow()
    }

    fn judge_silence(&self, now: Duration) {
        let hears = self.silent_at().is_none_or(|at| now < at);
        self.ends.hears_voters.send_if_modified(|said| std::mem::replace(said, hears) != hears);
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Ask(address, who) => self.send(&address, &Datagram::Who(who)),
            Step::Join(through) => {
                self.joining = None;
                // Its time begins now: a clock that ran before would say that this node is slow.
                let now = clock::boottime();
                if let Ok(swim) = Swim::new(self.swim.me().clone(), self.pace.clone(), self.seed, now) {
                    self.swim = swim;
                }
                let seeds = through.into_iter().chain(std::mem::take(&mut self.seeds)).collect();
                let outs = self.swim.announce(clock::boottime(), seeds);
                self.act(outs);
                self.publish();
                self.say(News::Joined);
            }
            Step::Nobody(addresses) => self.say(News::Nobody(addresses)),
            Step::Stranger(problem) => self.say(News::Stranger(problem)),
            Step::GiveUp(problem) => self.say(News::GiveUp(problem)),
        }
    }

    fn hear(&mut self, incoming: &Incoming) {
        let Incoming { from, node, kind, body, .. } = incoming;
        if self.voters.contains(node) {
            self.voter_heard = clock::boottime();
            self.judge_silence(self.voter_heard);
        }
        if *kind == words::SWIM {
            // Who has not joined is not there yet.
            if self.joining.is_none() {
                let outs = self.swim.datagram(clock::boottime(), body);
                self.act(outs);
            }
            return;
        }
        match datagram::decode(*kind, body) {
            Ok(Datagram::Who(who)) => {
                let here = self.answer(node, &who);
                self.send_to(*from, &Datagram::Here(here));
            }
            Ok(Datagram::Here(here)) => {
                if let Some(joining) = &mut self.joining {
                    joining.heard(node.clone(), here);
                }
            }
            Ok(Datagram::Figures(figures)) => self.ends.board.note(node.clone(), figures),
            // Whoever speaks for another is not heard: a name stands in the seal.
            Ok(Datagram::Renew(renew)) if renew.claim.node == *node => {
                if let Some(ours) = self.leases.disagrees(&renew) {
                    self.say(News::OtherTerms { node: node.clone(), theirs: renew.terms, ours });
                }
                if let Some(ack) = self.leases.renewed(&renew) {
                    self.send_to(*from, &Datagram::Ack(ack));
                }
            }
            Ok(Datagram::Ack(ack)) => self.leases.acknowledged(&ack),
            Ok(Datagram::Ask(ask)) => {
                if let Some(lapse) = self.leases.asked(&ask) {
                    self.send_to(*from, &Datagram::Lapse(lapse));
                }
            }
            // What is old, or about something else, the leader finds out.
            Ok(Datagram::Lapse(lapse)) => drop(self.ends.lapses.send(lapse)),
            Ok(Datagram::Renew(_)) => {}
            Err(DatagramError::UnknownKind(_)) => {}
            Err(error) => tracing::info!(peer = %node, %from, %error, "a datagram is not understood"),
        }
    }

    /// Whether that node may join, as far as is known here.
    fn answer(&self, node: &NodeName, who: &Who) -> Here {
        let me = self.swim.me();
        Here {
            question: who.question,
            mark: me.mark(),
            versions: SPOKEN,
            cluster: self.cluster,
            address: me.address().to_owned(),
            refused: self.taken(node, who.mark),
        }
    }

    fn taken(&self, node: &NodeName, mark: StateMark) -> Option<Problem> {
        let me = self.swim.me();
        let by = if node == me.name() {
            Some(me)
        } else {
            self.swim.member(node).filter(|view| view.health.lives()).map(|view| &view.member)
        };
        let by = by.filter(|by| by.mark() != mark)?;
        let what = format!("there is a node {node} in the cluster already, at {}", by.address());
        Some(Problem::new(Code::NameTaken, what).hint("give this one another name, with --node or NODE_ID"))
    }

    fn act(&mut self, outs: Vec<Out>) {
        let mut changed = false;
        for out in outs {
            match out {
                Out::Send { to, bytes } => self.send_raw(to.address(), words::SWIM, &bytes),
                Out::Trouble(trouble) => tracing::debug!(%trouble, "among the members"),
                Out::IAmSlow(slowness) => self.say(News::Member(Out::IAmSlow(slowness))),
                out => {
                    changed = true;
                    if let Out::Up(member) = &out {
                        self.tell_one(member.address());
                    }
                    self.say(News::Member(out));
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let roster = Roster {
            me: self.swim.me().clone(),
            joined: self.joining.is_none(),
            members: self.swim.members().cloned().collect(),
        };
        self.ends.roster.send_replace(Arc::new(roster));
        self.ends.changes.send_modify(|changes| *changes += 1);
    }

    /// Says how full this node is: to all in small clusters, to some in turn in big ones.
    fn tell(&mut self, figures: Figures) {
        let count = self.figures.as_ref().map_or(0, |last| last.count);
        self.figures = Some(Figures { count, ..figures });
        if self.joining.is_some() {
            return;
        }
        let alive = self.swim.members().filter(|view| view.health.lives());
        let alive: Vec<String> = alive.map(|view| view.member.address().to_owned()).collect();
        let some = alive.iter().cycle().skip(self.told % alive.len().max(1)).take(alive.len().min(TOLD_AT_ONCE));
        some.for_each(|address| self.tell_one(address));
        self.told = self.told.wrapping_add(TOLD_AT_ONCE);
    }

    /// The same to one member, as it was seen last.
    fn tell_one(&mut self, address: &str) {
        let (generation, slowness) = (self.swim.me().generation(), self.swim.slowness());
        let Some(figures) = &mut self.figures else { return };
        figures.count += 1;
        let said = Datagram::Figures(Figures { generation, slowness, ..figures.clone() });
        self.send(address, &said);
    }

    fn leave(&mut self) {
        if self.joining.is_some() {
            return;
        }
        let outs = self.swim.leave(clock::boottime());
        for _ in 0..GOODBYES {
            for out in &outs {
                if let Out::Send { to, bytes } = out {
                    self.send_raw(to.address(), words::SWIM, bytes);
                }
            }
        }
    }

    fn say(&self, news: News) {
        let _ = self.ends.news.send(news);
    }

    fn send(&mut self, address: &str, said: &Datagram) {
        match datagram::encode(said) {
            Ok(body) => self.send_raw(address, said.kind(), &body),
            Err(error) => tracing::warn!(%error, "a datagram was not sent"),
        }
    }

    fn send_to(&self, to: SocketAddr, said: &Datagram) {
        let sent = datagram::encode(said)
            .map_err(|error| error.to_string())
            .and_then(|body| self.socket.send(to, said.kind(), &body).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::debug!(%to, error, "a datagram was lost");
        }
    }

    fn send_raw(&mut self, address: &str, kind: u8, body: &[u8]) {
        // Names are looked up aside; what was to go there meanwhile is lost, as datagrams may be.
        let Some(to) = self.addresses.of(address) else { return };
        if let Err(error) = self.socket.send(to, kind, body) {
            tracing::debug!(%to, %error, "a datagram was lost");
        }
    }
}
