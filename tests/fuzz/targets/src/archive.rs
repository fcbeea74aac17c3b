//! A root file system from a tar archive: whatever the archive says, nothing is made, changed or linked outside of the
//! directory, no device comes into being, and the limits hold.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;

use migrate_agent::rootfs::{Limits, unpack_within};

const LIMITS: Limits = Limits { entries: 64, bytes: 1 << 20, header_bytes: 64 << 10 };
const BLOCK: usize = 512;

/// The first byte says whether the headers' checksums are put right, or the whole is compressed as well.
pub(crate) fn run(input: &[u8], scratch: &Path) {
    let Some((how, rest)) = input.split_first() else { return };
    let mut bytes = rest.to_vec();
    if how % 4 != 0 {
        put_checksums_right(&mut bytes);
    }
    if how % 4 == 3 {
        bytes = zstd::bulk::compress(&bytes, 1).expect("it fits into memory");
    }
    let (archive, root, outside) = (scratch.join("archive"), scratch.join("root"), scratch.join("outside"));
    fs::write(&archive, &bytes).expect("the scratch directory can be written to");
    fs::DirBuilder::new().mode(0o700).create(&root).expect("the scratch directory can be written to");
    fs::write(&outside, "untouched").expect("the scratch directory can be written to");
    let before = (seen(&outside), seen(&archive));

    let opened = File::open(&root).expect("it was made");
    let done = unpack_within(&archive, &opened, LIMITS);

    assert_eq!((seen(&outside), seen(&archive)), before, "something outside was changed");
    assert_eq!(fs::read(&outside).expect("it is there"), b"untouched");
    let there = fs::read_dir(scratch).expect("it is there").count();
    assert_eq!(there, 3, "something was made outside");
    let (mut entries, mut bytes) = (0, 0);
    survey(&root, &mut entries, &mut bytes);
    // Of each entry the directories above it may be made too, and a name has at most 4095 bytes.
    assert!(entries <= LIMITS.entries * 2048, "{entries} entries");
    assert!(bytes <= LIMITS.bytes, "{bytes} bytes in files");
    if let Ok(stats) = done {
        assert!(stats.files + stats.directories + stats.symlinks + stats.hard_links + stats.fifos <= LIMITS.entries);
    }
    fs::remove_dir_all(&root).expect("it was made");
    fs::remove_file(&archive).expect("it was made");
    fs::remove_file(&outside).expect("it was made");
}

/// Everything that an archive could change about a file, but for its content.
fn seen(path: &Path) -> (u64, u64, u32, u32, u32, i64, i64) {
    let data = fs::symlink_metadata(path).expect("it is there");
    (data.ino(), data.nlink(), data.mode(), data.uid(), data.gid(), data.mtime(), data.ctime_nsec())
}

fn survey(dir: &Path, entries: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("a directory").path();
        let data = fs::symlink_metadata(&path).expect("it is there");
        let kind = data.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device() && !kind.is_socket(), "{}", path.display());
        assert!(path.file_name().is_some_and(|name| name.as_bytes().len() <= 255));
        *entries += 1;
        if kind.is_file() && data.nlink() == 1 {
            *bytes += data.len();
        }
        if kind.is_dir() {
            survey(&path, entries, bytes);
        }
    }
}

/// Follows the archive from header to header as a reader does, so that mutations get past the checksums.
fn put_checksums_right(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..136].iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0usize, |sum, digit| sum.saturating_mul(8).saturating_add(usize::from(digit & 7)));
        // A sparse file's map may go on in blocks of its own.
        let mut maps = usize::from(header[156] == b'S' && header[482] == 1);
        while maps > 0 && archive.get(at + BLOCK * maps..at + BLOCK * (maps + 1)).is_some_and(|map| map[504] == 1) {
            maps += 1;
        }
        at = at.saturating_add(BLOCK * (1 + maps)).saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
}
