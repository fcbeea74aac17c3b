//! The copy: everything that is under the prefix, and then whatever happens to it.

use std::time::Duration;

use migrate_proto::cluster::command::EntryKey;
use migrate_proto::cluster::record::Record;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::http::CallError;
use super::kv::{Found, Transaction, Watch};
use super::mirror::{Damage, Mirror};

/// How soon etcd is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(300);
/// The same for what only a person can mend.
const LATER: Duration = Duration::from_secs(2);
/// How often it is looked whether the watch has told everything: a server that was cut off tells nothing.
const LOOK: Duration = Duration::from_millis(700);

/// Why the copy cannot be followed.
#[derive(Debug, Error)]
pub(super) enum Gone {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A person has to look.
    #[error("{0}")]
    Wrong(String),
    /// To begin anew.
    #[error("the watch tells nothing of what has happened")]
    Silent,
    #[error("there is no cluster under {0} yet")]
    Nothing(String),
}

impl Shared {
    /// Goes on for as long as the node runs.
    pub(super) async fn follow(&self) {
        loop {
            let Err(gone) = self.round().await;
            tracing::debug!(%gone, "etcd is read anew");
            let pause = match &gone {
                Gone::Wrong(_) | Gone::Damage(_) => {
                    let why = gone.to_string();
                    self.note(|known| known.stopped = Some(why));
                    LATER
                }
                Gone::Call(error) => {
                    let why = error.to_string();
                    self.note(|known| known.complaint = Some(why));
                    AGAIN
                }
                Gone::Silent | Gone::Nothing(_) => AGAIN,
            };
            sleep(pause).await;
        }
    }

    pub(super) async fn round(&self) -> Result<std::convert::Infallible, Gone> {
        let found = self.store.all(self.setup.address.root(), self.in_time()).await?;
        let (revision, now) = (found.header.revision, Instant::now());
        let before = self.known().mirror.clone();
        self.is_the_same_etcd(&found, before.is_some()).await?;
        let Some(mut mirror) = Mirror::of(&self.setup.address, found.kvs, before.as_ref(), now)? else {
            return Err(self.nothing_is_there(before.as_ref(), found.header.cluster_id).await);
        };
        self.is_the_same_cluster(&mirror, before.as_ref())?;
        mirror.upto = mirror.upto.max(revision);
        self.note(|known| {
            known.mirror = Some(mirror);
            (known.stopped, known.complaint) = (None, None);
        });
        let mut watch = self.store.watch(self.setup.address.root(), revision, self.in_time()).await?;
        self.keep_up(&mut watch).await
    }

    async fn keep_up(&self, watch: &mut Watch) -> Result<std::convert::Infallible, Gone> {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut owed = 0;
        loop {
            tokio::select! {
                seen = watch.next() => {
                    let (seen, now) = (seen?, Instant::now());
                    self.note(|known| match &mut known.mirror {
                        Some(mirror) => mirror.take(&self.setup.address, seen, now),
                        None => Ok(()),
                    })?;
                }
                _ = looks.tick() => {
                    let upto = self.known().mirror.as_ref().map_or(0, |mirror| mirror.upto);
                    if upto < owed {
                        return Err(Gone::Silent);
                    }
                    let last = self.store.last(self.setup.address.root(), self.in_time()).await;
                    owed = last.map(|found| found.kvs.first().map_or(0, |pair| pair.mod_revision)).unwrap_or(owed);
                }
            }
        }
    }

    /// Servers of another etcd, or of the same one brought back from a snapshot, know nothing of what was agreed meanwhile.
    async fn is_the_same_etcd(&self, found: &Found, followed: bool) -> Result<(), Gone> {
        let key = self.setup.address.etcd();
        let here = found.header.cluster_id.to_string();
        let there = |key: &str| found.kvs.iter().find(|pair| pair.key == key);
        match there(&key) {
            Some(pair) if pair.value == here.as_bytes() => Ok(()),
            Some(pair) => Err(Gone::Wrong(format!(
                "{} is the etcd {here}, and the cluster was founded in the etcd {}: it was brought back from a snapshot, or it is \
                 another one; what was agreed meanwhile is not in it",
                self.setup.address,
                String::from_utf8_lossy(&pair.value)
            ))),
            // Nothing yet; or a person has deleted it, who knows what that risks.
            None if there(&self.setup.address.entry(&EntryKey::Cluster)).is_some() && !followed => {
                let write = Transaction::default().if_written_at(&key, 0).put(&key, here.as_bytes());
                self.store.commit(write, self.in_time()).await?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn is_the_same_cluster(&self, mirror: &Mirror, before: Option<&Mirror>) -> Result<(), Gone> {
        let id = mirror.record.cluster.id;
        let known = before.map(|before| before.record.cluster.id).or(self.setup.known);
        if let Some(other) = known.filter(|known| *known != id) {
            let address = &self.setup.address;
            return Err(Gone::Wrong(format!(
                "this node belongs to the cluster {other}, and {address} is the cluster {id}"
            )));
        }
        let (now, shown) = (mirror.record.revision, self.record.borrow().revision);
        if now < shown {
            return Err(Gone::Wrong(format!(
                "etcd has forgotten what it had agreed on: revision {shown} is {now} again"
            )));
        }
        Ok(())
    }

    /// Founds a cluster where this node may.
    async fn nothing_is_there(&self, before: Option<&Mirror>, etcd: u64) -> Gone {
        let root = self.setup.address.root().to_owned();
        if before.is_some() {
            return Damage::Deleted.into();
        }
        if let Some(known) = self.setup.known {
            return Gone::Wrong(format!(
                "this node belongs to the cluster {known}, and there is none under {root} in etcd"
            ));
        }
        if self.setup.founds {
            let record = Record::new(self.setup.fresh, self.setup.policy.clone());
            let Ok(cluster) = serde_json::to_vec(&record.cluster) else { return Gone::Nothing(root) };
            let key = self.setup.address.entry(&EntryKey::Cluster);
            let found = Transaction::default().if_made_at(&key, 0).put(&key, &cluster);
            let found = found.put(&self.setup.address.etcd(), etcd.to_string().as_bytes());
            if let Err(error) = self.store.commit(found, self.in_time()).await {
                return error.into();
            }
        }
        Gone::Nothing(root)
    }
}
