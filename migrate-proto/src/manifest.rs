//! What an image consists of: the list of its streams, each with its length and digest.
//!
//! The source sends it when the last byte is out; the target compares, and restores only what matches. On disk it is
//! JSON beside the streams, and its format version is read before anything else of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Digest, Epoch};
use crate::name::NodeName;

/// The version of the image's format: of the set of streams and what they mean, not of the product.
pub const FORMAT: u32 = 1;

/// How many streams an image may have. CRIU writes about ten for a process, so this is some four hundred processes.
pub const MAX_STREAMS: usize = 4096;

/// How long the name of a stream may be.
pub const MAX_NAME_BYTES: usize = 128;

/// Why something is no manifest that can be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or not with the fields of this format.
    #[error("the image's manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Of a format that is not known here.
    #[error("the image has format {found}; this agent knows formats 1 to {FORMAT}")]
    Format {
        /// The format it has.
        found: u32,
    },
    /// No streams at all.
    #[error("the image's manifest lists no stream")]
    Empty,
    /// More streams than allowed.
    #[error("the image's manifest lists {count} streams; at most {MAX_STREAMS} are accepted")]
    TooMany {
        /// How many it lists.
        count: usize,
    },
    /// The same stream twice.
    #[error("the image's manifest lists the stream '{name}' twice")]
    Twice {
        /// Which.
        name: StreamName,
    },
}

/// Why a string is no name of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{shown}' is not the name of a stream: 'layer', or 'image/' and a plain file name")]
pub struct InvalidStreamName {
    shown: String,
}

/// The name of a stream: `layer`, or `image/` and the name of one of CRIU's image files.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);

impl StreamName {
    const IMAGE: &str = "image/";
    const LAYER: &str = "layer";

    /// The workload's files.
    pub fn layer() -> StreamName {
        StreamName(Self::LAYER.to_owned())
    }

    /// The image file of CRIU that is called `file`.
    pub fn image(file: &str) -> Result<StreamName, InvalidStreamName> {
        StreamName::try_from(format!("{}{file}", Self::IMAGE))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of CRIU's image file; `None` for the layer.
    pub fn image_file(&self) -> Option<&str> {
        self.0.strip_prefix(Self::IMAGE)
    }
}

/// A file name that stays in its directory on every file system: no separator, not hidden, so neither `.` nor `..`.
fn is_plain_file_name(file: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !file.is_empty() && !file.starts_with('.') && !file.contains("..") && file.bytes().all(plain)
}

impl TryFrom<String> for StreamName {
    type Error = InvalidStreamName;
    fn try_from(name: String) -> Result<StreamName, InvalidStreamName> {
        let valid = name == Self::LAYER || name.strip_prefix(Self::IMAGE).is_some_and(is_plain_file_name);
        if valid && name.len() <= MAX_NAME_BYTES {
            return Ok(StreamName(name));
        }
        Err(InvalidStreamName { shown: name.escape_debug().take(80).collect() })
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> String {
        name.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One stream of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Which.
    pub name: StreamName,
    /// How many bytes it has.
    pub length: u64,
    /// The digest of all of them.
    #[serde(with = "hex_digest")]
    pub digest: Digest,
}

/// An image's table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the image's format.
    pub format: u32,
    /// The CRIU that made it.
    pub criu_version: String,
    /// The node that made it.
    pub made_by: NodeName,
    /// The workload's epoch when it was made.
    pub epoch: Epoch,
    /// What it consists of.
    pub streams: Vec<Stream>,
}

impl Manifest {
    /// A manifest of the present format.
    pub fn new(criu_version: String, made_by: NodeName, epoch: Epoch, streams: Vec<Stream>) -> Manifest {
        Manifest { format: FORMAT, criu_version, made_by, epoch, streams }
    }

    /// Reads a manifest from disk. The format is read first: of another format nothing else is looked at.
    pub fn from_json(json: &[u8]) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let FormatOnly { format } = serde_json::from_slice(json)?;
        check_format(format)?;
        let manifest: Manifest = serde_json::from_slice(json)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// As it is written to disk.
    pub fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Checks what the types do not: format, number of streams, no stream twice.
    pub fn validate(&self) -> Result<(), ManifestError> {
        check_format(self.format)?;
        if self.streams.is_empty() {
            return Err(ManifestError::Empty);
        }
        if self.streams.len() > MAX_STREAMS {
            return Err(ManifestError::TooMany { count: self.streams.len() });
        }
        let mut names: Vec<&StreamName> = self.streams.iter().map(|stream| &stream.name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ManifestError::Twice { name: pair[0].clone() }),
            None => Ok(()),
        }
    }

