//! Which files a process has mapped, from `/proc/PID/maps`.
//!
//! The kernel writes a newline in a name as `\012` and nothing else: a backslash stays as it is. So `\012` has two
//! meanings, and only the link in `/proc/PID/map_files` tells them apart.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;

const DELETED: &[u8] = b" (deleted)";
/// Names of memory that has no file of its own.
const NAMES_OF_MEMORY: [&[u8]; 4] = [b"/memfd:", b"/SYSV", b"/dev/zero", b"/[aio]"];

/// A mapping of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// As `map_files` names it: `START-END` in hexadecimal.
    pub(super) range: String,
    /// Where the file was when it was mapped.
    pub(super) path: Vec<u8>,
    /// Whether that name is gone, or stands for another file by now.
    pub(super) deleted: bool,
}

/// The file mappings of a process: those that follow each other from the same file are one. Empty where the process has
/// ended.
pub(super) fn of(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = match fs::read(format!("/proc/{pid}/maps")) {
        Ok(text) => text,
        Err(error) if has_ended(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut mappings: Vec<Mapping> = Vec::new();
    for (range, name) in text.split(|byte| *byte == b'\n').filter_map(range_and_name) {
        let exact = name.contains(&b'\\').then(|| linked_name(pid, range)).flatten();
        let Some(mapping) = mapping(range, exact.unwrap_or_else(|| with_newlines(name))) else { continue };
        if mappings.last().is_none_or(|last| last.path != mapping.path) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

/// Whether a name is one that the kernel gives to memory.
pub(super) fn is_memory(path: &[u8]) -> bool {
    NAMES_OF_MEMORY.iter().any(|prefix| path.starts_with(prefix))
}

pub(super) fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// `START-END PERMS OFFSET DEVICE INODE   NAME`; the name is the rest of the line, and may hold spaces.
fn range_and_name(line: &[u8]) -> Option<(&str, &[u8])> {
    let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
    let mut rest = line;
    for _ in 0..5 {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let length = rest[start..].iter().position(|byte| *byte == b' ')?;
        rest = &rest[start + length..];
    }
    let name = &rest[rest.iter().position(|byte| *byte != b' ')?..];
    Some((range, name))
}

fn linked_name(pid: i32, range: &str) -> Option<Vec<u8>> {
    let link = fs::read_link(format!("/proc/{pid}/map_files/{range}")).ok()?;
    Some(OsString::from(link).into_vec())
}

fn with_newlines(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let newline = rest.strip_prefix(br"\012");
        decoded.push(if newline.is_some() { b'\n' } else { *first });
        rest = newline.unwrap_or(tail);
    }
    decoded
}

fn mapping(range: &str, name: Vec<u8>) -> Option<Mapping> {
    let deleted = name.ends_with(DELETED);
    let path = if deleted { name[..name.len() - DELETED.len()].to_vec() } else { name };
    let is_file = path.first() == Some(&b'/') && !is_memory(&path);
    is_file.then(|| Mapping { range: range.to_owned(), path, deleted })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(line: &str) -> Option<(Vec<u8>, bool)> {
        let (range, name) = range_and_name(line.as_bytes())?;
        let found = mapping(range, with_newlines(name))?;
        Some((found.path, found.deleted))
    }

    #[test]
    fn only_files_count() {
        let line = |name: &str| format!("7f00-7f10 r-xp 00000000 08:01 42                         {name}");
        assert_eq!(parse(&line("/usr/lib/a b.so")).unwrap(), (b"/usr/lib/a b.so".to_vec(), false));
        assert_eq!(parse(&line("/usr/lib/a.so (deleted)")).unwrap(), (b"/usr/lib/a.so".to_vec(), true));
        assert_eq!(parse(&line("/a\\012b")).unwrap().0, b"/a\nb");
        assert_eq!(parse(&line("/a\\040b")).unwrap().0, b"/a\\040b");
        for name in ["[heap]", "[vdso]", "/memfd:x (deleted)", "/SYSV00000000 (deleted)", "/dev/zero (deleted)"] {
            assert_eq!(parse(&line(name)), None, "{name}");
        }
        assert_eq!(parse("7f00-7f10 rw-p 00000000 00:00 0 "), None);
        assert_eq!(parse(""), None);
    }
}
