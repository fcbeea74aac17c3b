//! Real sandboxes: real namespaces, a real layer, real processes.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use house::{House, cgroup, command, plan, program, volume};
use migrate_proto::api::Exit;
use migrate_proto::text::Text;
use migrate_sandbox::control::Status;
use migrate_sandbox::layer::Layer;
use migrate_sandbox::plan::Output;
use migrate_sandbox::{Sandbox, SandboxError};

#[test]
fn a_workload_sees_its_own_world() {
    let house = House::new("world");
    let script = "echo $$; hostname; cat /proc/self/sessionid >/dev/null; ls /proc/self/fd | wc -l; touch /work/w /tmp/t /run/r /dev/shm/s && echo written; \
                  touch /usr/x 2>/dev/null || echo usr-read-only; touch /x 2>/dev/null || echo root-read-only; pwd";
    assert_eq!(house.run(&["/bin/sh", "-c", script]), Exit::Code(0));
    assert_eq!(house.output(), "100\ninside\n4\nwritten\nusr-read-only\nroot-read-only\n/work\n");
}

#[test]
fn the_agents_files_are_out_of_sight() {
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("key"), "secret").unwrap();
    // Below /tmp nothing of the node shows anyway; so hide something that would.
    let house = House::with("hidden", |plan| plan.hide = vec!["/usr/share".into(), secret.path().to_owned()]).unwrap();
    let script = format!("ls /usr/share | wc -l; cat {}/key 2>/dev/null || echo nothing", secret.path().display());
    assert_eq!(house.run(&["/bin/sh", "-c", &script]), Exit::Code(0));
    assert_eq!(house.output(), "0\nnothing\n");
}

#[test]
fn ordinary_programs_find_terminals() {
    let house = House::new("terminals");
    let program = "import os; a, b = os.openpty(); print(os.ttyname(b)); os.write(a, b'x\\n'); print(os.read(b, 9))";
    assert_eq!(house.run(&["python3", "-c", program]), Exit::Code(0), "{}", house.output());
    assert_eq!(house.output(), "/dev/pts/0\nb'x\\n'\n");
}

#[test]
fn a_file_is_a_volume_too() {
    let shared = tempfile::tempdir().unwrap();
    let source = shared.path().join("settings");
    std::fs::write(&source, "shared\n").unwrap();
    let house = House::with("file-volume", |plan| {
        plan.volumes = vec![volume(&source, "/settings"), volume(&source, "/work/deep/settings")];
    });
    let house = house.unwrap();
    assert_eq!(house.run(&["cat", "/settings", "/work/deep/settings"]), Exit::Code(0), "{}", house.output());
    assert_eq!(house.output(), "shared\nshared\n");
}

/// As systemd-resolved has it. The helper that builds the sandbox sees another /etc and /run than this machine's.
#[test]
fn names_are_looked_up_as_the_node_does() {
    let dir = tempfile::tempdir().unwrap();
    let wrapper = dir.path().join("with-a-link");
    let script = "#!/bin/sh\nexec unshare -m --propagation private sh -c 'mount -t tmpfs none /run && mount -t tmpfs none /etc && \
                  echo from-the-node > /run/resolv && ln -s ../run/resolv /etc/resolv.conf && exec \"$0\" \"$1\"'";
    std::fs::write(&wrapper, format!("{script} {} \"$1\"\n", program().display())).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cgroup = cgroup("resolver");
    let sandbox = house::build(&wrapper, &plan(dir.path(), &cgroup)).unwrap();
    let house = House { sandbox, cgroup, dir };
    let layer = Layer::create(house.dir.path().join("layer.img"), 64 << 20).unwrap();
    house.sandbox.attach_layer(layer.device().unwrap()).unwrap();
    assert_eq!(house.run(&["cat", "/etc/resolv.conf"]), Exit::Code(0), "{}", house.output());
    assert_eq!(house.output(), "from-the-node\n");
}

