//! Whoever ends `scripts/faults` or `scripts/chaos`, at whatever moment and in whatever way: nothing of their labs stays.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use migrate_faults::stage::{soon, traces};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(240);
/// Several cells, one after the other, that a whole workload comes out of without being moved again.
const FAULTS: &[&str] =
    &["faults", "--only", "power-loss", "--phase", "prepare,transfer", "--side", "source", "--jobs", "1"];
const CHAOS: &[&str] = &["chaos", "--minutes", "30", "--witnesses", "1", "--every", "1"];

/// A script that runs, and its lab.
struct Running {
    script: Child,
    instrument: Pid,
    /// The copies of the binaries.
    programs: PathBuf,
    /// The directory that the lab is in.
    place: PathBuf,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq)]
enum Moment {
    LabComesUp,
    WitnessWrites,
}

impl Running {
    fn start(words: &[&str], moment: Moment) -> Running {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
        let mut script = Command::new(scripts.join(words[0]));
        script.args(&words[1..]).env("MIGRATE_PROGRAMS", Path::new(env!("CARGO_BIN_EXE_faults")).parent().unwrap());
        script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // As from a terminal, whose ^C goes to all of a group.
        let mut script = script.process_group(0).spawn().unwrap();
        let mut found = None;
        let came = soon(PATIENCE, || {
            assert!(script.try_wait().unwrap().is_none(), "it ended by itself");
            found = find_lab(script.id());
            found.is_some()
        });
        assert!(came, "no lab is being brought up");
        let (instrument, programs, place) = found.unwrap();
        let running = Running { script, instrument: Pid::from_raw(instrument).unwrap(), programs, place };
        let journal = running.place.join("shared/witness1.journal");
        let writes = || std::fs::metadata(&journal).is_ok_and(|journal| journal.len() > 0);
        assert!(moment == Moment::LabComesUp || soon(PATIENCE, writes), "no witness writes");
        running
    }

    /// ^C
    fn interrupt(&self) {
        let script = Pid::from_child(&self.script);
        kill_process_group(script, Signal::INT).unwrap();
    }

    /// Its exit code, when it has ended; nothing of it is left then, but what the kernel takes away a moment later.
    fn ended(mut self) -> Option<i32> {
        // A lab that is not up yet has no number, and nothing but what lies in its directory.
        let layout = std::fs::read(self.place.join("lab/lab.json")).unwrap_or_default();
        let layout: serde_json::Value = serde_json::from_slice(&layout).unwrap_or_default();
        let id = layout["id"].as_str().unwrap_or("none").to_owned();
        let code = self.script.wait().unwrap().code();
        let left = || {
            let programs = self.programs.exists().then(|| self.programs.display().to_string());
            traces(&id, &self.place).into_iter().chain(programs).collect::<Vec<_>>()
        };
        assert!(soon(PATIENCE, || left().is_empty()), "left behind: {:#?}", left());
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test has failed: the instrument ends in good order when its script is gone.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// The instrument, the copies of the binaries and the lab's directory: the shell that watches over the lab names both.
fn find_lab(script: u32) -> Option<(i32, PathBuf, PathBuf)> {
    let pids = || {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
    };
    let instrument = pids().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        parent(*pid) == i32::try_from(script).ok() && ["faults", "chaos"].contains(&name.trim())
    })?;
    pids().filter(|pid| parent(*pid) == Some(instrument)).find_map(|pid| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = words.split('\0').skip_while(|word| *word != "survivor").skip(1);
        let (migrate, place) = (Path::new(words.next()?), Path::new(words.next()?));
        Some((instrument, migrate.parent()?.to_owned(), place.to_owned()))
    })
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[test]
fn real_criu_what_is_under_way_is_finished_after_one_signal() {
    let running = Running::start(FAULTS, Moment::WitnessWrites);
    running.interrupt();
    assert_eq!(running.ended(), Some(1), "cells were left out");

    let running = Running::start(CHAOS, Moment::WitnessWrites);
    kill_process(Pid::from_child(&running.script), Signal::TERM).unwrap();
    // Whether its workload comes through is not asked here.
    assert!(running.ended().is_some_and(|code| code < 2));
}

#[test]
fn real_criu_a_second_signal_ends_it_at_once() {
    for (words, moment) in [(FAULTS, Moment::LabComesUp), (CHAOS, Moment::WitnessWrites)] {
        let running = Running::start(words, moment);
        running.interrupt();
        // Another one than the script passes on: two of a kind that wait are one.
        kill_process(running.instrument, Signal::HUP).unwrap();
        assert_eq!(running.ended(), Some(130));
    }
}

#[test]
fn real_criu_one_that_is_killed_leaves_nothing() {
    let running = Running::start(FAULTS, Moment::WitnessWrites);
    kill_process(running.instrument, Signal::KILL).unwrap();
    assert_eq!(running.ended(), Some(137));

    let mut running = Running::start(FAULTS, Moment::LabComesUp);
    running.script.kill().unwrap();
    assert_eq!(running.ended(), None, "the script was killed");
}
