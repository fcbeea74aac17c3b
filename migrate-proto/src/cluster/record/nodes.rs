//! Commands about nodes: who is a member, in which session, and whose lease is over.

use super::{Applied, NodeEntry, Record, Refusal, Since, Standing};
use crate::cluster::Claim;
use crate::cluster::command::EntryKey;
use crate::cluster::lease::LogId;
use crate::id::StateMark;
use crate::name::NodeName;
use crate::version::Versions;

impl Record {
    /// The node, if there is one of that name.
    pub fn node(&self, node: &NodeName) -> Result<&NodeEntry, Refusal> {
        self.nodes.get(node).ok_or_else(|| Refusal::UnknownNode { node: node.clone() })
    }

    fn node_mut(&mut self, node: &NodeName) -> Result<&mut NodeEntry, Refusal> {
        self.nodes.get_mut(node).ok_or_else(|| Refusal::UnknownNode { node: node.clone() })
    }

    /// Only if: the agent speaks what the cluster does; the mark was never forgotten; the name is unknown, or the mark's, or that
    /// of a machine that is fenced and owns nothing; nobody changed the entry meanwhile.
    ///
    /// A machine that takes a name over goes on with its sessions: none is ever used by two machines.
    pub(super) fn admit(
        &mut self,
        revision: u64,
        node: &NodeName,
        mark: StateMark,
        address: &str,
        versions: Versions,
        since: u64,
    ) -> Result<Applied, Refusal> {
        let present = self.nodes.get(node);
        if present.is_some_and(|entry| {
            let standing = matches!(entry.standing, Standing::Member | Standing::Draining);
            standing && entry.mark == mark && entry.address == address && entry.versions == versions
        }) {
            return Ok(Applied::AlreadySo);
        }
        let speaks = self.cluster.policy.speaks;
        if !versions.contains(speaks) {
            return Err(Refusal::Versions { node: node.clone(), versions, speaks });
        }
        if self.cluster.forgotten.contains(&mark) {
            return Err(Refusal::ForgottenMachine { mark });
        }
        present.map_or(0, |entry| entry.since).must_be(since, EntryKey::Node(node.clone()))?;
        let mut entry = match present {
            None => NodeEntry {
                mark,
                address: String::new(),
                versions,
                standing: Standing::Member,
                since,
                session: 0,
                finite: false,
                fenced: false,
                owns: 0,
            },
            Some(entry) if entry.mark != mark && !entry.fenced => {
                return Err(Refusal::OtherMachine { node: node.clone(), mark: entry.mark });
            }
            Some(entry) if entry.mark != mark && entry.owns > 0 => {
                return Err(Refusal::Owns { node: node.clone(), loads: entry.owns });
            }
            Some(entry) => entry.clone(),
        };
        if entry.mark != mark || entry.standing != Standing::Draining {
            entry.standing = Standing::Member;
        }
        (entry.mark, entry.versions, entry.since) = (mark, versions, revision);
        address.clone_into(&mut entry.address);
        self.nodes.insert(node.clone(), entry);
        Ok(Applied::Changed)
    }

    /// Only if: the mark is the node's; it has not left and was not forgotten; its last session is `after`.
    pub(super) fn open_session(
        &mut self,
        node: &NodeName,
        mark: StateMark,
        after: u64,
        finite: bool,
    ) -> Result<Applied, Refusal> {
        let entry = self.node_mut(node)?;
        if entry.mark != mark {
            return Err(Refusal::OtherMachine { node: node.clone(), mark: entry.mark });
        }
        if matches!(entry.standing, Standing::Left | Standing::Forgotten) {
            return Err(Refusal::Standing { node: node.clone(), standing: entry.standing });
        }
        if entry.session == after.saturating_add(1) && entry.finite == finite && !entry.fenced {
            return Ok(Applied::AlreadySo);
        }
        if entry.session != after {
            return Err(Refusal::OtherSession { node: node.clone(), session: entry.session });
        }
        entry.session += 1;
        (entry.finite, entry.fenced) = (finite, false);
        Ok(Applied::Changed)
    }

