//! The sandbox's file system, as PID 1 builds it in its own mount namespace.
//!
//! The root is a small tmpfs into which the node's top-level directories are bound, read-only, so that nothing has to be
//! created on the node; or a root of the workload's own, which is part of its layer. `pivot_root` makes it the namespace's root, which CRIU
//! insists upon. Mounts are not part of an image: both ends build the same ones.

use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use migrate_proto::spec::Volume;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::hidden::Hidden;
use super::imitation::Imitations;
use crate::beneath;
use crate::error::{Result, SandboxError};
use crate::layer::MOUNT_OPTIONS;
use crate::plan::{GATE, LAYER_DIRS, LAYER_MOUNT, OWN_ROOT, Plan, RUN, Root};

const NOTHING: Option<&str> = None;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Below /proc, what only the node may write to.
const KERNELS_OWN: [&str; 10] = [
    "sysrq-trigger",
    "irq",
    "bus",
    "sys/vm",
    "sys/dev",
    "sys/kernel/core_pattern",
    "sys/kernel/modprobe",
    "sys/kernel/hotplug",
    "sys/kernel/poweroff_cmd",
    "sys/kernel/usermodehelper",
];
/// Top-level directories that the sandbox makes itself.
const OWN_DIRS: [&str; 7] = ["proc", "dev", "run", "tmp", "work", ".migrate", "lost+found"];

/// Mounts that are kept as descriptors until the layer is there.
pub(crate) struct House {
    plan: Plan,
    volumes: Vec<OwnedFd>,
    /// For an own root: what is put together when the layer is attached.
    pending: Option<Pending>,
    layer_attached: bool,
}

/// What an own root needs of the node's root, taken before it is out of sight.
struct Pending {
    work: OwnedFd,
    gate: OwnedFd,
    criu: Option<(PathBuf, OwnedFd)>,
    devices: Vec<(&'static str, OwnedFd)>,
}

impl House {
    /// Builds what can be built before the layer is there, and moves in.
    pub(crate) fn build(plan: &Plan) -> Result<House> {
        let hidden = Hidden::find(&plan.hide)?;
        let volumes = plan.volumes.iter().map(|volume| take_volume(volume, &hidden)).collect::<Result<_>>()?;
        let work = plan.dir.join("work");
        let pending = Pending {
            work: take(&work, false)?,
            gate: take_program(&current_program()?)?,
            criu: plan.criu_prefix.as_ref().map(|path| Ok((path.clone(), take_program(path)?))).transpose()?,
            devices: DEVICES
                .iter()
                .map(|name| Ok((*name, take(&Path::new("/dev").join(name), false)?)))
                .collect::<Result<_>>()?,
        };
        let mut house = House { plan: plan.clone(), volumes, pending: Some(pending), layer_attached: false };
        if plan.root == Root::Node {
            house.move_into_node_root(&hidden)?;
        }
        Ok(house)
    }

    fn move_into_node_root(&mut self, hidden: &Hidden) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let root = self.plan.dir.join("root");
        make_dir(&root, 0o755)?;
        mount_tmpfs(&root, "mode=0755,size=1m")?;
        bind_node_directories(&root)?;
        for path in hidden.names() {
            hide(&root, path)?;
        }
        // Everything bound so far; the tmpfs itself once it is furnished.
        make_read_only(&root, true)?;
        change_mount(&root, 0, libc::MOUNT_ATTR_RDONLY, false)?;
        furnish(&root, pending, false)?;
        show_resolver(&root)?;
        for dir in LAYER_DIRS.iter().map(|dir| dir.target).chain([LAYER_MOUNT]) {
            make_dir(&inside(&root, dir), 0o755)?;
        }
        // CRIU starts before the layer is there, and wants to write.
        for dir in ["tmp", "run"] {
            mount_tmpfs(&root.join(dir), "mode=0700,size=1m")?;
        }
        for (volume, tree) in self.plan.volumes.iter().zip(&self.volumes) {
            // Best effort: a volume may also go into a directory that comes with the layer.
            let _ = make_mount_point(tree, &inside(&root, Path::new(volume.target.as_os_str())));
        }
        move_in(&root)?;
        make_read_only(Path::new("/"), false)
    }

