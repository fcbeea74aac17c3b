//! Real CRIU in sandboxes with leases that end. Needs root, and a CRIU: without one these tests fail.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use house::clock::{Leased, MARGIN, SESSION};
use house::held::{Held, hear, order};
use house::{command, wait_until};
use migrate_criu::command::{LOG_FILE, Options, dump, restore};
use migrate_criu::probe;
use migrate_proto::api::Exit;
use migrate_proto::cluster::lease::NEVER;
use migrate_proto::handover::Decision;
use migrate_proto::text::Text;
use migrate_sandbox::control::Leash;
use migrate_sandbox::guard::decision::{self, Word};
use migrate_sandbox::guard::{Hook, Kind, Order, Told};
use migrate_sandbox::plan::{GATE, MAIN_PID, RUN};

const HOUR: Duration = Duration::from_secs(3600);
/// How CRIU ends when its hook says no.
const REFUSED: Exit = Exit::Code(255);
/// Counts in memory, and says how far it is.
const COUNTER: &str = "import os
file, count = os.open('count', os.O_RDWR | os.O_CREAT), 0
while True:
    count += 1
    os.pwrite(file, b'%020d' % count, 0)";

fn criu() -> PathBuf {
    probe::find(None).expect("these tests need CRIU: run scripts/setup")
}

/// What an agent has CRIU do, but for the stream: images are files here.
fn arguments(kind: Kind) -> Vec<Text> {
    let criu = criu();
    let options = Options { criu: criu.clone(), images_dir: Path::new(RUN).join("images"), action_script: GATE.into() };
    let words = match kind {
        Kind::Dump => dump(&options, MAIN_PID, &[]),
        Kind::Restore => restore(&options),
    };
    let words: Vec<OsString> = std::iter::once(criu.into_os_string()).chain(words).collect();
    words.into_iter().filter(|word| word != "--stream").map(|word| Text::new(word.into_vec()).unwrap()).collect()
}

fn leased(name: &str, layer: Option<&Path>) -> Leased {
    let criu = criu();
    let prefix = criu.parent().and_then(Path::parent).filter(|prefix| *prefix != Path::new("/usr")).map(Path::to_owned);
    let leased = Leased::with(name, layer, |plan| plan.criu_prefix = prefix);
    leased.renew(HOUR);
    assert_eq!(leased.house.sandbox.arm(SESSION, MARGIN).unwrap(), Leash::Running { session: SESSION });
    leased
}

fn images(leased: &Leased) -> PathBuf {
    leased.house.sandbox.work().join("images")
}

fn count(leased: &Leased) -> u64 {
    let path = format!("/proc/{}/root/work/count", leased.house.sandbox.init().pid);
    std::fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn await_more(leased: &Leased, than: u64) {
    wait_until("it counts on", || count(leased) > than);
}

/// A workload that counts, in CRIU's hands, with its image complete.
fn dumped(name: &str) -> (Leased, Held, UnixStream) {
    let leased = leased(name, None);
    leased.house.start(&command(&["python3", "-c", COUNTER]));
    await_more(&leased, 0);
    let held = Held::new(&leased.house, Kind::Dump, arguments(Kind::Dump), Vec::new());
    decision::prepare(&held.dir).unwrap();
    let mut agent = held.call();
    expect(&leased, &agent, Told::Hook(Hook::PreDump));
    order(&mut agent, Order::Continue);
    expect(&leased, &agent, Told::Hook(Hook::PostDump));
    (leased, held, agent)
}

fn expect(leased: &Leased, agent: &UnixStream, expected: Told) {
    let log = || std::fs::read_to_string(images(leased).join(LOG_FILE)).unwrap_or_default();
    let told = hear(agent);
    assert_eq!(told, expected, "{}", log());
}

fn copy(directory: &Path, into: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([directory, into]).status().unwrap().success());
}

#[test]
fn real_criu_lets_go_of_what_the_lease_held_meanwhile() {
    let (leased, held, mut agent) = dumped("criu-back");
    let before = count(&leased);
    let sandbox = &leased.house.sandbox;
    assert_eq!(decision::leave_to_record(&held.dir).unwrap(), Word::Record);
    assert!(matches!(sandbox.arm(NEVER, MARGIN).unwrap(), Leash::Frozen { .. }));
    assert_eq!(decision::settle(&held.dir, Decision::Abort).unwrap(), Decision::Abort);
    // In this order: CRIU needs tasks that can move.
    assert_eq!(sandbox.arm(SESSION, MARGIN).unwrap(), Leash::Running { session: SESSION });
    assert!(leased.is_frozen() && count(&leased) == before, "the guard still holds it");
    order(&mut agent, Order::Refuse);
    expect(&leased, &agent, Told::Exited(REFUSED));
    await_more(&leased, before);
}

#[test]
fn real_criu_waits_with_letting_go_while_the_lease_has_ended() {
    let (leased, held, mut agent) = dumped("criu-lapsed");
    let before = count(&leased);
    leased.lease_for(Duration::ZERO);
    order(&mut agent, Order::Refuse);
    wait_until("the guard has let go", || {
        std::fs::read_to_string(leased.house.cgroup.freezer().unwrap()).unwrap().trim() == "0"
    });
    assert_eq!(count(&leased), before, "the lease has not");
    leased.renew(HOUR);
    assert_eq!(held.end(), REFUSED);
    await_more(&leased, before);
}

#[test]
fn real_criu_moves_a_workload_from_one_lease_to_another() {
    let (source, held, mut agent) = dumped("criu-source");
    let before = count(&source);
    assert_eq!(decision::leave_to_record(&held.dir).unwrap(), Word::Record);
    source.house.sandbox.arm(NEVER, MARGIN).unwrap();
    assert_eq!(decision::settle(&held.dir, Decision::Commit).unwrap(), Decision::Commit);
    order(&mut agent, Order::Continue);
    expect(&source, &agent, Told::Exited(Exit::Code(0)));
    wait_until("nothing is left of it", || source.house.cgroup.pids().is_empty());

    let kept = tempfile::tempdir().unwrap();
    copy(&images(&source), kept.path());
    source.house.sandbox.destroy().unwrap();
    let target = leased("criu-target", Some(&source.house.layer()));
    copy(&kept.path().join("images"), &target.house.sandbox.work());
    let _ = std::fs::remove_file(images(&target).join("gate.sock"));

    // CRIU is where the workload will be, and stands still with it.
    assert!(matches!(target.house.sandbox.arm(NEVER, MARGIN).unwrap(), Leash::Frozen { .. }));
    let groups = target.house.cgroup.load_procs();
    let held = Held::new(&target.house, Kind::Restore, arguments(Kind::Restore), groups);
    let mut agent = held.call();
    wait_until("CRIU is held", || !target.house.cgroup.pids().is_empty() && target.is_frozen());
    assert_eq!(target.house.sandbox.arm(SESSION, MARGIN).unwrap(), Leash::Running { session: SESSION });
    expect(&target, &agent, Told::Hook(Hook::PostRestore));
    assert_eq!(count(&target), before, "not an instruction of it has run");
    target.house.sandbox.adopt_workload(MAIN_PID).unwrap();
    order(&mut agent, Order::Continue);
    expect(&target, &agent, Told::Exited(Exit::Code(0)));
    await_more(&target, before);

    target.lease_for(Duration::ZERO);
    target.await_frozen();
    let last = count(&target);
    target.renew(HOUR);
    await_more(&target, last);
}
