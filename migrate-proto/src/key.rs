//! Cluster keys, and what a key file says: who has a key belongs to the cluster.
//!
//! A file holds a ring: up to [`MOST_KEYS`] keys, one a line as 64 hexadecimal digits, and lines that begin with `#`. The first
//! key issues the node's certificate, all of them are trusted. So keys can be replaced one file at a time:
//!
//! | step | the file | issues | trusts |
//! |---|---|---|---|
//! | | `A` | A | A |
//! | add | `A B` | A | A, B |
//! | promote | `B A` | B | A, B |
//! | retire | `B` | B | B |
//!
//! Any two nodes whose files are a step apart trust what the other one issues.
//!
//! Keys are wiped when they are dropped, never shown, and compared in constant time. People see [`Fingerprint`]s.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The length of a key.
pub const KEY_BYTES: usize = 32;
/// How many keys a ring may have.
pub const MOST_KEYS: usize = 4;
/// A file with more bytes is no key file.
pub const LONGEST_FILE: usize = 16 << 10;

/// The secret that makes nodes a cluster. On the heap, so that moving it leaves no copy behind.
pub struct ClusterKey(Box<[u8; KEY_BYTES]>);

/// What people call a key; it tells nothing about the key itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

/// The keys of a file, in its order; at least one, and none twice.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyRing(Vec<ClusterKey>);

/// What is wrong with a key file, without a word of what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// There is no key.
    #[error("there is no key in it")]
    Empty,
    /// A line is no key.
    #[error("line {0} is not 64 hexadecimal digits")]
    Line(usize),
    /// A key is there twice.
    #[error("line {0} repeats a key")]
    Twice(usize),
    /// There are too many.
    #[error("there are more than {MOST_KEYS} keys in it")]
    TooMany,
    /// It is too long, or no text.
    #[error("it is not a key file")]
    NoKeyFile,
}

/// Why a ring was not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RingError {
    /// It has as many keys as it may.
    #[error("there are {MOST_KEYS} keys already; retire one first")]
    Full,
    /// It has the key.
    #[error("the key {0} is there already")]
    Twice(Fingerprint),
    /// It has no such key.
    #[error("there is no key {wanted}; there are: {}", listed(there))]
    Unknown {
        /// What was asked for.
        wanted: Fingerprint,
        /// What there is.
        there: Vec<Fingerprint>,
    },
    /// The node would have no certificate.
    #[error("the key {0} issues this node's certificate; promote another one first")]
    InUse(Fingerprint),
}

/// No fingerprint: not 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{}' is not a key's name: 16 hexadecimal digits", .0.escape_debug())]
pub struct NoFingerprint(String);

/// Fingerprints for people.
pub fn listed(fingerprints: &[Fingerprint]) -> String {
    fingerprints.iter().map(|one| one.0.as_str()).collect::<Vec<_>>().join(", ")
}

impl ClusterKey {
    /// The key that `fill` writes.
    pub fn filled<E>(fill: impl FnOnce(&mut [u8; KEY_BYTES]) -> Result<(), E>) -> Result<ClusterKey, E> {
        let mut key = ClusterKey(Box::new([0; KEY_BYTES]));
        fill(&mut key.0)?;
        Ok(key)
    }

    /// The key that has these bytes. What becomes of the caller's is the caller's affair: see [`ClusterKey::filled`].
    pub fn copied(bytes: &[u8; KEY_BYTES]) -> ClusterKey {
        ClusterKey(Box::new(*bytes))
    }