    /// Mounts the layer and everything that lies upon it. After this the sandbox is complete.
    pub(crate) fn attach_layer(&mut self, device: &OwnedFd) -> Result<()> {
        if self.layer_attached {
            return Err(SandboxError::Init { step: "attach the layer".into(), reason: "there is one already".into() });
        }
        match self.pending.take() {
            None => mount_layer(device, Path::new(LAYER_MOUNT))?,
            Some(pending) => self.move_into_own_root(device, pending)?,
        }
        for dir in LAYER_DIRS {
            let source = Path::new(LAYER_MOUNT).join(dir.name);
            make_dir(&source, dir.mode)?;
            bind(&source, Path::new(dir.target))?;
        }
        make_dir(&Path::new(LAYER_MOUNT).join("log"), 0o755)?;
        let mut imitations = if self.plan.alone { Some(Imitations::new()?) } else { None };
        for (volume, tree) in self.plan.volumes.iter().zip(self.volumes.drain(..)) {
            let target = Path::new(volume.target.as_os_str());
            match &mut imitations {
                Some(imitations) => imitations.place(&tree, target)?,
                None => place(&tree, target)?,
            }
            if volume.read_only {
                make_read_only(target, true)?;
            }
        }
        self.layer_attached = true;
        Ok(())
    }

    /// The layer is mounted aside first, since the root itself is part of it. Everything else is put in after the pivot: links
    /// in a root that somebody else has made then lead nowhere but into that root.
    fn move_into_own_root(&self, device: &OwnedFd, pending: Pending) -> Result<()> {
        let aside = self.plan.dir.join("aside");
        make_dir(&aside, 0o700)?;
        mount_layer(device, &aside)?;
        let layer = take(&aside, false)?;
        let root = self.plan.dir.join("root");
        make_dir(&root, 0o755)?;
        attach(&take_own_root(&aside)?, &root)?;
        move_in(&root)?;
        let root = Path::new("/");
        furnish(root, pending, true)?;
        make_dir(Path::new(LAYER_MOUNT), 0o700)?;
        attach(&layer, Path::new(LAYER_MOUNT))?;
        make_read_only(Path::new("/.migrate"), false)?;
        LAYER_DIRS.iter().try_for_each(|dir| make_dir(Path::new(dir.target), 0o755))
    }
}

/// Nothing that is done here is seen outside.
pub(super) fn make_private() -> Result<()> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .map_err(SandboxError::system("make mounts private"))
}

/// The workload can write to its layer, so that its root may have become a link to anything by the next start.
fn take_own_root(layer: &Path) -> Result<OwnedFd> {
    let path = layer.join(OWN_ROOT);
    let root = File::open(layer)
        .and_then(|layer| beneath::directory(layer, Path::new(OWN_ROOT), OFlags::PATH))
        .map_err(SandboxError::file("open", &path))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(root, "", flags).map_err(SandboxError::file("take", &path))
}

/// Binds every top-level directory of the node that the sandbox does not make itself; links stay links.
fn bind_node_directories(root: &Path) -> Result<()> {
    for entry in fs::read_dir("/").map_err(SandboxError::file("read", "/"))? {
        let entry = entry.map_err(SandboxError::file("read", "/"))?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(SandboxError::file("look at", entry.path()))?);
        if OWN_DIRS.iter().any(|own| name == *own) {
            continue;
        }
        let target = root.join(&name);
        if kind.is_symlink() {
            let link = fs::read_link(entry.path()).map_err(SandboxError::file("read", entry.path()))?;
            symlink(link, &target).map_err(SandboxError::file("link", &target))?;
        } else if kind.is_dir() {
            make_dir(&target, 0o755)?;
            mount(Some(&entry.path()), &target, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
                .map_err(SandboxError::file("bind", entry.path()))?;
        }
    }
    Ok(())
}

