//! A depot: checkpoints in a store that outlives nodes, a directory that all of them see or S3.
//!
//! Objects are named by content, so writing one twice is no harm. A generation whose file is there is whole. A depot knows bytes and digests; what
//! a segment holds, and whether it is what its name says, is for whoever takes it.
//!
//! - [`Address`]: where it is, as a person writes it. Never with credentials: these come from the environment or a file.
//! - [`Shelf`]: what one owner of a workload has put there; nobody else removes anything of it while the workload is its.
//! - [`Depot`]: what is there, and what is put there. Whatever is asked of it ends within [`LIMIT`], also where a store hangs for ever.

mod address;
mod layout;
mod service;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::name::WorkloadName;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use self::address::{Address, InvalidAddress};
use self::layout::Object;
pub use self::layout::{Shelf, Stored};
use self::service::{Opened, Service};

/// How long anything that is asked of a depot may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// How many objects are read, written or removed at once. What hangs in a file system that is away holds a thread for as long: not more of them.
pub const AT_ONCE: usize = 4;

/// No object is larger: whoever else can write to the store must not fill a node's memory.
const MOST_BYTES: u64 = 64 << 20;

/// Why a depot fails.
#[derive(Debug, Error)]
pub enum DepotError {
    /// There is no such object.
    #[error("{depot} has no {what}")]
    Missing {
        /// Which depot.
        depot: String,
        /// What was looked for.
        what: String,
    },
    /// What is there is not what its name says.
    #[error("{depot}: {what} is damaged")]
    Damaged {
        /// Which depot.
        depot: String,
        /// What.
        what: String,
    },
    /// The credentials are no good.
    #[error("{depot} does not let this node in: {why}")]
    Refused {
        /// Which depot.
        depot: String,
        /// In the store's words.
        why: String,
    },
    /// It cannot be reached, or does not do what it should.
    #[error("{depot} cannot be used: {why}")]
    Unusable {
        /// Which depot.
        depot: String,
        /// Why.
        why: String,
    },
}

/// What a depot has of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The generations, oldest first.
    pub generations: Vec<Stored>,
    /// The segments on each shelf.
    pub segments: HashMap<Shelf, HashSet<Digest>>,
}

impl Contents {
    /// The shelves of a workload.
    pub fn shelves(&self) -> HashSet<Shelf> {
        self.segments.keys().chain(self.generations.iter().map(|stored| &stored.shelf)).cloned().collect()
    }

    /// The identities of the generations on a shelf.
    pub fn on(&self, shelf: &Shelf) -> impl Iterator<Item = &Stored> {
        self.generations.iter().filter(move |stored| stored.shelf == *shelf)
    }

    /// The segments on a shelf.
    pub fn segments_on(&self, shelf: &Shelf) -> HashSet<Digest> {
        self.segments.get(shelf).cloned().unwrap_or_default()
    }

    /// A shelf of an earlier epoch that has a segment.
    pub fn elsewhere(&self, digest: Digest, than: &Shelf) -> Option<&Shelf> {
        let has = |(shelf, segments): &(&Shelf, &HashSet<Digest>)| *shelf != than && segments.contains(&digest);
        self.segments.iter().find(has).map(|(shelf, _)| shelf)
    }
}

/// A store of checkpoints.
#[derive(Clone)]
pub struct Depot {
    name: Arc<str>,
    service: Arc<Service>,
    turns: Arc<Semaphore>,
}

