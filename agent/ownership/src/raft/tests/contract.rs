//! The contract of all [`Ownership`]s, on a good net and on a bad one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Cluster, Timing};
use crate::ownership::Ownership;
use crate::suite::{self, Ground};

#[async_trait]
impl Ground for Cluster {
    fn all(&self) -> Vec<Arc<dyn Ownership>> {
        self.running().map(|(_, node)| Arc::clone(node) as Arc<dyn Ownership>).collect()
    }

    async fn restart(&mut self) {
        for number in 0..self.nodes.len() {
            self.kill(number).await;
        }
        for number in 0..self.nodes.len() {
            self.start(number).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_keep_the_contract() {
    suite::all(|| Cluster::of(3, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_keeps_the_contract() {
    suite::all(|| Cluster::of(1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_on_a_bad_net_keep_the_contract() {
    suite::all(|| async {
        let timing = Timing { answer: Duration::from_millis(500), ..Timing::default() };
        let cluster = Cluster::with(3, 3, timing).await;
        cluster.net.trouble(5, 10, Duration::from_millis(20));
        cluster
    })
    .await;
}
