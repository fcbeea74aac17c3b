//! Signs of life, and who hangs without them.

use std::time::Duration;

use migrate_proto::api::State;

use crate::harness::Lab;

const PULSE: [&str; 4] = ["--pulse", "2s", "--health-grace", "0s"];

/// Gives signs of life by touching the file, until `/tmp/hang` is there; then stands still for ever.
pub(crate) const TOUCHES: &str = "echo began; rm -f /tmp/hang; while [ ! -e /tmp/hang ]; do touch \"$MIGRATE_PULSE\"; sleep 0.2; done; exec sleep 100000";

/// The same, in the way that systemd's services do; `connected` keeps its connection.
pub(crate) fn notifies(connected: bool) -> String {
    let send = if connected { "s.send(b'WATCHDOG=1')" } else { "s.sendto(b'WATCHDOG=1', a)" };
    let connect = if connected { "s.connect(a)" } else { "pass" };
    format!(
        "
import os, socket, time
print('began', flush=True)
if os.path.exists('/tmp/hang'): os.remove('/tmp/hang')
a = os.environ['NOTIFY_SOCKET']
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
{connect}
n = 0
while not os.path.exists('/tmp/hang'):
    {send}
    n += 1
    print('ok', n, flush=True)
    time.sleep(0.2)
time.sleep(100000)
"
    )
}

/// It hangs, and is back without anybody's help.
fn hangs_and_is_back(lab: &Lab, name: &str) {
    lab.wait_until(name, |view| view.health == "healthy");
    lab.exec(name, &["touch", "/tmp/hang"]);
    lab.wait_for_event(name, "unhealthy: hung: no pulse for 2s; it is ended");
    lab.wait_for_restart(name, 1);
    lab.wait_until(name, |view| view.health == "healthy" && view.reason.is_none());
    assert_eq!(lab.logs(name).matches("began").count(), 2);
    lab.wait_for_event(name, "started again (restart 1): it was ended: no pulse for 2s");
}

#[test]
fn a_hung_workload_is_back() {
    let lab = Lab::up(1);
    let options = [&["--restart", "on-failure"][..], &PULSE].concat();
    lab.run_with("touches", "node1", &options, &["sh", "-c", TOUCHES]);
    // Also one that is nobody in particular.
    lab.run_with("nobody", "node1", &[&options[..], &["--user", "4321"]].concat(), &["sh", "-c", TOUCHES]);
    lab.run_with("notifies", "node1", &options, &["python3", "-c", &notifies(false)]);
    for name in ["touches", "nobody", "notifies"] {
        hangs_and_is_back(&lab, name);
    }
    lab.assert_clean();
}

#[test]
fn nothing_is_done_to_who_hangs_where_the_policy_is_no() {
    let lab = Lab::up(1);
    lab.run_with("hangs", "node1", &PULSE, &["sh", "-c", TOUCHES]);
    lab.wait_until("hangs", |view| view.health == "healthy");
    lab.exec("hangs", &["touch", "/tmp/hang"]);
    let view = lab.wait_until("hangs", |view| view.health == "hung");
    assert_eq!((view.state, view.restarts, view.reason.as_deref()), (State::Running, 0, Some("no pulse for 2s")));
    // A sign of life is one, whoever gives it.
    lab.exec("hangs", &["sh", "-c", "touch $MIGRATE_PULSE"]);
    lab.wait_until("hangs", |view| view.health == "healthy");
    lab.assert_clean();
}

/// PID 1 hears, not the agent: an agent that is not there loses no sign of life and keeps no sender waiting.
#[test]
fn the_agents_death_is_nobodys_hang() {
    let lab = Lab::up(1);
    let options = [&["--restart", "always"][..], &PULSE].concat();
    lab.run_with("keeps", "node1", &options, &["python3", "-c", &notifies(true)]);
    lab.wait_until("keeps", |view| view.health == "healthy");
    lab.done(["lab", "crash", "node1"]);
    lab.wait_for_event("keeps", "adopted: ran on without its agent");
    lab.wait_until("keeps", |view| view.health == "healthy");
    lab.wait_for_more_ok("keeps", 20);
    let view = lab.view("keeps");
    assert_eq!((view.restarts, view.health.as_str()), (0, "healthy"), "{}", lab.story("keeps"));
    // It is not only that nobody looks.
    lab.exec("keeps", &["touch", "/tmp/hang"]);
    lab.wait_for_restart("keeps", 1);
    lab.assert_clean();
}

/// The agent was stopped, and everything with it: neither does it take itself for hung, nor the workload.
#[test]
fn who_was_stopped_with_the_agent_does_not_hang() {
    let lab = Lab::up(1);
    let options = [&["--restart", "always"][..], &PULSE].concat();
    lab.run_with("stopped", "node1", &options, &["sh", "-c", TOUCHES]);
    lab.wait_until("stopped", |view| view.health == "healthy");
    let agent = || lab.status()["nodes"][0]["agent_pid"].as_i64();
    let before = agent();
    lab.done(["lab", "pause", "node1"]);
    // Longer than a pulse, and than the agent may be silent.
    std::thread::sleep(Duration::from_secs(7));
    lab.done(["lab", "resume", "node1"]);
    lab.wait_for_line("stopped", "began");
    lab.exec("stopped", &["touch", "/tmp/hang"]);
    lab.wait_for_restart("stopped", 1);
    assert_eq!(lab.view("stopped").restarts, 1, "{}", lab.story("stopped"));
    assert_eq!((agent(), lab.story("stopped").matches("adopted").count()), (before, 0));
    lab.assert_clean();
}

/// Whatever has frozen it: that is not its fault.
#[test]
fn who_is_frozen_does_not_hang() {
    let lab = Lab::up(1);
    let options = [&["--restart", "always"][..], &PULSE].concat();
    lab.run_with("frozen", "node1", &options, &["sh", "-c", TOUCHES]);
    lab.wait_until("frozen", |view| view.health == "healthy");
    let main = lab.view("frozen").pid.unwrap().to_string();
    let freeze = |word: &str| {
        let group = format!("sed -n 's/^0:://p' /proc/{main}/cgroup");
        // Where it is mounted differs; below that the path is the same.
        let mounts = "findmnt -n -o TARGET -t cgroup2 | head -n 1";
        let script = format!("echo {word} > $({mounts})$({group})/cgroup.freeze");
        lab.done(["lab", "exec", "node1", "--", "sh", "-c", &script]);
    };
    freeze("1");
    // Longer than a pulse.
    std::thread::sleep(Duration::from_secs(5));
    freeze("0");
    lab.wait_until("frozen", |view| view.health == "healthy");
    assert_eq!(lab.view("frozen").restarts, 0, "{}", lab.story("frozen"));
    lab.exec("frozen", &["touch", "/tmp/hang"]);
    lab.wait_for_restart("frozen", 1);
    lab.assert_clean();
}
