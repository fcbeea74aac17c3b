//! Reads a tar archive: ustar, GNU and PAX. The `tar` crate takes it apart; nothing else of it is used.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::RootfsError;
use super::tree::{Metadata, Name, Tree};

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";
/// The filler after an entry's content, and its header.
const SLACK: u64 = 1024;
/// What the crate reads from its source at once, at most.
const SKIP: u64 = 64 << 10;

/// Puts every entry of the archive into `tree`. `path` is for messages.
pub(super) fn unpack(path: &Path, source: impl Read, tree: &mut Tree) -> Result<(), RootfsError> {
    let gauge = Gauge::default();
    let mut archive = Archive::new(Metered { source, gauge: gauge.clone() });
    let seen = tree.entries();
    let damaged = |entries, source| RootfsError::Damaged { path: path.to_owned(), entries, source };
    let mut entries = archive.entries().map_err(|error| damaged(seen, error))?;
    loop {
        gauge.allow(tree.limits().header_bytes + SLACK);
        let entry = match entries.next() {
            None => break,
            Some(Err(_)) if gauge.is_exhausted() => return Err(too_long_headers(tree)),
            Some(Err(error)) => return Err(damaged(tree.entries(), error)),
            Some(Ok(entry)) => entry,
        };
        tree.count_entry()?;
        gauge.allow(u64::MAX);
        let mut entry = entry;
        put(&mut entry, tree).map_err(|error| match error {
            RootfsError::Entry { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                damaged(tree.entries(), source)
            }
            other => other,
        })?;
        // What nobody wanted must not count as a header.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| damaged(tree.entries(), error))?;
    }
    // An archive ends with a block of zeros; without one it was cut between two entries.
    if gauge.has_ended() {
        return Err(damaged(tree.entries(), io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn too_long_headers(tree: &Tree) -> RootfsError {
    RootfsError::TooMuch { what: "bytes in the headers of one entry", limit: tree.limits().header_bytes }
}

fn put<R: Read>(entry: &mut Entry<'_, R>, tree: &mut Tree) -> Result<(), RootfsError> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let raw_name = entry.path_bytes().into_owned();
    let name = Name::new(&raw_name)?;
    let metadata = metadata(entry, &raw_name)?;
    // An old archive marks directories by a slash only.
    let is_directory = kind.is_dir() || (kind == EntryType::Regular && raw_name.ends_with(b"/"));
    if is_directory {
        return tree.directory(name, metadata);
    }
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let size = entry.size();
            tree.file(&name, &metadata, size, entry)
        }
        EntryType::Symlink => {
            let target = link_target(entry, &raw_name)?;
            tree.symlink(&name, &metadata, &target)
        }
        EntryType::Link => {
            let target = Name::new(&link_target(entry, &raw_name)?)?;
            tree.hard_link(&name, &target)
        }
        EntryType::Fifo => tree.fifo(&name, &metadata),
        EntryType::Char | EntryType::Block => {
            tree.stats.skipped_specials += 1;
            Ok(())
        }
        _ => Err(RootfsError::Name { name: raw_name, why: "it is of a kind that is not known" }),
    }
}

fn link_target<R: Read>(entry: &Entry<'_, R>, name: &[u8]) -> Result<Vec<u8>, RootfsError> {
    let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
    let why = match () {
        () if target.is_empty() => "it is a link to nothing",
        () if target.contains(&0) => "it is a link to a name with a NUL byte",
        () if target.len() > 4095 => "it is a link to a name that is too long",
        () => return Ok(target),
    };
    Err(RootfsError::Name { name: name.to_owned(), why })
}

fn metadata<R: Read>(entry: &mut Entry<'_, R>, name: &[u8]) -> Result<Metadata, RootfsError> {
    let unreadable = |what| move |error| RootfsError::entry(what, name)(error);
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let mut metadata = Metadata {
        mode: header.mode().map_err(unreadable("read the mode of"))?,
        uid: header.uid().and_then(id).map_err(unreadable("read the owner of"))?,
        gid: header.gid().and_then(id).map_err(unreadable("read the group of"))?,
        modified: (header.mtime().map_err(unreadable("read the time of"))? as i64, 0),
        xattrs: Vec::new(),
    };
    let Some(extensions) = entry.pax_extensions().map_err(unreadable("read the extensions of"))? else {
        return Ok(metadata);
    };
    for extension in extensions {
        let extension = extension.map_err(unreadable("read the extensions of"))?;
        let (key, value) = (extension.key_bytes(), extension.value_bytes());
        if key.starts_with(SPARSE) {
            let why = "it is sparse in PAX's way; make the archive without --sparse, or with --format=gnu";
            return Err(RootfsError::Name { name: name.to_owned(), why });
        }
        if let Some(xattr) = key.strip_prefix(XATTR) {
            metadata.xattrs.push((xattr.to_owned(), value.to_owned()));
        } else if key == b"mtime" {
            let bad_time = || unreadable("read the time of")(io::ErrorKind::InvalidData.into());
            metadata.modified = std::str::from_utf8(value).ok().and_then(time).ok_or_else(bad_time)?;
        }
    }
    Ok(metadata)
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

/// How much may still be read, and whether the end was met. The crate reads a name or an extension of any length into
/// memory, however long its header says it is: this is what keeps that in bounds.
#[derive(Clone, Default)]
struct Gauge {
    left: Rc<Cell<u64>>,
    ended: Rc<Cell<bool>>,
}

impl Gauge {
    fn allow(&self, bytes: u64) {
        self.left.set(bytes);
    }

    fn is_exhausted(&self) -> bool {
        self.left.get() == 0
    }

    fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

struct Metered<R> {
    source: R,
    gauge: Gauge,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.gauge.left.get();
        if left == 0 {
            return Err(io::Error::other("its headers are too long"));
        }
        let want = buffer.len().min(left.min(SKIP) as usize);
        let have = self.source.read(&mut buffer[..want])?;
        self.gauge.ended.set(self.gauge.ended.get() || (have == 0 && want > 0));
        if left != u64::MAX {
            self.gauge.allow(left - have as u64);
        }
        Ok(have)
    }
}

#[cfg(test)]
mod tests {
    use super::time;

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
}
