//! Real etcd servers, of the program `etcd` (package etcd-server), each with a directory and ports of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::super::kv::Store;
use super::PATIENCE;

struct Server {
    client: u16,
    peer: u16,
    data: PathBuf,
    running: Option<Child>,
}

/// One etcd.
pub(super) struct Servers {
    all: Vec<Server>,
    dir: tempfile::TempDir,
}

impl Servers {
    pub(super) async fn start(count: usize) -> Servers {
        let dir = tempfile::tempdir().unwrap();
        // All are held until all are drawn, so that no two are the same.
        let held: Vec<TcpListener> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|port| port.local_addr().unwrap().port()).collect();
        let all = ports.chunks(2).enumerate().map(|(number, ports)| Server {
            client: ports[0],
            peer: ports[1],
            data: dir.path().join(format!("data{number}")),
            running: None,
        });
        let mut servers = Servers { all: all.collect(), dir };
        drop(held);
        for number in 0..count {
            servers.run(number);
        }
        servers.answer().await;
        servers
    }

    pub(super) fn address(&self, prefix: &str) -> String {
        let all: Vec<String> = self.all.iter().map(|server| format!("127.0.0.1:{}", server.client)).collect();
        format!("etcd://{}{prefix}", all.join(","))
    }

    /// Of one server alone.
    pub(super) fn address_of(&self, number: usize, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}{prefix}", self.all[number].client)
    }

    pub(super) fn store(&self) -> Store {
        Store::new(self.all.iter().map(|server| format!("127.0.0.1:{}", server.client)).collect())
    }

    /// Starts one, with what it has on disk.
    pub(super) fn run(&mut self, number: usize) {
        let peer = |server: &Server| format!("http://127.0.0.1:{}", server.peer);
        let named = self.all.iter().enumerate().map(|(number, server)| format!("s{number}={}", peer(server)));
        let cluster = named.collect::<Vec<_>>().join(",");
        let log = File::create(self.dir.path().join(format!("log{number}"))).unwrap();
        let server = &mut self.all[number];
        let (own, client) = (peer(server), format!("http://127.0.0.1:{}", server.client));
        let started = Command::new("etcd")
            .args(["--name", &format!("s{number}"), "--data-dir"])
            .arg(&server.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &own, "--initial-advertise-peer-urls", &own])
            .args(["--initial-cluster", &cluster, "--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        server.running = Some(started.expect("etcd is installed: scripts/setup --tests"));
    }

    /// Until a majority answers.
    pub(super) async fn answer(&self) {
        let (store, begun) = (self.store(), Instant::now());
        loop {
            let answer = store.all("/", Instant::now() + Duration::from_secs(1)).await;
            if answer.is_ok() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{answer:?}");
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, number: usize) {
        if let Some(mut running) = self.all[number].running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }

    /// Forgets everything.
    pub(super) fn wipe(&mut self, number: usize) {
        self.kill(number);
        std::fs::remove_dir_all(&self.all[number].data).unwrap();
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// It takes connections, and answers nothing.
    pub(super) async fn stop(&self, number: usize) {
        self.signal(number, "-STOP");
        // It listens yet.
        TcpStream::connect(("127.0.0.1", self.all[number].client)).await.unwrap();
    }

    pub(super) fn go_on(&self, number: usize) {
        self.signal(number, "-CONT");
    }

    fn signal(&self, number: usize, signal: &str) {
        let pid = self.all[number].running.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for number in 0..self.all.len() {
            self.kill(number);
        }
    }
}
