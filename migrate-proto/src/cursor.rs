//! How far a reader of events is, so that it can go on elsewhere without a gap.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::api::Event;
use crate::name::NodeName;

/// How far a reader of events is: the number of the last event that it has of each node. In words: `node1:17,node2:4`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cursor(BTreeMap<NodeName, u64>);

impl Cursor {
    /// Goes on to an event; false where the reader has had it already.
    pub fn pass(&mut self, event: &Event) -> bool {
        let fresh = event.number == 0 || event.number > self.of(&event.node);
        if fresh && event.number > 0 {
            self.0.insert(event.node.clone(), event.number);
        }
        fresh
    }

    /// The last event that the reader has of a node; 0 where it has none.
    pub fn of(&self, node: &NodeName) -> u64 {
        self.0.get(node).copied().unwrap_or_default()
    }

    /// Whether the reader has nothing yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (node, number)) in self.0.iter().enumerate() {
            write!(f, "{}{node}:{number}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A cursor that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cursor: it has to be like node1:17,node2:4")]
pub struct CursorError(String);

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Cursor, CursorError> {
        text.parse()
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let part = |part: &str| {
            let (node, number) = part.split_once(':')?;
            Some((node.parse().ok()?, number.parse().ok()?))
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(part).collect::<Option<_>>().map(Cursor).ok_or_else(|| CursorError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn event(node: &str, number: u64) -> Event {
        let json = serde_json::json!({"at": "", "node": node, "number": number, "workload": null, "kind": "moved", "phase": null, "message": ""});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_event_passes_once_and_remarks_always() {
        let mut cursor = Cursor::default();
        assert!(cursor.is_empty());
        for (node, number, fresh) in [
            ("a", 7, true),
            ("a", 7, false),
            ("a", 6, false),
            ("b", 6, true),
            ("a", 8, true),
            ("a", 0, true),
            ("a", 0, true),
        ] {
            assert_eq!(cursor.pass(&event(node, number)), fresh, "{node} {number}");
        }
        assert_eq!(cursor.to_string(), "a:8,b:6");
    }

    #[test]
    fn words_and_back() {
        for text in ["", "a:1", "a:1,node-2:18446744073709551615"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["a", "a:", ":1", "A:1", "a:-1", "a:1;b:2", "a:1,,b", "a:18446744073709551616"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
