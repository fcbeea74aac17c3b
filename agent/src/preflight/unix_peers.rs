//! Which Unix socket is connected to which: /proc does not say, the kernel's socket diagnosis does.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Numbers of `linux/netlink.h`, `linux/sock_diag.h` and `linux/unix_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const AF_UNIX: u8 = 1;
const HEADER: usize = 16;
/// Family, type, state, padding, inode, cookie.
const UNIX_MESSAGE: usize = 16;

/// From each connected Unix socket's inode to its peer's, in this process's network namespace. A peer that is not accepted yet has
/// no inode, and is left out.
pub(super) fn all() -> io::Result<HashMap<u64, u64>> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::NetlinkSockDiag))?;
    let fd = netlink.as_raw_fd();
    send(fd, &request(), MsgFlags::empty())?;
    let mut peers = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let received = recv(fd, &mut buffer, MsgFlags::empty())?;
        if received == 0 || !take_in(&buffer[..received], &mut peers)? {
            return Ok(peers);
        }
    }
}

fn request() -> Vec<u8> {
    let mut request = Vec::new();
    let body = 24_u32;
    request.extend((HEADER as u32 + body).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    // Family, protocol, padding; states; inode; what to show; cookie.
    request.extend([AF_UNIX, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(UDIAG_SHOW_PEER.to_ne_bytes());
    request.extend([0; 8]);
    request
}

/// Reads the messages of one datagram; `false` after the last.
fn take_in(mut datagram: &[u8], peers: &mut HashMap<u64, u64>) -> io::Result<bool> {
    while let Some((length, kind)) = u32_at(datagram, 0).zip(u16_at(datagram, 4)) {
        let length = length as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => return Err(io::Error::other("the kernel does not tell which sockets are connected")),
            SOCK_DIAG_BY_FAMILY => peers.extend(connection(&datagram[HEADER..length])),
            _ => {}
        }
        datagram = &datagram[aligned(length).min(datagram.len())..];
    }
    Ok(true)
}

fn connection(message: &[u8]) -> Option<(u64, u64)> {
    let inode = u32_at(message, 4)?;
    let peer = peer(message.get(UNIX_MESSAGE..)?).filter(|peer| *peer != 0)?;
    Some((inode.into(), peer.into()))
}

fn peer(mut attributes: &[u8]) -> Option<u32> {
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        if kind == UNIX_DIAG_PEER {
            return u32_at(attributes, 4);
        }
        attributes = attributes.get(aligned(length.max(4))..)?;
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn both_ends_of_a_pair_are_found() {
        let (a, b) = UnixStream::pair().unwrap();
        let (c, d) = UnixDatagram::pair().unwrap();
        let alone = UnixDatagram::unbound().unwrap();
        let peers = all().unwrap();
        assert_eq!(peers.get(&inode(&alone)), None);
        for (one, other) in [(inode(&a), inode(&b)), (inode(&b), inode(&a)), (inode(&c), inode(&d))] {
            assert_eq!(peers.get(&one), Some(&other));
        }
    }

    #[test]
    fn odd_bytes_are_no_harm() {
        let mut peers = HashMap::new();
        for bytes in [&[][..], &[1; 3], &[0; 64], &[255; 64], &[20, 0, 0, 0, 20, 0, 1, 1, 1, 1]] {
            let _ = take_in(bytes, &mut peers);
        }
        assert!(peers.is_empty());
    }
}
