//! Where datagrams go: addresses as they are, and names as they were looked up last.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// How long what was looked up is taken for true.
const FRESH: Duration = Duration::from_secs(30);
/// How soon a name that has no address is looked up again.
const AGAIN: Duration = Duration::from_secs(1);

type LookUp = Pin<Box<dyn Future<Output = Resolved> + Send>>;

/// What a name's address is, or that there is none at the moment.
pub(super) struct Resolved {
    name: String,
    address: Option<SocketAddr>,
}

struct Known {
    address: Option<SocketAddr>,
    look_again: Instant,
    looking: bool,
}

/// Names that were looked up, and look-ups under way.
#[derive(Default)]
pub(super) struct Addresses {
    known: HashMap<String, Known>,
    looking: FuturesUnordered<LookUp>,
}

impl Addresses {
    /// Where that is, as far as is known now. What is not known is looked up.
    pub(super) fn of(&mut self, address: &str) -> Option<SocketAddr> {
        if let Ok(address) = address.parse() {
            return Some(address);
        }
        let now = Instant::now();
        let known =
            self.known.entry(address.to_owned()).or_insert(Known { address: None, look_again: now, looking: false });
        if known.look_again <= now && !known.looking {
            known.looking = true;
            let name = address.to_owned();
            self.looking.push(Box::pin(async move {
                let address = tokio::net::lookup_host(&name).await.ok().and_then(|mut found| found.next());
                Resolved { name, address }
            }));
        }
        known.address
    }

    /// The next look-up that is done; never, where there is none.
    pub(super) async fn resolved(&mut self) -> Resolved {
        match self.looking.next().await {
            Some(resolved) => resolved,
            None => std::future::pending().await,
        }
    }

    /// Takes note of it. A name that has no address now is where it was.
    pub(super) fn note(&mut self, resolved: Resolved) {
        let Resolved { name, address } = resolved;
        if let Some(known) = self.known.get_mut(&name) {
            known.looking = false;
            known.look_again = Instant::now() + if address.is_some() { FRESH } else { AGAIN };
            known.address = address.or(known.address);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_aside_and_addresses_are_not() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.of("127.0.0.1:7"), Some("127.0.0.1:7".parse().unwrap()));
        assert!(addresses.looking.is_empty());
        assert_eq!((addresses.of("localhost:7"), addresses.of("localhost:7")), (None, None));
        assert_eq!(addresses.looking.len(), 1, "not twice at once");
        let resolved = addresses.resolved().await;
        addresses.note(resolved);
        assert!(addresses.of("localhost:7").unwrap().ip().is_loopback());
        // A name that is not found later stays where it was.
        addresses.note(Resolved { name: "localhost:7".to_owned(), address: None });
        assert!(addresses.of("localhost:7").is_some());
    }
}
