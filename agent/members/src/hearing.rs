//! Who was heard directly, and when; and two nodes of one name, noticed by what they say.
//!
//! A node that lost its state comes with another mark: that is no harm, if the old one is silent from then on. If it is heard again
//! after the new one, and not just by a datagram that was late, there are two.

use std::collections::BTreeMap;
use std::time::Duration;

use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;

use crate::member::Member;

/// Who was heard under each name.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    heard: BTreeMap<NodeName, Heard>,
    /// Who else was heard under this node's name.
    mine: Option<Member>,
}

#[derive(Debug)]
struct Heard {
    mark: StateMark,
    last: Duration,
    before: Option<Before>,
    said: bool,
}

#[derive(Debug)]
struct Before {
    mark: StateMark,
    /// When the other was first heard.
    until: Duration,
}

impl Hearing {
    /// A datagram of `from` came directly. Returns the two marks the first time that there are two, and again if a third comes. A
    /// datagram of the one before can be late by `margin`. Under the name of `me` nobody else talks, late or not.
    pub(crate) fn heard(
        &mut self,
        now: Duration,
        me: &Member,
        from: &Member,
        margin: Duration,
    ) -> Option<[StateMark; 2]> {
        let mark = from.mark();
        if from.name() == me.name() {
            if mark == me.mark() {
                return None;
            }
            let before = self.mine.replace(from.clone());
            return before.is_none_or(|before| before.mark() != mark).then(|| [me.mark(), mark]);
        }
        let Some(heard) = self.heard.get_mut(from.name()) else {
            self.heard.insert(from.name().clone(), Heard { mark, last: now, before: None, said: false });
            return None;
        };
        if heard.mark == mark {
            heard.last = now;
            return None;
        }
        match &heard.before {
            Some(before) if before.mark == mark => {
                if heard.said || now < before.until + margin {
                    return None;
                }
                heard.said = true;
                Some([before.mark, heard.mark])
            }
            _ => {
                heard.before = Some(Before { mark: heard.mark, until: now });
                heard.mark = mark;
                heard.last = now;
                heard.said = false;
                None
            }
        }
    }

    /// When a node of this name was heard last.
    pub(crate) fn last(&self, name: &NodeName) -> Option<Duration> {
        self.heard.get(name).map(|heard| heard.last)
    }

    /// Who else has this node's name.
    pub(crate) fn namesake(&self) -> Option<&Member> {
        self.mine.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MARGIN: Duration = Duration::from_millis(500);

    fn of(name: &str, mark: u8) -> Member {
        Member::new(name.parse().unwrap(), StateMark([mark; 8]), 1, "x:1".to_owned()).unwrap()
    }

    /// What is found in datagrams of these marks at these milliseconds.
    fn found(heard: &[(u64, u8)]) -> Vec<[u8; 2]> {
        let mut hearing = Hearing::default();
        let hear =
            |(at, mark): &(u64, u8)| hearing.heard(Duration::from_millis(*at), &of("b", 0), &of("a", *mark), MARGIN);
        heard.iter().filter_map(hear).map(|marks| marks.map(|mark| mark.0[0])).collect()
    }

    #[test]
    fn a_node_that_lost_its_state_is_no_namesake() {
        assert!(found(&[(0, 1), (10, 2), (2000, 2)]).is_empty());
        assert!(found(&[(0, 1), (10, 2), (20, 1), (30, 2), (2000, 2)]).is_empty(), "datagrams that were late");
    }

    #[test]
    fn two_that_go_on_talking_are_said_once() {
        assert_eq!(found(&[(0, 1), (10, 2), (509, 1), (510, 1), (600, 2), (700, 1)]), [[1, 2]]);
    }

    #[test]
    fn a_third_is_said_again() {
        assert_eq!(found(&[(0, 1), (10, 2), (600, 1), (700, 3), (1300, 2)]), [[1, 2], [2, 3]]);
    }

    #[test]
    fn another_under_ones_own_name_is_said_at_once() {
        let mut hearing = Hearing::default();
        let mut hear = |mark| hearing.heard(Duration::ZERO, &of("a", 1), &of("a", mark), MARGIN);
        assert_eq!(hear(1), None, "an echo of this node's last life");
        assert_eq!(hear(2), Some([StateMark([1; 8]), StateMark([2; 8])]));
        assert_eq!(hear(2), None);
    }
}
