//! The workload's sockets: which CRIU cannot take, which end with the move, which ports they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{Finding, Port};

use super::compare::name_some;
use super::finding::{no, note, unlikely};
use super::net_tables::{self, Entry};
use super::process_names::name;
use super::unix_peers;

/// Connections that are named.
const NAMED: usize = 3;
/// How the names begin that the kernel gives to kinds of sockets that CRIU knows.
const KNOWN: [&str; 7] = ["TCP", "UDP", "UNIX", "NETLINK", "PACKET", "RAW", "PING"];

/// Sockets of the workload: the first process that has each, and under which descriptor.
type Owned = BTreeMap<u64, (i32, PathBuf)>;

/// What the sockets of `tree` have to say about a move. `init` is the sandbox's PID 1, `cgroup` is all that belongs to the workload.
pub(super) fn findings(init: i32, tree: &[i32], cgroup: &[i32]) -> Vec<Finding> {
    let owned = owned_by(tree);
    if owned.is_empty() {
        return Vec::new();
    }
    let mut found = unknown_kinds(&owned);
    found.extend(connected_outside(&owned, init, tree, cgroup));
    let entries = own_entries(tree, &owned);
    found.extend(waiting_to_be_sent(&owned, &entries));
    found.extend(closed_by_the_move(&entries));
    found
}

/// Sockets of the workload that are connected to one of its PID 1, which listens for signs of life.
pub(super) fn connected_to_init(init: i32, tree: &[i32]) -> Vec<u64> {
    let listening: BTreeSet<u64> = sockets_of(init).into_iter().map(|(inode, _)| inode).collect();
    let Ok(peers) = unix_peers::all() else { return Vec::new() };
    let owned = owned_by(tree);
    owned.into_keys().filter(|inode| peers.get(inode).is_some_and(|peer| listening.contains(peer))).collect()
}

/// The ports that the workload holds.
pub(super) fn ports(tree: &[i32]) -> Vec<Port> {
    let ports: BTreeSet<Port> = own_entries(tree, &owned_by(tree)).iter().filter_map(Entry::port).collect();
    ports.into_iter().collect()
}

fn owned_by(tree: &[i32]) -> Owned {
    let mut owned = Owned::new();
    for pid in tree {
        for (inode, path) in sockets_of(*pid) {
            owned.entry(inode).or_insert((*pid, path));
        }
    }
    owned
}

fn sockets_of(pid: i32) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let socket = |path: PathBuf| {
        let target = fs::read_link(&path).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((inode, path))
    };
    entries.filter_map(|entry| socket(entry.path())).collect()
}

fn own_entries(tree: &[i32], owned: &Owned) -> Vec<Entry> {
    let all = tree.first().map(|main| net_tables::of(*main)).unwrap_or_default();
    all.into_iter().filter(|entry| owned.contains_key(&entry.inode)).collect()
}

fn unknown_kinds(owned: &Owned) -> Vec<Finding> {
    let kind = |path: &PathBuf| {
        let mut bytes = [0; 64];
        let length = rustix::fs::getxattr(path, "system.sockprotoname", &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).trim_end_matches('\0').to_owned())
    };
    let mut unknown = BTreeMap::new();
    for (pid, path) in owned.values() {
        // Some have no name; of these nothing is known.
        if let Some(kind) = kind(path).filter(|kind| !kind.is_empty())
            && !KNOWN.iter().any(|known| kind.starts_with(known))
        {
            unknown.entry(kind).or_insert(*pid);
        }
    }
    let finding = |(kind, pid): (String, i32)| {
        let hint = match kind.as_str() {
            "MPTCP" | "MPTCPv6" => "use plain TCP (for Go programs: GODEBUG=multipathtcp=0)",
            _ => "the program must close it or do without",
        };
        let what = format!("{} has a socket of the kind {}, which CRIU does not know", name(pid), kind.escape_debug());
        no(Problem::new(Code::DumpFailed, what).hint(hint))
    };
    unknown.into_iter().map(finding).collect()
}

/// Half a connection cannot be taken. Whoever has the other half is named; where nobody is seen to have it, it is on its way to
/// somebody, which CRIU knows, or belongs to a process that this node cannot see.
fn connected_outside(owned: &Owned, init: i32, tree: &[i32], cgroup: &[i32]) -> Vec<Finding> {
    let Ok(peers) = unix_peers::all() else { return Vec::new() };
    let listening: BTreeSet<u64> = sockets_of(init).into_iter().map(|(inode, _)| inode).collect();
    let mut outside: BTreeMap<u64, i32> = owned
        .iter()
        .filter_map(|(inode, (pid, _))| Some((*peers.get(inode)?, *pid)))
        .filter(|(peer, _)| !owned.contains_key(peer) && !listening.contains(peer))
        .collect();
    if outside.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut seen = BTreeSet::new();
    for other in others.filter(|pid| !cgroup.contains(pid)) {
        for (inode, _) in sockets_of(other) {
            if let Some(pid) = outside.remove(&inode) {
                let comm = fs::read_to_string(format!("/proc/{other}/comm")).unwrap_or_default();
                seen.insert(connected(pid, &format!("{} (PID {other} of the node)", comm.trim().escape_debug())));
            }
        }
    }
    let problem =
        |what| Problem::new(Code::DumpFailed, what).hint("close that connection, or run both ends in one workload");
    let mut findings: Vec<Finding> = seen.into_iter().map(|what| no(problem(what))).collect();
    if !outside.is_empty() && !owned.values().any(has_passengers) {
        // Meanwhile it may have arrived.
        let now = owned_by(tree);
        let unseen: BTreeSet<i32> =
            outside.iter().filter(|(peer, _)| !now.contains_key(peer)).map(|(_, pid)| *pid).collect();
        let said = |pid| unlikely(problem(connected(pid, "a process that this node cannot see")));
        findings.extend(unseen.into_iter().map(said));
    }
    findings
}

