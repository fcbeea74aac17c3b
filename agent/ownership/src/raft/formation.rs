//! Which cluster a node belongs to that has no record yet: it founds one, joins one, or waits.
//!
//! Founding is what must never happen twice. So only the first of the nodes that were named to all does it, and only when a majority of
//! them say that they know of no cluster: a first node that has lost its disk finds its cluster again.

use std::collections::BTreeMap;

use migrate_proto::cluster::ClusterId;
use migrate_proto::name::NodeName;
use thiserror::Error;

use crate::types::Place;

/// Where a new node was told to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// The nodes that make up the cluster at first, the same list on all of them. Empty for one that is alone or joins.
    pub members: Vec<Place>,
    /// Addresses of members of a cluster that exists. Who has any never founds one.
    pub join: Vec<String>,
}

/// Roots that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRoots {
    /// It would wait for ever.
    #[error("'{0}' is not one of the members that it was told")]
    NotOne(NodeName),
    /// Two that could not both found.
    #[error("'{0}' is named twice among the members")]
    Twice(NodeName),
    /// Either the cluster exists, or it does not.
    #[error("both members and somebody to join are named: a cluster is either new or not")]
    Both,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Formation {
    /// Begin a cluster.
    Found,
    /// Be one of this cluster.
    Join(ClusterId),
    /// Ask again. Why is for people, where there is something to do for them.
    Wait(Option<String>),
}

/// What has been heard, by who said it: the cluster that it knows, if it knows one.
pub(crate) type Heard = BTreeMap<NodeName, Option<ClusterId>>;

impl Roots {
    /// Whether they make sense for the node `me`.
    pub fn check(&self, me: &NodeName) -> Result<(), BadRoots> {
        if self.members.is_empty() {
            return Ok(());
        }
        if !self.join.is_empty() {
            return Err(BadRoots::Both);
        }
        for (at, place) in self.members.iter().enumerate() {
            if self.members.iter().skip(at + 1).any(|other| other.name == place.name) {
                return Err(BadRoots::Twice(place.name.clone()));
            }
        }
        if self.members.iter().any(|place| place.name == *me) { Ok(()) } else { Err(BadRoots::NotOne(me.clone())) }
    }

    pub(crate) fn decide(&self, me: &NodeName, heard: &Heard) -> Formation {
        let mut clusters = heard.iter().filter_map(|(name, cluster)| Some((name, (*cluster)?)));
        if let Some((first, cluster)) = clusters.next() {
            return match clusters.find(|(_, other)| *other != cluster) {
                None => Formation::Join(cluster),
                Some((second, other)) => Formation::Wait(Some(format!(
                    "'{first}' belongs to the cluster {cluster}, '{second}' to {other}: name only members of one"
                ))),
            };
        }
        if self.members.is_empty() && self.join.is_empty() {
            return Formation::Found;
        }
        if self.members.first().is_none_or(|first| first.name != *me) {
            return Formation::Wait(None);
        }
        let others = self.members.iter().filter(|place| place.name != *me && heard.contains_key(&place.name));
        if 1 + others.count() > self.members.len() / 2 { Formation::Found } else { Formation::Wait(None) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn members(names: &[&str]) -> Roots {
        let place = |text: &&str| Place { name: name(text), address: format!("{text}:1") };
        Roots { members: names.iter().map(place).collect(), join: Vec::new() }
    }

    fn heard(said: &[(&str, Option<u8>)]) -> Heard {
        said.iter().map(|(who, cluster)| (name(who), cluster.map(|byte| ClusterId([byte; 16])))).collect()
    }

    #[test]
    fn only_the_first_founds_and_only_with_a_majority_that_knows_of_none() {
        let roots = members(&["a", "b", "c"]);
        let wait = Formation::Wait(None);
        assert_eq!(roots.decide(&name("a"), &heard(&[])), wait);
        assert_eq!(roots.decide(&name("a"), &heard(&[("x", None), ("y", None)])), wait, "strangers do not count");
        assert_eq!(roots.decide(&name("a"), &heard(&[("a", None)])), wait, "it counts once");
        assert_eq!(roots.decide(&name("a"), &heard(&[("b", None)])), Formation::Found);
        assert_eq!(roots.decide(&name("b"), &heard(&[("a", None), ("c", None)])), wait);
        assert_eq!(members(&["a", "b"]).decide(&name("a"), &heard(&[])), wait, "one of two is no majority");
        assert_eq!(members(&["a"]).decide(&name("a"), &heard(&[])), Formation::Found);
        assert_eq!(Roots::default().decide(&name("a"), &heard(&[])), Formation::Found, "alone");
    }

    #[test]
    fn a_cluster_that_exists_is_joined_also_by_the_first() {
        let roots = members(&["a", "b", "c"]);
        let join = Formation::Join(ClusterId([7; 16]));
        assert_eq!(roots.decide(&name("a"), &heard(&[("b", None), ("c", Some(7))])), join);
        assert_eq!(roots.decide(&name("b"), &heard(&[("a", Some(7)), ("c", Some(7))])), join);
        let joiner = Roots { members: Vec::new(), join: vec!["a:1".to_owned()] };
        assert_eq!(joiner.decide(&name("d"), &heard(&[("a", None)])), Formation::Wait(None), "it never founds");
        assert_eq!(joiner.decide(&name("d"), &heard(&[("a", Some(7))])), join);
    }

    #[test]
    fn of_two_clusters_none_is_joined() {
        let said = members(&["a", "b", "c"]).decide(&name("a"), &heard(&[("b", Some(1)), ("c", Some(2))]));
        let Formation::Wait(Some(why)) = said else { panic!("{said:?}") };
        assert!(why.contains("'b'") && why.contains("'c'"), "{why}");
    }

    #[test]
    fn roots_that_make_no_sense_are_refused() {
        assert_eq!(members(&["a", "b"]).check(&name("c")), Err(BadRoots::NotOne(name("c"))));
        assert_eq!(members(&["a", "b", "a"]).check(&name("b")), Err(BadRoots::Twice(name("a"))));
        let both = Roots { join: vec!["x:1".to_owned()], ..members(&["a"]) };
        assert_eq!(both.check(&name("a")), Err(BadRoots::Both));
        assert_eq!(members(&["a", "b"]).check(&name("b")), Ok(()));
    }
}
