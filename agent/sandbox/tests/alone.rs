//! A sandbox that is alone in its network: it has every address there is, and reaches nobody.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::net::UdpSocket;

use house::{House, command};
use migrate_proto::api::Exit;
use migrate_sandbox::plan::Network;

/// Binds and connects as restored sockets do, also to addresses that nobody here has; then sends to a port of the node.
const SOCKETS: &str = "import os, socket, sys\n\
    taken = int(sys.argv[1])\n\
    socket.create_server(('127.0.0.1', taken)); socket.create_server(('203.0.113.7', 80))\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('203.0.113.7', 53)); s.connect(('198.51.100.1', 53))\n\
    if os.path.exists('/proc/net/if_inet6'):\n\
    \x20 six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.bind(('2001:db8::7', 53)); six.connect(('2001:db8::1', 53))\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', taken))\n\
    print(sorted(name for _, name in socket.if_nameindex()), flush=True)\n";

#[test]
fn every_address_is_its_own_and_nothing_comes_out() {
    let house = House::with("alone", |plan| plan.network = Network::Alone).unwrap();
    let heard = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = heard.local_addr().unwrap().port().to_string();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", heard.local_addr().unwrap().port()));
    assert_eq!(house.run(&["python3", "-c", SOCKETS, &port]), Exit::Code(0), "{}", house.output());
    assert_eq!(house.output(), "['lo']\n");
    heard.set_nonblocking(true).unwrap();
    let nothing = heard.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "it was sent before the workload had ended");
}

#[test]
fn a_command_beside_is_in_the_same_network() {
    let house = House::with("alone-beside", |plan| plan.network = Network::Alone).unwrap();
    house.start(&command(&["sleep", "1000"]));
    let (mut helper, _letter) = house.beside(command(&["cat", "/proc/self/net/dev"]));
    let interfaces = String::from_utf8(helper.output().unwrap().stdout).unwrap();
    let names: Vec<&str> = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"], "{interfaces}");
}