/// Whether descriptors are on their way to this socket, in messages that nobody has read yet.
fn has_passengers((pid, path): &(i32, PathBuf)) -> bool {
    let Some(number) = path.file_name() else { return false };
    let said = fs::read_to_string(Path::new(&format!("/proc/{pid}/fdinfo")).join(number)).unwrap_or_default();
    said.lines().filter_map(|line| line.strip_prefix("scm_fds:")).any(|count| count.trim() != "0")
}

fn connected(pid: i32, to: &str) -> String {
    format!("{} has a Unix socket that is connected to {to}, outside the workload", name(pid))
}

/// CRIU refuses datagrams that are held back (`UDP_CORK`), and drops others; which of them it is nobody else can see.
fn waiting_to_be_sent(owned: &Owned, entries: &[Entry]) -> Option<Finding> {
    let entry = entries.iter().find(|entry| entry.is_udp() && entry.unsent > 0)?;
    let (pid, _) = owned.get(&entry.inode)?;
    let what = format!("{} has datagrams that wait to be sent", name(*pid));
    Some(unlikely(Problem::new(Code::DumpFailed, what).hint("try again when they are sent")))
}

fn closed_by_the_move(entries: &[Entry]) -> Option<Finding> {
    let others: Vec<String> = entries.iter().filter_map(Entry::connected_to).collect();
    if others.is_empty() {
        return None;
    }
    let what = format!("its TCP connections will be closed: to {}", name_some(&others, NAMED, ", "));
    Some(note(what, "their other ends see a connection that is gone, and have to connect again"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use migrate_proto::message::Severity;

    use super::*;

    /// A process that has a socket for its stdin, until the test ends.
    struct With(Child);

    impl With {
        fn socket(socket: OwnedFd) -> With {
            // It has its descriptors before it is known to have begun: `spawn` waits for its exec.
            With(Command::new("sleep").arg("1000").stdin(Stdio::from(socket)).stdout(Stdio::null()).spawn().unwrap())
        }

        fn findings(&self) -> Vec<Finding> {
            let tree = [self.0.id() as i32];
            super::findings(0, &tree, &tree)
        }
    }

    impl Drop for With {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_unix_socket_to_this_process_is_one_to_outside() {
        let (own, theirs) = UnixStream::pair().unwrap();
        let with = With::socket(theirs.into());
        let found = with.findings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::No);
        assert!(found[0].problem.message.contains(&format!("PID {} of the node", std::process::id())), "{found:?}");
        drop(own);
        assert_eq!(with.findings(), []);
    }

    /// It is in a message that lies in a socket of the process: CRIU finds it there.
    #[test]
    fn a_socket_on_its_way_is_not_outside() {
        use std::io::IoSlice;
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let (reader, writer) = UnixStream::pair().unwrap();
        let (own, theirs) = UnixStream::pair().unwrap();
        let send = |passenger: &UnixStream| {
            let rights = [passenger.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&rights)];
            sendmsg::<()>(writer.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
        };
        send(&own);
        drop(own);
        let mut child = Command::new("sleep");
        let child =
            child.arg("1000").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(reader)));
        let with = With(child.spawn().unwrap());
        drop(writer);
        assert_eq!(with.findings(), []);
    }

    #[test]
    fn a_tcp_connection_is_closed_by_the_move() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let with = With::socket(TcpStream::connect(at).unwrap().into());
        let found = with.findings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::Note);
        assert_eq!(found[0].problem.message, format!("its TCP connections will be closed: to {at}"));
        let with = With::socket(listener.into());
        assert_eq!(with.findings(), []);
        let held = ports(&[with.0.id() as i32]);
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].port, at.port());
    }

    #[test]
    fn a_socket_of_another_kind_is_refused() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        // Which of them there are depends on the kernel.
        let odd = [(AddressFamily::Vsock, SockType::Stream, "VSOCK"), (AddressFamily::Alg, SockType::SeqPacket, "ALG")];
        for (family, kind, word) in odd {
            let Ok(odd) = socket(family, kind, SockFlag::SOCK_CLOEXEC, None) else { continue };
            let found = With::socket(odd).findings();
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].problem.message.contains("a socket of the kind"), "{found:?}");
            assert!(found[0].problem.message.contains(word), "{found:?}");
        }
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let usual = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert_eq!(With::socket(usual).findings(), []);
    }
}
