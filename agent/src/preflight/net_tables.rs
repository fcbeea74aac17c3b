//! The kernel's tables of sockets, from `/proc/PID/net`: whose ports are taken, and which connections there are.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use migrate_proto::message::Port;

/// The states of `tcp_states.h` that matter here.
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;
const LISTEN: u8 = 10;

/// A socket, as a line of such a table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inode: u64,
    udp: bool,
    /// In hexadecimal, as the kernel writes it.
    address: String,
    port: u16,
    remote: (String, u16),
    state: u8,
    /// Bytes that wait to be sent.
    pub(super) unsent: u64,
}

impl Entry {
    pub(super) fn is_udp(&self) -> bool {
        self.udp
    }

    /// What others cannot have at the same time.
    pub(super) fn port(&self) -> Option<Port> {
        let holds = if self.udp { self.state == CLOSED } else { self.state == LISTEN };
        (holds && self.port != 0).then(|| Port { udp: self.udp, address: self.address.clone(), port: self.port })
    }

    /// The other end of a TCP connection.
    pub(super) fn connected_to(&self) -> Option<String> {
        let connected = !self.udp && self.state == ESTABLISHED;
        connected.then(|| readable(&self.remote.0, self.remote.1))
    }
}

/// All IP sockets in the network namespace of a process.
pub(super) fn of(pid: i32) -> Vec<Entry> {
    let tables = [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)];
    let read = |(name, udp)| (fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default(), udp);
    tables.map(read).iter().flat_map(|(text, udp)| text.lines().filter_map(|line| entry(line, *udp))).collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn entry(line: &str, udp: bool) -> Option<Entry> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let address = |field: &str| -> Option<(String, u16)> {
        let (address, port) = field.split_once(':')?;
        Some((address.to_owned(), u16::from_str_radix(port, 16).ok()?))
    };
    let (own, port) = address(fields.get(1)?)?;
    Some(Entry {
        inode: fields.get(9)?.parse().ok()?,
        udp,
        address: own,
        port,
        remote: address(fields.get(2)?)?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        unsent: u64::from_str_radix(fields.get(4)?.split_once(':')?.0, 16).ok()?,
    })
}

/// Whether one of two nodes that hold these ports would be refused the other's.
pub(super) fn collide(a: &Port, b: &Port) -> bool {
    let everywhere = |port: &Port| port.address.bytes().all(|digit| digit == b'0');
    a.udp == b.udp
        && a.port == b.port
        // Of two families the one on every address may take the other's as well, or not: that is the program's choice.
        && a.address.len() == b.address.len()
        && (a.address == b.address || everywhere(a) || everywhere(b))
}

/// `port 6379 (TCP, on 127.0.0.1)`.
pub(super) fn in_words(port: &Port) -> String {
    let protocol = if port.udp { "UDP" } else { "TCP" };
    match address(&port.address) {
        Some(address) if !address.is_unspecified() => format!("port {} ({protocol}, on {address})", port.port),
        _ => format!("port {} ({protocol})", port.port),
    }
}

fn readable(hexadecimal: &str, port: u16) -> String {
    address(hexadecimal).map_or_else(|| "?".to_owned(), |address| SocketAddr::new(address, port).to_string())
}

/// The kernel writes words of 32 bits, each as this machine's number.
fn address(hexadecimal: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hexadecimal.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hexadecimal.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn own() -> Vec<Entry> {
        of(std::process::id() as i32)
    }

    fn held() -> Vec<Port> {
        own().iter().filter_map(Entry::port).collect()
    }

    #[test]
    fn what_this_process_holds_is_there() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let words: Vec<String> = held().iter().map(in_words).collect();
        assert!(words.contains(&format!("port {} (TCP, on 127.0.0.1)", tcp_at.port())), "{words:?}");
        assert!(words.contains(&format!("port {} (UDP)", udp_at.port())), "{words:?}");
        let client = TcpStream::connect(tcp_at).unwrap();
        let (_accepted, _) = tcp.accept().unwrap();
        let peers: Vec<String> = own().iter().filter_map(Entry::connected_to).collect();
        assert!(peers.contains(&tcp_at.to_string()), "{peers:?}");
        assert!(peers.contains(&client.local_addr().unwrap().to_string()), "{peers:?}");
    }

    #[test]
    fn the_tables_of_the_kernel_are_understood() {
        assert_eq!(entry("  sl  local_address rem_address   st tx_queue rx_queue", false), None);
        let v6 = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0";
        let found = entry(v6, false).unwrap();
        assert_eq!(found.inode, 4711);
        assert_eq!(in_words(&found.port().unwrap()), "port 8080 (TCP, on ::1)");
        let corked = entry("1: 0100007F:A1B2 0100007F:0009 01 00000C00:00000000 00:0 0 0 0 12 2 0 0", true).unwrap();
        assert_eq!((corked.unsent, corked.port()), (0xc00, None));
    }

    #[test]
    fn one_port_twice_on_one_address() {
        let port = |udp, address: &str, port| Port { udp, address: address.to_owned(), port };
        let local = port(false, "0100007F", 80);
        assert!(collide(&local, &local));
        assert!(collide(&local, &port(false, "00000000", 80)) && collide(&port(false, "00000000", 80), &local));
        for other in [port(true, "0100007F", 80), port(false, "0100007F", 81), port(false, "0200007F", 80)] {
            assert!(!collide(&local, &other), "{other:?}");
        }
    }
}
