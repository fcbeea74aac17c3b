//! Who a member is: a name, the mark of its state, and how often it has come back.

use std::fmt;
use std::sync::Arc;

use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use thiserror::Error;

/// The longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 128;

/// The highest generation. Seconds since 1970 fit many times over; what is above is nonsense from outside.
pub const MAX_GENERATION: u64 = 1 << 48;

/// Why something is no member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidMember {
    /// The address is not one.
    #[error("an address of {bytes} bytes: it must be 1 to {MAX_ADDRESS_BYTES} visible ASCII characters")]
    Address {
        /// How long it is.
        bytes: usize,
    },
    /// The generation is too high.
    #[error("the generation {0} is above {MAX_GENERATION}")]
    Generation(u64),
}

/// One life of one node in the cluster. Cheap to clone.
///
/// Of two members with one name the one with the higher generation counts. A node that comes back, after a restart or because
/// the others took it for dead, comes with a higher generation: what was said about the one before does not touch it.
#[derive(Clone, PartialEq, Eq)]
pub struct Member(Arc<Facts>);

#[derive(PartialEq, Eq)]
struct Facts {
    name: NodeName,
    mark: StateMark,
    generation: u64,
    leaving: bool,
    address: String,
}

impl Member {
    /// A member. `address` is where its datagrams go, in the caller's notation.
    pub fn new(name: NodeName, mark: StateMark, generation: u64, address: String) -> Result<Member, InvalidMember> {
        Member::checked(Facts { name, mark, generation, leaving: false, address })
    }

    /// One that stands for whoever has this name at this address: all that is known of a node that was never heard.
    pub fn unheard(name: NodeName, address: String) -> Result<Member, InvalidMember> {
        Member::new(name, StateMark([0; 8]), 0, address)
    }

    fn checked(facts: Facts) -> Result<Member, InvalidMember> {
        let bytes = facts.address.len();
        if !(1..=MAX_ADDRESS_BYTES).contains(&bytes) || !facts.address.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidMember::Address { bytes });
        }
        if facts.generation > MAX_GENERATION {
            return Err(InvalidMember::Generation(facts.generation));
        }
        Ok(Member(Arc::new(facts)))
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.0.name
    }

    /// The mark of its state directory.
    pub fn mark(&self) -> StateMark {
        self.0.mark
    }

    /// Rises each time it comes back.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Where its datagrams go.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Whether it has said that it leaves.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving
    }

    /// The same, as it says goodbye. It counts more than the one that stays.
    pub(crate) fn goodbye(&self) -> Member {
        self.with(self.0.generation, true)
    }

    /// The same, come back; nothing when the generations are used up.
    pub(crate) fn come_back(&self, step: u64) -> Option<Member> {
        let generation = self.0.generation.saturating_add(step).min(MAX_GENERATION);
        (generation > self.0.generation).then(|| self.with(generation, false))
    }

    fn with(&self, generation: u64, leaving: bool) -> Member {
        let Facts { name, mark, address, .. } = &*self.0;
        Member(Arc::new(Facts { name: name.clone(), mark: *mark, generation, leaving, address: address.clone() }))
    }

    /// One with everything said: for the codec.
    pub(crate) fn decoded(
        name: NodeName,
        mark: StateMark,
        generation: u64,
        leaving: bool,
        address: String,
    ) -> Result<Member, InvalidMember> {
        Member::checked(Facts { name, mark, generation, leaving, address })
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { name, mark, generation, leaving, address } = &*self.0;
        write!(f, "{name}#{generation}({mark}{} at {address})", if *leaving { ", leaving" } else { "" })
    }
}

/// What foca takes for a member's address: its name. Another life of the same node is the same address.
#[derive(Clone)]
pub struct ByName(Member);

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.0.name() == other.0.name()
    }
}

impl foca::Identity for Member {
    type Addr = ByName;

    /// Never by foca itself: it would come back at once, as often as it is refused. See `comeback`.
    fn renew(&self) -> Option<Member> {
        None
    }

    fn addr(&self) -> ByName {
        ByName(self.clone())
    }

    fn win_addr_conflict(&self, other: &Member) -> bool {
        // The last two only make the order total: two nodes of one name and generation must be judged alike everywhere.
        fn rank(Member(m): &Member) -> (u64, bool, [u8; 8], &str) {
            (m.generation, m.leaving, m.mark.0, &m.address)
        }
        rank(self) > rank(other)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use foca::Identity;

    use super::*;

    fn member(generation: u64) -> Member {
        Member::new("a".parse().unwrap(), StateMark([1; 8]), generation, "10.0.0.1:7000".to_owned()).unwrap()
    }

    #[test]
    fn the_higher_generation_counts_and_a_goodbye_more_than_what_it_ends() {
        assert!(member(2).win_addr_conflict(&member(1)));
        assert!(!member(1).win_addr_conflict(&member(2)));
        assert!(member(1).goodbye().win_addr_conflict(&member(1)));
        assert!(!member(1).goodbye().win_addr_conflict(&member(2)));
        assert!(!member(1).win_addr_conflict(&member(1)));
    }

    #[test]
    fn a_member_comes_back_higher_until_there_is_nothing_higher() {
        assert_eq!(member(1).come_back(4).unwrap().generation(), 5);
        assert_eq!(member(MAX_GENERATION - 1).come_back(4).unwrap().generation(), MAX_GENERATION);
        assert_eq!(member(MAX_GENERATION).come_back(4), None);
    }

    #[test]
    fn nonsense_is_no_member() {
        let name: NodeName = "a".parse().unwrap();
        for address in ["", "a b", "ä", "a\n", &"x".repeat(MAX_ADDRESS_BYTES + 1)] {
            assert!(Member::unheard(name.clone(), address.to_owned()).is_err(), "{address:?}");
        }
        assert!(Member::new(name, StateMark([0; 8]), MAX_GENERATION + 1, "x:1".to_owned()).is_err());
    }
}