    /// For what is derived from it.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What people call it.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash =
            blake3::Hasher::new_derive_key("migrate cluster key v1: fingerprint").update(&*self.0).finalize();
        let digits = hash.to_hex().chars().take(16).collect();
        hash.zeroize();
        Fingerprint(digits)
    }

    fn from_hex(digits: &str) -> Option<ClusterKey> {
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        let filled = ClusterKey::filled(|key| {
            for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
                let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(());
                *byte = u8::try_from(digit(0)? << 4 | digit(1)?).map_err(drop)?;
            }
            Ok::<(), ()>(())
        });
        filled.ok()
    }

    fn write_to(&self, text: &mut String) {
        for byte in *self.0 {
            text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
        }
        text.push('\n');
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// In constant time: `blake3::Hash` compares so.
impl PartialEq for ClusterKey {
    fn eq(&self, other: &ClusterKey) -> bool {
        let (mut one, mut two) = (blake3::Hash::from_bytes(*self.0), blake3::Hash::from_bytes(*other.0));
        let equal = one == two;
        one.zeroize();
        two.zeroize();
        equal
    }
}

impl Eq for ClusterKey {}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.fingerprint())
    }
}

impl AsRef<[ClusterKey]> for ClusterKey {
    fn as_ref(&self) -> &[ClusterKey] {
        std::slice::from_ref(self)
    }
}

impl AsRef<[ClusterKey]> for KeyRing {
    fn as_ref(&self) -> &[ClusterKey] {
        &self.0
    }
}

impl KeyRing {
    /// A ring of one.
    pub fn of(key: ClusterKey) -> KeyRing {
        KeyRing(vec![key])
    }

    /// What a key file says.
    pub fn parse(file: &[u8]) -> Result<KeyRing, KeyFileError> {
        if file.len() > LONGEST_FILE {
            return Err(KeyFileError::NoKeyFile);
        }
        let text = std::str::from_utf8(file).map_err(|_| KeyFileError::NoKeyFile)?;
        let mut ring = KeyRing(Vec::with_capacity(MOST_KEYS));
        for (number, line) in (1..).zip(text.lines().map(str::trim_ascii)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = ClusterKey::from_hex(line).ok_or(KeyFileError::Line(number))?;
            ring.add(key).map_err(|error| match error {
                RingError::Twice(_) => KeyFileError::Twice(number),
                _ => KeyFileError::TooMany,
            })?;
        }
        if ring.0.is_empty() { Err(KeyFileError::Empty) } else { Ok(ring) }
    }