#[test]
fn a_command_that_cannot_run_says_why_and_leaves_nothing() {
    let house = House::new("cannot");
    for (argv, expected) in
        [(["/no/such"], "No such file"), (["/etc/passwd"], "Permission denied"), (["nothing-here"], "No such file")]
    {
        let error = house.sandbox.start(&command(&argv), &house.cgroup.load_procs()).unwrap_err();
        assert!(matches!(error, SandboxError::CannotExecute { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(house.sandbox.status().unwrap(), Status::Empty);
    assert!(house.cgroup.pids().is_empty());
    assert_eq!(house.run(&["sh", "-c", "exit 7"]), Exit::Code(7), "the sandbox is still of use");
}

#[test]
fn orphans_are_reaped_and_the_end_is_known() {
    let house = House::new("orphans");
    assert_eq!(house.run(&["/bin/sh", "-c", "(sh -c 'exit 3' &) ; kill -9 $$"]), Exit::Signal(9));
    assert_eq!(house.sandbox.status().unwrap(), Status::Ended(Exit::Signal(9)));
}

#[test]
fn an_end_by_a_real_time_signal_is_known() {
    let house = House::new("realtime");
    assert_eq!(house.run(&["/bin/sh", "-c", "kill -40 $$"]), Exit::Signal(40));
    house.sandbox.start(&command(&["sleep", "1000"]), &house.cgroup.load_procs()).unwrap();
    house.sandbox.signal(64).unwrap();
    assert_eq!(house.sandbox.wait().unwrap(), Exit::Signal(64));
}

/// Whoever has a descriptor in a layer keeps it mounted, also when its sandbox is gone.
#[test]
fn a_layer_is_never_mounted_twice() {
    let first = House::new("twice-a");
    assert_eq!(first.run(&["sh", "-c", "echo kept > f"]), Exit::Code(0));
    let path = first.dir.path().join("layer.img");
    let reader = std::fs::File::open(format!("/proc/{}/root/work/f", first.sandbox.init().pid)).unwrap();
    first.sandbox.destroy().unwrap();
    let refused = Layer::at(&path).device().unwrap_err();
    assert!(matches!(refused, SandboxError::StillMounted { .. }), "{refused}");
    drop(reader);
    Layer::at(&path).device().expect("free again");
}

#[test]
fn an_agent_that_comes_back_finds_everything() {
    let house = House::new("adopt");
    house.sandbox.start(&command(&["sleep", "1000"]), &house.cgroup.load_procs()).unwrap();
    let again = Sandbox::adopt(program(), house.sandbox.dir()).unwrap().unwrap();
    assert_eq!(again.status().unwrap(), Status::Running { pid: 100 });
    assert_eq!(house.cgroup.pids(), [again.outer_pid(100).unwrap()]);
    again.signal(15).unwrap();
    assert_eq!(again.wait().unwrap(), Exit::Signal(15));
    again.destroy().unwrap();
    assert!(Sandbox::adopt(program(), house.sandbox.dir()).unwrap().is_none());
}

#[test]
fn names_that_criu_left_are_removed_and_no_others() {
    let house = House::new("names");
    assert_eq!(house.run(&["sh", "-c", "mkdir d; touch d/a.cr.1.ghost b.cr.2.ghost b kept.cr.3.ghost"]), Exit::Code(0));
    // The last one's directory was removed as well, and CRIU took the one above it.
    let names = ["/work/d/a.cr.1.ghost", "/work/b.cr.1.ghost", "/work/gone/with/b.cr.2.ghost"].map(Into::into);
    house.sandbox.remove_names(&names).unwrap();
    house.sandbox.remove_names(&names).unwrap();
    assert_eq!(house.run(&["sh", "-c", "echo *; ls d"]), Exit::Code(0));
    assert_eq!(house.output(), "b d kept.cr.3.ghost\n");
}

#[test]
fn odd_bytes_survive() {
    let house = House::new("odd");
    let odd = Text::new(&b"a b\"'\n\xff$(x)"[..]).unwrap();
    let mut asked = command(&["/bin/sh", "-c", "printf %s \"$1\" \"$ODD\"", "sh"]);
    asked.argv.push(odd.clone());
    asked.env.push(("ODD".into(), odd.clone()));
    house.sandbox.start(&asked, &house.cgroup.load_procs()).unwrap();
    assert_eq!(house.sandbox.wait().unwrap(), Exit::Code(0));
    let log = format!("/proc/{}/root/.migrate/layer/log/stdout", house.sandbox.init().pid);
    assert_eq!(std::fs::read(log).unwrap(), [odd.as_bytes(), odd.as_bytes()].concat());
}

#[test]
fn a_layer_keeps_its_inodes_in_another_sandbox() {
    let first = House::new("inode-a");
    assert_eq!(first.run(&["sh", "-c", "echo kept > f; stat -c %i f"]), Exit::Code(0));
    let before = first.output();
    let mounted = first.sandbox.mounted_layer().unwrap();
    mounted.sync().unwrap();
    let before_copy = mounted.written().unwrap();
    let second = {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(first.dir.path().join("layer.img"), copy.path().join("layer.img")).unwrap();
        assert_eq!(mounted.written().unwrap(), before_copy, "nothing was written during the copy");
        let cgroup = cgroup("inode-b");
        let sandbox = house::build(program(), &plan(copy.path(), &cgroup)).unwrap();
        let house = House { sandbox, cgroup, dir: copy };
        house.sandbox.attach_layer(Layer::at(house.dir.path().join("layer.img")).device().unwrap()).unwrap();
        house
    };
    assert_eq!(second.run(&["sh", "-c", "cat f; stat -c %i f"]), Exit::Code(0));
    assert_eq!(second.output(), format!("{before}kept\n{before}"));
}

#[test]
fn what_a_workload_puts_in_the_place_of_its_output_is_not_followed() {
    let house = House::new("planted");
    let script = "cd /.migrate/layer/log && mv stdout old && ln -s /etc/passwd stdout && rm stderr && mkfifo stderr";
    assert_eq!(house.run(&["/bin/sh", "-c", script]), Exit::Code(0));
    assert!(house.sandbox.output(Output::Stdout).is_err());
    assert!(house.sandbox.output(Output::Stderr).is_err(), "a pipe would be waited for");
    let error = house.sandbox.start(&command(&["true"]), &house.cgroup.load_procs()).unwrap_err();
    assert!(error.to_string().contains("output"), "{error}");
}

#[test]
fn whenever_a_launch_is_killed_nobody_is_left_who_cannot_be_found() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    type Moment = fn(&std::path::Path, usize) -> bool;
    let moments: [(&str, Moment); 5] = [
        ("at once", |_, _| true),
        ("launched", |_, processes| processes >= 1),
        ("forked", |_, processes| processes >= 2),
        ("written down", |dir, _| dir.join("sandbox.json").exists()),
        ("listening", |dir, _| dir.join("control.sock").exists()),
    ];
    for (name, come) in moments {
        let above = tempfile::tempdir().unwrap();
        let cgroup = cgroup(&format!("launch-{}", name.replace(' ', "-")));
        let plan = plan(above.path(), &cgroup);
        let mut launcher =
            Command::new(program()).arg("init").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        launcher.stdin.take().unwrap().write_all(&serde_json::to_vec(&plan).unwrap()).unwrap();
        let processes = || std::fs::read_to_string(&plan.side_cgroup[0]).unwrap().lines().count();
        // It may be through before that was seen.
        while !come(&plan.dir, processes()) && launcher.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        house::wait_until("what is left is to be found", || {
            processes() == 0 || Sandbox::adopt(program(), &plan.dir).unwrap().is_some()
        });
        if let Some(sandbox) = Sandbox::adopt(program(), &plan.dir).unwrap() {
            sandbox.destroy().unwrap();
        }
        cgroup.remove().unwrap();
    }
}