    /// Only if: the session is the node's and not fenced; it owns nothing.
    pub(super) fn leave(&mut self, revision: u64, by: &Claim) -> Result<Applied, Refusal> {
        let entry = self.node_mut(&by.node)?;
        if entry.standing == Standing::Left && entry.session == by.session {
            return Ok(Applied::AlreadySo);
        }
        self.holds(by)?;
        let entry = self.node_mut(&by.node)?;
        if entry.owns > 0 {
            return Err(Refusal::Owns { node: by.node.clone(), loads: entry.owns });
        }
        (entry.standing, entry.since, entry.fenced) = (Standing::Left, revision, true);
        Ok(Applied::Changed)
    }

    /// Only if: the mark is the node's, and it is fenced.
    pub(super) fn forget(&mut self, revision: u64, node: &NodeName, mark: StateMark) -> Result<Applied, Refusal> {
        if self.cluster.forgotten.contains(&mark) {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.node_mut(node)?;
        if entry.mark != mark {
            return Err(Refusal::OtherMachine { node: node.clone(), mark: entry.mark });
        }
        if !entry.fenced {
            return Err(Refusal::NotFenced { node: node.clone(), session: entry.session });
        }
        (entry.standing, entry.since) = (Standing::Forgotten, revision);
        self.cluster.forgotten.push(mark);
        Ok(Applied::Changed)
    }

    /// Only if: it is a member, and nobody changed its standing meanwhile.
    pub(super) fn drain(
        &mut self,
        revision: u64,
        node: &NodeName,
        since: u64,
        draining: bool,
    ) -> Result<Applied, Refusal> {
        let entry = self.node_mut(node)?;
        let wanted = if draining { Standing::Draining } else { Standing::Member };
        if entry.standing == wanted {
            return Ok(Applied::AlreadySo);
        }
        if matches!(entry.standing, Standing::Left | Standing::Forgotten) {
            return Err(Refusal::Standing { node: node.clone(), standing: entry.standing });
        }
        entry.since.must_be(since, EntryKey::Node(node.clone()))?;
        (entry.standing, entry.since) = (wanted, revision);
        Ok(Applied::Changed)
    }

    /// Only if: the session is the node's, and has an end; who votes has not changed since the lapses were judged. That it has
    /// lapsed is known to whoever proposes this.
    pub(super) fn fence(&mut self, lapsed: &Claim, voters: LogId) -> Result<Applied, Refusal> {
        let node = lapsed.node.clone();
        let now = self.cluster.voters.now.config;
        let entry = self.node_mut(&node)?;
        if entry.session != lapsed.session {
            return Err(Refusal::OtherSession { node, session: entry.session });
        }
        if entry.fenced {
            return Ok(Applied::AlreadySo);
        }
        if !entry.finite {
            return Err(Refusal::Endless { node, session: entry.session });
        }
        if now != voters {
            return Err(Refusal::OtherVoters { now });
        }
        entry.fenced = true;
        Ok(Applied::Changed)
    }

    /// Whether this node still is in this session: what it says as its holder counts.
    pub fn holds(&self, claim: &Claim) -> Result<(), Refusal> {
        let (node, entry) = (claim.node.clone(), self.node(&claim.node)?);
        if entry.session != claim.session || entry.session == 0 {
            return Err(Refusal::OtherSession { node, session: entry.session });
        }
        if entry.fenced {
            return Err(Refusal::Fenced { node, session: entry.session });
        }
        Ok(())
    }

    /// Whether this node may be given a workload: a member, not draining, in a session that is not fenced.
    pub fn takes(&self, node: &NodeName) -> Result<(), Refusal> {
        let entry = self.node(node)?;
        if entry.standing != Standing::Member {
            return Err(Refusal::Standing { node: node.clone(), standing: entry.standing });
        }
        self.holds(&Claim { node: node.clone(), session: entry.session })
    }

    /// Whether this node is fenced: what it owns may be given away.
    pub(super) fn is_fenced(&self, node: &NodeName) -> Result<(), Refusal> {
        let entry = self.node(node)?;
        if entry.fenced {
            return Ok(());
        }
        Err(Refusal::NotFenced { node: node.clone(), session: entry.session })
    }
}
