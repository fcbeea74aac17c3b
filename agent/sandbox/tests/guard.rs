//! The guard with a shell in CRIU's place: whom it listens to, and how long.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use house::House;
use house::held::{Held, hear, order};
use migrate_proto::api::Exit;
use migrate_proto::handover::Decision;
use migrate_sandbox::guard::decision::{self, Word};
use migrate_sandbox::guard::{self, Hook, Kind, Order, Told};
use migrate_sandbox::process;

const HOOK: &str = "CRTOOLS_SCRIPT_ACTION=pre-dump CRTOOLS_IMAGE_DIR=/.migrate/run/images /.migrate/bin/gate";
const DUMPED: &str = "CRTOOLS_SCRIPT_ACTION=post-dump CRTOOLS_IMAGE_DIR=/.migrate/run/images /.migrate/bin/gate";
const RESTORED: &str = "CRTOOLS_SCRIPT_ACTION=post-restore CRTOOLS_IMAGE_DIR=/.migrate/run/images /.migrate/bin/gate";

/// A guard that holds `script` in the place of a dumping CRIU.
fn hold(house: &House, script: &str) -> Held {
    hold_as(Kind::Dump, house, script)
}

fn hold_as(kind: Kind, house: &House, script: &str) -> Held {
    Held::new(house, kind, ["/bin/sh", "-c", script].map(Into::into).to_vec(), house.cgroup.side_procs())
}

#[test]
fn a_hook_waits_for_the_first_agent_and_does_what_it_says() {
    let house = House::new("guard-waits");
    let held = hold(&house, &format!("{HOOK}; exit $?"));
    let is_gate = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "gate\n");
    house::wait_until("the hook runs", || process::tree(std::process::id() as i32).into_iter().any(is_gate));
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PreDump));
    order(&mut agent, Order::Continue);
    assert_eq!(held.end(), Exit::Code(0));
}

#[test]
fn an_agent_hears_of_the_end_also_where_it_cannot_be_written_down() {
    let house = House::new("guard-full");
    let held = hold(&house, &format!("{HOOK}; exit 7"));
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PreDump));
    std::fs::create_dir(held.dir.join("result.json")).unwrap();
    order(&mut agent, Order::Continue);
    assert_eq!(hear(&agent), Told::Exited(Exit::Code(7)));
}

#[test]
fn restored_processes_are_let_go_only_after_that_was_written_down() {
    let house = House::new("guard-released");
    let held = hold_as(Kind::Restore, &house, &format!("{RESTORED}; exit $?"));
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostRestore));
    let obstacle = held.dir.join("released");
    std::fs::create_dir(&obstacle).unwrap();
    order(&mut agent, Order::Continue);
    drop(agent);
    // Nothing was let go: it is still pending.
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostRestore));
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(!guard::released(&held.dir).unwrap());
    order(&mut agent, Order::Continue);
    assert_eq!(hear(&agent), Told::Exited(Exit::Code(0)));
    assert!(guard::released(&held.dir).unwrap());
}

#[test]
fn a_criu_that_was_stopped_goes_on_to_its_end_when_it_is_refused() {
    for agent_lives in [true, false] {
        let house = House::new(&format!("guard-stopped-{agent_lives}"));
        let held = hold(&house, "kill -STOP $$; exit 7");
        let mut agent = held.call();
        let is_stopped = |pid: &i32| {
            process::inner_pid(*pid) == Some(20_000) && process::Stat::read(*pid).is_ok_and(|stat| stat.state == 'T')
        };
        let stopped = || process::tree(std::process::id() as i32).into_iter().find(is_stopped);
        house::wait_until("CRIU is stopped", || stopped().is_some());
        if agent_lives {
            order(&mut agent, Order::Refuse);
            assert_eq!(hear(&agent), Told::Exited(Exit::Code(7)));
        } else {
            drop(agent);
        }
        assert_eq!(held.end(), Exit::Code(7));
    }
}