/// /proc, /dev and /.migrate: what every sandbox has of its own.
fn furnish(root: &Path, pending: Pending, own: bool) -> Result<()> {
    for dir in ["proc", "dev", ".migrate"] {
        refuse_link(&root.join(dir))?;
    }
    let proc = root.join("proc");
    make_dir(&proc, 0o555)?;
    mount(Some("proc"), &proc, Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, NOTHING)
        .map_err(SandboxError::file("mount proc on", &proc))?;
    protect_kernel(&proc)?;
    let dev = root.join("dev");
    make_dir(&dev, 0o755)?;
    mount_tmpfs(&dev, "mode=0755,size=64k")?;
    for (name, tree) in &pending.devices {
        let target = dev.join(name);
        File::create(&target).map_err(SandboxError::file("create", &target))?;
        attach(tree, &target)?;
    }
    let terminals = dev.join("pts");
    make_dir(&terminals, 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &terminals, Some("devpts"), flags, Some("newinstance,ptmxmode=0666,mode=0620"))
        .map_err(SandboxError::file("mount devpts on", &terminals))?;
    for (name, link) in
        [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(link, dev.join(name)).map_err(SandboxError::file("link", dev.join(name)))?;
    }
    if own {
        let ours = root.join(".migrate");
        make_dir(&ours, 0o755)?;
        mount_tmpfs(&ours, "mode=0755,size=64k")?;
    }
    let run = inside(root, RUN);
    make_dir(&run, 0o700)?;
    attach(&pending.work, &run)?;
    let gate = inside(root, GATE);
    if let Some(parent) = gate.parent() {
        make_dir(parent, 0o755)?;
    }
    File::create(&gate).map_err(SandboxError::file("create", &gate))?;
    attach(&pending.gate, &gate)?;
    match &pending.criu {
        // With the node's root CRIU is visible already, as a rule; in an own root something may be in its place, if only
        // what an earlier start left.
        Some((prefix, tree)) if own || !inside(root, prefix).exists() => {
            make_dir(&inside(root, prefix), 0o755)?;
            if own {
                pin(&inside(root, prefix))?;
            }
            attach(tree, &inside(root, prefix))
        }
        _ => Ok(()),
    }
}

/// In a root that is the workload's, it could put a directory of its own in the place of one that leads to a mount of ours;
/// but not in the place of a mount. So every directory on the way is made one.
fn pin(path: &Path) -> Result<()> {
    let mut way: Vec<&Path> = path.ancestors().skip(1).filter(|dir| dir.parent().is_some()).collect();
    way.reverse();
    for dir in way {
        refuse_link(dir)?;
        bind(dir, dir)?;
    }
    refuse_link(path)
}

fn refuse_link(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let reason = format!("{} is a link, and has to be a directory", path.display());
        return Err(SandboxError::Init { step: "use the workload's root".into(), reason });
    }
    Ok(())
}

/// What of /proc makes the kernel run programs on the node, or changes the node itself, asks for no capability but only for
/// root. The rest of /proc/sys stays as it is: CRIU writes to it.
fn protect_kernel(proc: &Path) -> Result<()> {
    for name in KERNELS_OWN {
        let path = proc.join(name);
        if path.exists() {
            bind(&path, &path)?;
            make_read_only(&path, true)?;
        }
    }
    Ok(())
}

fn move_in(root: &Path) -> Result<()> {
    chdir(root).map_err(SandboxError::file("enter", root))?;
    pivot_root(".", ".").map_err(SandboxError::file("pivot to", root))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(SandboxError::system("detach the old root"))?;
    chdir("/").map_err(SandboxError::system("chdir"))
}

fn mount_layer(device: &OwnedFd, target: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", device.as_raw_fd());
    mount(Some(source.as_str()), target, Some("ext4"), MsFlags::MS_NODEV, Some(MOUNT_OPTIONS))
        .map_err(SandboxError::file("mount the layer on", target))
}

/// A volume is put beside what hides paths, and would show them again. It is looked at after it was opened: another workload
/// may be able to change what is on the way to it.
fn take_volume(volume: &Volume, hidden: &Hidden) -> Result<OwnedFd> {
    let path = Path::new(volume.source.as_os_str());
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(SandboxError::file("open the volume", path))?;
    let source = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        .map_err(SandboxError::file("find the volume", path))?;
    match hidden.shown_by(&source) {
        None => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let whole = OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
            open_tree(opened, "", flags | whole).map_err(SandboxError::file("take the volume", path))
        }
        Some(path) => Err(SandboxError::Init {
            step: format!("show the volume {}", volume.source),
            reason: format!("{} is hidden from every workload of this node", path.display()),
        }),
    }
}

