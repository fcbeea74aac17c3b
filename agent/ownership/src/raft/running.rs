//! One openraft node, from its start until its store fails or it is stopped: what it does as the leader, and what it asks of the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Applied, Record};
use migrate_proto::cluster::{ClusterId, VoterId};
use openraft::error::{ChangeMembershipError, CheckIsLeaderError, ClientWriteError, Fatal, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::ask::{AskError, Asker};
use super::candidacy::Candidacy;
use super::network::{Lines, whereabouts};
use super::settings::Timing;
use super::standing;
use crate::carrier::CallError;
use crate::ownership::{BadVoter, Joiner, ProposeError, Shown};
use crate::store::Store;
use crate::types::{self, Place, Types};
use crate::wire::{Answer, Ask, Failure, fits};

/// How long an election takes that is won at once.
const ELECTION: Duration = Duration::from_millis(100);
/// How long to wait before looking again who leads.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

type Written = Result<ClientWriteResponse<Types>, RaftError<u64, ClientWriteError<u64, Place>>>;

/// A node that takes part.
pub(crate) struct Running {
    pub(crate) raft: openraft::Raft<Types>,
    pub(crate) asker: Asker,
    /// As far as this node has applied it.
    pub(crate) record: watch::Receiver<Arc<Record>>,
    pub(crate) me: VoterId,
    pub(crate) cluster: ClusterId,
    timing: Timing,
    pub(crate) candidacy: Arc<Candidacy>,
    may_lead: AtomicBool,
}

/// Who leads, as far as is known here.
enum Lead {
    Here,
    There(VoterId, Place),
    Nobody,
}

impl Running {
    /// Begins with what is in the store.
    pub(crate) async fn start(
        store: Store,
        asker: Asker,
        cluster: ClusterId,
        timing: &Timing,
    ) -> Result<Running, Fatal<u64>> {
        let record = store.records();
        let (log, machine) = store.split();
        let asker = Asker { cluster: Some(cluster), ..asker };
        let me = asker.me;
        let candidacy = Arc::new(Candidacy::new(me, timing));
        let lines = Lines { asker: asker.clone(), record: record.clone(), candidacy: Arc::clone(&candidacy) };
        let raft = openraft::Raft::new(me.0, Arc::new(timing.config()), lines, log, machine).await?;
        let (timing, may_lead) = (timing.clone(), AtomicBool::new(false));
        Ok(Running { raft, asker, record, me, cluster, timing, candidacy, may_lead })
    }

    /// Asks the leader, wherever it is. Tries again while nothing can have been done; ends soon, whatever happens.
    pub(crate) async fn through_leader(&self, ask: Ask) -> Result<Answer, ProposeError> {
        if let Ask::Propose(command) = &ask {
            fits(command)?;
        }
        let deadline = Instant::now() + self.timing.answer;
        loop {
            let failure = match self.lead() {
                Lead::Here => match self.as_leader(ask.clone(), deadline).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Lead::There(leader, place) => match self.ask_leader(leader, &place, ask.clone(), deadline).await {
                    Ok(Answer::Failed(failure)) => failure,
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.unseen() => Failure::NotLeader,
                    Err(_) => return Err(ProposeError::Unknown),
                },
                Lead::Nobody => Failure::NotLeader,
            };
            match failure {
                // It did not do it, and perhaps somebody else does.
                Failure::NotLeader | Failure::Forming | Failure::NotMe(_) | Failure::OtherCluster(_) => {}
                Failure::Propose(ProposeError::NotReady | ProposeError::NoQuorum | ProposeError::Stopped(_)) => {}
                Failure::Propose(error) => return Err(error),
                Failure::Unreadable(_) => return Err(ProposeError::NoQuorum),
            }
            if Instant::now() + LOOK_AGAIN >= deadline {
                return Err(if self.heard_of_a_leader() { ProposeError::NoQuorum } else { ProposeError::NotReady });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask_leader(
        &self,
        leader: VoterId,
        place: &Place,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Answer, AskError> {
        let ttl = deadline.saturating_duration_since(Instant::now());
        let whom = whereabouts(&self.record.borrow(), leader, place);
        let asked = self.asker.ask(Some(leader), whom, ask, ttl);
        timeout_at(deadline, asked).await.unwrap_or(Err(AskError::Call(CallError::Late(ttl))))
    }

    /// Does what a leader is asked for, if this node leads. `NotLeader`: surely nothing was done.
    pub(crate) async fn as_leader(&self, ask: Ask, deadline: Instant) -> Result<Answer, Failure> {
        if !matches!(self.lead(), Lead::Here) {
            return Err(Failure::NotLeader);
        }
        match ask {
            Ask::Propose(command) => self.write(command, deadline).await.map(Answer::Applied).map_err(Failure::Propose),
            Ask::Confirm => self.confirmed(deadline).await,
            Ask::Voters(voters) => self.make_voters(voters, deadline).await,
            Ask::Admit(joiner) => self.admit(joiner, deadline).await,
            Ask::Retire(id) => self.retire(id, deadline).await,
            Ask::Vote(_) | Ask::Append(_) | Ask::Snapshot(_) | Ask::Who => Err(Failure::NotLeader),
        }
    }

    /// From here on it may have been done, whatever raft says: also an entry that raft takes back here may be kept elsewhere.
    pub(crate) async fn write(&self, command: Command, deadline: Instant) -> Result<Applied, ProposeError> {
        fits(&command)?;
        let written = timeout_at(deadline, self.raft.client_write(command)).await;
        match written.map_err(|_| ProposeError::Unknown)? {
            Ok(response) => match response.data {
                types::Answer::Applied(applied) => Ok(applied),
                types::Answer::Refused(refusal) => Err(refusal.into()),
                types::Answer::Nothing => Err(ProposeError::Unknown),
            },
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn confirmed(&self, deadline: Instant) -> Result<Answer, Failure> {
        let asked = timeout_at(deadline, self.raft.get_read_log_id()).await;
        match asked.map_err(|_| Failure::Propose(ProposeError::NoQuorum))? {
            Ok((upto, _)) => Ok(Answer::Confirmed(upto.map(|upto| upto.index))),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => Err(Failure::NotLeader),
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                Err(Failure::Propose(ProposeError::NoQuorum))
            }
            Err(RaftError::Fatal(fatal)) => Err(Failure::Propose(ProposeError::Stopped(fatal.to_string()))),
        }
    }

    /// This node's copy, when it has come this far.
    pub(crate) async fn applied(&self, upto: Option<u64>) -> Result<Arc<Record>, ProposeError> {
        let wait = self.raft.wait(Some(self.timing.answer));
        wait.applied_index_at_least(upto, "confirmed").await.map_err(|_| ProposeError::NoQuorum)?;
        Ok(self.record.borrow().clone())
    }

    async fn make_voters(&self, voters: BTreeSet<VoterId>, deadline: Instant) -> Result<Answer, Failure> {
        let bad = |bad| Err(Failure::Propose(ProposeError::Voter(bad)));
        let metrics = self.metrics();
        let members = metrics.membership_config.membership();
        let wanted: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        if wanted.is_empty() {
            return bad(BadVoter::Nobody);
        }
        if *members.get_joint_config() == [wanted.clone()] {
            return Ok(Answer::Done);
        }
        let caught_up = standing::caught_up(&metrics);
        let votes: BTreeSet<u64> = members.voter_ids().collect();
        for voter in &voters {
            if members.get_node(&voter.0).is_none() {
                return bad(BadVoter::NoMember(Shown(*voter)));
            }
            if !votes.contains(&voter.0) && !caught_up.contains(voter) {
                return bad(BadVoter::Behind(Shown(*voter)));
            }
        }
        self.change(ChangeMembers::ReplaceAllVoters(wanted), deadline).await
    }

    /// Into the record first: a node that it refuses gets nothing.
    async fn admit(&self, joiner: Joiner, deadline: Instant) -> Result<Answer, Failure> {
        let since = self.record.borrow().nodes.get(&joiner.place.name).map_or(0, |node| node.since);
        let id = joiner.id();
        let Joiner { mark, place, versions } = joiner;
        let (node, address) = (place.name.clone(), place.address.clone());
        self.write(Command::Admit { node, mark, address, versions, since }, deadline).await?;
        if self.metrics().membership_config.membership().get_node(&id.0).is_some() {
            return Ok(Answer::Done);
        }
        self.change(ChangeMembers::AddNodes([(id.0, place)].into()), deadline).await
    }

    async fn retire(&self, id: VoterId, deadline: Instant) -> Result<Answer, Failure> {
        let metrics = self.metrics();
        let members = metrics.membership_config.membership();
        if members.voter_ids().any(|voter| voter == id.0) {
            return Err(Failure::Propose(BadVoter::Votes(Shown(id)).into()));
        }
        if members.get_node(&id.0).is_none() {
            return Ok(Answer::Done);
        }
        self.change(ChangeMembers::RemoveNodes([id.0].into()), deadline).await
    }

    /// In a task of its own: what has two steps is not left after the first because somebody does not wait any longer.
    async fn change(&self, changes: ChangeMembers<u64, Place>, deadline: Instant) -> Result<Answer, Failure> {
        let raft = self.raft.clone();
        let changing = tokio::spawn(async move { raft.change_membership(changes, true).await });
        let unknown = || Failure::Propose(ProposeError::Unknown);
        let changed: Written = timeout_at(deadline, changing).await.map_err(|_| unknown())?.map_err(|_| unknown())?;
        let error = match changed {
            Ok(_) => return Ok(Answer::Done),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => error,
            Err(_) => return Err(unknown()),
        };
        Err(Failure::Propose(match error {
            ChangeMembershipError::InProgress(_) => ProposeError::Changing,
            ChangeMembershipError::EmptyMembership(_) => BadVoter::Nobody.into(),
            ChangeMembershipError::LearnerNotFound(error) => BadVoter::NoMember(Shown(VoterId(error.node_id))).into(),
        }))
    }

    /// Whether this node may try to lead.
    pub(crate) fn may_lead(&self, may: bool) {
        self.may_lead.store(may, Ordering::Relaxed);
        self.raft.runtime_config().elect(may);
    }

    /// Whether this node leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.metrics().state == ServerState::Leader
    }

    /// A voter that lacks what this one has wants to lead, or nobody has led for long: so this one stands up, unless a leader is there.
    pub(crate) fn stand_up(self: &Arc<Running>) {
        if !self.may_lead.load(Ordering::Relaxed) || !self.candidacy.begin() {
            return;
        }
        let running = Arc::clone(self);
        tokio::spawn(async move {
            // The first attempt may only teach it another's term.
            for _ in 0..2 {
                if running.try_to_lead().await || !running.candidacy.may_win() {
                    break;
                }
            }
            running.candidacy.stood();
        });
    }

    /// One attempt. Ends when somebody leads, or another's higher term was learned, or after the time that a vote takes; whether there is nothing
    /// left to try.
    async fn try_to_lead(&self) -> bool {
        let before = self.metrics().current_term;
        if self.raft.trigger().elect().await.is_err() {
            return true;
        }
        let decided = |now: &RaftMetrics<u64, Place>| {
            now.current_term > before && (now.current_leader.is_some() || now.vote.leader_id().node_id != self.me.0)
        };
        let voted = self.raft.wait(Some(ELECTION)).metrics(decided, "somebody leads, or has a higher term").await;
        voted.is_ok_and(|now| now.current_leader.is_some())
    }

    /// A leader died between the two steps of a change of voters: ends it.
    pub(crate) fn finish_change(&self, voters: BTreeSet<u64>) {
        let raft = self.raft.clone();
        tokio::spawn(async move { raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await });
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<u64, Place> {
        self.raft.metrics().borrow().clone()
    }

    fn lead(&self) -> Lead {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        match metrics.current_leader {
            Some(leader) if leader == self.me.0 => {
                if metrics.state == ServerState::Leader {
                    Lead::Here
                } else {
                    Lead::Nobody
                }
            }
            Some(leader) => match metrics.membership_config.membership().get_node(&leader) {
                Some(place) => Lead::There(VoterId(leader), place.clone()),
                None => Lead::Nobody,
            },
            None => Lead::Nobody,
        }
    }

    fn heard_of_a_leader(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.last_applied.is_some() && metrics.vote.leader_id().term > 0
    }
}
