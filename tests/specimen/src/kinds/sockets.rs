//! Proves that sockets arrive: messages queued in socket pairs of all types, named and abstract listeners that still
//! accept, a connection between two processes of the tree, a listening TCP socket, a bound UDP socket, and options.
//!
//! TCP connections exist for microseconds once in ten cycles: an established one cannot be dumped unless CRIU is
//! told so (see NOT_CARRIED.md). Datagrams in a UDP socket may be lost, as the protocol allows, so they are sent again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use super::Parts;
use crate::backlog::{Backlog, Boundaries};
use crate::family::Child;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, same};

/// New connections are made once in so many cycles.
const CONNECT_EVERY: u64 = 10;

/// The kind's parts, with their files in `dir`.
pub(crate) fn parts(dir: &Path) -> Verdict<Parts> {
    let connection = Connection::new(dir)?;
    let path = UnixAddress::from_pathname(dir.join("listener")).must("naming a listener")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let label = format!("specimen-{}-{now}", std::process::id());
    let nameless = UnixAddress::from_abstract_name(label).must("naming a listener")?;
    Ok(vec![
        Box::new(pair("stream", SockType::Stream, Boundaries::None)?),
        Box::new(pair("datagrams", SockType::Datagram, Boundaries::Kept)?),
        Box::new(pair("packets", SockType::SeqPacket, Boundaries::Kept)?),
        Box::new(connection),
        Box::new(Door::new("named_listener", path)?),
        Box::new(Door::new("abstract_listener", nameless)?),
        Box::new(TcpDoor::new()?),
        Box::new(Udp::new()?),
    ])
}

fn pair(name: &'static str, kind: SockType, boundaries: Boundaries) -> Verdict<Backlog> {
    let (one, other) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).must("socketpair")?;
    Backlog::new(name, one, other, boundaries)
}

/// A connection between parent and child that was accepted before the move.
struct Connection {
    child: Child,
    stream: UnixStream,
}

impl Connection {
    fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("connection");
        let listener = UnixListener::bind(&path).must("binding a socket")?;
        let child = Child::fork("child at the other end", |parent| {
            let mut stream = UnixStream::connect(&path).must("connecting")?;
            parent.serve(|number| {
                stream.write_all(&number.to_le_bytes()).must("writing to a connection")?;
                Ok(number)
            })
        })?;
        let (stream, _) = listener.accept().must("accepting")?;
        Ok(Self { child, stream })
    }
}

impl Part for Connection {
    fn name(&self) -> &'static str {
        "connection"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        // The word of the last cycle is still in the socket: it is read after this cycle's is there.
        self.child.ask(cycle)?;
        if cycle > 1 {
            let mut word = [0; 8];
            self.stream.read_exact(&mut word).must("reading from a connection")?;
            same("word in a connection", cycle - 1, u64::from_le_bytes(word))?;
        }
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.stream.read_exact(&mut [0]).must("reading from a connection")
    }
}

/// A Unix listener at which a new client can still knock.
struct Door {
    name: &'static str,
    listener: UnixListener,
    address: UnixAddress,
    accepted: u64,
}

impl Door {
    fn new(name: &'static str, address: UnixAddress) -> Verdict<Self> {
        let listener = UnixListener::bind_addr(&address).must("binding a socket")?;
        Ok(Self { name, listener, address, accepted: 0 })
    }
}

impl Part for Door {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let found = self.listener.local_addr().must("getsockname")?;
        same(format_args!("address of the {}", self.name), format!("{:?}", self.address), format!("{found:?}"))?;
        if cycle.is_multiple_of(CONNECT_EVERY) || self.accepted == 0 {
            let mut client =
                UnixStream::connect_addr(&self.address).must(format_args!("connecting to the {}", self.name))?;
            let (mut server, _) = self.listener.accept().must("accepting")?;
            client.write_all(&cycle.to_le_bytes()).must("writing to a new connection")?;
            let mut word = [0; 8];
            server.read_exact(&mut word).must("reading from a new connection")?;
            same("word in a new connection", cycle, u64::from_le_bytes(word))?;
            self.accepted += 1;
        }
        Ok(self.accepted)
    }

    fn sabotage(&mut self) -> Verdict {
        let stray = UnixAddress::from_abstract_name(format!("specimen-stray-{}-{}", std::process::id(), self.name));
        self.listener = UnixListener::bind_addr(&stray.must("naming a listener")?).must("binding a socket")?;
        Ok(())
    }
}

