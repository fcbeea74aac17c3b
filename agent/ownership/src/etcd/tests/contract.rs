//! The contract of all [`Ownership`]s.

use std::sync::Arc;

use async_trait::async_trait;

use super::Nodes;
use crate::ownership::Ownership;
use crate::suite::{self, Ground};

#[async_trait]
impl Ground for Nodes {
    fn all(&self) -> Vec<Arc<dyn Ownership>> {
        self.nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Ownership>).collect()
    }

    async fn restart(&mut self) {
        let nodes = u8::try_from(self.nodes.len()).unwrap();
        self.nodes.clear();
        for number in 0..self.servers.len() {
            self.servers.kill(number);
            self.servers.run(number);
        }
        self.servers.answer().await;
        self.start(nodes).await;
    }

    fn votes(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_on_one_server_keep_the_contract() {
    suite::all(|| Nodes::of(3, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_keeps_the_contract() {
    suite::all(|| Nodes::of(1, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_three_servers_keep_the_contract() {
    suite::all(|| Nodes::of(2, 3)).await;
}
