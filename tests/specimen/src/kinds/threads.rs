//! Proves that threads arrive with what is theirs: ids, names, signal masks, thread-local values, and the futexes they
//! wait on. A token goes round a ring of threads by mutex and condition variable; another crew meets at a barrier.

use std::cell::Cell;
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, gettid};

use super::Parts;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, same};

/// The kind's parts.
pub(crate) fn parts() -> Verdict<Parts> {
    let ring = Ring::new(16)?;
    let meeting = Meeting::new(8)?;
    Ok(vec![Box::new(ring), Box::new(meeting), Box::new(Census::new()?)])
}

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

/// What a thread knows of itself.
#[derive(Debug, PartialEq)]
struct Identity {
    tid: Pid,
    name: String,
    mask: SigSet,
}

impl Identity {
    fn of_this_thread() -> Verdict<Self> {
        let tid = gettid();
        let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).must("reading a thread's name")?;
        Ok(Self { tid, name: name.trim_end().to_owned(), mask: SigSet::thread_get_mask().must("pthread_sigmask")? })
    }

    /// Blocks signals that no other member of the crew blocks in this combination.
    fn assume(member: usize) -> Verdict<Self> {
        const CHOICE: [Signal; 5] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGURG, Signal::SIGIO];
        let mut mask = SigSet::empty();
        for (bit, &signal) in CHOICE.iter().enumerate() {
            if (member + 1) & (1 << bit) != 0 {
                mask.add(signal);
            }
        }
        mask.thread_set_mask().must("pthread_sigmask")?;
        Self::of_this_thread()
    }
}

/// What the ring shares.
struct Token {
    holder: usize,
    round: u64,
    sum: u64,
    spoil: bool,
    violation: Option<Violation>,
}

/// Threads that pass a token.
pub(crate) struct Ring {
    members: usize,
    shared: Arc<(Mutex<Token>, Condvar)>,
}

/// A panic of one thread is reported by the ring standing still with its cause on stderr; the state is still worth reading.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    /// Starts `members` threads.
    pub(crate) fn new(members: usize) -> Verdict<Self> {
        let token = Token { holder: members, round: 0, sum: 0, spoil: false, violation: None };
        let shared = Arc::new((Mutex::new(token), Condvar::new()));
        for member in 0..members {
            let shared = Arc::clone(&shared);
            let body = move || {
                if let Err(violation) = pass_on(member, &shared) {
                    held(&shared.0).violation = Some(violation);
                    shared.1.notify_all();
                }
            };
            Builder::new().name(format!("ring {member}")).spawn(body).must("starting a thread")?;
        }
        Ok(Self { members, shared })
    }
}

/// One member's life: wait for the token, check everything that is one's own, pass it on.
fn pass_on(member: usize, (lock, moved): &(Mutex<Token>, Condvar)) -> Verdict {
    let identity = Identity::assume(member)?;
    let mut turns = 0;
    let mut token = held(lock);
    loop {
        token = moved.wait_while(token, |token| token.holder != member).unwrap_or_else(PoisonError::into_inner);
        turns += 1;
        TURNS.set(TURNS.get() + 1);
        if token.spoil && member == 3 {
            TURNS.set(0);
        }
        same(format_args!("turns of ring member {member}"), token.round, turns)?;
        same(format_args!("thread-local value of ring member {member}"), turns, TURNS.get())?;
        same(format_args!("identity of ring member {member}"), &identity, &Identity::of_this_thread()?)?;
        token.sum += member as u64 + 1;
        token.holder += 1;
        moved.notify_all();
    }
}

impl Part for Ring {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let (lock, moved) = &*self.shared;
        let mut token = held(lock);
        token.round += 1;
        token.holder = 0;
        moved.notify_all();
        let under_way = |token: &mut Token| token.holder != self.members && token.violation.is_none();
        let mut token = moved.wait_while(token, under_way).unwrap_or_else(PoisonError::into_inner);
        if let Some(violation) = token.violation.take() {
            return Err(violation);
        }
        let members = self.members as u64;
        same("sum over the ring", token.round * members * (members + 1) / 2, token.sum)?;
        Ok(token.round * members)
    }

    fn sabotage(&mut self) -> Verdict {
        held(&self.shared.0).spoil = true;
        Ok(())
    }
}

/// Threads that meet at a barrier; each leaves its number of meetings for the others to see.
struct Meeting {
    barrier: Arc<Barrier>,
    attendance: Arc<Mutex<Vec<u64>>>,
    meetings: u64,
}

impl Meeting {
    fn new(members: usize) -> Verdict<Self> {
        let barrier = Arc::new(Barrier::new(members + 1));
        let attendance = Arc::new(Mutex::new(vec![0; members]));
        for member in 0..members {
            let (barrier, attendance) = (Arc::clone(&barrier), Arc::clone(&attendance));
            let body = move || {
                loop {
                    barrier.wait();
                    held(&attendance)[member] += 1;
                    barrier.wait();
                }
            };
            Builder::new().name(format!("meeting {member}")).spawn(body).must("starting a thread")?;
        }
        Ok(Self { barrier, attendance, meetings: 0 })
    }
}

impl Part for Meeting {
    fn name(&self) -> &'static str {
        "meetings"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        self.barrier.wait();
        self.barrier.wait();
        self.meetings += 1;
        for (member, &attended) in held(&self.attendance).iter().enumerate() {
            same(format_args!("meetings of member {member}"), self.meetings, attended)?;
        }
        Ok(self.meetings)
    }

    fn sabotage(&mut self) -> Verdict {
        held(&self.attendance)[0] += 1;
        Ok(())
    }
}

/// Exactly the same threads are there.
struct Census {
    threads: Vec<String>,
}

impl Census {
    fn new() -> Verdict<Self> {
        Ok(Self { threads: threads()? })
    }
}

fn threads() -> Verdict<Vec<String>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").must("listing threads")? {
        threads.push(entry.must("listing threads")?.file_name().to_string_lossy().into_owned());
    }
    threads.sort();
    Ok(threads)
}

impl Part for Census {
    fn name(&self) -> &'static str {
        "census"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        same("thread ids", &self.threads, &threads()?)?;
        Ok(self.threads.len() as u64)
    }

    fn sabotage(&mut self) -> Verdict {
        Builder::new().spawn(std::thread::park).must("starting a thread")?;
        Ok(())
    }
}
