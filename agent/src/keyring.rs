//! The cluster's keys, as they are in force on this node, and the file that they come from.
//!
//! The file can be replaced at any time: it is looked at once a second, and read when somebody asks for it. What is read
//! applies to connections that are made from then on. A file that cannot be used changes nothing, and a warning says so.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use migrate_proto::error::{Code, Problem};
use migrate_proto::key::{Fingerprint, listed};
use migrate_transport::datagram::DatagramKeys;
use migrate_transport::keys;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::zmq::ZmqTransport;
use tokio::sync::watch;

use crate::events::Kind;
use crate::host::Host;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of this node.
pub struct Keyring {
    host: Arc<Host>,
    transport: Arc<ZmqTransport>,
    datagrams: watch::Sender<DatagramKeys>,
    /// Only one at a time reads the file and puts it in force.
    reading: Mutex<()>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    length: u64,
}

/// Reads the file and issues this node's certificate, and what its datagrams are sealed with.
pub fn issue(host: &Host) -> Result<(NodeIdentity, DatagramKeys), Problem> {
    let keys = keys::load(&host.config.key).map_err(|error| {
        Problem::new(Code::Usage, error.to_string())
            .hint(format!("`migrate key new {}` makes one", host.config.key.display()))
    })?;
    let datagrams = DatagramKeys::of(&keys);
    let identity = NodeIdentity::issue(&keys, host.node().clone())
        .map_err(|error| Problem::new(Code::Internal, format!("cannot make this node's certificate: {error}")))?;
    Ok((identity, datagrams))
}

impl Keyring {
    /// The keys that this transport was started with.
    pub fn new(host: Arc<Host>, transport: Arc<ZmqTransport>, datagrams: DatagramKeys) -> Arc<Keyring> {
        Arc::new(Keyring { host, transport, datagrams: watch::Sender::new(datagrams), reading: Mutex::new(()) })
    }

    /// What datagrams are sealed with, now and whenever that changes.
    pub fn datagrams(&self) -> watch::Receiver<DatagramKeys> {
        self.datagrams.subscribe()
    }

    /// The keys in force; the first one issued this node's certificate.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.transport.keys()
    }

    /// Reads the file and puts what it says in force. Where it cannot be used, everything stays as it is. Blocks.
    pub fn reload(&self) -> Result<(), Problem> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.fingerprints();
        let (identity, datagrams) = issue(&self.host).map_err(|problem| {
            let kept = format!("{}; the keys in force stay: {}", problem.message, listed(&before));
            Problem { message: kept, hint: "migrate key rotate says what is where".into(), ..problem }
        })?;
        let now = identity.keys();
        if now != before {
            let what = format!("cluster keys in force: {} (before: {})", listed(&now), listed(&before));
            self.host.events.record(Kind::Keys, None, None, what);
            self.transport.replace_identity(identity);
            self.datagrams.send_replace(datagrams);
        }
        Ok(())
    }

    /// Follows the file for as long as the agent runs. What is still being written is not read: it has to look the same twice.
    pub async fn follow(self: Arc<Self>) {
        // As if it had changed: it may have, since it was read.
        let (mut known, mut seen) = (None, None);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.stamp();
            if now == seen && now != known {
                known = now;
                let (keyring, there) = (self.clone(), now.is_some());
                let read = move || if there { keyring.reload() } else { Err(keyring.missing()) };
                if let Ok(Err(problem)) = tokio::task::spawn_blocking(read).await {
                    self.host.events.record(Kind::Warning, None, None, problem.message);
                }
            }
            seen = now;
        }
    }

    fn missing(&self) -> Problem {
        let what = format!("the cluster key {} is gone; the keys in force stay", self.path().display());
        Problem::new(Code::Usage, what)
    }

    fn path(&self) -> &PathBuf {
        &self.host.config.key
    }

    fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(self.path()).ok()?;
        Some(Stamp { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()), length: found.len() })
    }
}
