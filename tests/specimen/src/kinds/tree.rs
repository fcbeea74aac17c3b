//! Proves that a process tree arrives with its shape: parents, process groups, sessions, a token that goes down and up
//! through pipes three levels deep, unchanged code, zombies with their wait status, and an orphan under the subreaper.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid, setpgid, setsid};

use super::Parts;
use crate::code::Code;
use crate::family::{Child, finish, fork};
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// The kind's parts.
pub(crate) fn parts() -> Verdict<Parts> {
    nix::sys::prctl::set_child_subreaper(true).must("prctl(PR_SET_CHILD_SUBREAPER)")?;
    Ok(vec![Box::new(Branches::new()?), Box::new(Zombies::new()?), Box::new(Orphan::new()?)])
}

/// What a process can ask about its place in the tree.
#[derive(Debug, PartialEq)]
struct Place {
    pid: Pid,
    parent: Pid,
    group: Pid,
    session: Pid,
    dies_with_parent: Option<Signal>,
}

impl Place {
    fn of_this_process() -> Verdict<Self> {
        Ok(Self {
            pid: getpid(),
            parent: getppid(),
            group: getpgid(None).must("getpgid")?,
            session: getsid(None).must("getsid")?,
            dies_with_parent: nix::sys::prctl::get_pdeathsig().must("prctl(PR_GET_PDEATHSIG)")?,
        })
    }
}

/// Right after a restore the root is a child of CRIU, until that has ended (NOT_CARRIED.md). Not for ever.
fn wait_for_parent(parent: Pid) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while getppid() != parent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a node of the tree does at its birth.
#[derive(Clone, Copy)]
enum Start {
    Ordinary,
    OwnGroup,
    OwnSession,
}

const SHAPE: [[Start; 2]; 3] =
    [[Start::OwnSession, Start::OwnGroup], [Start::Ordinary, Start::OwnGroup], [Start::Ordinary, Start::OwnSession]];

/// Makes the sons of one node, each with its own below it; answering a question means that the whole branch is well.
fn grow(depth: usize) -> Verdict<Vec<Child>> {
    let Some(starts) = SHAPE.get(depth) else { return Ok(Vec::new()) };
    starts
        .iter()
        .map(|&start| {
            Child::fork("branch of the tree", move |parent| {
                match start {
                    Start::Ordinary => {}
                    Start::OwnGroup => setpgid(Pid::from_raw(0), Pid::from_raw(0)).must("setpgid")?,
                    Start::OwnSession => drop(setsid().must("setsid")?),
                }
                let mut branches = grow(depth + 1)?;
                let (place, code) = (Place::of_this_process()?, Code::now()?);
                parent.serve(|question| {
                    code.check()?;
                    same(format_args!("place in the tree at depth {depth}"), &place, &Place::of_this_process()?)?;
                    well(&mut branches, question).map(|processes| processes + 1)
                })
            })
        })
        .collect()
}

fn well(branches: &mut [Child], question: u64) -> Verdict<u64> {
    branches.iter_mut().try_fold(0, |sum, branch| Ok(sum + branch.ask(question)?))
}

struct Branches {
    sons: Vec<Child>,
    place: Place,
}

impl Branches {
    fn new() -> Verdict<Self> {
        Ok(Self { sons: grow(0)?, place: Place::of_this_process()? })
    }
}

impl Part for Branches {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        wait_for_parent(self.place.parent);
        same("place of the root", &self.place, &Place::of_this_process()?)?;
        let processes = well(&mut self.sons, cycle)?;
        same("processes below the root", 2 + 4 + 8, processes)?;
        Ok(processes)
    }

    fn sabotage(&mut self) -> Verdict {
        kill(self.sons[1].pid, Signal::SIGKILL).must("kill")
    }
}

/// Children that ended and are never waited for.
struct Zombies {
    expected: Vec<WaitStatus>,
}

impl Zombies {
    fn new() -> Verdict<Self> {
        let mut expected = Vec::new();
        for end in [None, Some(Signal::SIGTERM)] {
            let Some(pid) = fork()? else {
                match end {
                    None => std::process::exit(42),
                    Some(signal) => finish(nix::sys::signal::raise(signal).must("raise")),
                }
            };
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).must("waiting for a zombie")?;
            expected.push(match end {
                None => WaitStatus::Exited(pid, 42),
                Some(signal) => WaitStatus::Signaled(pid, signal, false),
            });
        }
        Ok(Self { expected })
    }
}

impl Part for Zombies {
    fn name(&self) -> &'static str {
        "zombies"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        for expected in &self.expected {
            let Some(pid) = expected.pid() else { continue };
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            same("wait status of a zombie", expected, &waitid(Id::Pid(pid), flags).must("looking at a zombie")?)?;
        }
        Ok(self.expected.len() as u64)
    }

    fn sabotage(&mut self) -> Verdict {
        let pid = self.expected[0].pid().unwrap_or(Pid::from_raw(0));
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED).must("reaping a zombie")?;
        Ok(())
    }
}

/// A grandchild whose parent ended: the subreaper is its parent now. It waits in `pause` and does nothing.
struct Orphan {
    pid: Pid,
}

impl Orphan {
    fn new() -> Verdict<Self> {
        let (mut told, telling) = std::io::pipe().must("making a pipe")?;
        let Some(middle) = fork()? else {
            let (mut adopted_told, adopted_telling) = std::io::pipe().must("making a pipe")?;
            if fork()?.is_none() {
                // It must outlive the process in the middle, and end with the subreaper.
                nix::sys::prctl::set_pdeathsig(None).must("prctl(PR_SET_PDEATHSIG)")?;
                let first_parent = getppid();
                drop(adopted_telling);
                finish(live_as_orphan(telling, first_parent))
            }
            drop(adopted_telling);
            // Wait until the orphan no longer dies with this process.
            finish(adopted_told.read(&mut [0]).must("waiting for the orphan").map(drop))
        };
        drop(telling);
        waitid(Id::Pid(middle), WaitPidFlag::WEXITED).must("waiting for the orphan's parent")?;
        let mut pid = [0; 4];
        told.read_exact(&mut pid).must("hearing of the orphan")?;
        Ok(Self { pid: Pid::from_raw(i32::from_le_bytes(pid)) })
    }
}

fn live_as_orphan(mut telling: std::io::PipeWriter, first_parent: Pid) -> Verdict {
    while getppid() == first_parent {
        std::thread::yield_now();
    }
    let adopter = getppid();
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).must("prctl(PR_SET_PDEATHSIG)")?;
    if getppid() != adopter {
        return Ok(());
    }
    telling.write_all(&getpid().as_raw().to_le_bytes()).must("telling of the orphan")?;
    loop {
        nix::unistd::pause();
    }
}

impl Part for Orphan {
    fn name(&self) -> &'static str {
        "orphans"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let pid = self.pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).must("reading the orphan's status")?;
        let expected = format!("PPid:\t{}", getpid());
        let found = status.lines().find(|line| line.starts_with("PPid")).unwrap_or_default();
        holds("parent of the orphan", found == expected, &expected, found)?;
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::StillAlive) => Ok(1),
            Ok(status) => Err(Violation::new("the orphan", "alive", format_args!("{status:?}"))),
            Err(Errno::ECHILD) => Err(Violation::new("the orphan", "a child of this process", "none")),
            Err(error) => Err(Violation::new("looking at the orphan", "success", error)),
        }
    }

    fn sabotage(&mut self) -> Verdict {
        kill(self.pid, Signal::SIGKILL).must("kill")
    }
}
