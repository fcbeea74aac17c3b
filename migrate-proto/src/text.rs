//! Arguments, environment and paths are bytes that are usually text. [`Text`] carries them unharmed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes without NUL that are usually UTF-8. In JSON a string where it is UTF-8, else an array of numbers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// `None` where `bytes` contain NUL: the kernel could not carry it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Text> {
        let bytes = bytes.into();
        (!bytes.contains(&0)).then_some(Text(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the operating system's string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Into the operating system's string.
    pub fn into_os_string(self) -> OsString {
        OsString::from_vec(self.0)
    }
}

/// For literals and other strings known to hold no NUL; a NUL ends the text, as it would for the kernel.
impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.bytes().take_while(|b| *b != 0).collect())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Readable {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            match Readable::deserialize(deserializer)? {
                Readable::Utf8(text) => text.into_bytes(),
                Readable::Bytes(bytes) => bytes,
            }
        } else {
            Vec::<u8>::deserialize(deserializer)?
        };
        Text::new(bytes)
            .ok_or_else(|| serde::de::Error::custom("a NUL byte, which no argument, variable or path can hold"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn odd_bytes_survive_json() {
        for bytes in [&b"plain"[..], b"sp ace\"quote'\nline", b"\xff\xfe", b""] {
            let text = Text::new(bytes).unwrap();
            let json = serde_json::to_string(&text).unwrap();
            assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text, "{json}");
        }
    }

    #[test]
    fn nul_is_refused_everywhere() {
        assert_eq!(Text::new(&b"a\0b"[..]), None);
        assert!(serde_json::from_str::<Text>("\"a\\u0000b\"").is_err());
    }
}
