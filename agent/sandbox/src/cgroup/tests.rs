#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn finds_v1_beside_an_empty_v2() {
    let found = Hierarchies::parse(
        "cgroup /cg/memory cgroup rw,relatime,memory 0 0\ncgroup /cg/cpu cgroup rw,cpu,cpuacct 0 0\n\
         cgroup2 /cg/unified cgroup2 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n",
    );
    assert_eq!(found.unified, Some("/cg/unified".into()));
    assert_eq!(found.v1("cpuacct"), Some(Path::new("/cg/cpu")));
    assert_eq!(found.roots(), ["/cg/unified", "/cg/memory", "/cg/cpu"].map(PathBuf::from));
}

#[test]
fn finds_nothing_but_v2_where_there_is_nothing_else() {
    let found = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate,memory_recursiveprot 0 0\n");
    assert_eq!(found.roots(), [PathBuf::from("/sys/fs/cgroup")]);
    assert_eq!(found.v1, []);
}

#[test]
fn percent_is_of_one_core_and_never_negative() {
    let mut share = CpuShare::default();
    assert_eq!(share.percent(500, 1_000), 0.0);
    assert_eq!(share.percent(1_500, 3_000), 50.0);
    assert_eq!(share.percent(0, 4_000), 0.0);
}

#[test]
fn a_real_group_freezes_kills_and_goes_away() {
    freezes_kills_and_goes_away(Hierarchies::read().unwrap(), "all");
}

#[test]
fn a_real_group_needs_no_v1() {
    freezes_kills_and_goes_away(Hierarchies { v1: vec![], ..Hierarchies::read().unwrap() }, "v2");
}

#[test]
fn a_limit_takes_its_controller_from_either_version() {
    let unified = tempfile::tempdir().unwrap();
    fs::write(unified.path().join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
    let v2 = Hierarchies { unified: Some(unified.path().to_owned()), v1: vec![] };
    let limits = |memory_bytes, cpu_milli| Limits { memory_bytes, cpu_milli };
    assert_eq!(limits(Some(1), Some(1)).lacking_in(&v2), ["memory"]);
    assert_eq!(limits(None, Some(1)).lacking_in(&v2), [""; 0]);
    assert_eq!(limits(Some(1), Some(1)).lacking_in(&Hierarchies::default()), ["memory", "cpu"]);
    assert_eq!(limits(None, None).lacking_in(&Hierarchies::default()), [""; 0]);
    let both = Hierarchies { v1: vec![("memory", "/cg/memory".into())], ..v2 };
    assert_eq!(limits(Some(1), Some(1)).lacking_in(&both), [""; 0]);
}

/// On a host with v1 beside v2 the latter has no controllers; elsewhere it has all of them.
#[test]
fn a_limit_holds_or_is_refused() {
    let hierarchies = Hierarchies { v1: vec![], ..Hierarchies::read().unwrap() };
    let controllers = fs::read_to_string(hierarchies.unified.as_ref().unwrap().join("cgroup.controllers")).unwrap();
    let name = format!("migrate-test-limit-{}", std::process::id());
    let group = Cgroup::create_in(hierarchies, Path::new(&name).join("w")).unwrap();
    let limited = group.limit(Limits { memory_bytes: Some(64 << 20), cpu_milli: None });
    let set = fs::read_to_string(group.v2("memory.max").unwrap());
    group.remove().unwrap();
    if controllers.split_whitespace().any(|name| name == "memory") {
        limited.unwrap();
        assert_eq!(set.unwrap().trim(), (64 << 20).to_string());
    } else {
        assert!(limited.unwrap_err().to_string().contains("no memory controller"));
    }
}

fn freezes_kills_and_goes_away(hierarchies: Hierarchies, what: &str) {
    let name = format!("migrate-test-{what}-{}", std::process::id());
    let group = Cgroup::create_in(hierarchies, Path::new(&name).join("w")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for path in group.load_procs() {
        fs::write(path, child.id().to_string()).unwrap();
    }
    assert_eq!(group.pids(), [child.id() as i32]);
    group.freeze(true).unwrap();
    group.kill();
    let status = child.wait().unwrap();
    assert!(!status.success());
    group.remove().unwrap();
    for root in group.hierarchies.roots() {
        assert!(!root.join(&name).exists());
    }
}

/// What an older version has made is used as it is, and with the last of it the new layout comes.
#[test]
fn an_old_layout_is_adopted_as_found() {
    let hierarchies = Hierarchies::read().unwrap();
    let (name, roots) = (format!("migrate-test-old-{}", std::process::id()), hierarchies.roots());
    let place = Path::new(&name).join("w");
    for root in &roots {
        fs::create_dir_all(root.join(&place).join("load")).unwrap();
        fs::create_dir_all(root.join(&place).join("side/beside")).unwrap();
    }
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for root in &roots {
        fs::write(root.join(&place).join("load/cgroup.procs"), child.id().to_string()).unwrap();
    }
    let group = Cgroup::create_in(hierarchies.clone(), place.clone()).unwrap();
    assert_eq!(group.pids(), [child.id() as i32]);
    assert_eq!(group.held_freezer(), None, "what it could freeze anybody can thaw");
    let root = hierarchies.unified.clone().unwrap().join(&place);
    assert_eq!(group.freezer(), Some(root.join("load/cgroup.freeze")));
    assert_eq!(group.beside_freezer(), Some(root.join("side/beside/cgroup.freeze")));
    let beside = Beside::create(&group.beside().unwrap()).unwrap();
    assert!(beside.procs().starts_with(root.join("side/beside")));
    assert!(roots.iter().all(|root| !root.join(&place).join(HELD).exists()));
    group.freeze(true).unwrap();
    group.freeze(false).unwrap();
    group.kill();
    child.wait().unwrap();
    group.remove().unwrap();
    assert!(roots.iter().all(|root| !root.join(&name).exists()));

    let group = Cgroup::create_in(hierarchies, place).unwrap();
    assert_eq!(group.held_freezer(), Some(root.join("held/cgroup.freeze")));
    assert_eq!(group.freezer(), Some(root.join("held/load/cgroup.freeze")));
    group.remove().unwrap();
}

/// Frozen by the lease, a group is not thawed by who froze it for another reason.
#[test]
fn the_lease_and_the_guard_cannot_undo_each_other() {
    let name = format!("migrate-test-nested-{}", std::process::id());
    let group = Cgroup::create_in(Hierarchies::read().unwrap(), Path::new(&name).join("w")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for path in group.load_procs() {
        fs::write(path, child.id().to_string()).unwrap();
    }
    let (held, events) = (group.held_freezer().unwrap(), group.v2("cgroup.events").unwrap());
    let becomes = |state: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !fs::read_to_string(&events).unwrap().lines().any(|line| line == state) {
            assert!(std::time::Instant::now() < deadline, "never {state}");
            std::thread::yield_now();
        }
    };
    becomes("frozen 0");
    fs::write(&held, "1").unwrap();
    becomes("frozen 1");
    group.freeze(true).unwrap();
    group.freeze(false).unwrap();
    assert!(fs::read_to_string(&events).unwrap().contains("frozen 1"), "the lease holds it");
    group.freeze(true).unwrap();
    fs::write(&held, "0").unwrap();
    assert!(fs::read_to_string(&events).unwrap().contains("frozen 1"), "the guard holds it");
    group.freeze(false).unwrap();
    becomes("frozen 0");
    group.kill();
    child.wait().unwrap();
    group.remove().unwrap();
}
