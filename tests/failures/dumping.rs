//! Workloads that cannot be moved as they are: the reason is told, where CRIU knows it in CRIU's own words, and they run on.

use migrate_proto::api::Verdict;

use crate::harness::Lab;
use crate::refusal::Refusal;

/// Does what is asked first, then counts.
fn python(lab: &Lab, what: &str) {
    let count = "import itertools, time\nfor n in itertools.count(1): print('ok', n, flush=True); time.sleep(0.05)\n";
    lab.run("odd", "node1", &["python3", "-c", &format!("{what}\n{count}")]);
    lab.wait_for_more_ok("odd", 2);
}

#[test]
fn a_process_that_uses_io_uring() {
    let lab = Lab::up(2);
    // io_uring_setup(2) has the number 425 on every architecture.
    python(&lab, "import ctypes\nassert ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(200)) > 2");
    lab.assert_stays(
        "odd",
        "node1",
        "node2",
        &Refusal {
            code: "dump-failed",
            exit: 1,
            says: &["odd cannot be moved", "io_uring", "node1"],
            hint: "io_uring",
        },
    );
    lab.assert_clean();
}

/// To a process that the node itself cannot see: CRIU has the last word, and what it says is what is shown.
#[test]
fn a_unix_socket_to_outside() {
    let lab = Lab::up(2);
    let shared = lab.place().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let outside = std::os::unix::net::UnixListener::bind(shared.join("socket")).unwrap();
    let volume = format!("{}:/shared", shared.display());
    let program = "import socket, itertools, time\n\
                   s = socket.socket(socket.AF_UNIX); s.connect('/shared/socket')\n\
                   for n in itertools.count(1): print('ok', n, flush=True); time.sleep(0.05)\n";
    lab.run_with("odd", "node1", &["--volume", &volume], &["python3", "-c", program]);
    let (mut connected, _) = outside.accept().unwrap();
    lab.wait_for_more_ok("odd", 2);
    lab.assert_stays(
        "odd",
        "node1",
        "node2",
        &Refusal {
            code: "dump-failed",
            exit: 1,
            says: &["Unix socket", "criu: unix: External socket"],
            hint: "close that connection",
        },
    );
    // The connection is as it was.
    std::io::Write::write_all(&mut connected, b"still there").unwrap();
    lab.assert_clean();
}

/// Nobody but CRIU knows whether it would drop them: what it says is what is shown.
#[test]
fn datagrams_that_are_held_back() {
    let lab = Lab::up(2);
    // UDP_CORK has the number 1.
    let cork = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))\n\
                s.setsockopt(socket.IPPROTO_UDP, 1, 1); s.send(b'held back')";
    python(&lab, cork);
    let (asked, checked) = lab.check("odd", "node2");
    assert_eq!(checked.map(|checked| checked.verdict), Some(Verdict::Unlikely), "{asked:?}");
    lab.assert_stays("odd", "node1", "node2", &Refusal { code: "dump-failed", exit: 1, says: &["corked"], hint: "" });
    lab.assert_clean();
}

#[test]
fn things_that_no_image_can_hold() {
    for (what, says) in [
        ("import os\nr, w = os.pipe2(os.O_DIRECT)", "has a pipe in packet mode"),
        ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", "has a socket of the kind MPTCP"),
    ] {
        let lab = Lab::up(2);
        python(&lab, what);
        lab.assert_stays(
            "odd",
            "node1",
            "node2",
            &Refusal { code: "dump-failed", exit: 1, says: &["odd cannot be moved", says], hint: "" },
        );
        lab.assert_clean();
    }
}

/// A child that outlives its parent leaves the tree that is dumped.
#[test]
fn a_daemon_that_left_the_tree() {
    let lab = Lab::up(2);
    python(
        &lab,
        "import os\nif os.fork() == 0:\n  if os.fork() == 0: time = __import__('time'); time.sleep(1e6)\n  os._exit(0)\nos.wait()",
    );
    let (asked, checked) = lab.check("odd", "node2");
    assert_eq!(checked.map(|checked| checked.verdict), Some(Verdict::No), "{asked:?}");
    let output = lab.migrate(["--json", "--force", "odd", "--to", "node2"]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("odd cannot be moved") && output.stderr.contains("hint: "), "{output:?}");
    assert_eq!(output.json()["outcome"], "stayed", "{output:?}");
    lab.assert_goes_on("odd", "node1");
    lab.assert_clean();
}
