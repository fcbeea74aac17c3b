//! Names of nodes and workloads: `[a-z0-9][a-z0-9-]{0,62}`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a string is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{shown}' is not a name: use 1 to 63 of a-z, 0-9 and '-', not starting with '-'")]
pub struct InvalidName {
    shown: String,
}

fn check(text: &str) -> Result<(), InvalidName> {
    let valid_byte = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let bytes = text.as_bytes();
    if (1..=63).contains(&bytes.len()) && bytes.iter().all(valid_byte) && bytes[0] != b'-' {
        return Ok(());
    }
    Err(InvalidName { shown: text.escape_debug().take(80).collect() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a node: one machine, one agent.
    NodeName
);
name_type!(
    /// The name of a workload: unique in the cluster.
    WorkloadName
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn accepts_what_the_contract_allows() {
        for good in ["a", "0", "web", "web-1", "a--", &"x".repeat(63)] {
            assert_eq!(good.parse::<WorkloadName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn refuses_everything_else_and_shows_it_escaped() {
        for bad in ["", "-a", "A", "a b", "a/b", "..", "ä", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
        assert!("a\nb".parse::<NodeName>().unwrap_err().to_string().contains("'a\\nb'"));
    }

    #[test]
    fn json_cannot_smuggle_a_bad_name_in() {
        assert!(serde_json::from_str::<NodeName>("\"../etc\"").is_err());
    }
}