    /// The stream of that name.
    pub fn stream(&self, name: &StreamName) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.name == *name)
    }

    /// The bytes of all streams together.
    pub fn total_bytes(&self) -> u64 {
        self.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.length))
    }
}

fn check_format(found: u32) -> Result<(), ManifestError> {
    if (1..=FORMAT).contains(&found) { Ok(()) } else { Err(ManifestError::Format { found }) }
}

/// A digest as 64 hexadecimal digits in JSON, so that a person can compare it; as its bytes on the wire.
mod hex_digest {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::id::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(digest) } else { digest.serialize(serializer) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        if !deserializer.is_human_readable() {
            return Digest::deserialize(deserializer);
        }
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("a digest has 64 hexadecimal digits"))
    }

    fn parse(text: &str) -> Option<Digest> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Digest(digest))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stream(name: StreamName) -> Stream {
        Stream { name, length: 5, digest: Digest::of(b"hello") }
    }

    fn manifest(streams: Vec<Stream>) -> Manifest {
        Manifest::new("4.2.1".to_owned(), "node1".parse().unwrap(), Epoch(3), streams)
    }

    #[test]
    fn names_of_streams_cannot_leave_their_directory() {
        for good in ["layer", "image/pages-1.img", "image/core-100.img", "image/tmpfs-dev-3.tar.gz.img"] {
            assert_eq!(StreamName::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let too_long = format!("image/{}", "x".repeat(MAX_NAME_BYTES));
        for bad in
            ["", "layer2", "image/", "image/..", "image/.hidden", "image/a/b", "image/a..b", "image/a\0", &too_long]
        {
            assert!(StreamName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(StreamName::image("inventory.img").unwrap().image_file(), Some("inventory.img"));
        assert_eq!(StreamName::layer().image_file(), None);
    }

    #[test]
    fn survives_the_disk_and_shows_digests_as_hex() {
        let manifest = manifest(vec![stream(StreamName::layer()), stream(StreamName::image("pages-1.img").unwrap())]);
        let json = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
        let shown = format!("\"digest\": \"{}\"", Digest::of(b"hello"));
        assert!(String::from_utf8(json).unwrap().contains(&shown));
        assert_eq!(manifest.total_bytes(), 10);
    }

    #[test]
    fn the_format_is_judged_before_the_rest_is_read() {
        let future = br#"{"format": 2, "streams": "something else entirely"}"#;
        assert!(matches!(Manifest::from_json(future), Err(ManifestError::Format { found: 2 })));
        assert!(matches!(Manifest::from_json(br#"{"format": 0}"#), Err(ManifestError::Format { found: 0 })));
        assert!(matches!(Manifest::from_json(br#"{"format": 1}"#), Err(ManifestError::Json(_))));
    }

    #[test]
    fn json_cannot_smuggle_a_bad_name_or_digest_in() {
        let json = String::from_utf8(manifest(vec![stream(StreamName::layer())]).to_json().unwrap()).unwrap();
        assert!(Manifest::from_json(json.replace("\"layer\"", "\"../layer\"").as_bytes()).is_err());
        let digest = Digest::of(b"hello").to_string();
        assert!(Manifest::from_json(json.replace(&digest, &digest[1..]).as_bytes()).is_err());
        assert!(Manifest::from_json(json.replace(&digest, &format!("+{}", &digest[1..])).as_bytes()).is_err());
    }

    #[test]
    fn counts_and_doubles_are_refused() {
        assert!(matches!(manifest(vec![]).validate(), Err(ManifestError::Empty)));
        let twice = manifest(vec![stream(StreamName::layer()), stream(StreamName::layer())]);
        assert!(matches!(twice.validate(), Err(ManifestError::Twice { name }) if name == StreamName::layer()));
        let numbered = |n| (0..n).map(|i| stream(StreamName::image(&format!("f{i}")).unwrap())).collect();
        assert!(manifest(numbered(MAX_STREAMS)).validate().is_ok());
        assert!(matches!(manifest(numbered(MAX_STREAMS + 1)).validate(), Err(ManifestError::TooMany { .. })));
    }
}
