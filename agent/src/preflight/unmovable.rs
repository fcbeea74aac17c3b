//! What makes CRIU fail for certain, found in /proc while the workload runs.
//!
//! Only what is cheap to see and sure to fail: a wrong no would keep a workload on a dying node. What is left CRIU says itself,
//! before the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use migrate_proto::error::{Code, Problem};
use migrate_sandbox::process::Stat;
use rustix::fs::{AtFlags, CWD, FileType, StatVfsMountFlags, StatxFlags, statvfs, statx};

use super::compare::name_some;
use super::maps;
use super::process_names::name;

const PROCESSES_NAMED: usize = 3;
const CAP_SYS_RESOURCE: u32 = 24;
/// Files without a name that CRIU knows. Maps of BPF it knows where it was built so; that is its own to say.
const KNOWN_ANONYMOUS: [&str; 9] =
    ["[eventfd]", "[eventpoll]", "inotify", "[inotify]", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]", "bpf-map"];
/// Devices that every sandbox has: null, zero, full, random, urandom, tty, ptmx.
const KNOWN_DEVICES: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
/// The slaves of pseudo-terminals.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// Namespaces that must be the sandbox's, because its mounts, PIDs and users are not part of an image.
const OF_THE_SANDBOX: [&str; 3] = ["pid", "mnt", "user"];
/// Namespaces that the whole tree must share.
const OF_THE_TREE: [&str; 5] = ["net", "ipc", "uts", "cgroup", "time"];

/// What keeps the workload from being moved; empty where nothing is known that would. `init` is the node's PID of the
/// sandbox's PID 1, `tree` the node's PIDs of the workload, its main process first, `cgroup` all that is in its control
/// group. One problem for each reason: its message names the processes and says what is in the way, for a caller to say what
/// that prevents.
pub(super) fn unmovable(init: i32, tree: &[i32], cgroup: &[i32]) -> Vec<Problem> {
    let agent = Agent::look();
    let mut findings = Findings::default();
    for pid in strays(init, tree, cgroup) {
        findings.add(Reason::LeftTree, pid);
    }
    for pid in tree {
        own_namespaces(init, tree.first().copied().unwrap_or(init), *pid, &mut findings);
        status(*pid, &agent, &mut findings);
        descriptors(*pid, &mut findings);
        mappings(*pid, &mut findings);
        odd_files(*pid, &mut findings);
    }
    findings.into_problems()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    LeftTree,
    Namespace(&'static str),
    IoUring,
    Anonymous(String),
    Device(String),
    Vanished(String),
    Unmounted(String),
    PacketPipe,
    Traced(i32),
    OtherUser(u32),
}

impl Reason {
    fn hint(&self) -> &'static str {
        match self {
            Reason::LeftTree => {
                "let it run in the foreground (most daemons have an option for that), or keep the process that started it"
            }
            Reason::Namespace(_) => "run it without unshare, bubblewrap or containers inside",
            Reason::IoUring => "switch io_uring off in the program (for example UV_USE_IO_URING=0 for Node.js)",
            Reason::Anonymous(_) | Reason::Device(_) => "the program must close it or do without",
            Reason::Vanished(_) => "it was probably upgraded; restart the workload, or give it a --root of its own",
            Reason::Unmounted(_) => "the program must close it; descriptors should not be inherited from outside",
            Reason::PacketPipe => "open the pipe without O_DIRECT",
            Reason::Traced(_) => "detach strace or gdb and try again",
            Reason::OtherUser(_) => "give the agent CAP_SYS_RESOURCE, or run the workload as root",
        }
    }
}

/// Follows the names of the processes.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::LeftTree => f.write_str("left the workload's process tree, so it would stay behind"),
            Reason::Namespace(kind) => write!(f, "runs in a {kind} namespace of its own"),
            Reason::IoUring => f.write_str("uses io_uring"),
            Reason::Anonymous(kind) => write!(f, "has {kind} open"),
            Reason::Device(path) => write!(f, "uses the device {path}"),
            Reason::Vanished(path) => write!(f, "uses {path}, which has been deleted or replaced on this node since"),
            Reason::Unmounted(path) => write!(f, "has {path} open, on a file system that its sandbox does not have"),
            Reason::PacketPipe => f.write_str("has a pipe in packet mode (O_DIRECT)"),
            Reason::Traced(tracer) => write!(f, "is being debugged by process {tracer}"),
            Reason::OtherUser(uid) => {
                write!(f, "runs as user {uid}, and this node's agent may only move processes of its own user")
            }
        }
    }
}

