#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use tempfile::TempDir;

use super::*;

#[derive(Clone, Default)]
struct HandClock(Arc<AtomicU64>);

impl HandClock {
    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn open(dir: &TempDir) -> (EventLog, HandClock) {
    let clock = HandClock::default();
    let log = EventLog::open(dir.path(), "node1".parse().unwrap(), clock.clone()).unwrap();
    (log, clock)
}

fn warn(log: &EventLog, message: impl Into<String>) {
    log.record(Kind::Warning, None, None, message);
}

async fn messages(log: &EventLog, since: Option<Duration>) -> Vec<String> {
    log.read(since, 0, false).map(|event| event.message).collect().await
}

#[tokio::test]
async fn an_event_says_when_where_and_what() {
    let dir = TempDir::new().unwrap();
    let (log, clock) = open(&dir);
    clock.set(1_763_719_872_345);
    log.record(Kind::Moving, Some(&"web".parse().unwrap()), Some(Phase::CleanUp), "away");
    let events: Vec<Event> = log.read(None, 0, false).collect().await;
    let json = serde_json::to_value(&events).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{"number": 1_763_719_872_345_000_u64, "at": "2025-11-21T10:11:12.345Z", "node": "node1", "workload": "web",
            "kind": "moving", "phase": "clean-up", "message": "away"}])
    );
}

#[tokio::test]
async fn events_survive_the_agent_also_after_a_torn_line() {
    let dir = TempDir::new().unwrap();
    warn(&open(&dir).0, "first");
    let path = dir.path().join("events.ndjson");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"{\"at\":\"2025-");
    std::fs::write(&path, bytes).unwrap();
    warn(&open(&dir).0, "second");
    assert_eq!(messages(&open(&dir).0, None).await, ["first", "second"]);
}

#[tokio::test]
async fn since_is_an_age() {
    let dir = TempDir::new().unwrap();
    let (log, clock) = open(&dir);
    for ms in [1000, 2000, 3000] {
        clock.set(ms);
        warn(&log, ms.to_string());
    }
    clock.set(3500);
    assert_eq!(messages(&log, Some(Duration::from_millis(1500))).await, ["2000", "3000"]);
    assert_eq!(messages(&log, Some(Duration::ZERO)).await, [""; 0]);
    assert_eq!(messages(&log, Some(Duration::MAX)).await.len(), 3);
}

#[tokio::test]
async fn a_follower_gets_every_event_once_in_order_while_others_write() {
    let dir = TempDir::new().unwrap();
    let (log, _) = open(&dir);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let log = log.clone();
            std::thread::spawn(move || (0..500).for_each(|n| warn(&log, format!("{writer} {n}"))))
        })
        .collect();
    let followed: Vec<String> = log.read(None, 0, true).map(|event| event.message).take(2000).collect().await;
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(followed, messages(&log, None).await);
    for writer in 0..4 {
        let own: Vec<&String> = followed.iter().filter(|m| m.starts_with(&format!("{writer} "))).collect();
        assert_eq!(own.len(), 500);
        assert!(own.iter().enumerate().all(|(n, m)| **m == format!("{writer} {n}")));
    }
}

#[tokio::test]
async fn a_follower_waits_and_wakes() {
    let dir = TempDir::new().unwrap();
    let (log, _) = open(&dir);
    let mut followed = log.read(None, 0, true);
    assert!(followed.next().now_or_never().is_none());
    warn(&log, "now");
    assert_eq!(followed.next().now_or_never().unwrap().unwrap().message, "now");
    assert!(followed.next().now_or_never().is_none());
}

#[tokio::test]
async fn memory_is_bounded_and_a_slow_reader_is_told() {
    let dir = TempDir::new().unwrap();
    let (log, _) = open(&dir);
    let mut slow = log.read(None, 0, true);
    for n in 0..KEPT + 7 {
        warn(&log, n.to_string());
    }
    assert!(slow.next().await.unwrap().message.starts_with("7 events were left out"));
    assert_eq!(slow.next().await.unwrap().message, "7");
    assert_eq!(messages(&log, None).await.len(), KEPT);
}

#[tokio::test]
async fn the_file_is_bounded_and_its_predecessor_is_read_too() {
    let dir = TempDir::new().unwrap();
    let (log, _) = open(&dir);
    let long = "x".repeat(LONGEST_MESSAGE * 2);
    // Three files' worth, so that the predecessor is replaced at least once.
    let count = usize::try_from(3 * file::LARGEST).unwrap() / LONGEST_MESSAGE;
    for n in 0..count {
        warn(&log, format!("{n} {long}"));
    }
    let sizes: Vec<u64> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|size| *size <= file::LARGEST), "{sizes:?}");
    drop(log);

    let kept = messages(&open(&dir).0, None).await;
    let numbers: Vec<usize> = kept.iter().map(|m| m.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.len() > count / 3, "{}", numbers.len());
    assert_eq!(numbers, (count - numbers.len()..count).collect::<Vec<_>>());
    assert!(kept[0].ends_with('…') && kept[0].len() <= LONGEST_MESSAGE);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_costs_no_event() {
    let dir = TempDir::new().unwrap();
    let (log, _) = open(&dir);
    log.kept().file.redirect(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    warn(&log, "kept");
    assert_eq!(messages(&log, None).await, ["kept"]);
}

#[tokio::test]
async fn numbers_rise_over_the_agents_death_and_a_reader_goes_on_after_one() {
    let dir = TempDir::new().unwrap();
    let (log, clock) = open(&dir);
    for (ms, message) in [(5, "a"), (5, "b"), (4, "c")] {
        clock.set(ms);
        warn(&log, message);
    }
    let numbers: Vec<u64> = log.read(None, 0, false).map(|event| event.number).collect().await;
    assert_eq!(numbers, [5000, 5001, 5002]);
    drop(log);
    let (log, clock) = open(&dir);
    // A clock that was set back must not make a number twice.
    clock.set(1);
    warn(&log, "d");
    let later: Vec<(u64, String)> =
        log.read(None, 5001, false).map(|event| (event.number, event.message)).collect().await;
    assert_eq!(later, [(5002, "c".to_owned()), (5003, "d".to_owned())]);
}
