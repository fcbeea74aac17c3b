//! What company this node keeps: a list of peers that does not change, or a cluster that it joins.

use std::sync::{Arc, Mutex, PoisonError};

use migrate_proto::error::Problem;
use migrate_transport::zmq::ZmqTransport;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::agreement::Agreement;
use super::calls::{Answers, Calls};
use super::keeper::News;
use super::membership::{Membership, StaticPeers};
use super::{Cluster, Start, acquaintances, figures, news};
use crate::handover::Ground;
use crate::host::Host;
use crate::keyring::Keyring;
use crate::registry::Registry;

/// As it was configured. What comes of a cluster is heard once it [lives](Company::live).
pub enum Company {
    /// A list, maybe an empty one.
    Listed,
    /// A cluster.
    Cluster(Arc<Cluster>, mpsc::UnboundedReceiver<News>),
}

impl Company {
    /// Starts to join, where there is a cluster. Blocks for a moment.
    pub fn find(
        host: &Host,
        transport: &ZmqTransport,
        registry: &Registry,
        keyring: &Keyring,
    ) -> Result<Company, Problem> {
        let Some(told) = &host.config.cluster else { return Ok(Company::Listed) };
        let listen = transport.local_addr();
        let start = Start { host, told, mark: registry.mark(), listen, keys: keyring.datagrams() };
        let (cluster, news) = tokio::task::block_in_place(|| start.run())?;
        Ok(Company::Cluster(Arc::new(cluster), news))
    }

    /// Who the others are.
    pub fn membership(&self, host: &Host) -> Arc<dyn Membership> {
        match self {
            Company::Listed => Arc::new(StaticPeers::new(&host.config.peers)),
            Company::Cluster(cluster, _) => cluster.members.clone(),
        }
    }

    /// Does what a member does. Where this node must not be in its cluster, `closing` ends the agent.
    pub fn live(self, at: Life, closing: CancellationToken) -> Living {
        let Company::Cluster(cluster, news) = self else { return Living::default() };
        let Life { ground, transport } = at;
        let Ground { host, peers, registry, .. } = ground.clone();
        let ending: Arc<Mutex<Option<Problem>>> = Arc::default();
        let told = ending.clone();
        let follow = news::follow(news, cluster.clone(), host.clone(), transport);
        let following = tokio::spawn(async move {
            if let Some(problem) = follow.await {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                closing.cancel();
            }
        });
        let telling = tokio::spawn(figures::tell(cluster.clone(), host.clone(), registry.clone()));
        let calls = Arc::new(Calls::new(peers));
        let agreement = Agreement::new(ground, cluster.clone(), calls);
        // Set once: there is one company.
        let _ = host.founding.set(Arc::downgrade(&agreement));
        let remembering = tokio::spawn(acquaintances::remember(cluster.clone(), host.clone()));
        let mut tasks = vec![following, telling, remembering];
        if let Some(told) = host.config.cluster.clone() {
            tasks.push(tokio::spawn(Box::pin(agreement.clone().keep(told))));
        }
        Living { member: Some((cluster, agreement)), tasks, ending }
    }
}

/// What a member lives on.
pub struct Life {
    /// This node, the others, the workloads here.
    pub ground: Ground,
    /// How the others are reached.
    pub transport: Arc<ZmqTransport>,
}

/// A member at work; of a node without a cluster there is nothing to do.
#[derive(Default)]
pub struct Living {
    member: Option<(Arc<Cluster>, Arc<Agreement>)>,
    tasks: Vec<JoinHandle<()>>,
    ending: Arc<Mutex<Option<Problem>>>,
}

impl Living {
    /// Who answers the calls of other members.
    pub fn answers(&self) -> Option<Arc<dyn Answers>> {
        self.member.as_ref().map(|(_, agreement)| agreement.clone() as Arc<dyn Answers>)
    }

    /// Says goodbye. The answer is why this agent must not go on, where that is so.
    pub async fn end(self) -> Option<Problem> {
        if let Some((cluster, agreement)) = &self.member {
            cluster.leave().await;
            agreement.stop().await;
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