/// What it writes after the layer's last round would be lost.
#[test]
fn commands_beside_the_workload_stand_still_with_it() {
    let house = House::new("guard-beside");
    house.start(&house::command(&["sleep", "1000"]));
    let count = |house: &House, name: &str| {
        let path = format!("/proc/{}/root/work/{name}", house.sandbox.init().pid);
        std::fs::metadata(path).map_or(0, |m| m.len())
    };
    let write = |name: &str| house::command(&["/bin/sh", "-c", &format!("while :; do echo >> {name}; done")]);
    let (mut first, _letter) = house.beside(write("first"));
    let mut first = first.spawn().unwrap();
    house::wait_until("the command writes", || count(&house, "first") > 0);
    let held = hold(&house, &format!("{DUMPED}; exit $?"));
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostDump));
    let before = count(&house, "first");
    // One that comes later waits, too, and shows that time has passed.
    let (mut second, _letter) = house.beside(write("second"));
    let mut second = second.spawn().unwrap();
    let beside = house.cgroup.beside_freezer().unwrap().parent().unwrap().to_owned();
    let inside = |group: std::fs::DirEntry| {
        std::fs::read_to_string(group.path().join("cgroup.procs")).is_ok_and(|t| !t.is_empty())
    };
    house::wait_until("both commands are there", || {
        std::fs::read_dir(&beside)
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_dir())
            .filter_map(|e| inside(e).then_some(()))
            .count()
            == 2
    });
    assert_eq!((count(&house, "first"), count(&house, "second")), (before, 0));
    order(&mut agent, Order::Refuse);
    assert_eq!(held.end(), Exit::Code(1));
    house::wait_until("both go on", || count(&house, "first") > before && count(&house, "second") > 0);
    for helper in [&mut first, &mut second] {
        helper.kill().unwrap();
        helper.wait().unwrap();
    }
    house::wait_until("both end", || std::fs::read_dir(&beside).unwrap().flatten().all(|entry| !entry.path().is_dir()));
}

#[test]
fn an_agent_that_is_gone_means_no() {
    let house = House::new("guard-gone");
    let held = hold(&house, &format!("{HOOK}; exit $?"));
    let agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PreDump));
    drop(agent);
    assert_eq!(held.end(), Exit::Code(1));
}

#[test]
fn no_agent_at_all_means_no_in_the_end() {
    let house = House::new("guard-never");
    let held = hold(&house, &format!("{HOOK}; exit $?"));
    assert_eq!(held.end(), Exit::Code(1));
}

#[test]
fn only_criu_itself_is_a_hook() {
    let house = House::new("guard-foreign");
    // The child of a child, as anything that a workload starts is at best.
    let held = hold(&house, &format!("sh -c '{HOOK}; code=$?; exit $code'; exit $?"));
    let agent = held.call();
    assert_eq!(hear(&agent), Told::Exited(Exit::Code(1)), "the agent must not even hear of it");
    assert_eq!(held.end(), Exit::Code(1));
}

/// A workload that a guard has frozen at the end of its dump.
fn dumped(name: &str) -> (House, Held, std::os::unix::net::UnixStream) {
    let house = House::new(name);
    house.start(&house::command(&["sleep", "1000"]));
    let held = hold(&house, &format!("{DUMPED}; exit $?"));
    decision::prepare(&held.dir).unwrap();
    let agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostDump));
    (house, held, agent)
}

fn is_held(house: &House) -> bool {
    std::fs::read_to_string(house.cgroup.freezer().unwrap()).unwrap().trim() == "1"
}

/// Whatever it hears, and also when CRIU dies: the record may have given the workload away, or may not.
#[test]
fn what_is_left_to_the_record_is_neither_resumed_nor_killed() {
    let (house, held, mut agent) = dumped("guard-record");
    assert_eq!(decision::leave_to_record(&held.dir).unwrap(), Word::Record);
    for what in [Order::Refuse, Order::Continue, Order::Kill] {
        order(&mut agent, what);
    }
    assert_eq!(held.end(), Exit::Signal(9));
    assert!(is_held(&house));
    assert_eq!(house.cgroup.pids().len(), 1, "it is there");
    assert!(decision::decide(&held.dir, Decision::Abort).is_err());
}

#[test]
fn an_agent_that_is_gone_does_not_end_what_is_left_to_the_record() {
    let (house, held, agent) = dumped("guard-record-gone");
    decision::leave_to_record(&held.dir).unwrap();
    drop(agent);
    let mut agent = held.call();
    assert_eq!(hear(&agent), Told::Hook(Hook::PostDump));
    assert!(is_held(&house));
    assert_eq!(decision::settle(&held.dir, Decision::Abort).unwrap(), Decision::Abort);
    // The verdict stands, whatever is ordered.
    order(&mut agent, Order::Continue);
    assert_eq!(held.end(), Exit::Code(1));
    assert!(!is_held(&house));
    assert_eq!(house.cgroup.pids().len(), 1);
}

#[test]
fn a_verdict_for_the_target_leaves_nothing_of_the_source() {
    let (house, held, mut agent) = dumped("guard-record-commit");
    decision::leave_to_record(&held.dir).unwrap();
    assert_eq!(decision::settle(&held.dir, Decision::Commit).unwrap(), Decision::Commit);
    order(&mut agent, Order::Refuse);
    assert_eq!(held.end(), Exit::Code(0));
    house::wait_until("it is gone", || house.cgroup.pids().is_empty());
    assert_eq!(house.sandbox.wait().unwrap(), Exit::Signal(9));
}
