//! What is out of a workload's reach, although it is root.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use house::{House, command, volume};
use migrate_proto::api::Exit;

/// SYS_ADMIN SYS_PTRACE MKNOD SYS_MODULE SYS_RAWIO SYS_BOOT SYS_TIME DAC_READ_SEARCH NET_ADMIN SYSLOG PERFMON BPF
/// CHECKPOINT_RESTORE SYS_PACCT SYS_TTY_CONFIG MAC_ADMIN MAC_OVERRIDE AUDIT_CONTROL AUDIT_READ WAKE_ALARM BLOCK_SUSPEND.
const LEAVING: [u32; 21] = [21, 19, 27, 16, 17, 22, 25, 2, 12, 34, 38, 39, 40, 20, 26, 33, 32, 30, 37, 35, 36];

fn assert_harmless(status: &str) {
    let sets: Vec<&str> = status.lines().filter(|line| line.starts_with("Cap")).collect();
    assert_eq!(sets.len(), 5, "{status}");
    for set in sets {
        let bits = u64::from_str_radix(set.split_ascii_whitespace().nth(1).unwrap(), 16).unwrap();
        assert!(LEAVING.iter().all(|bit| bits & (1 << bit) == 0), "{set}");
    }
    // A workload that is root still owns what is in its layer.
    assert!(!status.contains("CapEff:\t0000000000000000"), "{status}");
}

#[test]
fn nobody_inside_has_what_it_takes_to_leave() {
    let house = House::new("powers");
    assert_eq!(house.run(&["cat", "/proc/self/status"]), Exit::Code(0));
    assert_harmless(&house.output());
    house.start(&command(&["sleep", "1000"]));
    let (mut helper, _letter) = house.beside(command(&["cat", "/proc/self/status"]));
    assert_harmless(&String::from_utf8(helper.output().unwrap().stdout).unwrap());
}

#[test]
fn the_nodes_kernel_is_not_for_writing() {
    let house = House::new("kernel");
    // Opened only; nothing would be written if it could be.
    let script = "for file in sys/kernel/core_pattern sys/kernel/modprobe sysrq-trigger sys/vm/drop_caches; do \
                  test -e /proc/$file || continue; (: >> /proc/$file) 2>/dev/null && echo $file; done; true";
    assert_eq!(house.run(&["/bin/sh", "-c", script]), Exit::Code(0));
    assert_eq!(house.output(), "");
}

#[test]
fn what_pid_1_holds_leads_nowhere() {
    let house = House::new("leads-nowhere");
    let held = format!("/proc/{}/fd", house.sandbox.init().pid);
    let mut directories = 0;
    for entry in std::fs::read_dir(held).unwrap().flatten() {
        let Ok(found) = std::fs::metadata(entry.path()) else { continue };
        if found.is_dir() {
            directories += 1;
            let above = std::fs::metadata(entry.path().join("..")).unwrap();
            assert_eq!((above.dev(), above.ino()), (found.dev(), found.ino()), "{entry:?}");
        }
    }
    assert_eq!(directories, 1, "its sandbox's directory");
    assert_eq!(house.run(&["true"]), Exit::Code(0));
    assert!(house.sandbox.dir().join("exit.json").exists(), "it can still write there");
}

#[test]
fn hidden_behind_a_link_is_hidden() {
    // Not below /tmp or /work, where the layer has its own.
    let dir = tempfile::tempdir_in("/opt").unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::create_dir_all(real.join("secret")).unwrap();
    std::fs::write(real.join("secret/key"), "secret").unwrap();
    symlink(&real, &link).unwrap();
    let house = House::with("hidden-link", |plan| plan.hide = vec![link.join("secret")]).unwrap();
    let script = format!("cat {}/secret/key {}/secret/key 2>/dev/null; echo end", real.display(), link.display());
    assert_eq!(house.run(&["/bin/sh", "-c", &script]), Exit::Code(0));
    assert_eq!(house.output(), "end\n");
}

