//! A root file system for a workload, from a directory or a tar archive of this node.
//!
//! Archives come from anywhere, and the agent is root. So nothing is ever named by a path from the node's root: everything
//! is made beneath one directory descriptor ([`tree`]), parents are opened by openat2(2) with `RESOLVE_BENEATH`, and the
//! last part of a name is never followed. A link inside may lead to another place inside (`bin -> usr/bin`), never out.
//! Absolute names count from the new root; `..` is refused. Devices and sockets are left out: a sandbox has its own /dev,
//! and its layer is mounted without devices.
//!
//! [`reader`] and [`archive`] read tar, [`copy`] reads a directory, [`tree`] writes.

mod archive;
mod copy;
mod reader;
mod tree;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use migrate_proto::error::{Code, Problem};
use thiserror::Error;

use tree::Tree;

/// How much is taken before it is called too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Content of all files, holes included.
    pub bytes: u64,
    /// Headers in a row that describe one entry: long names, extended attributes, maps of sparse files.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 2_000_000, bytes: 256 << 30, header_bytes: 4 << 20 }
    }
}

/// What was made, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Content of the files, holes included.
    pub bytes: u64,
    /// Devices and sockets that were left out.
    pub skipped_specials: u64,
    /// Extended attributes other than `user.*` and `security.capability` that were left out.
    pub skipped_xattrs: u64,
    /// Directories that were left empty, because another file system is mounted there.
    pub skipped_mounts: u64,
}

/// Why there is no root file system.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// The source cannot be used.
    #[error("cannot open {}: {source}", path.display())]
    Source {
        /// The directory or archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is of a kind that is not taken.
    #[error("{} is {what}", path.display())]
    Kind {
        /// The source.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The archive is damaged, or ends too early.
    #[error("{} is no complete tar archive, after {entries} entries: {source}", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// How many entries were good.
        entries: u64,
        /// Why.
        source: io::Error,
    },
    /// An entry's name leads out, or nowhere.
    #[error("the entry '{}' is refused: {why}", shown(name))]
    Name {
        /// The name.
        name: Vec<u8>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry cannot be made.
    #[error("cannot {what} '{}': {source}", shown(name))]
    Entry {
        /// What was to be done.
        what: &'static str,
        /// To which entry.
        name: Vec<u8>,
        /// Why not.
        source: io::Error,
    },
    /// More than the limits allow.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().take(300).collect()
}

impl RootfsError {
    fn entry(what: &'static str, name: &[u8]) -> impl FnOnce(io::Error) -> RootfsError {
        let name = name.to_owned();
        move |source| RootfsError::Entry { what, name, source }
    }

    fn into_problem(self, source: &Path) -> Problem {
        let message = format!("cannot make a root file system from {}: {self}", source.display());
        match &self {
            RootfsError::Entry { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => {
                Problem::new(Code::NoDisk, message).hint("give the workload a larger layer, or a smaller root")
            }
            RootfsError::Entry { .. } => Problem::new(Code::Internal, message),
            RootfsError::Kind { hint, .. } => Problem::new(Code::Usage, message).hint(*hint),
            RootfsError::Source { .. } => {
                Problem::new(Code::Usage, message).hint("--root names a directory or tar archive on the agent's node")
            }
            _ => {
                Problem::new(Code::Usage, message).hint("make the archive anew, with `tar -C ROOT --xattrs -cf FILE .`")
            }
        }
    }
}

/// Fills the directory `into`, which is made where it is missing, with what `source` holds.
pub fn fill(source: &Path, into: &Path) -> Result<(), Problem> {
    let opened = match fs::create_dir(into) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(into),
    };
    let dir = opened.map_err(|error| {
        Problem::new(Code::Internal, format!("cannot open {} for a root file system: {error}", into.display()))
    })?;
    let stats = unpack(source, &dir).map_err(|error| error.into_problem(source))?;
    tracing::info!(source = %source.display(), ?stats, "made a root file system");
    Ok(())
}

/// Makes a root file system beneath the directory `into`, which should be empty, from the directory or tar archive `source`.
pub fn unpack(source: &Path, into: &File) -> Result<Stats, RootfsError> {
    unpack_within(source, into, Limits::default())
}

/// The same with other limits.
pub fn unpack_within(source: &Path, into: &File, limits: Limits) -> Result<Stats, RootfsError> {
    let cannot_open = |source_error| RootfsError::Source { path: source.to_owned(), source: source_error };
    // Without waiting for a pipe's other end.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let file: File =
        rustix::fs::open(source, flags, rustix::fs::Mode::empty()).map_err(|error| cannot_open(error.into()))?.into();
    let data = file.metadata().map_err(cannot_open)?;
    let mut tree = Tree::new(into, limits);
    if data.is_dir() {
        copy::copy(&file, &mut tree)?;
        return tree.finish();
    }
    if !data.is_file() {
        let hint = "--root takes a directory or a tar archive";
        return Err(RootfsError::Kind { path: source.to_owned(), what: "neither a directory nor a file", hint });
    }
    archive::unpack(source, decompressed(source, file)?, &mut tree)?;
    tree.finish()
}

/// Told by the first bytes, not by the name.
fn decompressed(path: &Path, mut file: File) -> Result<Box<dyn Read>, RootfsError> {
    let cannot_read = |source| RootfsError::Source { path: path.to_owned(), source };
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic).map_err(cannot_read)?;
    let refuse = |what| {
        let hint = "unpack it first, or compress it with zstd (`tar --zstd`)";
        Err(RootfsError::Kind { path: path.to_owned(), what, hint })
    };
    match magic[..] {
        [0x1f, 0x8b, ..] => return refuse("compressed with gzip, which is not read"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return refuse("compressed with xz, which is not read"),
        [b'B', b'Z', b'h', ..] => return refuse("compressed with bzip2, which is not read"),
        _ => {}
    }
    let whole = io::Cursor::new(magic.clone()).chain(file);
    match magic[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Box::new(zstd::Decoder::new(whole).map_err(cannot_read)?)),
        _ => Ok(Box::new(io::BufReader::with_capacity(1 << 17, whole))),
    }
}

#[cfg(test)]
mod tests;
