#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// A place to unpack into, with a directory beside it that must stay as it is.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        Place { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Stats, RootfsError> {
        self.unpack_within(archive, Limits::default())
    }

    fn unpack_within(&self, archive: &[u8], limits: Limits) -> Result<Stats, RootfsError> {
        let path = self.dir.path().join("archive");
        fs::write(&path, archive).unwrap();
        let result = unpack_within(&path, &File::open(self.root()).unwrap(), limits);
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1, "something was made outside");
        assert_eq!(fs::read(self.outside().join("secret")).unwrap(), b"untouched");
        assert_eq!(fs::metadata(self.outside().join("secret")).unwrap().nlink(), 1, "outside was linked");
        result
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.root().join(name)).unwrap()
    }
}

/// Writes names as they are given, which the crate's own functions refuse.
#[derive(Default)]
struct Maker(Vec<u8>);

impl Maker {
    fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(size);
        header
    }

    fn add(mut self, mut header: Header, content: &[u8]) -> Maker {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Maker {
        self.add(Maker::header(EntryType::Regular, name.as_bytes(), content.len() as u64), content)
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Maker {
        let mut header = Maker::header(kind, name.as_bytes(), 0);
        header.set_link_name_literal(target).unwrap();
        self.add(header, b"")
    }

    fn of_kind(self, kind: EntryType, name: &str) -> Maker {
        self.add(Maker::header(kind, name.as_bytes(), 0), b"")
    }

    fn pax(self, key: &str, value: &str) -> Maker {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let length = (1..9).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
        let record = format!("{} {key}={value}\n", length.unwrap());
        self.add(Maker::header(EntryType::XHeader, b"pax", record.len() as u64), record.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../outside/new", "a/../../outside/new", "..", "a/..", "./../x"] {
        let place = Place::new();
        let error = place.unpack(&Maker::default().file(name, b"x").end()).unwrap_err();
        assert_eq!(error.to_string(), format!("the entry '{name}' is refused: it leads out of the root"));
    }
}

#[test]
fn absolute_names_count_from_the_new_root() {
    let place = Place::new();
    let name = format!("{}/new", place.outside().display());
    place.unpack(&Maker::default().file(&name, b"x").end()).unwrap();
    assert_eq!(place.read(&name[1..]), b"x");
}

#[test]
fn nothing_is_written_through_a_link_that_leads_out() {
    let outside = |place: &Place| place.outside().to_str().unwrap().to_owned();
    for target in [outside, |_: &Place| "../outside".to_owned(), |_: &Place| "/proc/self/root".to_owned()] {
        let place = Place::new();
        let archive = Maker::default().link(EntryType::Symlink, "evil", &target(&place));
        let error = place.unpack(&archive.file("evil/secret", b"x").end()).unwrap_err();
        assert!(matches!(error, RootfsError::Name { .. }), "{error}");
        // The link itself is a legitimate part of a root.
        assert_eq!(fs::read_link(place.root().join("evil")).unwrap().to_str().unwrap(), target(&place));
    }
}

/// `bin -> usr/bin` is how today's distributions look.
#[test]
fn a_link_that_stays_inside_is_followed() {
    let place = Place::new();
    let archive = Maker::default().file("usr/bin/old", b"1").link(EntryType::Symlink, "bin", "usr/bin");
    place.unpack(&archive.file("bin/new", b"2").end()).unwrap();
    assert_eq!(place.read("usr/bin/new"), b"2");
}

#[test]
fn a_file_replaces_a_link_and_not_what_it_leads_to() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    let archive = Maker::default().link(EntryType::Symlink, "x", secret.to_str().unwrap());
    place.unpack(&archive.file("x", b"mine").end()).unwrap();
    assert_eq!(place.read("x"), b"mine");
    assert!(fs::symlink_metadata(place.root().join("x")).unwrap().is_file());
}

#[test]
fn a_directory_replaces_a_link() {
    let place = Place::new();
    let outside = place.outside();
    let mut header = Maker::header(EntryType::Directory, b"x", 0);
    header.set_mode(0o711);
    let archive = Maker::default().link(EntryType::Symlink, "x", outside.to_str().unwrap()).add(header, b"");
    place.unpack(&archive.file("x/y", b"mine").end()).unwrap();
    assert_eq!(place.read("x/y"), b"mine");
    assert_eq!(fs::symlink_metadata(place.root().join("x")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn a_hard_link_cannot_reach_outside() {
    let place = Place::new();
    let secret = place.outside().join("secret").to_str().unwrap().to_owned();
    let archive = Maker::default().link(EntryType::Link, "x", "../outside/secret").end();
    assert!(matches!(place.unpack(&archive), Err(RootfsError::Name { .. })));
    // Counts from the new root, where there is none.
    let archive = Maker::default().link(EntryType::Link, "x", &secret).end();
    assert!(matches!(place.unpack(&archive), Err(RootfsError::Entry { .. })));
    // A link to a link is a link.
    let archive = Maker::default().link(EntryType::Symlink, "l", &secret).link(EntryType::Link, "x", "l");
    place.unpack(&archive.end()).unwrap();
    assert!(fs::symlink_metadata(place.root().join("x")).unwrap().is_symlink());
    // And through a directory link it is refused.
    let outside = place.outside();
    let archive = Maker::default().link(EntryType::Symlink, "d", outside.to_str().unwrap());
    let error = place.unpack(&archive.link(EntryType::Link, "y", "d/secret").end()).unwrap_err();
    assert!(matches!(error, RootfsError::Name { .. }), "{error}");
}

#[test]
fn devices_are_left_out_and_pipes_are_made() {
    let place = Place::new();
    let archive = Maker::default()
        .of_kind(EntryType::Char, "dev/null")
        .of_kind(EntryType::Block, "dev/sda")
        .of_kind(EntryType::Fifo, "pipe")
        .end();
    let stats = place.unpack(&archive).unwrap();
    assert_eq!((stats.skipped_specials, stats.fifos), (2, 1));
    assert!(!place.root().join("dev/null").exists());
    let pipe = fs::metadata(place.root().join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o644);
}

#[test]
fn unknown_kinds_are_refused() {
    let error = Place::new().unpack(&Maker::default().of_kind(EntryType::new(b'V'), "x").end()).unwrap_err();
    assert_eq!(error.to_string(), "the entry 'x' is refused: it is of a kind that is not known");
}

#[test]
fn the_later_of_two_entries_counts() {
    let place = Place::new();
    let archive =
        Maker::default().file("x", b"longer than").file("y", b"").file("x", b"this").link(EntryType::Symlink, "y", "x");
    place.unpack(&archive.end()).unwrap();
    assert_eq!(place.read("x"), b"this");
    assert_eq!(fs::read_link(place.root().join("y")).unwrap(), Path::new("x"));
    let directory = |mode| {
        let mut header = Maker::header(EntryType::Directory, b"twice", 0);
        header.set_mode(mode);
        header
    };
    let archive = Maker::default().add(directory(0o700), b"").file("twice/x", b"").add(directory(0o751), b"");
    place.unpack(&archive.end()).unwrap();
    assert_eq!(fs::metadata(place.root().join("twice")).unwrap().mode() & 0o7777, 0o751);
    // But a directory with something in it does not become a file.
    let error = place.unpack(&Maker::default().file("d/x", b"").file("d", b"").end()).unwrap_err();
    assert!(matches!(error, RootfsError::Entry { what: "replace", .. }), "{error}");
}

#[test]
fn every_cut_is_noticed() {
    let whole = Maker::default().file("a", &[7; 700]).file("b", b"x").end();
    let entries_end = whole.len() - 1024;
    for length in (0..entries_end + 1).step_by(64).chain([entries_end]) {
        let error = Place::new().unpack(&whole[..length]).unwrap_err();
        assert!(matches!(error, RootfsError::Damaged { .. }), "{length}: {error}");
    }
    // A single block of zeros ends it as well.
    Place::new().unpack(&whole[..entries_end + 512]).unwrap();
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [&b"#!/bin/sh\n"[..], &[0xff; 4096]] {
        assert!(matches!(Place::new().unpack(bytes), Err(RootfsError::Damaged { entries: 0, .. })));
    }
}

#[test]
fn bombs_are_defused() {
    let limits = Limits { entries: 10, bytes: 1 << 20, header_bytes: 64 << 10 };
    // A file that claims more than there may be; sparse, so that the archive is short.
    let mut header = Maker::header(EntryType::GNUSparse, b"big", 0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 50);
    gnu.sparse[0].offset.copy_from_slice(b"\x80\0\0\0\0\x04\0\0\0\0\0\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    let error = Place::new().unpack_within(&Maker::default().add(header, b"").end(), limits).unwrap_err();
    assert!(matches!(error, RootfsError::TooMuch { .. } | RootfsError::Damaged { .. }), "{error}");

    // Many small ones.
    let many = (0..11).fold(Maker::default(), |maker, n| maker.file(&format!("f{n}"), b""));
    let error = Place::new().unpack_within(&many.end(), limits).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 10 entries");

    // Two that are too much together.
    let two = Maker::default().file("a", &[1; 600 << 10]).file("b", &[1; 600 << 10]);
    let error = Place::new().unpack_within(&two.end(), limits).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 1048576 bytes in its files");

    // A name of a megabyte, which is read before anybody can judge it.
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let long = Maker::default().add(Maker::header(kind, b"long", 1 << 20), &[b'x'; 1 << 20]).file("a", b"");
        let error = Place::new().unpack_within(&long.end(), limits).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 65536 bytes in the headers of one entry");
    }

    // Compressed zeros.
    let zeros = Maker::default().file("zeros", &vec![0; 4 << 20]).end();
    let error = Place::new().unpack_within(&zstd::encode_all(&zeros[..], 19).unwrap(), limits).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 1048576 bytes in its files");
}

#[test]
fn sparse_files_stay_sparse() {
    let place = Place::new();
    let mut content = vec![0; 1 << 20];
    content[600_000] = 1;
    place.unpack(&Maker::default().file("x", &content).end()).unwrap();
    assert_eq!(place.read("x"), content);
    let used = fs::metadata(place.root().join("x")).unwrap().blocks() * 512;
    assert!(used < 1 << 19, "{used} bytes are used");
}

#[test]
fn setuid_and_capabilities_survive_the_change_of_owner() {
    let place = Place::new();
    let mut header = Maker::header(EntryType::Regular, b"su", 2);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    // VFS_CAP_REVISION_2, cap_net_bind_service; PAX values may hold anything but are passed as text here.
    let capability = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let archive = Maker::default()
        .pax("SCHILY.xattr.user.colour", "blue")
        .add(header.clone(), b"su")
        .pax("SCHILY.xattr.security.capability", capability)
        .file("ping", b"x")
        .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
        .file("plain", b"");
    let stats = place.unpack(&archive.end()).unwrap();
    let su = fs::metadata(place.root().join("su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 7, 8, 1));
    assert_eq!(xattr(&place.root().join("su"), "user.colour"), b"blue");
    assert_eq!(xattr(&place.root().join("ping"), "security.capability"), capability.as_bytes());
    assert_eq!(stats.skipped_xattrs, 1);
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

#[test]
fn a_sparse_file_in_the_way_of_pax_is_refused() {
    let archive = Maker::default().pax("GNU.sparse.major", "1").file("x", b"").end();
    let error = Place::new().unpack(&archive).unwrap_err();
    assert!(error.to_string().contains("--format=gnu"), "{error}");
}

#[test]
fn other_compressions_are_refused_with_a_hint() {
    let place = Place::new();
    for (magic, word) in [(&b"\x1f\x8b\x08\0"[..], "gzip"), (b"\xfd7zXZ\0", "xz"), (b"BZh91AY", "bzip2")] {
        let path = place.dir.path().join("archive");
        fs::write(&path, magic).unwrap();
        let problem = fill(&path, &place.root()).unwrap_err();
        assert_eq!(problem.code, Code::Usage);
        assert!(problem.message.contains(word), "{}", problem.message);
        assert!(problem.hint.contains("zstd"), "{}", problem.hint);
    }
    let problem = fill(&place.dir.path().join("gone"), &place.root()).unwrap_err();
    assert!(problem.message.contains("No such file"), "{}", problem.message);
}

/// Everything about a file that a root file system must keep.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    links: u64,
    content: Vec<u8>,
    xattr: Option<Vec<u8>>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let kind = data.file_type();
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = match () {
            () if kind.is_file() => fs::read(&path).unwrap(),
            () if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            () => Vec::new(),
        };
        let mut value = [0; 100];
        let xattr =
            rustix::fs::lgetxattr(&path, "user.test", &mut value[..]).ok().map(|length| value[..length].to_vec());
        let seen = Seen {
            kind: data.mode() & libc::S_IFMT,
            mode: data.mode() & 0o7777,
            owner: (data.uid(), data.gid()),
            modified: (data.mtime(), data.mtime_nsec()),
            links: if kind.is_dir() { 0 } else { data.nlink() },
            content,
            xattr,
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), seen);
    }
    found
}

/// Small numbers that look random, the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A tree of everything that there can be, with odd names.
fn plant(root: &Path, seed: u64) {
    let mut dice = Dice(seed);
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..60 {
        let odd = [" ", "\n", "\\012", "ä", "*", "-", "'\"", "\u{7f}"][dice.roll(8) as usize];
        let long = "l".repeat(dice.roll(2) as usize * 200);
        let name = [format!("{number}{odd}{long}").as_bytes(), &[0xff][..dice.roll(2) as usize]].concat();
        let path = directories[dice.roll(directories.len() as u64) as usize].join(std::ffi::OsStr::from_bytes(&name));
        match dice.roll(6) {
            0 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
            }
            1 => symlink(["/etc/passwd", "../x", "", "t"][dice.roll(4) as usize].to_owned() + "y", &path).unwrap(),
            2 if !files.is_empty() => fs::hard_link(&files[dice.roll(files.len() as u64) as usize], &path).unwrap(),
            3 => rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap(),
            _ => {
                let mut file = File::create(&path).unwrap();
                for _ in 0..dice.roll(4) {
                    file.write_all(&vec![dice.roll(2) as u8; dice.roll(20_000) as usize]).unwrap();
                }
                if dice.roll(3) == 0 {
                    rustix::fs::fsetxattr(&file, "user.test", b"1\0=\n2", rustix::fs::XattrFlags::empty()).unwrap();
                }
                std::os::unix::fs::chown(&path, Some(dice.roll(70_000) as u32), Some(dice.roll(70_000) as u32))
                    .unwrap();
                file.set_permissions(fs::Permissions::from_mode(dice.roll(0o10000) as u32)).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(dice.roll(1 << 60));
                file.set_modified(time).unwrap();
                files.push(path);
            }
        }
    }
    for directory in directories {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700 | dice.roll(0o10000) as u32)).unwrap();
    }
}

#[test]
fn what_tar_packs_is_unpacked_the_same() {
    for seed in 1..=6 {
        let source = tempfile::tempdir().unwrap();
        plant(source.path(), seed);
        let place = Place::new();
        let archive = place.dir.path().join("archive");
        let mut command = Command::new("tar");
        command
            .arg("-C")
            .arg(source.path())
            .args(["--format=posix", "--xattrs", "--numeric-owner", "-cf"])
            .arg(&archive);
        assert!(command.arg(".").status().unwrap().success());
        if seed % 2 == 0 {
            let packed = zstd::encode_all(File::open(&archive).unwrap(), 1).unwrap();
            fs::write(&archive, packed).unwrap();
        }
        fill(&archive, &place.root()).unwrap();
        assert_eq!(look(source.path()), look(&place.root()), "seed {seed}");
    }
}

#[test]
fn gnu_archives_of_sparse_files_and_long_names_are_read() {
    let source = tempfile::tempdir().unwrap();
    let deep = source.path().join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    symlink("t".repeat(300), deep.join("link")).unwrap();
    let mut sparse = File::create(deep.join("sparse")).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.set_len(8 << 20).unwrap();
    rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Start(5 << 20)).unwrap();
    sparse.write_all(b"middle").unwrap();
    let place = Place::new();
    let archive = place.dir.path().join("archive");
    let mut command = Command::new("tar");
    command.arg("-C").arg(source.path()).args(["--format=gnu", "--sparse", "-cf"]).arg(&archive).arg(".");
    assert!(command.status().unwrap().success());
    assert!(fs::metadata(&archive).unwrap().len() < 1 << 20);
    fill(&archive, &place.root()).unwrap();
    let times_aside = |root: &Path| -> Vec<_> {
        look(root).into_iter().map(|(name, seen)| (name, seen.kind, seen.mode, seen.content)).collect()
    };
    assert_eq!(times_aside(source.path()), times_aside(&place.root()));
}

