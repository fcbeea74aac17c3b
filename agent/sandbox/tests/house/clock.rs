//! A sandbox with a lease, and in it a workload that writes down all the time what time it is: the last entry is when it last ran.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use migrate_proto::cluster::lease::{ENDLESS, Nanos, Page};
use migrate_proto::spec::Volume;
use migrate_proto::text::Text;
use migrate_sandbox::Plan;
use migrate_sandbox::control::Leash;
use migrate_sandbox::lease::{self, LeasePage};

use super::{House, command, wait_until};

/// How long a sandbox may take to hold its workload, in these tests.
pub(crate) const MARGIN: Duration = Duration::from_millis(150);
/// The session that the sandboxes are armed with.
pub(crate) const SESSION: u64 = 7;

/// Writes the clock of deadlines into a file that somebody else maps, for ever.
const STAMPS: &str = "import mmap, sys, time
file = open(sys.argv[1], 'r+b')
words = memoryview(mmap.mmap(file.fileno(), 4096)).cast('Q')
while True:
    words[0] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)";

/// See there.
pub(crate) struct Leased {
    pub(crate) house: House,
    pub(crate) page: LeasePage,
    /// Out of sight inside.
    pub(crate) outside: tempfile::TempDir,
    /// `/stamps` inside.
    stamps: tempfile::TempDir,
}

fn on_tmpfs() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

impl Leased {
    /// A sandbox without a workload, armed without end.
    pub(crate) fn new(name: &str) -> Leased {
        Leased::with(name, None, |_| ())
    }

    /// The same, with another plan, or over the layer that another had.
    pub(crate) fn with(name: &str, layer: Option<&Path>, change: impl FnOnce(&mut Plan)) -> Leased {
        let (outside, stamps) = (on_tmpfs(), on_tmpfs());
        std::fs::write(stamps.path().join("now"), [0; 4096]).unwrap();
        let path = outside.path().join("lease");
        let page = LeasePage::create(&path).unwrap();
        let shown = Text::new(std::os::unix::ffi::OsStrExt::as_bytes(stamps.path().as_os_str())).unwrap();
        let house = House::over(name, layer, |plan| {
            plan.lease.page = Some(path);
            plan.volumes = vec![Volume { source: shown, target: "/stamps".into(), read_only: false }];
            change(plan);
        });
        Leased { house: house.unwrap(), page, outside, stamps }
    }

    /// With a workload that runs.
    pub(crate) fn running(name: &str) -> Leased {
        Leased::new(name).and_running()
    }

    /// The same.
    pub(crate) fn and_running(self) -> Leased {
        self.house.start(&command(&["python3", "-c", STAMPS, "/stamps/now"]));
        self.await_stamps();
        self
    }

    /// A process of the node in the workload's groups, where there cannot be a workload.
    pub(crate) fn stand_in(&self) -> StandIn {
        let file = self.stamps.path().join("now");
        let child = Program::new("python3").args(["-c", STAMPS]).arg(file).stdin(Stdio::null()).spawn().unwrap();
        let stand_in = StandIn(child);
        for procs in self.house.cgroup.load_procs() {
            std::fs::write(procs, stand_in.0.id().to_string()).unwrap();
        }
        self.await_stamps();
        stand_in
    }

    /// When the workload last ran.
    pub(crate) fn last_ran(&self) -> Nanos {
        let bytes = std::fs::read(self.stamps.path().join("now")).unwrap();
        Nanos(u64::from_ne_bytes(bytes[..8].try_into().unwrap()))
    }

    /// Waits until it runs, again.
    pub(crate) fn await_stamps(&self) {
        let before = self.last_ran();
        wait_until("the workload runs", || self.last_ran() != before);
    }

    /// From now on it may run for so long, if that was so before, and without end otherwise.
    pub(crate) fn renew(&self, time: Duration) -> Nanos {
        let until = lease::now().plus(time.as_nanos() as u64);
        self.page.write(Page { session: SESSION, until });
        until
    }

    /// Arms it with a deadline that comes so soon. Returns from when on it must not run: the deadline, or when it was armed, if that
    /// was later.
    pub(crate) fn lease_for(&self, time: Duration) -> Nanos {
        let until = self.renew(time);
        self.house.sandbox.arm(SESSION, MARGIN).unwrap();
        until.max(lease::now())
    }

    /// Nothing holds it any more.
    pub(crate) fn set_free(&self) {
        assert_eq!(self.house.sandbox.arm(ENDLESS, Duration::ZERO).unwrap(), Leash::Unlimited);
    }

    fn events(&self) -> PathBuf {
        self.house.cgroup.freezer().unwrap().with_file_name("cgroup.events")
    }

    /// Whether it stands still, as the kernel says.
    pub(crate) fn is_frozen(&self) -> bool {
        std::fs::read_to_string(self.events()).unwrap().lines().any(|line| line == "frozen 1")
    }

    /// Waits until it does.
    pub(crate) fn await_frozen(&self) {
        wait_until("the workload stands still", || self.is_frozen());
    }
}

/// Somebody who makes control groups and removes them all the time, as every start of a workload does: the kernel changes one at a
/// time, frozen or made.
pub(crate) struct Restless(std::sync::mpsc::Sender<()>, Option<std::thread::JoinHandle<()>>);

impl Restless {
    pub(crate) fn start() -> Restless {
        let (stop, stopped) = std::sync::mpsc::channel();
        let make = move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                super::cgroup("restless").remove().unwrap();
            }
        };
        Restless(stop, Some(std::thread::spawn(make)))
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        let _ = self.0.send(());
        let ended = self.1.take().map(std::thread::JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))));
    }
}

/// Ends with this.
pub(crate) struct StandIn(Child);

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Programs that want all processors for themselves, twice as many as there are of these.
pub(crate) struct Busy(Vec<Child>);

impl Busy {
    pub(crate) fn start() -> Busy {
        let count = 2 * std::thread::available_parallelism().unwrap().get();
        let busy = || Program::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Busy((0..count).map(|_| busy()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
