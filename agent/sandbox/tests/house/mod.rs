//! A sandbox with everything that belongs to it, taken down whatever happens.

#![allow(dead_code)]

pub(crate) mod clock;
pub(crate) mod held;

use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use migrate_proto::api::Exit;
use migrate_proto::cluster::lease::ENDLESS;
use migrate_proto::spec::Volume;
use migrate_proto::text::Text;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::control::{Command, Leash};
use migrate_sandbox::errand::{ERRAND, Errand};
use migrate_sandbox::layer::Layer;
use migrate_sandbox::plan::{Lease, Output};
use migrate_sandbox::{Plan, Root, Sandbox, SandboxError};

/// `migrate-init`.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_migrate-init"))
}

/// The groups of one test.
pub(crate) fn cgroup(name: &str) -> Cgroup {
    Cgroup::create(&format!("migrate-test-{}", std::process::id()), name).unwrap()
}

/// The usual plan for a sandbox in `dir`, which it makes.
pub(crate) fn plan(dir: &Path, cgroup: &Cgroup) -> Plan {
    let dir = dir.join("sandbox");
    std::fs::create_dir(&dir).unwrap();
    Plan {
        dir,
        root: Root::Node,
        volumes: Vec::new(),
        alone: false,
        hide: Vec::new(),
        criu_prefix: None,
        side_cgroup: cgroup.side_procs(),
        lease: Lease::of(cgroup, None),
    }
}

/// A sandbox that runs what it is told to without a lease.
pub(crate) fn build(program: &Path, plan: &Plan) -> Result<Sandbox, SandboxError> {
    let sandbox = Sandbox::build(program, plan)?;
    assert_eq!(sandbox.arm(ENDLESS, Duration::ZERO).unwrap(), Leash::Unlimited);
    Ok(sandbox)
}

/// See there.
pub(crate) struct House {
    pub(crate) sandbox: Sandbox,
    pub(crate) cgroup: Cgroup,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.sandbox.destroy().unwrap();
        self.cgroup.remove().unwrap();
    }
}

impl House {
    /// With the node's root and a layer.
    pub(crate) fn new(name: &str) -> House {
        House::with(name, |_| ()).unwrap()
    }

    /// The same, with another plan.
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut Plan)) -> Result<House, SandboxError> {
        House::over(name, None, change)
    }

    /// The same, over the layer that another had.
    pub(crate) fn over(
        name: &str,
        layer: Option<&Path>,
        change: impl FnOnce(&mut Plan),
    ) -> Result<House, SandboxError> {
        let (dir, cgroup) = (tempfile::tempdir().unwrap(), cgroup(name));
        let mut plan = plan(dir.path(), &cgroup);
        change(&mut plan);
        let sandbox = build(program(), &plan).inspect_err(|_| cgroup.remove().unwrap())?;
        let house = House { sandbox, cgroup, dir };
        let own = house.layer();
        let layer = layer.map_or_else(|| Layer::create(own, 64 << 20).unwrap(), Layer::at);
        house.sandbox.attach_layer(layer.device().unwrap()).unwrap();
        Ok(house)
    }

    /// Where its layer is, if it has one of its own.
    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.path().join("layer.img")
    }

    /// Starts a workload.
    pub(crate) fn start(&self, command: &Command) {
        assert_eq!(self.sandbox.start(command, &self.cgroup.load_procs()).unwrap(), 100);
    }

    /// Runs a workload to its end.
    pub(crate) fn run(&self, argv: &[&str]) -> Exit {
        self.start(&command(argv));
        self.sandbox.wait().unwrap()
    }

    /// What it wrote.
    pub(crate) fn output(&self) -> String {
        let read = |which| std::io::read_to_string(self.sandbox.output(which).unwrap()).unwrap();
        [Output::Stdout, Output::Stderr].map(read).concat()
    }

    /// A helper that will run this beside the workload, and the letter it needs.
    pub(crate) fn beside(&self, command: Command) -> (Program, migrate_sandbox::errand::Letter) {
        let init = self.sandbox.init().pid;
        let main = self.sandbox.outer_pid(100).unwrap();
        let letter = Errand { init, main, groups: self.cgroup.side_procs(), beside: self.cgroup.beside(), command }
            .letter()
            .unwrap();
        let mut helper = Program::new(program());
        helper.arg("exec").env_clear().env(ERRAND, letter.address()).stdin(Stdio::null());
        (helper, letter)
    }
}

/// A command with the usual surroundings.
pub(crate) fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|arg| Text::from(*arg)).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        dir: "/work".into(),
        user: None,
        hostname: "inside".into(),
    }
}

/// Shared storage.
pub(crate) fn volume(source: &Path, target: &str) -> Volume {
    Volume {
        source: Text::new(std::os::unix::ffi::OsStrExt::as_bytes(source.as_os_str())).unwrap(),
        target: target.into(),
        read_only: true,
    }
}

/// Waits for something that happens soon.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
