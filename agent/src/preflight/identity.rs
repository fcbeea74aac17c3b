//! By what a file is known to be the same elsewhere, remembered while it does not change.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use migrate_proto::id::Digest;
use migrate_proto::message::FileIdentity;
use migrate_proto::text::Text;

use super::elf;
use super::place::open_file;

/// A few hundred files are usual; this is some MiB.
const MAX_REMEMBERED: usize = 16 << 10;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) size: u64,
    pub(super) identity: FileIdentity,
}

/// What changes when a file's content does. The change time cannot be set by whoever writes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let data = file.metadata()?;
        Ok(Stamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

static REMEMBERED: LazyLock<Mutex<HashMap<Stamp, FileIdentity>>> = LazyLock::new(Mutex::default);

/// What the regular file at `path` beneath `root` is; `InvalidInput` where it is no regular file.
pub(super) fn of(root: &File, path: &Text) -> io::Result<Known> {
    let file = open_file(root, Path::new(path.as_os_str()))?;
    let stamp = Stamp::of(&file)?;
    let seen_before = remembered().get(&stamp).cloned();
    if let Some(identity) = seen_before {
        return Ok(Known { size: stamp.size, identity });
    }
    let identity = match elf::build_id(&file)? {
        Some(id) => FileIdentity::BuildId(id),
        None => FileIdentity::Digest(digest(&file)?),
    };
    // A file that is being written has no identity that would last.
    if Stamp::of(&file)? == stamp {
        let mut all = remembered();
        if all.len() >= MAX_REMEMBERED {
            all.clear();
        }
        all.insert(stamp, identity.clone());
    }
    Ok(Known { size: stamp.size, identity })
}

/// Whoever panicked while holding it left nothing half done.
fn remembered() -> MutexGuard<'static, HashMap<Stamp, FileIdentity>> {
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn digest(mut file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest(*hasher.finalize().as_bytes())),
            Ok(more) => {
                hasher.update(&buffer[..more]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
