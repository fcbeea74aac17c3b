//! A network in which a sandbox is alone: what is in it can bind and connect to the addresses that it had, and reaches nobody.
//!
//! The namespace has nothing but its loopback, to which every address there is belongs. So restored sockets find theirs again, those of the
//! node included, and what would be sent anywhere stays inside.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::error::{Result, SandboxError};

/// The loopback is the first interface of every namespace.
const LOOPBACK: u32 = 1;
/// A message's header, and how much of an answer matters: a header and an error code.
const HEADER: usize = 16;
const ANSWER: usize = HEADER + 4;

/// The caller leaves the network that it is in for an empty one.
pub(super) fn be_alone() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(SandboxError::system("unshare the network"))?;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        .map_err(SandboxError::system("open a netlink socket"))?;
    ask(&kernel, libc::RTM_NEWLINK, 0, &loopback_up(), "raise the loopback")?;
    let new = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    ask(&kernel, libc::RTM_NEWROUTE, new, &everything_is_here(libc::AF_INET), "route every address to the loopback")?;
    // A kernel without IPv6 has none to restore either. There a route alone does not let anybody bind to an address.
    let _ = ask(&kernel, libc::RTM_NEWROUTE, new, &everything_is_here(libc::AF_INET6), "route");
    let _ = std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
    Ok(())
}

/// `struct ifinfomsg`: family, padding, type, index, flags, which of them change.
fn loopback_up() -> Vec<u8> {
    let up = libc::IFF_UP as u32;
    let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    [LOOPBACK, up, up].iter().for_each(|field| body.extend(field.to_ne_bytes()));
    body
}

/// `struct rtmsg` of a local route to all addresses, with the interface behind it.
fn everything_is_here(family: i32) -> Vec<u8> {
    let (to_all, from_all, service) = (0, 0, 0);
    let mut body = vec![
        family as u8,
        to_all,
        from_all,
        service,
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ];
    body.extend(0u32.to_ne_bytes());
    // `struct rtattr`: its length, its type, the index.
    body.extend(8u16.to_ne_bytes());
    body.extend(libc::RTA_OIF.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    body
}

/// `struct nlmsghdr` with a body; waits for the kernel's word.
fn ask(kernel: &OwnedFd, kind: u16, flags: u16, body: &[u8], what: &'static str) -> Result<()> {
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and sender: there is one question at a time.
    message.extend([0; 8]);
    message.extend(body);
    send(kernel.as_raw_fd(), &message, MsgFlags::empty()).map_err(SandboxError::system(what))?;
    let mut answer = [0; 512];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(SandboxError::system(what))?;
    let code = answer.get(HEADER..ANSWER).filter(|_| length >= ANSWER).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(SandboxError::system(what)(Errno::from_raw(-code))),
        None => Err(SandboxError::system(what)(Errno::EBADMSG)),
    }
}