    /// The file that says this.
    pub fn file(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity((2 * KEY_BYTES + 1) * self.0.len()));
        self.0.iter().for_each(|key| key.write_to(&mut text));
        text
    }

    /// The key that issues certificates.
    pub fn first(&self) -> &ClusterKey {
        &self.0[0]
    }

    /// The names of all, in their order.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.0.iter().map(ClusterKey::fingerprint).collect()
    }

    /// Trusts one more.
    pub fn add(&mut self, key: ClusterKey) -> Result<(), RingError> {
        if self.0.contains(&key) {
            return Err(RingError::Twice(key.fingerprint()));
        }
        if self.0.len() == MOST_KEYS {
            return Err(RingError::Full);
        }
        self.0.push(key);
        Ok(())
    }

    /// Puts one first. False where it is first already.
    pub fn promote(&mut self, wanted: &Fingerprint) -> Result<bool, RingError> {
        let at = self.position(wanted)?;
        self.0[..=at].rotate_right(1);
        Ok(at != 0)
    }

    /// Takes one out.
    pub fn retire(&mut self, wanted: &Fingerprint) -> Result<(), RingError> {
        match self.position(wanted)? {
            0 => Err(RingError::InUse(wanted.clone())),
            at => {
                self.0.remove(at);
                Ok(())
            }
        }
    }

    fn position(&self, wanted: &Fingerprint) -> Result<usize, RingError> {
        let there = self.fingerprints();
        let at = there.iter().position(|one| one == wanted);
        at.ok_or_else(|| RingError::Unknown { wanted: wanted.clone(), there })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        Fingerprint::try_from(text.to_ascii_lowercase())
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NoFingerprint;

    fn try_from(text: String) -> Result<Fingerprint, NoFingerprint> {
        let good = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if good { Ok(Fingerprint(text)) } else { Err(NoFingerprint(text)) }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::copied(&[byte; KEY_BYTES])
    }

    fn ring(bytes: &[u8]) -> KeyRing {
        KeyRing(bytes.iter().map(|byte| key(*byte)).collect())
    }

    fn digits(byte: u8) -> String {
        format!("{byte:02x}").repeat(KEY_BYTES)
    }

    #[test]
    fn a_file_says_keys_in_their_order() {
        let text = format!("# old\n{}\n\n  {}\t\n# end", digits(0xAB).to_uppercase(), digits(1));
        let read = KeyRing::parse(text.as_bytes()).unwrap();
        assert_eq!(read, ring(&[0xab, 1]));
        assert_eq!(*read.file(), format!("{}\n{}\n", digits(0xab), digits(1)));
        assert_eq!(KeyRing::parse(read.file().as_bytes()).unwrap(), read);
    }

    #[test]
    fn what_is_no_key_file_is_refused_and_not_shown() {
        let refused = |text: &str| KeyRing::parse(text.as_bytes()).unwrap_err();
        for empty in ["", "\n\n", "# only words\n"] {
            assert_eq!(refused(empty), KeyFileError::Empty);
        }
        for odd in [&digits(1)[1..], &format!("{}0", digits(1)), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(refused(&format!("#\n{odd}\n")), KeyFileError::Line(2), "{odd}");
        }
        assert_eq!(refused(&format!("{0}\n{0}\n", digits(1))), KeyFileError::Twice(2));
        let many: String = (1..=5).map(|byte| digits(byte) + "\n").collect();
        assert_eq!(refused(&many), KeyFileError::TooMany);
        assert_eq!(KeyRing::parse(&[0xff; 64]), Err(KeyFileError::NoKeyFile));
        assert_eq!(refused(&"#".repeat(LONGEST_FILE + 1)), KeyFileError::NoKeyFile);
    }

    #[test]
    fn a_rotation_goes_step_by_step() {
        let mut keys = ring(&[1]);
        let (old, new) = (key(1).fingerprint(), key(2).fingerprint());
        keys.add(key(2)).unwrap();
        assert_eq!(keys, ring(&[1, 2]));
        assert_eq!(keys.retire(&old), Err(RingError::InUse(old.clone())));
        assert_eq!(keys.promote(&new), Ok(true));
        assert_eq!(keys.promote(&new), Ok(false), "to say it twice does no harm");
        assert_eq!(keys, ring(&[2, 1]));
        keys.retire(&old).unwrap();
        assert_eq!(keys, ring(&[2]));
        assert!(matches!(keys.retire(&old), Err(RingError::Unknown { .. })));
        assert_eq!(keys.add(key(2)), Err(RingError::Twice(new)));
    }

    #[test]
    fn promoting_keeps_the_order_of_the_others_and_a_ring_has_an_end() {
        let mut keys = ring(&[1, 2, 3, 4]);
        keys.promote(&key(3).fingerprint()).unwrap();
        assert_eq!(keys, ring(&[3, 1, 2, 4]));
        assert_eq!(keys.add(key(5)), Err(RingError::Full));
    }

    #[test]
    fn a_key_is_never_shown() {
        let shown = format!("{:?}", ring(&[7]));
        assert_eq!(shown, format!("KeyRing([ClusterKey({})])", key(7).fingerprint()));
        assert!(!shown.contains("0707"));
        assert_ne!(key(7).fingerprint(), key(8).fingerprint());
    }

    #[test]
    fn a_fingerprint_is_sixteen_digits() {
        let name: Fingerprint = "0123456789ABCDEF".parse().unwrap();
        assert_eq!(name.to_string(), "0123456789abcdef");
        for odd in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef0"] {
            assert!(odd.parse::<Fingerprint>().is_err(), "{odd}");
        }
    }
}
