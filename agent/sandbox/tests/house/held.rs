//! A guard and what it holds, with a test in the agent's place.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use migrate_proto::api::Exit;
use migrate_proto::text::Text;
use migrate_sandbox::guard::{self, Call, GUARD_SOCKET, Kind, Order, Told};

use super::House;

/// See there.
pub(crate) struct Held {
    pub(crate) dir: PathBuf,
}

impl Held {
    /// A guard that holds this program in the place of CRIU, or CRIU itself.
    pub(crate) fn new(house: &House, kind: Kind, argv: Vec<Text>, groups: Vec<PathBuf>) -> Held {
        let dir = house.dir.path().join("guard");
        let call = Call {
            kind,
            init: house.sandbox.init(),
            argv,
            dir: dir.clone(),
            images: house.sandbox.work().join("images"),
            side: house.cgroup.side_procs(),
            groups,
            freezer: house.cgroup.freezer(),
            beside: house.cgroup.beside_freezer(),
            criu_pid: 20_000,
        };
        house.sandbox.guard(&call).unwrap();
        Held { dir }
    }

    /// Calls as an agent does.
    pub(crate) fn call(&self) -> UnixStream {
        UnixStream::connect(self.dir.join(GUARD_SOCKET)).unwrap()
    }

    /// Waits for CRIU's end.
    pub(crate) fn end(&self) -> Exit {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(exit) = guard::result(&self.dir).unwrap() {
                return exit;
            }
            assert!(Instant::now() < deadline, "the guard does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What the guard says next.
pub(crate) fn hear(agent: &UnixStream) -> Told {
    let mut line = String::new();
    BufReader::new(agent).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// Tells it what to do.
pub(crate) fn order(agent: &mut UnixStream, order: Order) {
    writeln!(agent, "{}", serde_json::to_string(&order).unwrap()).unwrap();
}
