//! Proves that the layer's files arrive as files, not only as content: odd names, hard and symbolic links, extended
//! attributes, owners, modes, times to the nanosecond, and inode numbers, which programs such as SQLite remember.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::Mode;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, setxattr};

use super::Parts;
use crate::blocks::{digest, random_bytes};
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, same};

/// The kind's parts, with their files in `dir`.
pub(crate) fn parts(dir: &Path) -> Verdict<Parts> {
    let root = dir.join("tree");
    std::fs::create_dir(&root).must("mkdir")?;
    plant(&root)?;
    let held = root.join("held open");
    let file = File::open(&held).must("opening a file")?;
    Ok(vec![Box::new(Tree { found_at_first: survey(&root)?, root }), Box::new(HeldOpen { file, path: held, steps: 0 })])
}

/// All that is remembered of one file.
#[derive(Debug, PartialEq)]
struct Portrait {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    device_number: u64,
    target: Option<PathBuf>,
    digest: Option<u64>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn odd_names() -> Vec<OsString> {
    let longest = [b'n'; 255];
    let names: [&[u8]; 10] = [
        b"with space",
        b"'single' and \"double\"",
        b"new\nline",
        b"not utf-8 \xff\xfe\x80",
        &longest,
        b"-rf",
        b"$HOME `id` \\ * ? [x]",
        "gr\u{fc}\u{df} \u{1f980}".as_bytes(),
        b"...",
        b"\x01\x7f\t",
    ];
    names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect()
}

fn plant(root: &Path) -> Verdict {
    for (index, name) in odd_names().into_iter().enumerate() {
        let path = root.join(name);
        std::fs::write(&path, random_bytes(index * 1000, index as u64)).must("writing a file with an odd name")?;
        let modified = UNIX_EPOCH + Duration::new(1_000_000_000 + index as u64, 123_456_789);
        let file = File::options().write(true).open(&path).must("opening")?;
        file.set_times(FileTimes::new().set_modified(modified)).must("utimensat")?;
    }
    std::fs::write(root.join("held open"), "held open").must("writing")?;
    plant_links(root)?;
    plant_modes_and_owners(root)?;
    let attributed = root.join("attributed");
    std::fs::write(&attributed, "attributed").must("writing")?;
    for (name, value) in [("user.plain", &b"value"[..]), ("user.binary", b"\0\xff\n"), ("user.empty", b"")] {
        setxattr(&attributed, name, value, XattrFlags::empty()).must("setxattr")?;
    }
    std::fs::create_dir_all(root.join("a/b/c/d/e/f/g/h")).must("mkdir")?;
    std::fs::create_dir(root.join("empty directory")).must("mkdir")
}

fn plant_links(root: &Path) -> Verdict {
    let original = root.join("linked");
    std::fs::write(&original, "linked").must("writing")?;
    for name in ["second name", "third name"] {
        std::fs::hard_link(&original, root.join(name)).must("link")?;
    }
    for (target, name) in [("linked", "to a file"), ("nowhere", "dangling"), ("..", "to its parent"), ("loop", "loop")]
    {
        symlink(target, root.join(name)).must("symlink")?;
    }
    symlink("t".repeat(300), root.join("long target")).must("symlink")
}

fn plant_modes_and_owners(root: &Path) -> Verdict {
    for mode in [0o000, 0o400, 0o4755, 0o2755, 0o6711, 0o1777, 0o640] {
        let path = root.join(format!("mode {mode:o}"));
        std::fs::write(&path, "mode").must("writing")?;
        // The owner first: a change of owner clears setuid.
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(10_000 + mode), Some(20_000 + mode)).must("chown")?;
        }
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).must("chmod")?;
    }
    nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).must("mkfifo")?;
    let sticky = root.join("sticky directory");
    std::fs::create_dir(&sticky).must("mkdir")?;
    std::fs::set_permissions(&sticky, Permissions::from_mode(0o3777)).must("chmod")
}

fn portrait(path: &Path) -> Verdict<Portrait> {
    let metadata = std::fs::symlink_metadata(path).must(format_args!("lstat of {path:?}"))?;
    let readable = metadata.is_file() && (metadata.mode() & 0o400 != 0 || nix::unistd::geteuid().is_root());
    let content = if readable { Some(std::fs::read(path).must(format_args!("reading {path:?}"))?) } else { None };
    let target = metadata.is_symlink().then(|| std::fs::read_link(path).must("readlink")).transpose()?;
    Ok(Portrait {
        inode: metadata.ino(),
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        links: metadata.nlink(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        device_number: metadata.rdev(),
        target,
        digest: content.map(|content| digest(&content)),
        attributes: attributes(path)?,
    })
}

/// The `user.*` attributes of a file.
fn attributes(path: &Path) -> Verdict<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 4096];
    let len = llistxattr(path, &mut names).must("llistxattr")?;
    let mut attributes = BTreeMap::new();
    for name in names[..len].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 4096];
        let len = lgetxattr(path, OsStr::from_bytes(name), &mut value).must("lgetxattr")?;
        value.truncate(len);
        attributes.insert(name.to_owned(), value);
    }
    Ok(attributes)
}

fn survey(root: &Path) -> Verdict<BTreeMap<PathBuf, Portrait>> {
    let mut found = BTreeMap::from([(root.to_owned(), portrait(root)?)]);
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).must("listing a directory")? {
            let entry = entry.must("listing a directory")?;
            if entry.file_type().must("type of a directory entry")?.is_dir() {
                directories.push(entry.path());
            }
            found.insert(entry.path(), portrait(&entry.path())?);
        }
    }
    Ok(found)
}

/// The whole tree against its first survey.
struct Tree {
    root: PathBuf,
    found_at_first: BTreeMap<PathBuf, Portrait>,
}

impl Part for Tree {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let mut now = survey(&self.root)?;
        for (path, expected) in &self.found_at_first {
            match now.remove(path) {
                Some(found) => same(format_args!("{path:?}"), expected, &found)?,
                None => return Err(Violation::new(format_args!("{path:?}"), "a file", "nothing")),
            }
        }
        match now.keys().next() {
            Some(path) => Err(Violation::new(format_args!("{path:?}"), "nothing", "a file")),
            None => Ok(self.found_at_first.len() as u64),
        }
    }

    fn sabotage(&mut self) -> Verdict {
        // What a move by copying does: the same content under another inode.
        let (path, copy) = (self.root.join("linked"), self.root.join("copy"));
        std::fs::copy(&path, &copy).must("copying")?;
        std::fs::rename(copy, path).must("rename")
    }
}

/// An open file is still the file that its path names.
struct HeldOpen {
    file: File,
    path: PathBuf,
    steps: u64,
}

impl Part for HeldOpen {
    fn name(&self) -> &'static str {
        "held_open"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let opened = self.file.metadata().must("fstat of an open file")?;
        let named = std::fs::metadata(&self.path).must("stat of an open file")?;
        same("device and inode of an open file", (named.dev(), named.ino()), (opened.dev(), opened.ino()))?;
        self.steps += 1;
        Ok(self.steps)
    }

    fn sabotage(&mut self) -> Verdict {
        self.file = File::open(&self.path).and_then(|_| File::open("/proc/self/exe")).must("opening")?;
        Ok(())
    }
}
