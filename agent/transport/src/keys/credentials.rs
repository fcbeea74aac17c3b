//! What is in force on this node, which can change while it runs: connections that are made from then on use it.
//!
//! Connections that there are go on, also when this node's own certificate is a new one. Only those of a peer whose key is no
//! longer trusted end: an honest peer has a certificate of another key by then and comes back, and its sessions go on.

use std::sync::{Arc, PoisonError, RwLock};

use super::authority::NodeIdentity;

/// The identity in force.
pub struct Credentials(RwLock<Arc<NodeIdentity>>);

impl Credentials {
    /// This one, until another takes its place.
    pub fn new(identity: NodeIdentity) -> Arc<Credentials> {
        Arc::new(Credentials(RwLock::new(Arc::new(identity))))
    }

    /// The one in force now.
    pub fn now(&self) -> Arc<NodeIdentity> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in force, of the same node. What its keys do not trust any more ends.
    pub fn replace(&self, mut identity: NodeIdentity) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        for old in current.trusted() {
            match identity.trusted_mut().iter_mut().find(|new| new.key == old.key) {
                Some(new) => new.retired = old.retired.clone(),
                None => gone.push(old.retired.clone()),
            }
        }
        *current = Arc::new(identity);
        drop(current);
        // Only now: who comes back must find the new one.
        gone.iter().for_each(tokio_util::sync::CancellationToken::cancel);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::keys::{ClusterKey, generate};

    fn identity(keys: &[&ClusterKey]) -> NodeIdentity {
        let copies: Vec<_> = keys.iter().map(|key| ClusterKey::copied(key.bytes())).collect();
        NodeIdentity::issue(&copies, "a".parse().unwrap()).unwrap()
    }

    #[test]
    fn what_is_trusted_on_goes_on_and_what_is_not_ends() {
        let (old, new) = (generate().unwrap(), generate().unwrap());
        let credentials = Credentials::new(identity(&[&old]));
        let of_old = credentials.now().trusted()[0].retired.clone();
        credentials.replace(identity(&[&old, &new]));
        credentials.replace(identity(&[&new, &old]));
        assert!(!of_old.is_cancelled());
        let of_new = credentials.now().trusted()[0].retired.clone();
        credentials.replace(identity(&[&new]));
        assert!(of_old.is_cancelled() && !of_new.is_cancelled());
        assert_eq!(credentials.now().keys(), [new.fingerprint()]);
    }
}
