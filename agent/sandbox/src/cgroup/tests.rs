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
    let set = fs::read_to_string(group.unified("memory.max").unwrap());
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
