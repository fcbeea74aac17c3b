//! Signs of life of a workload, as its node sees them.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use house::{House, command, wait_until};
use migrate_proto::spec::User;
use migrate_sandbox::control::Command;
use migrate_sandbox::pulse::{FILE, SOCKET};

const SOMEBODY: Option<User> = Some(User { uid: 1234, gid: 4321 });

/// A program that notifies a datagram socket so many times.
fn notifies(message: &str, times: u32) -> Vec<String> {
    let script = format!(
        "import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for _ in range({times}): s.sendto({message:?}.encode(), '{SOCKET}')"
    );
    ["python3", "-c", &script].map(str::to_owned).to_vec()
}

fn run_beside(house: &House, argv: &[&str]) {
    let (mut helper, letter) = house.beside(Command { user: SOMEBODY, ..command(argv) });
    let output = helper.output().unwrap();
    drop(letter);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn whoever_touches_the_file_is_seen() {
    let house = House::new("pulse-file");
    house.sandbox.make_pulse(SOMEBODY).unwrap();
    house.start(&command(&["sleep", "1000"]));
    let before = house.sandbox.signs().unwrap();
    assert_eq!(house.sandbox.signs().unwrap(), before, "nothing happened");
    run_beside(&house, &["touch", FILE]);
    assert_ne!(house.sandbox.signs().unwrap(), before);
}

#[test]
fn what_is_put_in_its_place_is_no_sign_of_life_and_leads_nowhere() {
    let house = House::new("pulse-planted");
    house.sandbox.make_pulse(None).unwrap();
    let secret = house.dir.path().join("secret");
    std::fs::write(&secret, "").unwrap();
    let planted = format!("rm {FILE}; ln -s {} {FILE}", secret.display());
    assert_eq!(house.run(&["/bin/sh", "-c", &planted]), migrate_proto::api::Exit::Code(0));
    let before = house.sandbox.signs().unwrap();
    std::fs::write(&secret, "changed").unwrap();
    assert_eq!(house.sandbox.signs().unwrap(), before);
    // The next start finds a file again.
    house.sandbox.make_pulse(None).unwrap();
    assert_ne!(house.sandbox.signs().unwrap(), before);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "changed");
}

#[test]
fn whoever_notifies_the_socket_is_heard_and_nobody_waits() {
    let house = House::new("pulse-socket");
    house.start(&command(&["sleep", "1000"]));
    let before = house.sandbox.signs().unwrap();
    let run = |argv: Vec<String>| run_beside(&house, &argv.iter().map(String::as_str).collect::<Vec<_>>());
    // Far more than the kernel keeps, and not one of them a sign of life.
    run(notifies("READY=1", 2000));
    assert_eq!(house.sandbox.signs().unwrap(), before);
    run(notifies("WATCHDOG=1\n", 2000));
    wait_until("nobody heard", || house.sandbox.signs().unwrap() != before);
}