impl Depot {
    /// The depot at this address. Credentials come from this file, where one is named, else from the environment (`AWS_…`). Nothing is asked of it
    /// yet, and no file is looked at.
    pub fn at(address: Address, credentials: Option<PathBuf>) -> Depot {
        let name = address.to_string().into();
        Depot { name, service: Arc::new(Service::new(address, credentials)), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What it is called: its address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that is there of a workload.
    pub async fn contents(&self, workload: &WorkloadName) -> Result<Contents, DepotError> {
        let workload = workload.clone();
        let paths = self.ask(
            || "list".to_owned(),
            move |opened| async move { paths(&opened, layout::of_workload(&opened.root, &workload)).await },
        );
        let mut contents = Contents::default();
        for object in paths.await?.iter().filter_map(layout::read) {
            match object {
                Object::Generation(stored) => contents.generations.push(stored),
                Object::Segment(shelf, digest) => drop(contents.segments.entry(shelf).or_default().insert(digest)),
            }
        }
        contents.generations.sort_unstable();
        Ok(contents)
    }

    /// The generations of a workload, oldest first.
    pub async fn generations(&self, workload: &WorkloadName) -> Result<Vec<Stored>, DepotError> {
        let workload = workload.clone();
        let paths = self.ask(
            || "list".to_owned(),
            move |opened| async move { paths(&opened, layout::generations(&opened.root, &workload)).await },
        );
        let stored = |object| match object {
            Object::Generation(stored) => Some(stored),
            Object::Segment(..) => None,
        };
        let mut all: Vec<Stored> = paths.await?.iter().filter_map(layout::read).filter_map(stored).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// The file of a generation, compared with its identity.
    pub async fn generation(&self, workload: &WorkloadName, which: &Stored) -> Result<Bytes, DepotError> {
        let what = || format!("checkpoint {} of {workload}", which.id);
        let (workload, stored) = (workload.clone(), which.clone());
        let file = self.get(what, move |root| layout::generation(root, &workload, &stored)).await?;
        if CheckpointId::from(Digest::of(&file)) != which.id {
            return Err(DepotError::Damaged { depot: self.name.to_string(), what: what() });
        }
        Ok(file)
    }

    /// The file of a segment. Whether it is what its name says is not looked at.
    pub async fn segment(&self, workload: &WorkloadName, shelf: &Shelf, digest: Digest) -> Result<Bytes, DepotError> {
        let what = || format!("segment {digest} of {workload}");
        let (workload, shelf) = (workload.clone(), shelf.clone());
        self.get(what, move |root| layout::segment(root, &workload, &shelf, digest)).await
    }

    /// Puts a segment there.
    pub async fn put_segment(
        &self,
        workload: &WorkloadName,
        shelf: &Shelf,
        digest: Digest,
        file: Bytes,
    ) -> Result<(), DepotError> {
        let what = || format!("segment {digest} of {workload}");
        let (workload, shelf) = (workload.clone(), shelf.clone());
        self.ask(what, move |opened| async move {
            let path = layout::segment(&opened.root, &workload, &shelf, digest);
            opened.store.put(&path, file.into()).await.map(drop)
        })
        .await
    }

    /// Has a segment on another shelf of the workload, too: nothing travels.
    pub async fn copy_segment(
        &self,
        workload: &WorkloadName,
        from: &Shelf,
        to: &Shelf,
        digest: Digest,
    ) -> Result<(), DepotError> {
        let what = || format!("segment {digest} of {workload}");
        let (workload, from, to) = (workload.clone(), from.clone(), to.clone());
        self.ask(what, move |Opened { store, root }| async move {
            let path = |shelf| layout::segment(&root, &workload, shelf, digest);
            store.copy(&path(&from), &path(&to)).await
        })
        .await
    }

    /// Puts the file of a generation there. All of its segments must be on the same shelf already.
    pub async fn put_generation(&self, workload: &WorkloadName, which: &Stored, file: Bytes) -> Result<(), DepotError> {
        let what = || format!("checkpoint {} of {workload}", which.id);
        let (workload, which) = (workload.clone(), which.clone());
        self.ask(what, move |opened| async move {
            let path = layout::generation(&opened.root, &workload, &which);
            opened.store.put(&path, file.into()).await.map(drop)
        })
        .await
    }

    /// Removes a generation. Its segments stay until they are removed, too.
    pub async fn drop_generation(&self, workload: &WorkloadName, which: &Stored) -> Result<(), DepotError> {
        let (of, which) = (workload.clone(), which.clone());
        self.delete(move |root| layout::generation(root, &of, &which)).await
    }

    /// Removes segments.
    pub async fn drop_segments(
        &self,
        workload: &WorkloadName,
        shelf: &Shelf,
        useless: impl IntoIterator<Item = Digest>,
    ) -> Result<(), DepotError> {
        let removed = futures_util::stream::iter(useless).map(|digest| {
            let (workload, shelf) = (workload.clone(), shelf.clone());
            self.delete(move |root| layout::segment(root, &workload, &shelf, digest))
        });
        removed.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Removes all that is on a shelf. Generations first: one that is there is whole.
    pub async fn clear(&self, workload: &WorkloadName, contents: &Contents, shelf: &Shelf) -> Result<(), DepotError> {
        for which in contents.on(shelf) {
            self.drop_generation(workload, which).await?;
        }
        self.drop_segments(workload, shelf, contents.segments_on(shelf)).await
    }

    /// Removes all that there is of a workload that is gone since this epoch; of a later one of that name nothing.
    pub async fn forget(&self, workload: &WorkloadName, up_to: Epoch) -> Result<(), DepotError> {
        let contents = self.contents(workload).await?;
        for shelf in contents.shelves().iter().filter(|shelf| shelf.epoch <= up_to) {
            self.clear(workload, &contents, shelf).await?;
        }
        Ok(())
    }

    /// One that is larger than any of ours is not read.
    async fn get(
        &self,
        what: impl Fn() -> String,
        path: impl FnOnce(&Path) -> Path + Send + 'static,
    ) -> Result<Bytes, DepotError> {
        let got = self.ask(&what, move |opened| async move {
            let got = opened.store.get(&path(&opened.root)).await?;
            if got.meta.size > MOST_BYTES { Ok(None) } else { got.bytes().await.map(Some) }
        });
        got.await?.ok_or_else(|| DepotError::Damaged { depot: self.name.to_string(), what: what() })
    }

    /// What is not there is removed already.
    async fn delete(&self, path: impl FnOnce(&Path) -> Path + Send + 'static) -> Result<(), DepotError> {
        let deleted = self.ask(
            || "object".to_owned(),
            move |opened| async move {
                match opened.store.delete(&path(&opened.root)).await {
                    Err(Error::NotFound { .. }) => Ok(()),
                    other => other,
                }
            },
        );
        deleted.await
    }

    /// One thing that is asked of the store. Who waits for it goes after [`LIMIT`]; what hangs keeps its turn, so that no more than [`AT_ONCE`] do.
    async fn ask<T: Send + 'static, F>(
        &self,
        what: impl Fn() -> String,
        work: impl FnOnce(Opened) -> F + Send + 'static,
    ) -> Result<T, DepotError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (service, turns) = (self.service.clone(), self.turns.clone());
        let asked = async {
            let turn = turns.acquire_owned().await.map_err(|error| self.unusable(&error))?;
            let working = tokio::spawn(async move {
                let _turn = turn;
                let opened = tokio::task::spawn_blocking(move || service.open()).await;
                match opened {
                    Ok(Ok(opened)) => Ok(work(opened).await),
                    Ok(Err(why)) => Err(why),
                    Err(error) => Err(error.to_string()),
                }
            });
            match working.await.map_err(|error| self.unusable(&error))? {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(error)) => Err(self.failed(error, &what)),
                Err(why) => Err(self.unusable(&why)),
            }
        };
        let late = |_| Err(self.unusable(&format!("it has not answered for {LIMIT:?}")));
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(late)
    }

    fn unusable(&self, why: &dyn std::fmt::Display) -> DepotError {
        DepotError::Unusable { depot: self.name.to_string(), why: self.service.without_secrets(&why.to_string()) }
    }

    fn failed(&self, error: Error, what: impl FnOnce() -> String) -> DepotError {
        let depot = self.name.to_string();
        match error {
            Error::NotFound { .. } => DepotError::Missing { depot, what: what() },
            Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
                let why = self.service.without_secrets(&error.to_string());
                self.service.forget_credentials();
                DepotError::Refused { depot, why }
            }
            error => self.unusable(&error),
        }
    }
}

async fn paths(opened: &Opened, below: Path) -> Result<Vec<Path>, Error> {
    opened.store.list(Some(&below)).map_ok(|found| found.location).try_collect().await
}
