//! The bytes of a datagram: its header in clear, and what is inside.

use migrate_proto::name::NodeName;

use super::keys::{BootId, KeyId};

/// The longest body.
pub const MAX_BODY_BYTES: usize = 1300;
/// The header in clear.
pub const HEADER_BYTES: usize = 37;
/// The longest datagram: it fits into one packet of any usual network, IPv6 and a tunnel included.
pub const MAX_DATAGRAM_BYTES: usize = HEADER_BYTES + 2 + LONGEST_NAME + MAX_BODY_BYTES + TAG_BYTES;

/// What AES-GCM appends.
pub(super) const TAG_BYTES: usize = 16;
/// The shortest that can be opened: kind, length of the name, a name of one letter, no body.
pub(super) const SHORTEST: usize = HEADER_BYTES + 3 + TAG_BYTES;

const LONGEST_NAME: usize = 63;
const MAGIC: [u8; 4] = *b"MGRD";
/// Of this way of sealing. What bodies say has versions of its own.
const VERSION: u8 = 1;

/// What is in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: KeyId,
    pub(super) boot: BootId,
    pub(super) counter: u64,
}

/// Why there is no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// Something else than a datagram of migrate.
    Magic,
    /// Of a version that is not spoken here.
    Version,
}

impl Header {
    pub(super) fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5..13].copy_from_slice(&self.key.0);
        bytes[13..29].copy_from_slice(&self.boot.0);
        bytes[29..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The header, and what is sealed.
    pub(super) fn split(datagram: &[u8]) -> Result<(Header, &[u8]), NoHeader> {
        let (head, sealed) = datagram.split_at_checked(HEADER_BYTES).ok_or(NoHeader::Magic)?;
        let mut rest = head;
        match (take(&mut rest), take(&mut rest)) {
            (Some(MAGIC), Some([VERSION])) => {}
            (Some(MAGIC), _) => return Err(NoHeader::Version),
            _ => return Err(NoHeader::Magic),
        }
        let numbers = (take(&mut rest), take(&mut rest), take(&mut rest));
        let (Some(key), Some(boot), Some(counter)) = numbers else { return Err(NoHeader::Magic) };
        Ok((Header { key: KeyId(key), boot: BootId(boot), counter: u64::from_be_bytes(counter) }, sealed))
    }
}

/// What is sealed.
pub(super) fn inside(node: &NodeName, kind: u8, body: &[u8]) -> Vec<u8> {
    let name = node.as_str().as_bytes();
    debug_assert!(name.len() <= LONGEST_NAME, "its type sees to that");
    let mut inside = Vec::with_capacity(2 + name.len() + body.len() + TAG_BYTES);
    inside.extend([kind, name.len() as u8]);
    inside.extend_from_slice(name);
    inside.extend_from_slice(body);
    inside
}

/// Who sealed it, which kind it is, and where the body begins. Nothing where it is not what a node seals.
pub(super) fn read_inside(inside: &[u8]) -> Option<(NodeName, u8, usize)> {
    let [kind, length, rest @ ..] = inside else { return None };
    let (name, body) = rest.split_at_checked(usize::from(*length))?;
    let name = std::str::from_utf8(name).ok()?.parse().ok()?;
    (body.len() <= MAX_BODY_BYTES).then_some((name, *kind, inside.len() - body.len()))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bytes_stay_what_they_are() {
        let header = Header { key: KeyId([1; 8]), boot: BootId([2; 16]), counter: 0x0304 };
        let bytes = [b"MGRD\x01".as_slice(), &[1; 8], &[2; 16], &[0, 0, 0, 0, 0, 0, 3, 4]].concat();
        assert_eq!(header.bytes()[..], bytes);
        assert_eq!(Header::split(&[&bytes[..], b"rest"].concat()).unwrap(), (header, &b"rest"[..]));
        let inside = inside(&"ab".parse().unwrap(), 7, b"body");
        assert_eq!(inside, b"\x07\x02abbody");
        assert_eq!(read_inside(&inside), Some(("ab".parse().unwrap(), 7, 4)));
    }

    #[test]
    fn what_is_no_header_is_told_apart() {
        let good = Header { key: KeyId([1; 8]), boot: BootId([2; 16]), counter: 1 }.bytes();
        assert_eq!(Header::split(&good[..HEADER_BYTES - 1]), Err(NoHeader::Magic));
        let with = |at: usize| {
            let mut bytes = good;
            bytes[at] ^= 1;
            Header::split(&bytes).map(drop)
        };
        assert!((0..4).all(|at| with(at) == Err(NoHeader::Magic)));
        assert_eq!(with(4), Err(NoHeader::Version));
        assert!((5..HEADER_BYTES).all(|at| with(at) == Ok(())));
    }

    #[test]
    fn what_is_no_inside_is_refused() {
        let long = [&b"\x01\x01a"[..], &[0; MAX_BODY_BYTES]].concat();
        assert!(read_inside(&long).is_some());
        assert!(read_inside(&[&long[..], b"x"].concat()).is_none());
        for bad in [&b""[..], b"\x01", b"\x01\x00", b"\x01\x02a", b"\x01\x01A", b"\x01\x01\xff"] {
            assert!(read_inside(bad).is_none(), "{bad:?}");
        }
    }
}
