//! Reads the members of a tar archive one after the other: ustar, GNU and PAX.
//!
//! The `tar` crate reads the headers. The rest is done here, because that crate ends a PAX value at its first newline, so
//! that a name with a newline silently becomes another, and because it reads headers of any length into memory.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};
use thiserror::Error;

use super::tree::Metadata;

const BLOCK: u64 = 512;
const XATTR: &[u8] = b"SCHILY.xattr.";
const PAX_SPARSE: &[u8] = b"GNU.sparse.";

/// Why the next member cannot be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// The archive makes no sense, ends too early or cannot be read.
    #[error(transparent)]
    Damaged(#[from] io::Error),
    /// What describes one member is longer than allowed.
    #[error("too many headers")]
    TooLong,
    /// A sparse file in a form that is not read.
    #[error("sparse in PAX's way")]
    PaxSparse {
        /// Which member.
        name: Vec<u8>,
    },
}

fn damaged(why: &'static str) -> ReadError {
    ReadError::Damaged(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// A member, without its content.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    /// What it links to; empty where it does not.
    pub(super) target: Vec<u8>,
    pub(super) metadata: Metadata,
    /// Of its content, holes included.
    pub(super) size: u64,
    /// Where its content is not a hole, in order.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    length: u64,
}

/// What precedes a member's own header and overrules it.
#[derive(Default)]
struct Overrides {
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pax_sparse: bool,
}

/// An archive that is being read.
pub(super) struct Reader<R> {
    source: R,
    header_limit: u64,
    /// Stored bytes of the current member that have not been read.
    left: u64,
    /// What fills up its last block.
    filler: u64,
    broken: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R, header_limit: u64) -> Reader<R> {
        Reader { source, header_limit, left: 0, filler: 0, broken: false }
    }

    /// Whether reading a member's content failed at this end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The next member; `None` where the archive says that it ends. What is left of the last one is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ReadError> {
        self.pass_over()?;
        let mut overrides = Overrides::default();
        let mut budget = self.header_limit;
        loop {
            let mut header = Header::new_old();
            self.source.read_exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check_sum(&header)?;
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::GNULongName => overrides.long_name = Some(until_nul(self.extension(size, &mut budget)?)),
                EntryType::GNULongLink => overrides.long_target = Some(until_nul(self.extension(size, &mut budget)?)),
                EntryType::XHeader => overrides.take_pax(&self.extension(size, &mut budget)?)?,
                // Remarks about the whole archive.
                EntryType::XGlobalHeader => drop(self.extension(size, &mut budget)?),
                _ => return self.member(&header, overrides, &mut budget).map(Some),
            }
        }
    }

    /// The content of the member that `next` returned last.
    pub(super) fn content<'a>(&'a mut self, member: &'a Member) -> Content<'a, R> {
        Content { reader: self, pieces: &member.pieces, size: member.size, position: 0 }
    }

    fn member(&mut self, header: &Header, overrides: Overrides, budget: &mut u64) -> Result<Member, ReadError> {
        let stored = overrides.size.map_or_else(|| header.entry_size(), Ok)?;
        let kind = header.entry_type();
        let name = overrides.long_name.unwrap_or_else(|| header.path_bytes().into_owned());
        if overrides.pax_sparse {
            return Err(ReadError::PaxSparse { name });
        }
        let (size, pieces) = match kind {
            EntryType::GNUSparse => self.sparse(header, stored, budget)?,
            _ => (stored, vec![Piece { offset: 0, length: stored }]),
        };
        let target = overrides.long_target.or_else(|| header.link_name_bytes().map(|target| target.into_owned()));
        let metadata = Metadata {
            mode: header.mode()?,
            uid: overrides.uid.map_or_else(|| id(header.uid()?), Ok)?,
            gid: overrides.gid.map_or_else(|| id(header.gid()?), Ok)?,
            modified: overrides.modified.map_or_else(|| header.mtime().map(|seconds| (seconds as i64, 0)), Ok)?,
            xattrs: overrides.xattrs,
        };
        self.left = stored;
        self.filler = stored.wrapping_neg() % BLOCK;
        Ok(Member { kind, name, target: target.unwrap_or_default(), metadata, size, pieces })
    }

    /// GNU's way: a map in the header, which may go on in further blocks.
    fn sparse(&mut self, header: &Header, stored: u64, budget: &mut u64) -> Result<(u64, Vec<Piece>), ReadError> {
        let gnu = header.as_gnu().ok_or_else(|| damaged("a sparse file without a map"))?;
        let mut pieces = Vec::new();
        add_pieces(&gnu.sparse, &mut pieces)?;
        let mut more = gnu.is_extended();
        while more {
            *budget = budget.checked_sub(BLOCK).ok_or(ReadError::TooLong)?;
            let mut block = GnuExtSparseHeader::new();
            self.source.read_exact(block.as_mut_bytes())?;
            add_pieces(block.sparse(), &mut pieces)?;
            more = block.is_extended();
        }
        let size = gnu.real_size()?;
        let (mut end, mut sum) = (0u64, 0u64);
        for piece in &pieces {
            let ordered = piece.offset >= end;
            end = piece.offset.checked_add(piece.length).filter(|_| ordered).ok_or_else(|| damaged("a muddled map"))?;
            // Cannot overflow: pieces do not overlap.
            sum += piece.length;
        }
        if end > size || sum != stored {
            return Err(damaged("the map of a sparse file does not fit it"));
        }
        Ok((size, pieces))
    }

    /// What a header that describes the next member holds.
    fn extension(&mut self, size: u64, budget: &mut u64) -> Result<Vec<u8>, ReadError> {
        let filled = size.checked_next_multiple_of(BLOCK).ok_or(ReadError::TooLong)?;
        *budget = budget.checked_sub(filled.saturating_add(BLOCK)).ok_or(ReadError::TooLong)?;
        let mut content = vec![0; filled as usize];
        self.source.read_exact(&mut content)?;
        content.truncate(size as usize);
        Ok(content)
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.left).checked_add(std::mem::take(&mut self.filler));
        let rest = rest.ok_or(io::ErrorKind::InvalidData)?;
        let passed = io::copy(&mut self.source.by_ref().take(rest), &mut io::sink())?;
        if passed < rest { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// The bytes of a member, holes read as zeros.
pub(super) struct Content<'a, R> {
    reader: &'a mut Reader<R>,
    pieces: &'a [Piece],
    size: u64,
    position: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pieces.first().is_some_and(|piece| piece.offset + piece.length <= self.position) {
            self.pieces = &self.pieces[1..];
        }
        let next = self.pieces.first().map_or(self.size, |piece| piece.offset);
        let end =
            if self.position < next { next } else { self.pieces.first().map_or(self.size, |p| p.offset + p.length) };
        let want = buffer.len().min(usize::try_from(end - self.position).unwrap_or(usize::MAX));
        let have = if self.position < next {
            buffer[..want].fill(0);
            want
        } else {
            let have = self.reader.source.read(&mut buffer[..want]).inspect_err(|error| {
                self.reader.broken |= error.kind() != io::ErrorKind::Interrupted;
            })?;
            self.reader.broken |= have == 0 && want > 0;
            self.reader.left -= have as u64;
            have
        };
        self.position += have as u64;
        Ok(have)
    }
}