/// Covers a path of the node, which is its real one, with nothing.
fn hide(root: &Path, path: &Path) -> Result<()> {
    let target = inside(root, path);
    // What does not exist on this node, or is not shown anyway, needs no hiding.
    match fs::symlink_metadata(&target) {
        Ok(found) if found.is_dir() => {
            mount_tmpfs(&target, "mode=0000,size=4k")?;
            make_read_only(&target, false)
        }
        Ok(_) => bind(Path::new("/dev/null"), &target),
        Err(_) => Ok(()),
    }
}

fn inside(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
}

fn current_program() -> Result<PathBuf> {
    fs::read_link("/proc/self/exe").map_err(SandboxError::system("find this program"))
}

/// A detached copy of a mount, which can be placed anywhere later.
pub(super) fn take(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags).map_err(SandboxError::file("take", path))
}

/// A copy that can be executed and no more: what is ours is not to be changed from inside.
fn take_program(path: &Path) -> Result<OwnedFd> {
    let tree = take(path, false)?;
    change_tree(&tree, path, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, 0, false)?;
    Ok(tree)
}

pub(super) fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(tree.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(SandboxError::file("attach", target))
}

/// Attaches a volume, whose mount point may have to be made on the layer first.
pub(super) fn place(tree: &OwnedFd, target: &Path) -> Result<()> {
    make_mount_point(tree, target)?;
    attach(tree, target)
}

/// A directory for a directory and a file for a file, where there is nothing yet.
pub(super) fn make_mount_point(tree: &OwnedFd, target: &Path) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    let source = rustix::fs::fstat(tree).map_err(SandboxError::file("look at what goes to", target))?;
    if FileType::from_raw_mode(source.st_mode).is_dir() {
        return make_dir(target, 0o755);
    }
    if let Some(parent) = target.parent() {
        make_dir(parent, 0o755)?;
    }
    File::create(target).map(drop).map_err(SandboxError::file("create", target))
}

/// The node's resolver configuration is often a link into /run, which is the workload's own inside. What it leads to is put in
/// the link's place: each node has its own name servers.
fn show_resolver(root: &Path) -> Result<()> {
    let link = Path::new("/etc/resolv.conf");
    let leads_to_run = fs::canonicalize(link).is_ok_and(|found| found.starts_with("/run"));
    if !leads_to_run || !fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink()) {
        return Ok(());
    }
    let copy = inside(root, "/.migrate/resolv.conf");
    let text = fs::read(link).map_err(SandboxError::file("read", link))?;
    fs::write(&copy, text).map_err(SandboxError::file("write", &copy))?;
    // On the link itself, which is not followed.
    attach(&take(&copy, false)?, &inside(root, link))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NOTHING, MsFlags::MS_BIND, NOTHING).map_err(SandboxError::file("bind", target))
}

pub(super) fn mount_tmpfs(target: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .map_err(SandboxError::file("mount tmpfs on", target))
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(SandboxError::file("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(SandboxError::file("protect", path))
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(super) fn make_read_only(path: &Path, recursive: bool) -> Result<()> {
    change_mount(path, libc::MOUNT_ATTR_RDONLY, 0, recursive)
}

fn change_mount(path: &Path, set: u64, clear: u64, recursive: bool) -> Result<()> {
    let place = File::open(path).map_err(SandboxError::file("open", path))?;
    change_tree(&place.into(), path, set, clear, recursive)
}

/// `path` is for people.
#[allow(unsafe_code)]
fn change_tree(tree: &OwnedFd, path: &Path, set: u64, clear: u64, recursive: bool) -> Result<()> {
    let attr = MountAttr { set, clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of::<MountAttr>();
    // SAFETY: the path is an empty C string and attr is a mount_attr of the size given; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &attr, size) };
    if result < 0 {
        return Err(SandboxError::file("change the mount of", path)(std::io::Error::last_os_error()));
    }
    Ok(())
}
