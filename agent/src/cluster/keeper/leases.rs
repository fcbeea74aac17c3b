//! The keeper's part in leases: it renews this node's own, and as a voter takes note of others', and says so to a leader that asks.
//!
//! What it writes on the lease page is what every sandbox of this node obeys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use migrate_proto::cluster::lease::{
    Ack, Ask, Holder, Known, Lapse, Nanos, Page, Promiser, Renew, Seat, Terms, Voters,
};
use migrate_proto::cluster::{Claim, VoterId};
use migrate_proto::name::NodeName;
use migrate_sandbox::lease::LeasePage;
use tokio::sync::mpsc;

use super::ends::Lapsed;

/// What a voter needs to know of the record, and a holder of the voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bench {
    /// The last configuration in the log, committed or not.
    pub voters: Voters,
    /// Where they are.
    pub addresses: BTreeMap<VoterId, String>,
    /// The newest session of each node.
    pub known: BTreeMap<NodeName, Known>,
    /// This node leads, and nobody else votes or ever did.
    pub alone: bool,
}

/// Both sides.
pub(super) struct Leases {
    me: VoterId,
    terms: Terms,
    promiser: Promiser,
    bench: Option<Box<Bench>>,
    holder: Option<Holder>,
    page: LeasePage,
    /// Where renewals go that are not kept by voters.
    beats: Option<mpsc::Sender<Renew>>,
    /// What terms others have said last.
    told_terms: BTreeMap<NodeName, Terms>,
}

impl Leases {
    /// Of a node whose agent has just started.
    pub(super) fn new(me: VoterId, terms: Terms, page: LeasePage) -> Leases {
        let promiser = Promiser::new(me, now(), terms);
        Leases { me, terms, promiser, bench: None, holder: None, page, beats: None, told_terms: BTreeMap::new() }
    }

    pub(super) fn sit(&mut self, bench: Box<Bench>) {
        self.bench = Some(bench);
    }

    /// This node has opened a session; its opening was proposed then.
    ///
    /// The page names it from now on, so that an agent after this one does not take up the session before.
    pub(super) fn open(&mut self, claim: Claim, proposed: Duration) {
        let Page { session, until } = self.page.read();
        let until = if session == claim.session { until } else { Nanos(0) };
        self.page.write(Page { session: claim.session, until });
        self.holder = Some(Holder::open(claim, nanos(proposed), self.terms));
    }

    /// An agent before this one has left this on the page.
    pub(super) fn resume(&mut self, node: NodeName, page: Page) {
        self.holder = Some(Holder::resume(node, page, self.terms));
    }

    /// A session is about to be opened by a node whose lease had no end: until this deadline nobody can have ended it.
    pub(super) fn foresee(&mut self, page: Page) {
        self.holder = None;
        self.page.write(page);
    }

    /// When [`Leases::due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.holder.as_ref().map(|holder| Duration::from_nanos(holder.next(now()).0))
    }

    /// Renews what is due: whom to tell; or says that it is over for ever.
    pub(super) fn due(&mut self) -> Result<Vec<(String, Renew)>, Lapsed> {
        let now = now();
        let Some(holder) = &mut self.holder else { return Ok(Vec::new()) };
        if holder.next(now) > now && !holder.lapsed(now) {
            return Ok(Vec::new());
        }
        let Some(renew) = holder.renew(now) else {
            let over = Lapsed { claim: holder.claim().clone(), until: holder.deadline() };
            self.holder = None;
            return Err(over);
        };
        if let Some(beats) = &self.beats {
            // One at a time: where it is full, the one before is not answered yet, and the next one is due soon.
            let _ = beats.try_send(renew);
            return Ok(Vec::new());
        }
        let Some(bench) = &self.bench else { return Ok(Vec::new()) };
        let others = bench.addresses.iter().filter(|(voter, _)| **voter != self.me && bench.voters.contain(**voter));
        let told = others.map(|(_, address)| (address.clone(), renew.clone())).collect();
        // Its own vote crosses no network.
        if let Some(ack) = self.renewed(&renew) {
            self.acknowledged(&ack);
        }
        Ok(told)
    }

    /// The terms of this node where those of a renewal are others: then neither counts for the other. That is said once.
    pub(super) fn disagrees(&mut self, renew: &Renew) -> Option<Terms> {
        let before = self.told_terms.insert(renew.claim.node.clone(), renew.terms).unwrap_or(self.terms);
        (before != renew.terms && renew.terms != self.terms).then_some(self.terms)
    }

    /// A renewal has come, of this node or another.
    pub(super) fn renewed(&mut self, renew: &Renew) -> Option<Ack> {
        let Bench { voters, known, alone, .. } = &**self.bench.as_ref()?;
        let seat = Seat { voters, known: known.get(&renew.claim.node).copied(), alone: *alone };
        self.promiser.renew(now(), renew, seat)
    }

    /// A voter has taken note of this node's.
    pub(super) fn acknowledged(&mut self, ack: &Ack) {
        let Some(holder) = &mut self.holder else { return };
        if let Some(until) = holder.heard(now(), ack) {
            self.page.write(Page { session: holder.claim().session, until });
        }
    }

    /// Leases are not kept by voters, but by whatever takes note of these renewals.
    pub(super) fn beat_into(&mut self, beats: mpsc::Sender<Renew>) {
        self.beats = Some(beats);
    }

    /// It has taken note of this one: as if this node were the only voter.
    pub(super) fn beaten(&mut self, renew: &Renew) {
        let voters = Voters { sets: vec![[self.me].into()], ..Voters::default() };
        let Renew { claim, sent, terms } = renew.clone();
        self.acknowledged(&Ack { voter: self.me, claim, sent, voters, terms });
    }

    /// A leader asks.
    pub(super) fn asked(&mut self, ask: &Ask) -> Option<Lapse> {
        self.promiser.lapsed(now(), ask)
    }

    /// Where these voters are, this node apart; and whether it is one of them.
    pub(super) fn others(&self, voters: &BTreeSet<VoterId>) -> (Vec<String>, bool) {
        let known = self.bench.iter().flat_map(|bench| &bench.addresses);
        let others = known.filter(|(voter, _)| **voter != self.me && voters.contains(voter));
        (others.map(|(_, address)| address.clone()).collect(), voters.contains(&self.me))
    }

    /// Those that were not heard of for as long as this voter promises.
    pub(super) fn quiet(&self, mut claims: Vec<Claim>) -> Vec<Claim> {
        claims.retain(|claim| self.promiser.quiet(now(), claim));
        claims
    }
}