impl Overrides {
    /// Records of the form `LENGTH KEY=VALUE\n`, where the length counts everything and the value may hold anything.
    fn take_pax(&mut self, mut records: &[u8]) -> Result<(), ReadError> {
        let malformed = || damaged("a malformed PAX record");
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = number(&records[..space]).ok_or_else(malformed)? as usize;
            let record = records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            self.take_record(&record[..equals], &record[equals + 1..]).ok_or_else(malformed)?;
            records = &records[length..];
        }
        Ok(())
    }

    /// `None` where the value does not fit the key.
    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.long_name = Some(value.to_owned()),
            b"linkpath" => self.long_target = Some(value.to_owned()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(u32::try_from(number(value)?).ok()?),
            b"gid" => self.gid = Some(u32::try_from(number(value)?).ok()?),
            b"mtime" => self.modified = Some(std::str::from_utf8(value).ok().and_then(time)?),
            _ if key.starts_with(PAX_SPARSE) => self.pax_sparse = true,
            _ => self.xattrs.extend(key.strip_prefix(XATTR).map(|name| (name.to_owned(), value.to_owned()))),
        }
        Some(())
    }
}

fn add_pieces(listed: &[GnuSparseHeader], pieces: &mut Vec<Piece>) -> io::Result<()> {
    for block in listed.iter().filter(|block| !block.is_empty()) {
        pieces.push(Piece { offset: block.offset()?, length: block.length()? });
    }
    Ok(())
}

fn check_sum(header: &Header) -> Result<(), ReadError> {
    let bytes = header.as_bytes();
    let sum = bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>();
    if header.cksum()? == sum { Ok(()) } else { Err(damaged("a header whose checksum is wrong")) }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

fn id(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an owner that cannot exist"))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`, in the way of a clock: nanoseconds count forward from the second below.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times_before_and_after_the_epoch() {
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        for bad in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn pax_values_may_hold_anything() {
        let mut found = Overrides::default();
        found.take_pax(b"12 path=a\n=b\n30 SCHILY.xattr.user.x=\n\0 9 y\n10 size=7\n").unwrap_err();
        let mut found = Overrides::default();
        found.take_pax(b"13 path=a\n=b\n28 SCHILY.xattr.user.x=\n\0 9\n10 size=7\n").unwrap();
        assert_eq!(found.long_name.unwrap(), b"a\n=b");
        assert_eq!(found.xattrs, [(b"user.x".to_vec(), b"\n\0 9".to_vec())]);
        assert_eq!(found.size, Some(7));
    }

    #[test]
    fn malformed_pax_records_are_refused() {
        for bad in [
            "x",
            "5",
            "0 a=b\n",
            "2 a=b\n",
            "7 a=b\n",
            "6 a=b.",
            "6 abb\n",
            "99999999999999999999 a=b\n",
            "10 size=x\n",
        ] {
            assert!(Overrides::default().take_pax(bad.as_bytes()).is_err(), "{bad:?}");
        }
        Overrides::default().take_pax(b"6 a=b\n").unwrap();
    }
}
