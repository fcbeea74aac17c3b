//! Who is let in.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use tokio::net::UnixStream;

use super::super::admission::{Admission, Caller, group_in};

#[test]
fn root_the_agent_s_own_user_and_the_group_are_let_in() {
    let admission = Admission { group: Some(200), own_uid: 50, workloads: "migrate".into() };
    let admits = |uid, groups: &[u32]| admission.admits(&Caller { uid, groups: groups.to_vec(), cgroups: vec![] });
    assert!(admits(0, &[1]) && admits(50, &[1]) && admits(1000, &[1, 200]));
    assert!(!admits(1000, &[1000, 201]) && !admits(1000, &[]));
    // The number of the group is not a user's.
    assert!(!admits(200, &[1]));
    let nobody = Admission { group: None, own_uid: 0, workloads: "migrate".into() };
    assert!(!nobody.admits(&Caller { uid: 1000, groups: vec![0, 200], cgroups: vec![] }));
}

#[test]
fn a_workload_is_not_let_in_whoever_it_is() {
    let admission = Admission { group: None, own_uid: 0, workloads: "lab/node1".into() };
    let admits = |group: &str| {
        let cgroups = vec!["/".into(), group.into()];
        admission.admits(&Caller { uid: 0, groups: vec![0], cgroups })
    };
    for inside in ["/lab/node1/web/load", "/lab/node1/web/side/exec-7", "/docker/1f/lab/node1/web/load"] {
        assert!(!admits(inside), "{inside}");
    }
    for elsewhere in ["/", "/lab", "/lab/node2/web/load", "/other/node1", "/lab/node10"] {
        assert!(admits(elsewhere), "{elsewhere}");
    }
}

#[tokio::test]
async fn a_caller_is_known_with_all_groups() {
    let (one, _other) = UnixStream::pair().unwrap();
    let caller = Caller::of(&one).unwrap();
    assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
    assert!(caller.cgroups.is_empty(), "it is this process: {:?}", caller.cgroups);
    let mut own: BTreeSet<u32> = nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
    own.insert(nix::unistd::getegid().as_raw());
    assert_eq!(caller.groups.into_iter().collect::<BTreeSet<_>>(), own);
}

#[test]
fn groups_are_read_from_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"root:x:0:\n# migrate:x:1:\nmigrated:x:7:\nbroken\nmigrate:x:997:ann,\xff\nother:x:5:").unwrap();
    let group = |name| group_in(file.path(), name).unwrap();
    assert_eq!((group("migrate"), group("other"), group("root")), (Some(997), Some(5), Some(0)));
    assert_eq!((group("ann"), group("broken"), group("")), (None, None, None));
    assert_eq!(group_in(Path::new("/nonexistent/group"), "migrate").unwrap(), None);
}
