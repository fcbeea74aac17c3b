//! Which protocol two agents speak: each offers a range, the highest version that both know is taken.
//!
//! A version says which messages the other side understands. Messages are only ever appended, so an agent that knows
//! version 3 can speak 2 by not sending what 3 added.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Problem};

/// A version of the protocol.
pub type Version = u16;

/// The versions that an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub min: Version,
    /// The newest.
    pub max: Version,
}

/// What this agent speaks.
pub const SPOKEN: Versions = Versions { min: 1, max: 1 };

impl Versions {
    /// The highest version in both ranges; else a problem that says what each side speaks.
    pub fn choose(self, theirs: Versions) -> Result<Version, Problem> {
        let highest = self.max.min(theirs.max);
        if highest >= self.min && highest >= theirs.min {
            return Ok(highest);
        }
        let which_is_old = if theirs.max < self.min { "the other node" } else { "this node" };
        let message = format!(
            "no common protocol version: this agent speaks {} to {}, the other {} to {}",
            self.min, self.max, theirs.min, theirs.max
        );
        Err(Problem::new(Code::PeerVersion, message).hint(format!("upgrade the agent on {which_is_old}")))
    }

    /// Whether `version` is one of them.
    pub fn contains(self, version: Version) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const fn range(min: Version, max: Version) -> Versions {
        Versions { min, max }
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(range(1, 3).choose(range(2, 5)).unwrap(), 3);
        assert_eq!(range(4, 4).choose(range(1, 9)).unwrap(), 4);
        assert_eq!(SPOKEN.choose(SPOKEN).unwrap(), SPOKEN.max);
    }

    #[test]
    fn a_refusal_names_both_ranges_and_who_is_behind() {
        let problem = range(3, 4).choose(range(1, 2)).unwrap_err();
        assert_eq!(problem.code, Code::PeerVersion);
        assert_eq!(problem.message, "no common protocol version: this agent speaks 3 to 4, the other 1 to 2");
        assert_eq!(problem.hint, "upgrade the agent on the other node");
        assert_eq!(range(1, 2).choose(range(3, 4)).unwrap_err().hint, "upgrade the agent on this node");
    }

    #[test]
    fn an_inverted_offer_is_refused() {
        assert!(range(1, 5).choose(range(4, 2)).is_err());
    }

    proptest! {
        #[test]
        fn both_sides_choose_the_same(a: (u16, u16), b: (u16, u16)) {
            let (ours, theirs) = (range(a.0, a.1), range(b.0, b.1));
            let chosen = ours.choose(theirs).ok();
            prop_assert_eq!(chosen, theirs.choose(ours).ok());
            if let Some(version) = chosen {
                prop_assert!(ours.contains(version) && theirs.contains(version));
            }
        }
    }
}