/// The helper that builds the sandbox runs in a mount namespace of its own, in which `commands` were run before.
fn with_mounts(dir: &Path, commands: &str) -> std::path::PathBuf {
    let wrapper = dir.join("with-mounts");
    let script = format!("#!/bin/sh\nexec unshare -m --propagation private sh -ec '{commands}\nexec \"$0\" \"$1\"'");
    std::fs::write(&wrapper, format!("{script} {} \"$1\"\n", house::program().display())).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    wrapper
}

#[test]
fn hidden_is_hidden_under_every_name() {
    // Not below /tmp or /work, where the layer has its own.
    let at = tempfile::tempdir_in("/opt").unwrap();
    let (state, programs) = (at.path().join("state"), tempfile::tempdir().unwrap());
    for dir in ["state/deep/er", "state/mounted", "whole", "part", "above", "again", "harmless", "beside"] {
        std::fs::create_dir_all(at.path().join(dir)).unwrap();
    }
    std::fs::write(at.path().join("beside/file"), "seen").unwrap();
    std::fs::write(state.join("deep/er/key"), "secret").unwrap();
    let commands = r#"
        cd AT
        mount -t tmpfs none state/mounted && mkdir state/mounted/in && echo secret > state/mounted/in/key
        mount --bind state whole
        mount --bind state/deep part
        mount --bind . above
        mount --bind state/mounted/in again
        mount --bind beside harmless
    "#;
    let house = |name: &str, volume_of: Option<&str>| {
        let (dir, cgroup) = (tempfile::tempdir().unwrap(), house::cgroup(name));
        let mut plan = house::plan(dir.path(), &cgroup);
        plan.hide = vec![state.clone()];
        plan.volumes = volume_of.map(|of| volume(&at.path().join(of), "/data")).into_iter().collect();
        let program = with_mounts(programs.path(), &commands.replace("AT", at.path().to_str().unwrap()));
        let built = house::build(&program, &plan).inspect_err(|_| cgroup.remove().unwrap());
        built.map(|sandbox| House { sandbox, cgroup, dir })
    };
    let house_of_none = house("hidden-names", None).unwrap();
    let layer = migrate_sandbox::layer::Layer::create(house_of_none.dir.path().join("layer.img"), 64 << 20).unwrap();
    house_of_none.sandbox.attach_layer(layer.device().unwrap()).unwrap();
    let script = "cd \"$0\" && cat beside/file harmless/file && grep -rs secret . ; grep -s secret whole/deep/er/key part/er/key \
                  above/state/deep/er/key again/key whole/mounted/in/key above/state/mounted/in/key; echo; echo end";
    assert_eq!(house_of_none.run(&["/bin/sh", "-c", script, at.path().to_str().unwrap()]), Exit::Code(0));
    assert_eq!(house_of_none.output(), "seenseen\nend\n");
    for (number, of) in ["whole", "whole/deep", "part", "above", "again"].iter().enumerate() {
        let refused = house(&format!("hidden-volume-{number}"), Some(of)).map(drop).unwrap_err().to_string();
        assert!(refused.contains("is hidden from every workload"), "{of}: {refused}");
    }
    house("hidden-volume-harmless", Some("harmless")).unwrap();
}

#[test]
fn a_volume_does_not_show_what_is_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let hidden = dir.path().join("state");
    std::fs::create_dir_all(hidden.join("deep")).unwrap();
    std::fs::create_dir(dir.path().join("beside")).unwrap();
    let with = |name: &str, source: &Path| {
        House::with(name, |plan| {
            plan.hide = vec![hidden.clone()];
            plan.volumes = vec![volume(source, "/data")];
        })
    };
    for (name, source) in [("above", dir.path()), ("same", &hidden), ("below", &hidden.join("deep"))] {
        let refused = with(&format!("volume-{name}"), source).map(drop).unwrap_err().to_string();
        assert!(refused.contains("hidden") && refused.contains("volume"), "{name}: {refused}");
    }
    with("volume-beside", &dir.path().join("beside")).unwrap();
}
