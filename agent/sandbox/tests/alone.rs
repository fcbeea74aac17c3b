//! A sandbox that is alone: it has every address there is, and reaches nobody; its volumes look as they are, and what is done to them is not.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::io::{Read, Write};
use std::net::UdpSocket;

use house::{House, command, volume};
use migrate_proto::api::Exit;

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
    let house = House::with("alone", |plan| plan.alone = true).unwrap();
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
    let house = House::with("alone-beside", |plan| plan.alone = true).unwrap();
    house.start(&command(&["sleep", "1000"]));
    let (mut helper, _letter) = house.beside(command(&["cat", "/proc/self/net/dev"]));
    let interfaces = String::from_utf8(helper.output().unwrap().stdout).unwrap();
    let names: Vec<&str> = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"], "{interfaces}");
}

/// What lies in a FIFO, locks, what is written and what is made.
const FILES: &str = "import fcntl, os\n\
    assert open('/data/file').read() == 'as it was'\n\
    f = open('/data/file', 'r+'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); f.write('changed'); f.flush()\n\
    p = os.open('/data/pipe', os.O_RDWR | os.O_NONBLOCK); os.write(p, b'more')\n\
    open('/data/new', 'w').write('new'); os.unlink('/data/other')\n\
    open('/alone', 'r').read()\n";

#[test]
fn what_is_done_to_volumes_is_not_done() {
    let shared = tempfile::tempdir().unwrap();
    for name in ["file", "other"] {
        std::fs::write(shared.path().join(name), "as it was").unwrap();
    }
    let fifo = shared.path().join("pipe");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    pipe.write_all(b"one").unwrap();
    let locked = std::fs::File::open(shared.path().join("file")).unwrap();
    locked.lock().unwrap();
    let single = volume(&shared.path().join("other"), "/work/single");
    let whole = migrate_proto::spec::Volume { read_only: false, ..volume(shared.path(), "/data") };
    let house = House::with("alone-volumes", |plan| {
        plan.alone = true;
        plan.volumes = vec![whole, migrate_proto::spec::Volume { read_only: false, ..single }];
    })
    .unwrap();
    let script = FILES.replace("/alone", "/work/single");
    assert_eq!(house.run(&["python3", "-c", &script]), Exit::Code(0), "{}", house.output());
    let mut names: Vec<_> = std::fs::read_dir(shared.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "other", "pipe"]);
    assert_eq!(std::fs::read_to_string(shared.path().join("file")).unwrap(), "as it was");
    let mut held = [0; 8];
    assert_eq!(pipe.read(&mut held).unwrap(), 3);
}