#[derive(Default)]
struct Findings(BTreeMap<Reason, Vec<i32>>);

impl Findings {
    fn add(&mut self, reason: Reason, pid: i32) {
        let found = self.0.entry(reason).or_default();
        if !found.contains(&pid) {
            found.push(pid);
        }
    }

    fn into_problems(self) -> Vec<Problem> {
        let problem = |(reason, pids): (Reason, Vec<i32>)| {
            let named: Vec<String> = pids.iter().map(|pid| name(*pid)).collect();
            let message = format!("{} {reason}", name_some(&named, PROCESSES_NAMED, ", "));
            Problem::new(Code::DumpFailed, message).hint(reason.hint())
        };
        self.0.into_iter().map(problem).collect()
    }
}

/// Processes that init has inherited. One that is a descendant of the tree was merely started after `tree` was made, and
/// one that descends from outside the sandbox is a command beside the workload, which does not belong to it.
fn strays(init: i32, tree: &[i32], cgroup: &[i32]) -> Vec<i32> {
    let is_stray = |pid: i32| {
        let mut at = pid;
        // A process is its own descendant's ancestor at most once, so this ends; the bound is for PIDs reused meanwhile.
        for _ in 0..1000 {
            let Ok(stat) = Stat::read(at) else { return false };
            if tree.contains(&at) || at == init || (at == pid && matches!(stat.state, 'Z' | 'X')) {
                return false;
            }
            if stat.parent == init {
                return true;
            }
            at = stat.parent;
        }
        false
    };
    cgroup.iter().copied().filter(|pid| is_stray(*pid)).collect()
}

fn own_namespaces(init: i32, main: i32, pid: i32, findings: &mut Findings) {
    let of_sandbox = OF_THE_SANDBOX.iter().map(|kind| (init, *kind, *kind));
    let of_tree = OF_THE_TREE.iter().map(|kind| (main, *kind, *kind));
    // A time namespace that only the next child would enter is one too many as well.
    for (other, kind, theirs) in of_sandbox.chain(of_tree).chain([(pid, "time", "time_for_children")]) {
        if let (Some(own), Some(shared)) = (namespace(pid, kind), namespace(other, theirs))
            && own != shared
        {
            findings.add(Reason::Namespace(in_words(kind)), pid);
        }
    }
}

fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn in_words(kind: &'static str) -> &'static str {
    match kind {
        "mnt" => "mount",
        "net" => "network",
        "pid" => "PID",
        "ipc" => "IPC",
        "uts" => "host name",
        "cgroup" => "control group",
        other => other,
    }
}

/// What matters of the agent's own rights, which CRIU inherits.
struct Agent {
    uid: u32,
    gid: u32,
    may_see_limits: bool,
}

impl Agent {
    fn look() -> Agent {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = field(&status, "CapBnd:").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Agent { uid, gid, may_see_limits: bounding >> CAP_SYS_RESOURCE & 1 == 1 }
    }

    /// prlimit(2) wants real, effective and saved ids of the target to be the caller's real ones, unless it has
    /// CAP_SYS_RESOURCE.
    fn may_not_dump(&self, status: &str) -> Option<u32> {
        let ids = |name| -> Vec<u32> {
            let list = field(status, name).unwrap_or_default();
            list.split_ascii_whitespace().take(3).filter_map(|id| id.parse().ok()).collect()
        };
        let (uids, gids) = (ids("Uid:"), ids("Gid:"));
        let same = uids.iter().all(|uid| *uid == self.uid) && gids.iter().all(|gid| *gid == self.gid);
        (!self.may_see_limits && !same).then(|| uids.into_iter().find(|uid| *uid != self.uid).unwrap_or(self.uid))
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn status(pid: i32, agent: &Agent, findings: &mut Findings) {
    for thread in entries(&format!("/proc/{pid}/task")) {
        let Ok(bytes) = fs::read(thread.join("status")) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        match field(&text, "TracerPid:").and_then(|tracer| tracer.parse().ok()) {
            None | Some(0) => {}
            Some(tracer) => findings.add(Reason::Traced(tracer), pid),
        }
        if thread.ends_with(pid.to_string())
            && let Some(uid) = agent.may_not_dump(&text)
        {
            findings.add(Reason::OtherUser(uid), pid);
        }
    }
}

fn descriptors(pid: i32, findings: &mut Findings) {
    for descriptor in entries(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(&descriptor) else { continue };
        let shown = target.to_string_lossy();
        if let Some(kind) = shown.strip_prefix("anon_inode:") {
            if let Some(reason) = anonymous(kind) {
                findings.add(reason, pid);
            }
        } else if target.is_absolute() {
            file(pid, &descriptor, &shown, findings);
        }
    }
}

/// What the link does not tell about a descriptor, its description does: the mode, and the mount it was opened on. A file on a
/// mount that is not in the sandbox was inherited from outside, or made by the kernel (as a message queue is).
fn odd_files(pid: i32, findings: &mut Findings) {
    const O_DIRECT: u32 = 0o40_000;
    let mounts = mounts_of(pid);
    for descriptor in entries(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(&descriptor) else { continue };
        let Some(number) = descriptor.file_name() else { continue };
        let said = fs::read_to_string(Path::new(&format!("/proc/{pid}/fdinfo")).join(number)).unwrap_or_default();
        let shown = target.to_string_lossy();
        if shown.starts_with("pipe:") {
            let flags = field(&said, "flags:").and_then(|text| u32::from_str_radix(text, 8).ok());
            if flags.is_some_and(|flags| flags & O_DIRECT != 0) {
                findings.add(Reason::PacketPipe, pid);
            }
        } else if target.is_absolute() && !maps::is_memory(target.as_os_str().as_encoded_bytes()) {
            let mount = field(&said, "mnt_id:").and_then(|text| text.parse().ok());
            if mount.is_some_and(|mount: u64| !mounts.is_empty() && !mounts.contains(&mount)) {
                findings.add(Reason::Unmounted(escape(&shown)), pid);
            }
        }
    }
}

fn mounts_of(pid: i32) -> BTreeSet<u64> {
    let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

fn mappings(pid: i32, findings: &mut Findings) {
    for mapping in maps::of(pid).unwrap_or_default() {
        let link = PathBuf::from(format!("/proc/{pid}/map_files/{}", mapping.range));
        let mut shown = String::from_utf8_lossy(&mapping.path).into_owned();
        if mapping.deleted {
            shown.push_str(" (deleted)");
        }
        file(pid, &link, &shown, findings);
    }
}

fn anonymous(kind: &str) -> Option<Reason> {
    match kind {
        "[io_uring]" => Some(Reason::IoUring),
        known if KNOWN_ANONYMOUS.contains(&known) => None,
        other => Some(Reason::Anonymous(in_plain_words(other))),
    }
}

fn in_plain_words(kind: &str) -> String {
    let bare = kind.trim_matches(['[', ']']);
    match bare {
        "perf_event" => "a performance counter".to_owned(),
        "userfaultfd" => "a userfaultfd".to_owned(),
        kvm if kvm.starts_with("kvm") => "a virtual machine (KVM)".to_owned(),
        bpf if bpf.starts_with("bpf") || bpf == "btf" => format!("a BPF object ({})", bpf.escape_debug()),
        other => format!("a descriptor of type {}", other.escape_debug()),
    }
}

/// `link` leads to the file itself, whatever its name leads to; looking at it does not open it, nor ask a file server.
fn file(pid: i32, link: &Path, shown: &str, findings: &mut Findings) {
    let Ok(found) = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS) else { return };
    match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::CharacterDevice => {
            let device = (found.stx_rdev_major, found.stx_rdev_minor);
            if !KNOWN_DEVICES.contains(&device) && !PTS_MAJORS.contains(&device.0) {
                findings.add(Reason::Device(escape(shown)), pid);
            }
        }
        FileType::BlockDevice => findings.add(Reason::Device(escape(shown)), pid),
        FileType::RegularFile => {
            // CRIU makes deleted files again where they were, and there it cannot.
            let Some(path) = shown.strip_suffix(" (deleted)") else { return };
            if is_read_only(link).unwrap_or(false) {
                findings.add(Reason::Vanished(escape(path)), pid);
            }
        }
        _ => {}
    }
}

fn escape(path: &str) -> String {
    path.escape_debug().to_string()
}

fn is_read_only(link: &Path) -> io::Result<bool> {
    Ok(statvfs(link)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Empty where it cannot be read: the process has ended.
fn entries(dir: &str) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
