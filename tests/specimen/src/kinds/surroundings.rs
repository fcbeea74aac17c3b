//! Proves that what surrounds a process arrives: everything here is made unlike any default, read back from the kernel
//! into a list of names and values, and compared with that list ever after.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, geteuid, getpgid, getpid, getsid, setgroups};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_capabilities};

use super::Parts;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, same};

/// Set in the environment once the program runs with odd arguments.
const MARK: &str = "SPECIMEN_SURROUNDED";

/// The kind's parts. The first time it replaces the program by itself, with odd arguments and environment.
pub(crate) fn parts() -> Verdict<Parts> {
    if std::env::var_os(MARK).is_none() {
        return Err(Violation::new("exec of oneself", "no return", start_again()));
    }
    if geteuid().is_root() {
        change_as_root()?;
    }
    change()?;
    Ok(vec![Box::new(Surroundings { at_first: survey()? })])
}

fn start_again() -> std::io::Error {
    let odd: [&[u8]; 4] = [b"", b"two words", b"new\nline", b"not utf-8 \xff\xfe"];
    Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .args(odd.map(OsStr::from_bytes))
        .env(MARK, "yes")
        .env("ODD_VALUE", OsStr::from_bytes(b"\xff\x80 = \n\t'\""))
        .env(OsString::from("ODD NAME-\u{fc}"), "")
        .env("LONG_VALUE", "v".repeat(10_000))
        .exec()
}

fn change_as_root() -> Verdict {
    // A namespace of our own: outside a sandbox the name would be the machine's.
    match unshare(CloneFlags::CLONE_NEWUTS) {
        // Root in a sandbox may not; its host name is its own already.
        Err(nix::errno::Errno::EPERM) => {}
        outcome => {
            outcome.must("unshare(CLONE_NEWUTS)")?;
            nix::unistd::sethostname("specimen-host").must("sethostname")?;
        }
    }
    // Whoever is not root could not read its own /proc any more.
    prctl::set_dumpable(false).must("prctl(PR_SET_DUMPABLE)")?;
    setgroups(&[7, 4242, 65_533].map(Gid::from_raw)).must("setgroups")?;
    for dropped in [CapabilitySet::NET_RAW, CapabilitySet::SYS_MODULE] {
        remove_capability_from_bounding_set(dropped).must("dropping a capability from the bounding set")?;
    }
    let mut sets = rustix::thread::capabilities(None).must("capget")?;
    for dropped in [CapabilitySet::NET_RAW, CapabilitySet::MKNOD] {
        sets.effective.remove(dropped);
        sets.inheritable.remove(dropped);
    }
    sets.permitted.remove(CapabilitySet::NET_RAW);
    set_capabilities(None, sets).must("capset")
}

fn change() -> Verdict {
    for (resource, soft, hard) in [
        (Resource::RLIMIT_NOFILE, 300, 700),
        (Resource::RLIMIT_CORE, 0, 4096),
        (Resource::RLIMIT_FSIZE, 1 << 30, 1 << 31),
        (Resource::RLIMIT_SIGPENDING, 50, 60),
    ] {
        setrlimit(resource, soft, hard).must("setrlimit")?;
    }
    std::fs::create_dir_all("specimen-surroundings/inner").must("mkdir")?;
    std::env::set_current_dir("specimen-surroundings/inner").must("chdir")?;
    // Not before: only root could enter a directory made under it.
    umask(Mode::from_bits_truncate(0o137));
    std::fs::write("/proc/self/oom_score_adj", "345").must("writing oom_score_adj")?;
    rustix::process::nice(3).must("nice")?;
    prctl::set_name(c"odd name \x01").must("prctl(PR_SET_NAME)")?;
    prctl::set_child_subreaper(true).must("prctl(PR_SET_CHILD_SUBREAPER)")?;
    prctl::set_no_new_privs().must("prctl(PR_SET_NO_NEW_PRIVS)")?;
    change_scheduling()
}

fn change_scheduling() -> Verdict {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    nix::errno::Errno::result(result).must("sched_setscheduler").map(drop)
}

type Facts = BTreeMap<String, String>;

fn survey() -> Verdict<Facts> {
    let mut facts = Facts::new();
    let mut note = |name: &str, value: String| facts.insert(name.to_owned(), value);
    for file in ["environ", "cmdline", "comm", "oom_score_adj", "limits"] {
        let content = std::fs::read(format!("/proc/self/{file}")).must(format_args!("reading /proc/self/{file}"))?;
        note(file, content.escape_ascii().to_string());
    }
    for link in ["exe", "cwd", "root"] {
        let target =
            std::fs::read_link(format!("/proc/self/{link}")).must(format_args!("reading /proc/self/{link}"))?;
        note(link, format!("{target:?}"));
    }
    let status = std::fs::read_to_string("/proc/self/status").must("reading /proc/self/status")?;
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let stays = ["Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Threads"].contains(&name)
            || ["Cap", "Sig", "Shd"].iter().any(|start| name.starts_with(start));
        if stays && name != "SigQ" {
            note(name, value.trim().to_owned());
        }
    }
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_FSIZE] {
        note(&format!("{resource:?}"), format!("{:?}", getrlimit(resource).must("getrlimit")?));
    }
    note("arguments", format!("{:?}", std::env::args_os().collect::<Vec<_>>()));
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    note("variables", format!("{variables:?}"));
    let uname = nix::sys::utsname::uname().must("uname")?;
    note("host name", format!("{:?}", uname.nodename()));
    note("domain name", format!("{:?}", uname.domainname()));
    note("nice", rustix::process::getpriority_process(None).must("getpriority")?.to_string());
    note("scheduling policy", scheduling_policy()?.to_string());
    note("dumpable", prctl::get_dumpable().must("prctl(PR_GET_DUMPABLE)")?.to_string());
    note("subreaper", prctl::get_child_subreaper().must("prctl(PR_GET_CHILD_SUBREAPER)")?.to_string());
    let (group, session) = (getpgid(None).must("getpgid")?, getsid(None).must("getsid")?);
    note("process, group, session", format!("{} {group} {session}", getpid()));
    Ok(facts)
}

fn scheduling_policy() -> Verdict<i32> {
    // SAFETY: no memory is passed.
    #[allow(unsafe_code)]
    let policy = unsafe { libc::sched_getscheduler(0) };
    nix::errno::Errno::result(policy).must("sched_getscheduler")
}

struct Surroundings {
    at_first: Facts,
}

impl Part for Surroundings {
    fn name(&self) -> &'static str {
        "facts"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let now = survey()?;
        for (name, expected) in &self.at_first {
            same(name, Some(expected), now.get(name))?;
        }
        same("number of facts", self.at_first.len(), now.len())?;
        Ok(now.len() as u64)
    }

    fn sabotage(&mut self) -> Verdict {
        umask(Mode::empty());
        Ok(())
    }
}
