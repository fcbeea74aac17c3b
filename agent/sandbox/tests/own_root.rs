//! Sandboxes with a root of the workload's own, which may have put anything anywhere in it.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::os::unix::fs::symlink;
use std::path::Path;

use house::{House, cgroup, plan, program};
use migrate_sandbox::layer::Layer;
use migrate_sandbox::{Plan, Root};

/// A layer with a root of its own, furnished further by `more`.
fn layer_with_root(dir: &Path, more: impl FnOnce(&Path)) -> Layer {
    let layer = Layer::create(dir.join("layer.img"), 64 << 20).unwrap();
    let at = dir.join("mnt");
    std::fs::create_dir(&at).unwrap();
    let fill = |mounted: &Path| {
        let root = mounted.join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        // Any static program will do, and this one is at hand.
        std::fs::copy(program(), root.join("bin/program")).unwrap();
        more(mounted);
    };
    layer.fill(&at, fill).unwrap();
    layer
}

#[test]
fn criu_is_in_an_own_root_at_every_start() {
    // Not below /tmp or /work, where the layer has its own.
    let (dir, prefix) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/opt").unwrap());
    std::fs::write(prefix.path().join("criu"), "real").unwrap();
    let layer = layer_with_root(dir.path(), |_| ());
    for start in ["first", "second"] {
        let (dir, cgroup) = (tempfile::tempdir().unwrap(), cgroup(&format!("own-{start}")));
        let mut plan = Plan { root: Root::Layer, ..plan(dir.path(), &cgroup) };
        plan.criu_prefix = Some(prefix.path().to_owned());
        let house = House { sandbox: house::build(program(), &plan).unwrap(), cgroup, dir };
        house.sandbox.attach_layer(layer.device().unwrap()).unwrap();
        let inside = format!("/proc/{}/root{}/criu", house.sandbox.init().pid, prefix.path().display());
        assert_eq!(std::fs::read_to_string(&inside).unwrap(), "real", "{start}");
        let error = std::fs::write(&inside, "forged").unwrap_err();
        // What is a mount, the workload cannot put something else in the place of.
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", house.sandbox.init().pid)).unwrap();
        for place in ["/opt", "/.migrate"] {
            assert!(mounts.lines().any(|line| line.split(' ').nth(4) == Some(place)), "{place}: {mounts}");
        }
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{start}");
    }
}

#[test]
fn links_in_an_own_root_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    // A link that would climb out leads nowhere.
    let layer = layer_with_root(dir.path(), |mounted| symlink("/etc", mounted.join("root/dev")).unwrap());
    let cgroup = cgroup("own-root");
    let plan = Plan { root: Root::Layer, ..plan(dir.path(), &cgroup) };
    let house = House { sandbox: house::build(program(), &plan).unwrap(), cgroup, dir };
    let refused = house.sandbox.attach_layer(layer.device().unwrap());
    assert!(refused.is_err(), "a /dev that is a link into nothing must be refused, not followed");
    assert!(!Path::new("/etc/null").exists());
}

#[test]
fn a_root_that_has_become_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer_with_root(dir.path(), |mounted| {
        std::fs::rename(mounted.join("root"), mounted.join("elsewhere")).unwrap();
        symlink("/etc", mounted.join("root")).unwrap();
    });
    let cgroup = cgroup("own-link");
    let plan = Plan { root: Root::Layer, ..plan(dir.path(), &cgroup) };
    let house = House { sandbox: house::build(program(), &plan).unwrap(), cgroup, dir };
    let refused = house.sandbox.attach_layer(layer.device().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("aside/root"), "{refused}");
}
