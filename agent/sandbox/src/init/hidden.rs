//! What of the node nothing in a sandbox may see, under whatever name.
//!
//! A path of the node can be reached by links, by other mounts of its file system, and by mounts of a part of it. So what is
//! hidden is what lies there: the path where it really is, and every other place at which the mount table shows the same.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::{Result, SandboxError};

/// Real paths of the node; what is below them is hidden too.
#[derive(Debug)]
pub(super) struct Hidden(Vec<PathBuf>);

impl Hidden {
    /// Looks for every name of these paths, as this mount namespace has them.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Hidden> {
        let table = "/proc/self/mountinfo";
        let text = fs::read(table).map_err(SandboxError::file("read", table))?;
        let mounts = parse(&text);
        let mut names: Vec<PathBuf> = Vec::new();
        for path in paths.iter().map(|path| resolve(path)) {
            names.extend(other_names(&path, &mounts));
            names.push(path);
        }
        names.sort();
        names.dedup();
        Ok(Hidden(names))
    }

    /// All names, each once.
    pub(super) fn names(&self) -> &[PathBuf] {
        &self.0
    }

    /// What would be shown by showing `path`, which is a real one, with all below it: something above, at or below it.
    pub(super) fn shown_by(&self, path: &Path) -> Option<&Path> {
        self.0.iter().find(|hidden| hidden.starts_with(path) || path.starts_with(hidden)).map(PathBuf::as_path)
    }
}

/// Where a path of the node really is, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    let real = |part: &Path| Some(fs::canonicalize(part).ok()?.join(path.strip_prefix(part).ok()?));
    path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned())
}

/// A line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: u64,
    /// Which file system.
    device: String,
    /// What of the file system is shown.
    root: PathBuf,
    /// Where.
    at: PathBuf,
}

fn parse(table: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = String::from_utf8_lossy(fields.nth(1)?).into_owned();
        Some(Mount { id, device, root: unescaped(fields.next()?), at: unescaped(fields.next()?) })
    };
    table.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Blanks and the like stand as three octal digits behind a backslash.
fn unescaped(mut field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        let octal =
            rest.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0u8, |value, digit| value << 3 | (digit - b'0')));
                field = &rest[3..];
            }
            None => {
                bytes.push(byte);
                field = rest;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// A part of a file system: which one, and from which of its own paths on.
struct Part<'a> {
    device: &'a str,
    root: PathBuf,
}

/// The other places at which the mounts show what is at `path`, which is a real one, or a part of it.
fn other_names(path: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    // What is not there has no other name; its nearest directory may, but that is not hidden.
    let Some(own) = mount_of(path, mounts) else { return Vec::new() };
    let Ok(below) = path.strip_prefix(&own.at) else { return Vec::new() };
    let mounted_below = mounts.iter().filter(|mount| mount.at != path && mount.at.starts_with(path) && is_seen(mount));
    let parts = std::iter::once(Part { device: &own.device, root: joined(&own.root, below) })
        .chain(mounted_below.map(|mount| Part { device: &mount.device, root: mount.root.clone() }));
    parts.flat_map(|part| names_of(&part, path, mounts)).collect()
}

fn names_of(part: &Part<'_>, path: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let same = mounts.iter().filter(|mount| mount.device == part.device);
    let name = |mount: &Mount| match part.root.strip_prefix(&mount.root) {
        // The mount shows what is above it, or it itself: unless something else is mounted over it there.
        Ok(below) => {
            let name = joined(&mount.at, below);
            (mount_id(&name) == Some(mount.id)).then_some(name)
        }
        // The mount shows something within it.
        Err(_) => (mount.root.starts_with(&part.root) && is_seen(mount)).then(|| mount.at.clone()),
    };
    same.filter_map(name).filter(|name| !name.starts_with(path)).collect()
}

/// `join` with an empty path would end in a slash.
fn joined(path: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) }
}

fn mount_of<'a>(path: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let id = mount_id(path)?;
    mounts.iter().find(|mount| mount.id == id)
}

/// Whether no other mount lies over it.
fn is_seen(mount: &Mount) -> bool {
    mount_id(&mount.at) == Some(mount.id)
}

fn mount_id(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_mount_table_is_read() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n\
                      37 35 0:4 / /a\\134b rw - tmpfs none rw\nnonsense\n";
        let mount = |id, device: &str, root: &str, at: &str| Mount {
            id,
            device: device.into(),
            root: root.into(),
            at: at.into(),
        };
        assert_eq!(parse(table), [mount(36, "98:0", "/mnt1", "/mnt 2"), mount(37, "0:4", "/", "/a\\b")]);
    }

    #[test]
    fn what_exists_is_on_a_mount_of_the_table() {
        let mounts = parse(&fs::read("/proc/self/mountinfo").unwrap());
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        let own = mount_of(&real, &mounts).unwrap();
        assert!(real.starts_with(&own.at), "{own:?}");
    }

    #[test]
    fn what_is_above_at_and_below_would_show_it() {
        let hidden = Hidden(vec!["/a/b".into()]);
        for path in ["/", "/a", "/a/b", "/a/b/c"] {
            assert_eq!(hidden.shown_by(Path::new(path)), Some(Path::new("/a/b")), "{path}");
        }
        for path in ["/a/bc", "/c", "/a/c"] {
            assert_eq!(hidden.shown_by(Path::new(path)), None, "{path}");
        }
    }
}
