#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use migrate_proto::message::FileIdentity;
use migrate_proto::spec::{Volume, default_layer_bytes};

use super::*;

/// A process that ends with its test, also when the test fails.
struct Running(Child);

impl Running {
    /// Returns once the program says a line, so that its files are mapped.
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = child.stdout.take().unwrap();
        let running = Running(child);
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        running
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn text(path: &Path) -> Text {
    Text::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

fn spec(volumes: Vec<Volume>, own_root: bool) -> WorkloadSpec {
    WorkloadSpec {
        name: "w".parse().unwrap(),
        argv: vec!["x".into()],
        env: Vec::new(),
        dir: None,
        user: None,
        volumes,
        own_root,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: default_layer_bytes(),
    }
}

fn volume(source: &str, target: &str) -> Volume {
    Volume { source: source.into(), target: target.into(), read_only: false }
}

/// By another process: a descriptor for writing that a fork of another test has inherited would keep it from being run.
fn copy_shell(to: &Path) {
    assert!(Command::new("cp").arg("/bin/sh").arg(to).status().unwrap().success());
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn needs_of(running: &Running, spec: &WorkloadSpec) -> Needs {
    let (needs, unreadable) = needs(own_pid(), &[running.pid()], spec, "4.2.1".into(), "6.18".into()).unwrap();
    assert_eq!(unreadable, []);
    needs
}

#[test]
fn a_shell_needs_its_program_and_its_library() {
    let running = Running::start(&mut shell("echo ready; read line"));
    let found = needs_of(&running, &spec(vec![], false));
    let program = fs::canonicalize("/bin/sh").unwrap();
    let named: Vec<&MappedFile> = found.mapped_files.iter().filter(|file| file.path == text(&program)).collect();
    assert_eq!(named.len(), 1, "{found:?}");
    assert_eq!(named[0].size, fs::metadata(&program).unwrap().len());
    assert!(matches!(named[0].identity, FileIdentity::BuildId(_)));
    assert!(found.mapped_files.iter().any(|file| file.path.to_string().contains("libc")));
    assert!(found.mapped_files.iter().all(|file| file.path.as_bytes().starts_with(b"/")));
    assert!(!found.arch.is_empty() && !found.cpu_flags.is_empty());
    assert_eq!((found.criu_version.as_str(), found.kernel.as_str()), ("4.2.1", "6.18"));
}

#[test]
fn with_a_root_of_its_own_nothing_is_needed() {
    let running = Running::start(&mut shell("echo ready; read line"));
    assert_eq!(needs_of(&running, &spec(vec![], true)).mapped_files, []);
}

#[test]
fn a_process_that_has_ended_needs_nothing() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let found = needs(own_pid(), &[child.id() as i32], &spec(vec![], false), String::new(), String::new()).unwrap();
    assert_eq!((found.0.mapped_files, found.1), (vec![], vec![]));
}

/// Runs a copy of the shell under an odd name, which shows in its maps.
#[test]
fn odd_names_are_found_and_the_layer_is_not_looked_at() {
    // Not below /tmp, which travels.
    let dir = tempfile::Builder::new().prefix("pre\\040 \nflight").tempdir_in("/var").unwrap();
    let program = dir.path().join("odd\\012 \n name");
    copy_shell(&program);
    let running = Running::start(Command::new(&program).args(["-c", "echo ready; read line"]));
    let found = needs_of(&running, &spec(vec![], false));
    assert!(found.mapped_files.iter().any(|file| file.path == text(&program)), "{found:?}");

    let layer = tempfile::tempdir_in("/tmp").unwrap();
    let program = layer.path().join("program");
    copy_shell(&program);
    let running = Running::start(Command::new(&program).args(["-c", "echo ready; read line"]));
    let found = needs_of(&running, &spec(vec![], false));
    assert!(found.mapped_files.iter().all(|file| file.path != text(&program)), "{found:?}");
    // The same place is needed where it is shared storage.
    let shared = volume(layer.path().to_str().unwrap(), layer.path().to_str().unwrap());
    let found = needs_of(&running, &spec(vec![shared], false));
    assert!(found.mapped_files.iter().any(|file| file.path == text(&program)), "{found:?}");
}

#[test]
fn a_deleted_file_is_not_compared() {
    let dir = tempfile::tempdir_in("/var").unwrap();
    let program = dir.path().join("program");
    copy_shell(&program);
    let running = Running::start(Command::new(&program).args(["-c", "echo ready; read line"]));
    fs::remove_file(&program).unwrap();
    let found = needs_of(&running, &spec(vec![], false));
    assert!(found.mapped_files.iter().all(|file| !file.path.to_string().contains("program")), "{found:?}");
}

#[test]
fn places() {
    let spec =
        spec(vec![volume("/srv/a", "/data"), volume("/srv/b", "/data/inner"), volume("/srv/c", "/work/c")], false);
    let node = |path: &str| Place::Node(path.into());
    for (path, place) in [
        ("/usr/lib/x.so", node("/usr/lib/x.so")),
        ("/workshop/x", node("/workshop/x")),
        ("/var/tmpx", node("/var/tmpx")),
        ("/work/x", Place::Travels),
        ("/dev/shm/x", Place::Travels),
        ("/.migrate/bin/gate", Place::Travels),
        ("/data/x", node("/srv/a/x")),
        ("/data/inner/x", node("/srv/b/x")),
        ("/work/c", node("/srv/c")),
    ] {
        assert_eq!(place_of(&path.into(), &spec), place, "{path}");
    }
    let own = WorkloadSpec { own_root: true, ..spec };
    assert_eq!(place_of(&"/usr/lib/x.so".into(), &own), Place::Travels);
    assert_eq!(place_of(&"/data/x".into(), &own), node("/srv/a/x"));
}

#[test]
fn an_identity_follows_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let path = dir.path().join("data");
    fs::write(&path, "one").unwrap();
    let first = identity::of(&root, &"/data".into()).unwrap();
    assert_eq!(first, identity::of(&root, &"/data".into()).unwrap());
    assert_eq!(first.identity, FileIdentity::Digest(migrate_proto::id::Digest::of(b"one")));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "two!").unwrap();
    let second = identity::of(&root, &"/data".into()).unwrap();
    assert_eq!((second.size, second.identity), (4, FileIdentity::Digest(migrate_proto::id::Digest::of(b"two!"))));
}

#[test]
fn links_do_not_lead_out_and_only_files_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::File::create(dir.path().join("etc/passwd")).unwrap().write_all(b"inside").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("relative")).unwrap();
    for link in ["/absolute", "/relative"] {
        assert_eq!(identity::of(&root, &link.into()).unwrap().size, 6, "{link}");
    }
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for odd in ["/fifo", "/etc"] {
        assert_eq!(identity::of(&root, &odd.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{odd}");
    }
}
