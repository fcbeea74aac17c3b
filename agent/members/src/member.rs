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

/// The longest name, in bytes: its type sees to that.
const LONGEST_NAME: usize = 63;

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
#[derive(Clone)]
pub struct Member {
    /// By what members are looked up, thousands of times for each datagram in a large cluster: beside the facts, not behind them.
    key: ByName,
    facts: Arc<Facts>,
}

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
        Ok(Member::of(facts))
    }

    fn of(facts: Facts) -> Member {
        Member { key: ByName::of(&facts.name), facts: Arc::new(facts) }
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.facts.name
    }

    /// The mark of its state directory.
    pub fn mark(&self) -> StateMark {
        self.facts.mark
    }

    /// Rises each time it comes back.
    pub fn generation(&self) -> u64 {
        self.facts.generation
    }

    /// Where its datagrams go.
    pub fn address(&self) -> &str {
        &self.facts.address
    }

    /// Whether it has said that it leaves.
    pub fn is_leaving(&self) -> bool {
        self.facts.leaving
    }

    /// The same, as it says goodbye. It counts more than the one that stays.
    pub(crate) fn goodbye(&self) -> Member {
        self.with(self.facts.generation, true)
    }

    /// The same, come back; nothing when the generations are used up.
    pub(crate) fn come_back(&self, step: u64) -> Option<Member> {
        let generation = self.facts.generation.saturating_add(step).min(MAX_GENERATION);
        (generation > self.facts.generation).then(|| self.with(generation, false))
    }

    fn with(&self, generation: u64, leaving: bool) -> Member {
        let Facts { name, mark, address, .. } = &*self.facts;
        Member::of(Facts { name: name.clone(), mark: *mark, generation, leaving, address: address.clone() })
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
        let Facts { name, mark, generation, leaving, address } = &*self.facts;
        write!(f, "{name}#{generation}({mark}{} at {address})", if *leaving { ", leaving" } else { "" })
    }
}

/// What foca takes for a member's address: its name, and zeros behind it. Another life of the same node is the same address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ByName([u8; LONGEST_NAME]);

impl ByName {
    fn of(name: &NodeName) -> ByName {
        let mut key = [0; LONGEST_NAME];
        key.iter_mut().zip(name.as_str().bytes()).for_each(|(place, byte)| *place = byte);
        ByName(key)
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        self.key == other.key && self.facts == other.facts
    }
}

impl Eq for Member {}

impl foca::Identity for Member {
    type Addr = ByName;

    /// Never by foca itself: it would come back at once, as often as it is refused. See `comeback`.
    fn renew(&self) -> Option<Member> {
        None
    }

    fn addr(&self) -> ByName {
        self.key
    }

    fn win_addr_conflict(&self, other: &Member) -> bool {
        // The last two only make the order total: two nodes of one name and generation must be judged alike everywhere.
        fn rank(Member { facts: m, .. }: &Member) -> (u64, bool, [u8; 8], &str) {
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
    fn lives_of_one_node_have_one_address_and_other_names_have_others() {
        let named = |name: &str| Member::unheard(name.parse().unwrap(), "x:1".to_owned()).unwrap().addr();
        assert!(member(1).addr() == member(2).addr());
        let names = ["a", "aa", "b", &"a".repeat(LONGEST_NAME), &"a".repeat(LONGEST_NAME - 1)];
        for (at, name) in names.iter().enumerate() {
            assert!(names.iter().enumerate().all(|(other, n)| (named(n) == named(name)) == (at == other)), "{name}");
        }
        assert!("a".repeat(LONGEST_NAME + 1).parse::<NodeName>().is_err(), "no name is cut off");
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
