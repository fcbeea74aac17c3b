//! Commands, connections and pages.

use std::path::Path;

use migrate_proto::api::State;

use crate::harness::{Lab, eventually};

/// Asked at once, judged at once, and then not again.
const ONCE: [&str; 8] =
    ["--health-retries", "1", "--health-grace", "0s", "--health-interval", "1h", "--health-timeout", "2s"];
/// The same, every half second.
const OFTEN: [&str; 8] =
    ["--health-retries", "2", "--health-grace", "0s", "--health-interval", "500ms", "--health-timeout", "5s"];

fn unhealthy(lab: &Lab, name: &str, words: &str) {
    let view = lab.wait_until(name, |view| view.health == "unhealthy");
    assert_eq!(view.state, State::Running, "its policy is no");
    let reason = view.reason.unwrap();
    assert!(reason.contains(words), "{reason}");
}

/// Processes of this machine with exactly these arguments.
fn count(arguments: &[&str]) -> usize {
    let wanted: String = arguments.iter().map(|argument| format!("{argument}\0")).collect();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_one = |path: &Path| std::fs::read(path.join("cmdline")).is_ok_and(|cmdline| cmdline == wanted.as_bytes());
    processes.filter(|entry| is_one(&entry.path())).count()
}

#[test]
fn a_command_that_hangs_floods_or_forks_does_no_harm() {
    let lab = Lab::up(1);
    // Nobody else sleeps for so long.
    let long = (1_000_000 + u64::from(std::process::id())).to_string();
    let run = |name: &str, command: &str| {
        lab.run_with(name, "node1", &[&["--health-cmd", command][..], &ONCE].concat(), &["sleep", "100000"]);
    };
    run("hangs", &format!("sleep {long} & setsid sleep {long} & trap '' TERM; sleep {long}; sleep {long}"));
    run("floods", "yes");
    run("fails", "echo it is no good >&2; exit 4");
    run("forks", &format!("setsid sleep {long} & exit 0"));
    run("well", "head -c 100000 /dev/zero; exit 0");
    unhealthy(&lab, "hangs", "no answer within 2s");
    unhealthy(&lab, "floods", "wrote more than");
    unhealthy(&lab, "fails", "ended with code 4: it is no good");
    for name in ["forks", "well"] {
        lab.wait_until(name, |view| view.health == "healthy");
    }
    assert!(eventually(|| count(&["sleep", &long]) == 0), "{} are left", count(&["sleep", &long]));
    assert!(eventually(|| count(&["yes"]) == 0));
    lab.wait_for_event("hangs", "unhealthy: no answer within 2s; its restart policy is no");
    lab.assert_clean();
}

#[test]
fn who_is_unhealthy_is_begun_again_where_that_is_its_policy() {
    let lab = Lab::up(1);
    let options = [&["--restart", "on-failure", "--health-cmd", "test ! -e /work/ill"][..], &OFTEN].concat();
    // It is well again only because it has begun anew.
    lab.run_with("ill", "node1", &options, &["sh", "-c", "rm -f ill; exec sleep 100000"]);
    lab.wait_until("ill", |view| view.health == "healthy");
    lab.exec("ill", &["touch", "/work/ill"]);
    lab.wait_for_restart("ill", 1);
    lab.wait_until("ill", |view| view.health == "healthy" && view.reason.is_none());
    lab.wait_for_event("ill", "unhealthy: unhealthy: the health command ended with code 1; it is ended");
    lab.assert_clean();
}

/// In the workload's network, which is that of its node and not of this test.
#[test]
fn connections_and_pages() {
    let lab = Lab::up(1);
    let server = "
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists('/work/ill') else 204)
        self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(('127.0.0.1', 8642), Answer).serve_forever()
";
    let page = [&["--health-http", "http://localhost:8642/health"][..], &OFTEN].concat();
    lab.run_with("page", "node1", &page, &["python3", "-c", server]);
    lab.run_with("port", "node1", &[&["--health-tcp", "8642"][..], &OFTEN].concat(), &["sleep", "100000"]);
    for name in ["page", "port"] {
        lab.wait_until(name, |view| view.health == "healthy");
    }
    lab.exec("page", &["touch", "/work/ill"]);
    unhealthy(&lab, "page", "status 503");
    lab.exec("page", &["rm", "/work/ill"]);
    lab.wait_until("page", |view| view.health == "healthy" && view.reason.is_none());
    lab.done(["stop", "page"]);
    unhealthy(&lab, "port", "refused");
    assert_eq!(lab.view("page").health, "none", "nobody asks what does not run");
    lab.assert_clean();
}
