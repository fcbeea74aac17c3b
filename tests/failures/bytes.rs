//! Names and bytes of all kinds: they survive a move, or are refused; never are they mangled.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::harness::{Lab, binaries};

const ODD: &[&[u8]] = &[
    b"plain",
    b"two words",
    b" around ",
    b"",
    b"'single' \"double\" `back`",
    b"line\nbreak\r\ttab",
    b"$HOME ${HOME} $(reboot) ; | & > *",
    b"--help",
    b"back\\slash",
    b"\xff\xfe not utf-8 \x80",
    b"\x01\x7f\x1b[31m",
    "żółć 🦀".as_bytes(),
    b"ends with \\",
];

/// Compares what it was given, and the files that it named so, with what it is told in hexadecimal.
const CHECKS: &str = r"
import os, time, itertools
expected = [bytes.fromhex(word) for word in os.environ['EXPECTED'].split(',')]
names = [name for name in expected if name]
os.mkdir(b'/work/odd')
for name in names:
    open(b'/work/odd/' + name, 'wb').write(name)
    os.symlink(name, b'/work/odd/link to ' + name)
kept = [open(b'/work/odd/' + name, 'rb') for name in names]
for n in itertools.count(1):
    arguments = open('/proc/self/cmdline', 'rb').read().split(b'\0')[:-1][-len(expected):]
    variables = [os.environb[b'ODD%d' % place] for place in range(len(expected))]
    files = sorted(os.listdir(b'/work/odd'))
    links = [os.readlink(b'/work/odd/link to ' + name) for name in names]
    content = [open(b'/work/odd/' + name, 'rb').read() for name in names]
    still = [os.pread(file.fileno(), 99, 0) for file in kept]
    paths = [os.readlink(b'/proc/self/fd/%d' % file.fileno()) for file in kept]
    for what, seen, right in [
        ('arguments', arguments, expected), ('variables', variables, expected), ('links', links, names),
        ('files', files, sorted(names + [b'link to ' + name for name in names])), ('content', content, names),
        ('open files', still, names), ('their paths', paths, [b'/work/odd/' + name for name in names]),
    ]:
        if seen != right:
            print('BAD', what, ':', 'expected', right, 'found', seen, flush=True)
            raise SystemExit(1)
    print('ok', n, flush=True)
    time.sleep(0.05)
";

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `NAME=VALUE` of any bytes.
fn variable(name: &str, value: &[u8]) -> OsString {
    OsString::from_vec([name.as_bytes(), b"=", value].concat())
}

#[test]
fn arguments_environment_and_files() {
    let lab = Lab::up(3);
    let expected = ODD.iter().map(|word| hexadecimal(word)).collect::<Vec<_>>().join(",");
    let mut command = lab.command(["--node", "node1", "run", "--name", "odd"]);
    command.arg("--env").arg(variable("EXPECTED", expected.as_bytes()));
    for (place, word) in ODD.iter().enumerate() {
        command.arg("--env").arg(variable(&format!("ODD{place}"), word));
    }
    command.args(["--", "python3", "-c", CHECKS]).args(ODD.iter().map(|word| OsStr::from_bytes(word)));
    let started = command.output().unwrap();
    assert!(started.status.success(), "{started:?}");
    lab.wait_for_more_ok("odd", 2);
    for to in ["node2", "node3", "node1"] {
        lab.force("odd", to);
        lab.assert_runs_only_on("odd", to);
        lab.wait_for_more_ok("odd", 3);
    }
    lab.assert_clean();
}

/// From a volume whose path is odd, at a path in the sandbox that is odd: both reach CRIU, and the look at mapped files.
#[test]
fn a_mapped_program_with_an_odd_path() {
    let lab = Lab::up(2);
    let directory = lab.place().join(OsStr::from_bytes(b"o d\n'\"\\ \xff"));
    fs::create_dir(&directory).unwrap();
    let program = OsStr::from_bytes(b"spec imen\n\xff");
    fs::copy(binaries().join("specimen"), directory.join(program)).unwrap();
    let volume = [directory.as_os_str().as_bytes(), b":/a b\n\xfe:ro"].concat();
    let inside = [&b"/a b\n\xfe/"[..], program.as_bytes()].concat();
    let mut command = lab.command(["--node", "node1", "run", "--name", "odd", "--volume"]);
    let started = command.arg(OsStr::from_bytes(&volume)).arg("--").arg(OsStr::from_bytes(&inside)).arg("counter");
    let started = started.output().unwrap();
    assert!(started.status.success(), "{started:?}");
    lab.wait_for_more_ok("odd", 2);
    lab.force("odd", "node2");
    lab.assert_runs_only_on("odd", "node2");
    lab.wait_for_more_ok("odd", 3);
    lab.assert_clean();
}

#[test]
fn names_that_are_refused() {
    let lab = Lab::up(1);
    let long = "a".repeat(64);
    let names: [&[u8]; 9] = [b"", b"Upper", b"a b", b"-a", b"a/b", b"..", b"a\nb", b"\xff", long.as_bytes()];
    for name in names {
        let mut command = lab.command(["run", "--name"]);
        let refused = command.arg(OsStr::from_bytes(name)).args(["--", "/bin/true"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
    assert_eq!(lab.ps(), []);
    let longest = "a".repeat(63);
    lab.specimen(&longest, "node1", &["counter"]);
    lab.wait_for_more_ok(&longest, 1);
    lab.assert_clean();
}

/// Bytes that a workload wrote come out of its log as they are.
#[test]
fn output_of_all_bytes() {
    let lab = Lab::up(2);
    let script = r"import sys, time
sys.stdout.buffer.write(bytes(range(256)) * 300); sys.stdout.flush()
time.sleep(1e6)";
    lab.run("odd", "node1", &["python3", "-c", script]);
    let all: Vec<u8> = (0..=255u8).collect::<Vec<_>>().repeat(300);
    let is_there = || lab.command(["logs", "odd"]).output().unwrap().stdout == all;
    assert!(crate::harness::eventually(is_there));
    lab.force("odd", "node2");
    assert!(is_there());
    lab.assert_clean();
}
