//! Turns the members of a tar archive into entries of the tree.

use std::io::Read;
use std::path::Path;

use tar::EntryType;

use super::RootfsError;
use super::reader::{Member, ReadError, Reader};
use super::tree::{Name, Tree};

/// Longer ones no kernel would follow.
const MAX_TARGET_BYTES: usize = 4095;

/// Puts every member of the archive into `tree`. `path` is for messages.
pub(super) fn unpack(path: &Path, source: impl Read, tree: &mut Tree) -> Result<(), RootfsError> {
    let header_limit = tree.limits().header_bytes;
    let mut reader = Reader::new(source, header_limit);
    let damaged = |entries, source| RootfsError::Damaged { path: path.to_owned(), entries, source };
    loop {
        let member = match reader.next() {
            Ok(Some(member)) => member,
            Ok(None) => return Ok(()),
            Err(ReadError::Damaged(source)) => return Err(damaged(tree.entries(), source)),
            Err(ReadError::TooLong) => {
                let what = "bytes in the headers of one entry";
                return Err(RootfsError::TooMuch { what, limit: header_limit });
            }
            Err(ReadError::PaxSparse { name }) => {
                let why = "it is sparse in PAX's way; make the archive without --sparse, or with --format=gnu";
                return Err(RootfsError::Name { name, why });
            }
        };
        tree.count_entry()?;
        match put(&member, &mut reader, tree) {
            Err(RootfsError::Entry { source, .. }) if reader.is_broken() => {
                return Err(damaged(tree.entries(), source));
            }
            other => other?,
        }
    }
}

fn put<R: Read>(member: &Member, reader: &mut Reader<R>, tree: &mut Tree) -> Result<(), RootfsError> {
    let name = Name::new(&member.name)?;
    let metadata = &member.metadata;
    match member.kind {
        EntryType::Directory => tree.directory(name, metadata.clone()),
        // How the oldest archives mark directories.
        EntryType::Regular if member.name.ends_with(b"/") => tree.directory(name, metadata.clone()),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            tree.file(&name, metadata, member.size, &mut reader.content(member))
        }
        EntryType::Symlink => tree.symlink(&name, metadata, target(member)?),
        EntryType::Link => tree.hard_link(&name, &Name::new(target(member)?)?),
        EntryType::Fifo => tree.fifo(&name, metadata),
        EntryType::Char | EntryType::Block => {
            tree.stats.skipped_specials += 1;
            Ok(())
        }
        _ => Err(RootfsError::Name { name: member.name.clone(), why: "it is of a kind that is not known" }),
    }
}

fn target(member: &Member) -> Result<&[u8], RootfsError> {
    let why = match &member.target {
        empty if empty.is_empty() => "it is a link to nothing",
        odd if odd.contains(&0) => "it is a link to a name with a NUL byte",
        long if long.len() > MAX_TARGET_BYTES => "it is a link to a name that is too long",
        good => return Ok(good),
    };
    Err(RootfsError::Name { name: member.name.clone(), why })
}