#[test]
fn a_directory_is_copied_the_same() {
    for seed in 7..=10 {
        let source = tempfile::tempdir().unwrap();
        plant(source.path(), seed);
        let place = Place::new();
        fill(source.path(), &place.root()).unwrap();
        assert_eq!(look(source.path()), look(&place.root()), "seed {seed}");
    }
}

#[test]
fn sockets_are_not_copied_and_links_are_not_followed() {
    let source = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.path().join("socket")).unwrap();
    let place = Place::new();
    symlink(place.outside(), source.path().join("link")).unwrap();
    let stats = unpack(source.path(), &File::open(place.root()).unwrap()).unwrap();
    assert_eq!((stats.skipped_specials, stats.symlinks, stats.files), (1, 1, 0));
    assert!(!place.root().join("socket").exists());
    assert!(fs::symlink_metadata(place.root().join("link")).unwrap().is_symlink());
}

#[test]
fn the_crates_own_archives_are_read() {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    builder.append_data(&mut header, "a/b", &b"hi"[..]).unwrap();
    let place = Place::new();
    let stats = place.unpack(&builder.into_inner().unwrap()).unwrap();
    assert_eq!((stats.files, stats.bytes), (1, 2));
    assert_eq!(place.read("a/b"), b"hi");
    assert_eq!(fs::metadata(place.root().join("a")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_missing_directory_is_made() {
    let place = Place::new();
    let into = place.root().join("new");
    fill(&place.outside(), &into).unwrap();
    assert_eq!(fs::read(into.join("secret")).unwrap(), b"untouched");
}
