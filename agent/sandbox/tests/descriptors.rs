//! An agent that runs out of descriptors, and one that has raised its limit. Both are of a whole process: one after the other.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use house::{House, command, program};
use migrate_proto::api::Exit;
use migrate_sandbox::control::Status;
use migrate_sandbox::{Sandbox, SandboxError, descriptors};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The limits of this process, put back whatever happens.
struct Limits(u64, u64);

impl Limits {
    fn keep() -> Limits {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        Limits(soft, hard)
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1).unwrap();
    }
}

#[test]
fn what_cannot_be_seen_is_not_dead() {
    let _alone = alone();
    let house = House::new("starved");
    house.start(&command(&["sleep", "1000"]));
    let (gone, waited, destroyed, adopted) = {
        let _limits = Limits::keep();
        setrlimit(Resource::RLIMIT_NOFILE, 100, getrlimit(Resource::RLIMIT_NOFILE).unwrap().1).unwrap();
        let null = File::open("/dev/null").unwrap();
        let _all: Vec<File> = std::iter::from_fn(|| null.try_clone().ok()).collect();
        let adopted = Sandbox::adopt(program(), house.sandbox.dir());
        (house.sandbox.is_gone(), house.sandbox.wait(), house.sandbox.destroy(), adopted)
    };
    assert!(gone.is_err(), "{gone:?}");
    assert!(adopted.is_err(), "{adopted:?}");
    assert!(!matches!(waited, Ok(_) | Err(SandboxError::Gone { .. })), "{waited:?}");
    assert!(destroyed.is_err(), "it was not looked at, and is not gone");
    assert!(!house.sandbox.is_gone().unwrap());
    assert_eq!(house.sandbox.status().unwrap(), Status::Running { pid: 100 });
    house.sandbox.signal(15).unwrap();
    assert_eq!(house.sandbox.wait().unwrap(), Exit::Signal(15));
    house.sandbox.destroy().unwrap();
    assert!(house.sandbox.is_gone().unwrap());
    let waited = house.sandbox.wait();
    assert!(matches!(waited, Err(SandboxError::Gone { .. })), "{waited:?}");
}

#[test]
fn workloads_keep_the_limit_that_the_agent_was_started_with() {
    let _alone = alone();
    let limits = Limits::keep();
    setrlimit(Resource::RLIMIT_NOFILE, 300, limits.1).unwrap();
    assert_eq!(descriptors::raise().unwrap(), limits.1);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limits.1);
    let house = House::new("limits");
    assert_eq!(house.run(&["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; env | grep -c MIGRATE"]), Exit::Code(1));
    assert_eq!(house.output(), format!("300\n{}\n0\n", limits.1));
}