/// A TCP listener at which a new client can still knock.
struct TcpDoor {
    listener: TcpListener,
    address: SocketAddr,
    accepted: u64,
}

impl TcpDoor {
    fn new() -> Verdict<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).must("binding a TCP socket")?;
        Ok(Self { address: listener.local_addr().must("getsockname")?, listener, accepted: 0 })
    }

    fn connect(&self, word: u64) -> Verdict {
        let mut client = TcpStream::connect(self.address).must("connecting to the TCP listener")?;
        let (mut server, from) = self.listener.accept().must("accepting")?;
        // End with a reset: nothing of the connection stays behind in the kernel.
        setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).must("SO_LINGER")?;
        client.write_all(&word.to_le_bytes()).must("writing to TCP")?;
        let mut found = [0; 8];
        server.read_exact(&mut found).must("reading from TCP")?;
        same("peer of a TCP connection", client.local_addr().must("getsockname")?, from)?;
        same("word by TCP", word, u64::from_le_bytes(found))
    }
}

impl Part for TcpDoor {
    fn name(&self) -> &'static str {
        "tcp_listener"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("address of the TCP listener", self.address, self.listener.local_addr().must("getsockname")?)?;
        if cycle.is_multiple_of(CONNECT_EVERY) || self.accepted == 0 {
            self.connect(cycle)?;
            self.accepted += 1;
        }
        Ok(self.accepted)
    }

    fn sabotage(&mut self) -> Verdict {
        self.listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).must("binding a TCP socket")?;
        Ok(())
    }
}

/// A bound UDP socket with its options, and another that sends to it.
struct Udp {
    receiver: UdpSocket,
    sender: UdpSocket,
    address: SocketAddr,
    buffer: usize,
}

impl Udp {
    const PATIENCE: Duration = Duration::from_millis(500);
    const TRIES: u32 = 20;

    fn new() -> Verdict<Self> {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).must("binding a UDP socket");
        let (receiver, sender) = (bind()?, bind()?);
        receiver.set_read_timeout(Some(Self::PATIENCE)).must("SO_RCVTIMEO")?;
        receiver.set_broadcast(true).must("SO_BROADCAST")?;
        setsockopt(&receiver, sockopt::RcvBuf, &50_000).must("SO_RCVBUF")?;
        let buffer = nix::sys::socket::getsockopt(&receiver, sockopt::RcvBuf).must("SO_RCVBUF")?;
        Ok(Self { address: receiver.local_addr().must("getsockname")?, receiver, sender, buffer })
    }

    fn check_options(&self) -> Verdict {
        same("address of the UDP socket", self.address, self.receiver.local_addr().must("getsockname")?)?;
        same("SO_RCVTIMEO", Some(Self::PATIENCE), self.receiver.read_timeout().must("SO_RCVTIMEO")?)?;
        same("SO_BROADCAST", true, self.receiver.broadcast().must("SO_BROADCAST")?)?;
        let buffer = nix::sys::socket::getsockopt(&self.receiver, sockopt::RcvBuf).must("SO_RCVBUF")?;
        same("SO_RCVBUF", self.buffer, buffer)
    }

    /// The next datagram; `None` when none came in time or the wait was interrupted.
    fn receive(&self) -> Verdict<Option<u64>> {
        let mut word = [0; 8];
        match self.receiver.recv(&mut word) {
            Ok(len) => same("length of a datagram", 8, len).map(|()| Some(u64::from_le_bytes(word))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(Violation::new("receiving by UDP", "success", error)),
        }
    }
}

impl Part for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.check_options()?;
        for _ in 0..Self::TRIES {
            self.sender.send_to(&cycle.to_le_bytes(), self.address).must("sending by UDP")?;
            // A datagram of an earlier try may still come.
            while let Some(word) = self.receive()? {
                if word == cycle {
                    return Ok(cycle);
                }
                same("word by UDP", cycle - 1, word)?;
            }
        }
        Err(Violation::new("a datagram to the bound UDP socket", "arrives", "none of many"))
    }

    fn sabotage(&mut self) -> Verdict {
        self.receiver.set_broadcast(false).must("SO_BROADCAST")
    }
}