fn now() -> Nanos {
    nanos(crate::clock::boottime())
}

fn nanos(at: Duration) -> Nanos {
    Nanos(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use migrate_proto::cluster::lease::LogId;

    use super::*;

    const ME: VoterId = VoterId(7);

    /// Of a node that votes, with others or alone.
    fn leases(dir: &tempfile::TempDir, voters: &[u64], alone: bool) -> Leases {
        let terms = Terms::new(60_000_000_000, 10_000).unwrap();
        let page = LeasePage::create(&dir.path().join("lease")).unwrap();
        let mut leases = Leases::new(ME, terms, page);
        let sets = vec![voters.iter().copied().map(VoterId).collect()];
        let addresses = voters.iter().map(|voter| (VoterId(*voter), format!("{voter}:1"))).collect();
        let voters = Voters { config: LogId { term: 1, index: 1 }, sets };
        leases.sit(Box::new(Bench { voters, addresses, known: BTreeMap::new(), alone }));
        leases
    }

    fn claim() -> Claim {
        Claim { node: "a".parse().unwrap(), session: 3 }
    }

    #[test]
    fn who_votes_alone_keeps_its_own_lease_and_it_stands_on_the_page() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7], true);
        assert_eq!((leases.deadline(), leases.due()), (None, Ok(Vec::new())));
        let before = crate::clock::boottime();
        leases.open(claim(), before);
        assert_eq!(leases.due(), Ok(Vec::new()), "nobody else has to be told");
        let page = leases.page.read();
        assert!(page.session == 3 && page.until >= nanos(before).plus(60_000_000_000), "{page:?}");
        assert!(leases.deadline().unwrap() > before + Duration::from_secs(5), "it was answered");
    }

    #[test]
    fn others_are_told_and_one_vote_of_three_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7, 8, 9], false);
        leases.open(claim(), crate::clock::boottime());
        let told: Vec<String> = leases.due().unwrap().into_iter().map(|(to, _)| to).collect();
        assert_eq!(told, ["8:1", "9:1"]);
        assert_eq!(leases.page.read(), Page { session: 3, until: Nanos(0) });
    }

    #[test]
    fn who_has_other_terms_is_told_of_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7], true);
        let renew = |nanos, session| {
            let claim = Claim { node: "b".parse().unwrap(), session };
            Renew { claim, sent: Nanos(1), terms: Terms::new(nanos, 10_000).unwrap() }
        };
        assert_eq!(leases.disagrees(&renew(60_000_000_000, 1)), None);
        assert_eq!(leases.disagrees(&renew(1_000_000_000, 1)), Some(leases.terms));
        assert_eq!(leases.disagrees(&renew(1_000_000_000, 2)), None, "it was said");
        assert_eq!(leases.disagrees(&renew(60_000_000_000, 3)), None, "mended");
        assert_eq!(leases.disagrees(&renew(1_000_000_000, 4)), Some(leases.terms), "and broken again");
    }

    #[test]
    fn what_was_foreseen_stays_on_the_page_until_that_session_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7, 8, 9], false);
        let foreseen = Page { session: 3, until: Nanos(77) };
        leases.foresee(foreseen);
        leases.open(claim(), crate::clock::boottime());
        assert_eq!(leases.page.read(), foreseen);
        leases.open(Claim { session: 4, ..claim() }, crate::clock::boottime());
        assert_eq!(leases.page.read(), Page { session: 4, until: Nanos(0) });
    }

    #[test]
    fn what_beats_keep_is_kept_by_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7], true);
        let (beats, mut sent) = mpsc::channel(1);
        leases.beat_into(beats);
        leases.open(claim(), crate::clock::boottime());
        assert_eq!(leases.due(), Ok(Vec::new()));
        let renew = sent.try_recv().unwrap();
        assert_eq!(leases.page.read().until, Nanos(0), "its own vote does not count");
        leases.beaten(&Renew { claim: Claim { session: 2, ..claim() }, ..renew.clone() });
        assert_eq!(leases.page.read().until, Nanos(0), "nor that of another session");
        leases.beaten(&renew);
        assert_eq!(leases.page.read(), Page { session: 3, until: renew.sent.plus(60_000_000_000) });
    }

    #[test]
    fn what_is_over_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = leases(&dir, &[7], true);
        leases.resume(claim().node, Page { session: 3, until: Nanos(1) });
        assert_eq!(leases.due(), Err(Lapsed { claim: claim(), until: Some(Nanos(1)) }));
        assert_eq!((leases.due(), leases.deadline()), (Ok(Vec::new()), None));
    }
}
