//! The names under which CRIU brings deleted files back for a moment, while it restores.
//!
//! A file that was open and had no name left travels inside the image. CRIU makes it anew under a name of its own, beside
//! the file's last name, opens it by that, and removes the name at the very end. A CRIU that is killed before that leaves
//! the name, and the next one, which insists on a new file, fails at it. [`of`] says which names those are.

use thiserror::Error;

use crate::mend::NotUnderstood;
use crate::mend::fields::{Message, Rows};

/// The image that says which open files had lost their names.
pub const REMAPS: &str = "remap-fpath.img";
/// The image of all open files.
pub const FILES: &str = crate::mend::FILES;

const REMAPS_MAGIC: u32 = 0x5913_3954;

/// Fields of CRIU's `remap_file_path_entry` (images/remap-file-path.proto).
mod remap {
    pub(super) const FILE: usize = 1;
    pub(super) const GHOST: usize = 2;
    pub(super) const TYPE: usize = 3;
    /// The value of [`TYPE`] for a file that travels inside the image.
    pub(super) const TYPE_GHOST: u64 = 1;
}

/// Fields of CRIU's `file_entry` (images/fdinfo.proto) and `reg_file_entry` (images/regfile.proto).
mod file {
    pub(super) const ID: usize = 2;
    pub(super) const REGULAR: usize = 3;
    pub(super) const NAME: usize = 6;
}

/// Why the names are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GhostError {
    /// One of the two images is not as it should be.
    #[error("{image}: {why}")]
    Image {
        /// Which.
        image: &'static str,
        /// What is wrong with it.
        why: NotUnderstood,
    },
}

/// The paths, from the root, that CRIU gives to the deleted files of an image. Where such a path's directory is not there, CRIU
/// takes the one above it.
pub fn of(remaps: &[u8], files: &[u8]) -> Result<Vec<Vec<u8>>, GhostError> {
    let ghosts = ghosts(remaps).map_err(|why| GhostError::Image { image: REMAPS, why })?;
    if ghosts.is_empty() {
        return Ok(Vec::new());
    }
    named(files, &ghosts).map_err(|why| GhostError::Image { image: FILES, why })
}

/// Pairs of an open file and the deleted file behind it.
fn ghosts(remaps: &[u8]) -> Result<Vec<(u64, u64)>, NotUnderstood> {
    let mut found = Vec::new();
    for place in Rows::of(remaps, REMAPS_MAGIC)? {
        let entry = Message::read(remaps, place?, remap::TYPE)?;
        // An entry without a type is of a CRIU from before 2015.
        if entry.number(remap::TYPE)?.value == remap::TYPE_GHOST {
            found.push((entry.number(remap::FILE)?.value, entry.number(remap::GHOST)?.value));
        }
    }
    Ok(found)
}

fn named(files: &[u8], ghosts: &[(u64, u64)]) -> Result<Vec<Vec<u8>>, NotUnderstood> {
    let mut paths = Vec::new();
    for place in Rows::of(files, crate::mend::FILES_MAGIC)? {
        let entry = Message::read(files, place?, file::REGULAR)?;
        let id = entry.number(file::ID)?.value;
        for (_, ghost) in ghosts.iter().filter(|(file, _)| *file == id) {
            let name = entry.message(file::REGULAR, file::NAME)?.bytes(file::NAME)?;
            paths.push([name, format!(".cr.{ghost:x}.ghost").as_bytes()].concat());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn number(field: u8, mut value: u64) -> Vec<u8> {
        let mut bytes = vec![field << 3];
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, content.len() as u8], content].concat()
    }

    fn image(magic: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut image = [0x5456_4319u32.to_ne_bytes(), magic.to_ne_bytes()].concat();
        for entry in entries {
            image.extend((entry.len() as u32).to_ne_bytes());
            image.extend(entry);
        }
        image
    }

    /// With a build-id, which is a field that is there more than once.
    fn regular(id: u64, name: &str) -> Vec<u8> {
        let inner = [number(1, id), bytes(6, name.as_bytes()), number(11, 7), number(11, 8)].concat();
        [number(1, 1), number(2, id), bytes(3, &inner)].concat()
    }

    fn remapped(file: u64, target: u64, kind: u64) -> Vec<u8> {
        [number(1, file), number(2, target), number(3, kind)].concat()
    }

    #[test]
    fn every_deleted_file_has_its_name() {
        let remaps = image(REMAPS_MAGIC, &[remapped(5, 0x1b, 1), remapped(6, 300, 0), remapped(9, 0xabcd, 1)]);
        let other = [number(1, 3), number(2, 7)].concat();
        let files = image(
            crate::mend::FILES_MAGIC,
            &[regular(5, "/work/a"), other, regular(6, "/work/linked"), regular(9, "/tmp/x/b")],
        );
        let expected = [b"/work/a.cr.1b.ghost".to_vec(), b"/tmp/x/b.cr.abcd.ghost".to_vec()];
        assert_eq!(of(&remaps, &files).unwrap(), expected);
    }

    #[test]
    fn an_image_without_deleted_files_needs_no_list_of_files() {
        let remaps = image(REMAPS_MAGIC, &[remapped(6, 300, 0)]);
        assert_eq!(of(&remaps, b"").unwrap(), Vec::<Vec<u8>>::new());
        assert!(of(b"", b"").is_err());
        assert!(of(&image(REMAPS_MAGIC, &[remapped(5, 1, 1)]), b"").is_err());
    }
}
